"""Time and memory until the captions of a large data set can be read, and what each worker adds.

    python benchmarks/startup.py [--captions 1000000] [--json FILE]

Makes annotation files in the forms of MSR-VTT (20 captions a video), VATEX (10) and CHVTT (1, with tags).
Each row is a fresh process without torch: its time for reading the split, and its peak of resident memory.
"json alone" parses the same file in Python's way and keeps the result, which is what the published code does
first. A worker is a fork that reads every caption once; its private memory is what it does not share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import Report, add_json_flag

WORDS = (
    "a",
    "man",
    "in",
    "red",
    "shirt",
    "is",
    "cutting",
    "the",
    "vegetables",
    "on",
    "board",
    "while",
    "talking",
)
CHINESE = "一个男人在厨房里切菜"

PROCESS = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from dataloaders.datasets import chvtt, msrvtt, vatex
def kept(name, file="status"):
    with open("/proc/self/" + file) as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
wall, cpu = time.perf_counter(), time.process_time()
{work}
taken = [time.perf_counter() - wall, time.process_time() - cpu, kept("VmHWM")]
if hasattr(read, "captions"):
    there, here = os.pipe()
    if not os.fork():
        before = kept("Private_", "smaps_rollup")
        total = sum(len(caption) for caption in read.captions)
        os.write(here, str(kept("Private_", "smaps_rollup") - before).encode())
        os._exit(0)
    taken.append(float(os.read(there, 99)))
print(json.dumps(taken))
"""


def caption(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(6, 15)))


def write_msrvtt(folder: Path, texts: list[str]) -> None:
    sentences = [{"caption": t, "video_id": f"video{i // 20}", "sen_id": i} for i, t in enumerate(texts)]
    content = {"videos": [{"video_id": "video0"}], "sentences": sentences}
    (folder / "msrvtt").write_text(json.dumps(content), encoding="utf-8")
    ids = dict.fromkeys(sentence["video_id"] for sentence in sentences)
    (folder / "msrvtt.csv").write_text("\n".join(["video_id", *map(str, ids)]), encoding="utf-8")


def write_vatex(folder: Path, texts: list[str]) -> None:
    entries = {
        f"v{i}": {"enCap": texts[i : i + 10], "chCap": [CHINESE] * 10} for i in range(0, len(texts), 10)
    }
    (folder / "vatex").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    (folder / "vatex.txt").write_text("\n".join(entries), encoding="utf-8")


def write_chvtt(folder: Path, texts: list[str]) -> None:
    with (folder / "chvtt").open("w", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            record = {"docid": str(10**9 + i), "duration": 15.5, "title": f"{CHINESE}{i}", "title_eng": text}
            record |= {"tag": "美食,做菜", "tag_eng": "food,cooking"}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


FORMS: dict[str, tuple[Callable[[Path, list[str]], None], str, str]] = {
    "msrvtt": (
        write_msrvtt,
        "read = msrvtt.read_captions_of_list({0!r}, {0!r} + '.csv')",
        "read = json.load(open({0!r}, encoding='utf-8'))",
    ),
    "vatex": (
        write_vatex,
        "read = vatex.read_split({0!r}, {0!r} + '.txt', language='english')",
        "read = json.load(open({0!r}, encoding='utf-8'))",
    ),
    "chvtt": (
        write_chvtt,
        "read = chvtt.read_pretrain({0!r}, language='english')",
        "read = [json.loads(line) for line in open({0!r}, encoding='utf-8')]",
    ),
}


def run(work: str) -> list[float]:
    """Seconds, CPU seconds, peak MB, and MB that a worker does not share."""
    code = PROCESS.format(root=str(Path(__file__).resolve().parents[1]), work=work)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(value) for value in json.loads(done.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1, help="the least time of so many processes")
    add_json_flag(parser)
    args = parser.parse_args()
    report = Report(
        "startup",
        settings=vars(args),
        columns={
            "seconds": "seconds",
            "cpu_seconds": "CPU seconds",
            "peak_mb": "peak MB",
            "worker_mb": "private MB a worker",
        },
    )
    rng = np.random.default_rng(0)
    drawn = [caption(rng) for _ in range(min(args.captions, 10_000))]
    texts = [f"{drawn[i % len(drawn)]} {i}" for i in range(args.captions)]
    for name, (write, ours, alone) in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), texts)
            for row, work in (("ours", ours), ("json alone", alone)):
                rounds = [run(work.format(str(Path(folder) / name))) for _ in range(args.rounds)]
                least = [min(column) for column in zip(*rounds, strict=True)]
                report.add(
                    f"{name}, {row}",
                    seconds=least[0],
                    cpu_seconds=least[1],
                    peak_mb=least[2],
                    worker_mb=least[3] if len(least) > 3 else None,
                )
    report.close(args.json)


if __name__ == "__main__":
    main()
