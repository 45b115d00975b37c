"""Makes the toy data: videos of moving shapes with captions, in the file formats of MSR-VTT, VATEX and CHVTT.

    python tools/make_toy_dataset.py --out toy

The same seed gives the same captions and the same frames. `toy.json` in the output folder tells what was
made, and marks the folder as made here: only such a folder is replaced by `--overwrite`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.toy.annotations import Clip, DatasetPlan, Sizes, write_chvtt, write_msrvtt, write_vatex
from tools.toy.bert import write_toy_bert
from tools.toy.drawing import write_clip

SIZES = {
    "tiny": Sizes(
        msrvtt_train=12,
        msrvtt_test=8,
        msrvtt_captions=3,
        vatex_train=8,
        vatex_val=4,
        vatex_test=6,
        chvtt_pretrain=12,
        chvtt_query_train=4,
        chvtt_query_val=4,
    ),
    "small": Sizes(
        msrvtt_train=200,
        msrvtt_test=40,
        vatex_train=60,
        vatex_val=20,
        vatex_test=40,
        chvtt_pretrain=200,
        chvtt_query_train=40,
        chvtt_query_val=40,
    ),
    "default": Sizes(),
}
WRITERS: dict[str, Callable[..., DatasetPlan]] = {
    "msrvtt": write_msrvtt,
    "vatex": write_vatex,
    "chvtt": write_chvtt,
}
PARTS = (*WRITERS, "toy-bert")
MARKER = "toy.json"
_CLIPS_WORTH_A_POOL = 150


def make_toy_dataset(
    out: Path,
    *,
    seed: int = 0,
    sizes: Sizes = SIZES["default"],
    parts: Sequence[str] = PARTS,
    overwrite: bool = False,
    workers: int | None = None,
) -> dict[str, dict[str, int]]:
    """Makes the named `parts` below the folder `out` and returns {data set: {"clips": n, "captions": n}}.

    Everything is written beside `out` and renamed at the end. `workers` None: one process per usable core.
    Raises ValueError if `out` is there and not empty (with `overwrite`: and was not made by this tool).
    """
    _check_replaceable(out, overwrite=overwrite)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    try:
        summary, clips = {}, []
        for name in (part for part in WRITERS if part in parts):
            (unfinished / name / "videos").mkdir(parents=True)
            plan = WRITERS[name](unfinished / name, seed=seed, sizes=sizes)
            clips += plan.clips
            summary[name] = {"clips": len(plan.clips), "captions": plan.captions}
        _write_clips(clips, workers=workers)
        if "toy-bert" in parts:
            write_toy_bert(unfinished / "toy-bert", seed=seed)
        _write_marker(unfinished / MARKER, {"seed": seed, "sizes": asdict(sizes), "made": summary})
        if out.exists():
            shutil.rmtree(out)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    args = _build_parser().parse_args(argv)
    started = time.perf_counter()
    try:
        summary = make_toy_dataset(
            args.out,
            seed=args.seed,
            sizes=SIZES[args.size],
            parts=args.only,
            overwrite=args.overwrite,
            workers=args.workers,
        )
    except (ValueError, OSError) as error:
        print(f"make_toy_dataset: {error}", file=sys.stderr)
        return 2
    for name, made in summary.items():
        print(f"{name:8} {made['clips']:5} clips {made['captions']:6} captions")
    print(f"{args.out}: made in {time.perf_counter() - started:.1f} s")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to make; must not exist or be empty"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another world (default: 0)")
    parser.add_argument(
        "--size", choices=tuple(SIZES), default="default", help="how much of everything (default: default)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="of: " + ", ".join(PARTS)
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that this tool made before"
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes that draw (default: one per core)"
    )
    return parser


def _check_replaceable(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a file of this name exists; name a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"--out {out}: not empty; choose another folder, or --overwrite to replace it")
    if not (out / MARKER).is_file():
        raise ValueError(f"--out {out}: has no {MARKER}, so was not made by this tool; delete it by hand")


def _write_clips(clips: Sequence[Clip], *, workers: int | None) -> None:
    workers = (
        workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    paths, scenes = [clip.path for clip in clips], [clip.scene for clip in clips]
    if workers == 1 or len(clips) < _CLIPS_WORTH_A_POOL:
        list(map(write_clip, paths, scenes))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_clip, paths, scenes, chunksize=16))


def _write_marker(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
