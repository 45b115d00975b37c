"""Speed and memory of a training step, of the program's own trainer, with random weights and frames.

    python benchmarks/train_step.py --precision bf16 fp32 --json step.json
    python benchmarks/train_step.py --pretrain --clip_model ViT-L-14-quickgelu --clips 32 --compile on
    python benchmarks/train_step.py --profile FOLDER
    python benchmarks/train_step.py --clips 4 --frames 2 --steps 2            a CPU

Frames are uint8 in the host's memory and are copied in every step, as from a loader that is always ready.
Each row is one setting: ms a step, clips/s, memory, seconds of the first step (with compiling), TFLOP/s, and
the share of the rate of a matrix product in the same format that was measured in the same run. Operations
are counted by torch's counter without recomputation, so with --grad_checkpointing TFLOP/s are those of useful
work. Below the table: ms of the parts of a step. --profile writes torch's table and a trace for Chrome.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import Report, add_json_flag
from benchmarks.step_setup import (
    PartClock,
    Setup,
    Work,
    make_setup,
    matrix_rate,
    peak_gib,
    restart_peak,
)
from common.arguments import ArgumentParser
from common.errors import UserError, run_program
from engine.distributed.device import default_device
from engine.distributed.precision import AUTOCAST

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
PROFILED_STEPS = 3
COLUMNS = {
    "clips_per_second": "clips/s",
    "ms_per_step": "ms a step",
    "tflops": "TFLOP/s",
    "share_of_matrix_rate": "of the matrix rate",
    "memory_gib": "memory, GiB",
    "first_step_s": "first step, s",
}


def measure(work: Work, args: argparse.Namespace, precision: str, compiled: bool) -> dict[str, Any]:
    """The figures of one setting."""
    device = default_device()
    restart_peak(device)
    setup = make_setup(
        work,
        device,
        precision=precision,
        compiled=compiled,
        grad_checkpointing=args.grad_checkpointing,
        grad_cache=args.grad_cache,
    )
    first = setup.run(1)
    if args.warmup:
        setup.run(args.warmup)
    restart_peak(device)
    seconds = setup.run(args.steps) / args.steps
    memory = peak_gib(device)
    figures: dict[str, Any] = {
        "precision": setup.precision,
        "flop": setup.flop,
        "clips_per_second": work.clips / seconds,
        "ms_per_step": 1e3 * seconds,
        "memory_gib": memory,
        "first_step_s": first,
    }
    if not args.grad_cache:  # its chunks do not call the model as a whole
        clock = PartClock(setup)
        setup.run(args.steps)
        figures |= clock.parts(args.steps)
    if args.profile:
        _profile(setup, args.profile, f"{precision}{'-compiled' if compiled else ''}")
    return figures


def _profile(setup: Setup, folder: Path, name: str) -> None:
    from torch.profiler import ProfilerActivity, profile

    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = setup.trainer.world.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as profiler:
        setup.run(PROFILED_STEPS)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=70)
    (folder / f"{name}.txt").write_text(f"{PROFILED_STEPS} steps\n{table}\n", encoding="utf-8")
    profiler.export_chrome_trace(str(folder / f"{name}.trace.json.gz"))


def main(argv: Sequence[str] | None = None) -> int:
    return run_program("train_step.py", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if min(args.clips, args.frames, args.steps) < 1:
        raise UserError("--clips, --frames and --steps must be at least 1")
    device = default_device()
    report = Report("train_step", settings=vars(args), columns=COLUMNS)
    rates: dict[torch.dtype, float] = {}
    parts = []
    choices = (dict.fromkeys(values) for values in (args.clip_model, args.precision, args.compile))
    for model, precision, compiled in itertools.product(*choices):
        work = Work(model, args.pretrain, args.clips, args.frames)
        name = f"{work}, {precision}" + (", compiled" if compiled == "on" else "")
        name += ", checkpointing" if args.grad_checkpointing else ""
        name += f", cache {args.grad_cache}" if args.grad_cache else ""
        try:
            figures = measure(work, args, precision, compiled == "on")
        except torch.OutOfMemoryError:
            report.add(name, clips_per_second="out of memory")
            continue
        finally:
            gc.collect()  # the trainer and its hooks hold each other
        tflops = figures["flop"] / figures["ms_per_step"] / 1e9
        dtype = AUTOCAST.get(figures["precision"], torch.float32)
        if figures["precision"] != "tf32" and dtype not in rates:
            rates[dtype] = matrix_rate(device, dtype)
        rate = rates.get(dtype) if figures["precision"] != "tf32" else None
        share = tflops / rate if rate else None
        report.add(name, **figures, tflops=tflops, share_of_matrix_rate=share, matrix_tflops=rate)
        parts.append((name, {key: value for key, value in figures.items() if key.startswith("ms_")}))
        report.close(args.json)  # what is measured is kept if a later setting fails
    for dtype, rate in rates.items():
        report.note(f"matrix product in {str(dtype).removeprefix('torch.')}: {rate:.3g} TFLOP/s")
    for name, figures in parts:
        shown = ", ".join(
            f"{key.removeprefix('ms_')} {value:.1f}" for key, value in figures.items() if key != "ms_per_step"
        )
        if shown:
            report.note(f"ms by part, {name}: {shown}")
    report.close(args.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip_model", nargs="+", default=["ViT-B-32-quickgelu"], metavar="NAME")
    parser.add_argument("--pretrain", action="store_true", help="instead of fine-tuning")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["auto"])
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument("--clips", type=int, default=128, help="of a step")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="that are measured")
    parser.add_argument("--warmup", type=int, default=5, help="steps before, after the first one")
    parser.add_argument("--grad_checkpointing", action="store_true")
    parser.add_argument("--grad_cache", type=int, default=0, metavar="CLIPS")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="write a table and a trace there")
    add_json_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
