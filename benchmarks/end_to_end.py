"""A whole fine-tuning run from a frame store: clips/s, share of waiting for data, estimate for MSR-VTT.

    python benchmarks/end_to_end.py --json end_to_end.json
    python benchmarks/end_to_end.py --batch_size 4 --steps 6 --display 2 --frames 2 --clip_model toy
                                                a CPU
    python benchmarks/end_to_end.py -- --precision fp32        what follows -- goes to the program

Makes a data set in the form of MSR-VTT (20 captions a video) with a store of synthetic 256-pixel frames in a
scratch folder, runs main_task_retrieval.py on it with the published flags and random weights for --steps
steps and the evaluation of one epoch, and reads OUTPUT_DIR/steps.jsonl. Rates are those after the first
reported steps, which include compiling and the start of the workers. The published MSR-VTT run is 5 epochs of
703 steps of 256 clips (docs/REPRODUCE.md).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import Report, add_json_flag
from common.arguments import ArgumentParser
from common.errors import UserError, run_program
from dataloaders.frame_store.writer import FrameStoreWriter
from engine.logs.steps_jsonl import read_steps

PROGRAM = Path(__file__).resolve().parents[1] / "main_task_retrieval.py"
PUBLISHED_CLIPS, PUBLISHED_EPOCHS, PUBLISHED_TEST = 5 * 703 * 256, 5, 1000
CAPTIONS, TEST_VIDEOS, DISTINCT = 20, 64, 48
SIZE = (341, 256)  # width, height: 16:9 with a short side of 256 pixels
NOUNS = ("man", "woman", "dog", "cat", "car", "guitar", "food", "ball", "child", "street")
VERBS = ("plays", "sings", "cooks", "drives", "walks", "talks about", "shows", "holds", "paints")
COLUMNS = {
    "clips_per_second": "clips/s",
    "waiting": "waiting for data",
    "start_s": "start, s",
    "total_s": "whole run, s",
    "estimate_minutes": "MSR-VTT, minutes",
    "memory_gib": "memory, GiB",
}


def synthetic_clip(rng: np.random.Generator, frames: int) -> list[bytes]:
    """JPEGs of smooth shapes with some grain, which take about as long to decode as photographs."""
    pictures = []
    for _ in range(frames):
        smooth = cv2.resize(
            rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), SIZE, interpolation=cv2.INTER_CUBIC
        )
        grain = rng.normal(0, 6, smooth.shape)
        picture = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        pictures.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return pictures


def caption_of(rng: np.random.Generator) -> str:
    one, other = rng.choice(NOUNS, size=2)
    return f"a {one} {rng.choice(VERBS)} a {other} in front of a {rng.choice(NOUNS)}"


def make_data(folder: Path, *, train: int, frames: int) -> None:
    """`folder`/msrvtt: `train` videos to train on and `TEST_VIDEOS` to test."""
    rng = np.random.default_rng(0)
    folder = folder / "msrvtt"
    folder.mkdir(parents=True)
    names = [f"video{number}" for number in range(train + TEST_VIDEOS)]
    clips = [synthetic_clip(rng, frames) for _ in range(min(DISTINCT, len(names)))]
    with FrameStoreWriter(folder / "msrvtt_lmdb", expected=len(names)) as writer:
        for number, name in enumerate(names):
            writer.put(name, clips[number % len(clips)])
    captions = {name: [caption_of(rng) for _ in range(CAPTIONS)] for name in names}
    pairs = [(name, caption) for name, texts in captions.items() for caption in texts]
    content = {
        "info": {"description": "synthetic"},
        "videos": [
            {
                "category": 0,
                "url": "",
                "video_id": name,
                "start time": 0.0,
                "end time": 10.0,
                "split": "train" if number < train else "test",
                "id": number,
            }
            for number, name in enumerate(names)
        ],
        "sentences": [
            {"caption": caption, "video_id": name, "sen_id": number}
            for number, (name, caption) in enumerate(pairs)
        ],
    }
    (folder / "MSRVTT_data.json").write_text(json.dumps(content), encoding="utf-8")
    lines = ["video_id", *names[:train]]
    (folder / "MSRVTT_train.9k.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tests = [f"ret{n},msr{n},{names[n]},{captions[names[n]][0]}" for n in range(train, len(names))]
    lines = ["key,vid_key,video_id,sentence", *tests]
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def command(args: argparse.Namespace, data: Path, out: Path) -> list[str]:
    """The published command, with random weights and one epoch."""
    published = ["--lr", "1e-4", "--text_lr", "1e-7", "--coef_lr", "1e-3", "--frame_sample", "random"]
    return [
        *(sys.executable, str(PROGRAM), "--do_train", "--dataset", "msrvtt", "--language", "english"),
        *("--use_temp", "--use_frame_fea", "--clip_model", args.clip_model, "--clip_weights", "none"),
        *("--data_dir", str(data), "--output_dir", str(out), "--epochs", "1"),
        *("--batch_size", str(args.batch_size), "--max_frames", str(args.frames), *published),
        *("--top_frames", str(min(2, args.frames))),
        *("--num_thread_reader", str(args.workers), "--n_display", str(args.display)),
        *args.more,
    ]


def figures_of(steps: Sequence[dict[str, Any]], batch: int, *, start: float, total: float) -> dict[str, Any]:
    """Figures from the records of steps.jsonl; the first one is the warm-up unless it is alone."""
    measured = steps[1:] or steps
    rates = np.array([record["clips_per_second"] for record in measured], dtype=np.float64)
    # The records stand for equally many steps each, so times add up and not rates.
    rate = float(1.0 / np.mean(1.0 / rates))
    memory = max(float(record["memory_bytes"]) for record in measured)
    return {
        "clips_per_second": rate,
        "waiting": float(np.mean([record["waiting"] for record in measured])),
        "ms_per_step": 1e3 * batch / rate,
        "start_s": start,
        "total_s": total,
        "estimate_minutes": PUBLISHED_CLIPS / rate / 60,
        "memory_gib": memory / 2**30,
        "reports": len(measured),
    }


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the data, run the program, read its figures. Raises `UserError` if the program fails."""
    videos = -(-args.batch_size * args.steps // CAPTIONS)
    make_data(folder / "data", train=videos, frames=max(args.frames, 12))
    out = folder / "run"
    started = time.perf_counter()
    with (folder / "output").open("w", encoding="utf-8") as output:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        process = subprocess.Popen(
            command(args, folder / "data", out), stdout=output, stderr=output, env=environment
        )
        first = 0.0
        records = out / "steps.jsonl"
        while process.poll() is None:
            time.sleep(0.5)
            if not first and records.is_file() and records.stat().st_size:
                first = time.perf_counter() - started
    total = time.perf_counter() - started
    if process.returncode:
        last = (folder / "output").read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise UserError(f"main_task_retrieval.py ended with code {process.returncode}: {' '.join(last)}")
    steps = read_steps(records)
    return figures_of(steps, args.batch_size, start=first or total, total=total)


def main(argv: Sequence[str] | None = None) -> int:
    return run_program("end_to_end.py", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    on_gpu = torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip_model", default="ViT-B-32-quickgelu")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60 if on_gpu else 4)
    parser.add_argument("--workers", type=int, default=max(1, cores - 1), help="loader processes")
    parser.add_argument("--display", type=int, default=10, help="steps of a report")
    parser.add_argument("--folder", type=Path, help="scratch folder, default a temporary one")
    parser.add_argument("more", nargs="*", metavar="-- FLAG", help="flags of main_task_retrieval.py")
    add_json_flag(parser)
    args = parser.parse_args(argv)
    if min(args.batch_size, args.frames, args.steps, args.display) < 1:
        raise UserError("--batch_size, --frames, --steps and --display must be at least 1")
    settings = {name: value for name, value in vars(args).items() if name != "folder"}
    report = Report("end_to_end", settings=settings, columns=COLUMNS)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = run(args, Path(folder))
    report.add(f"{args.clip_model}, {args.batch_size} clips, {args.workers} workers", **figures)
    report.note(
        f"MSR-VTT as published: {PUBLISHED_EPOCHS} epochs, {PUBLISHED_CLIPS:,} clips, without the start and "
        f"{PUBLISHED_EPOCHS} evaluations of {PUBLISHED_TEST:,} clips"
    )
    report.close(args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
