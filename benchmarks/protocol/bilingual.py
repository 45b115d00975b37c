"""Is one bilingual model as good as two models of one language?

    python benchmarks/protocol/bilingual.py [--seeds 1 2 3] [--epochs 3] [--folder runs/bilingual]

Makes toy videos with captions in both languages, in the format of VATEX. For each seed it trains three models
with the same flags: English, Chinese and bilingual. An epoch has every caption once, so an epoch of the
bilingual model has twice as many steps. The single models have `--single_epochs`, by default twice
`--epochs`: then all three models take equally many steps. Prints the figures of each language with their
spread over the seeds, and the difference with its 95% interval. A run that is finished is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.protocol.intervals import STUDENT
from common.atomic_files import write_json
from tools.make_toy_dataset import make_toy_dataset
from tools.toy.annotations import Sizes

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("english", "chinese")
MODELS = (*LANGUAGES, "bilingual")
METRICS = ("t2v/R@1", "t2v/R@5", "t2v/R@10", "v2t/R@1", "v2t/R@5", "v2t/R@10")
SIZES = {
    "default": Sizes(vatex_train=320, vatex_val=4, vatex_test=36, simple=("train", "val", "test")),
    "tiny": Sizes(vatex_train=8, vatex_val=4, vatex_test=6),
}


def make_data(folder: Path, size: str) -> Path:
    """The toy data with their frame store and a toy BERT; made once."""
    data = folder / f"data-{size}"
    if (data / "ready").is_file():
        return data
    shutil.rmtree(data, ignore_errors=True)
    make_toy_dataset(data, seed=0, sizes=SIZES[size], parts=("vatex", "toy-bert"))
    vatex = data / "vatex"
    run_program(
        *("tools/frame2lmdb.py", "--video_dir", vatex / "videos", "--lmdb_path", vatex / "vatex_lmdb"),
        *("--json_path", vatex / "videos.jsonl", "--num_frames", "12", "--num_workers", "2"),
    )
    (data / "ready").touch()
    return data


def train(folder: Path, data: Path, language: str, seed: int, epochs: int, flags: Sequence[str]) -> float:
    """Train one model unless it is there; its seconds."""
    started = time.monotonic()
    if (folder / "done.json").is_file():
        return float(json.loads((folder / "done.json").read_text(encoding="utf-8"))["seconds"])
    shutil.rmtree(folder, ignore_errors=True)
    run_program(
        *("main_task_retrieval.py", "--do_train", "--dataset", "vatex", "--language", language),
        *("--output_dir", folder, "--data_dir", data, "--seed", str(seed), "--clip_model", "toy"),
        *("--clip_weights", "none", "--pretrained_text", data / "toy-bert", "--temporal_layers", "2"),
        *("--use_temp", "--use_frame_fea", "--mask_duplicates", "--max_frames", "4", "--max_words", "24"),
        *("--top_frames", "3", "--frame_sample", "uniform_random", "--lr", "2.5e-3", "--text_lr", "4e-4"),
        *("--epochs", str(epochs), "--batch_size", "32", "--batch_size_val", "128"),
        *("--num_thread_reader", "1", "--n_display", "50", "--save_steps", "0", "--keep", "1"),
        *("--no-report", "--bootstrap", "0", *flags),
    )
    seconds = time.monotonic() - started
    write_json(folder / "done.json", {"seconds": seconds})
    return seconds


def run_program(program: str, *arguments: str | Path) -> None:
    environment = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{program} ended with {done.returncode}: {done.stderr.strip()[-600:]}")


def figures_of(folder: Path, model: str) -> dict[str, dict[str, float]]:
    """{language: {metric: value}} of a finished run."""
    line = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    result = json.loads(line)
    if model != "bilingual":
        return {model: {name: result[name] for name in METRICS}}
    return {language: {name: result[f"{language}/{name}"] for name in METRICS} for language in LANGUAGES}


def compare(single: Sequence[float], both: Sequence[float]) -> dict[str, float]:
    """Means, spreads, and the difference of the means with the half width of its 95% interval."""
    seeds = len(single)
    spreads = [statistics.stdev(values) if seeds > 1 else 0.0 for values in (single, both)]
    error = (sum(spread**2 for spread in spreads) / seeds) ** 0.5
    return {
        "single": statistics.mean(single),
        "single_sd": spreads[0],
        "bilingual": statistics.mean(both),
        "bilingual_sd": spreads[1],
        "difference": statistics.mean(both) - statistics.mean(single),
        "half_width": STUDENT[2 * seeds - 2] * error if seeds > 1 else float("inf"),
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| captions | metric | single model | bilingual model | difference, 95% |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['language']} | {row['metric']} | {row['single']:.1f} ± {row['single_sd']:.1f} | "
            f"{row['bilingual']:.1f} ± {row['bilingual_sd']:.1f} | "
            f"{row['difference']:+.1f} ± {row['half_width']:.1f} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bilingual")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="at most 5")
    parser.add_argument("--epochs", type=int, default=3, help="of the bilingual model (default 3)")
    parser.add_argument("--single_epochs", type=int, help="of each single model (default: twice --epochs)")
    parser.add_argument("--size", choices=tuple(SIZES), default="default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("flags", nargs="*", help="more flags of the training, after --")
    args = parser.parse_args(argv)
    if not 1 <= len(set(args.seeds)) <= 5:
        parser.error("--seeds: give 1 to 5 different seeds")
    single_epochs = args.single_epochs or 2 * args.epochs
    epochs = {model: args.epochs if model == "bilingual" else single_epochs for model in MODELS}
    data = make_data(args.folder, args.size)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}  # (model, language) -> metrics of each seed
    seconds: dict[str, float] = dict.fromkeys(MODELS, 0.0)
    for seed in args.seeds:
        for model in MODELS:
            folder = args.folder / f"{args.size}-{epochs[model]}-{model}-{seed}"
            seconds[model] += train(folder, data, model, seed, epochs[model], args.flags)
            for language, figures in figures_of(folder, model).items():
                found.setdefault((model, language), []).append(figures)
                shown = " ".join(f"{name} {figures[name]:.1f}" for name in METRICS)
                print(f"seed {seed} {model:9} {language:7} {shown}", flush=True)
    rows = []
    for language in LANGUAGES:
        for metric in METRICS:
            single, both = (
                [run[metric] for run in found[model, language]] for model in (language, "bilingual")
            )
            rows.append({"language": language, "metric": metric, **compare(single, both)})
    print("\n".join(table(rows)))
    outside = [row for row in rows if row["difference"] < -row["half_width"]]
    worse = ", ".join(f"{row['language']} {row['metric']}" for row in outside)
    print(f"worse than the single models beyond noise: {worse or 'nothing'}")
    print("; ".join(f"{model} {total / len(args.seeds):.0f} s a run" for model, total in seconds.items()))
    if args.json:
        write_json(args.json, {"seeds": args.seeds, "epochs": epochs, "rows": rows, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
