"""Make toy data: videos of moving shapes with captions, in the file formats of MSR-VTT, VATEX and CHVTT.

    python tools/make_toy_dataset.py --out toy
    python tools/make_toy_dataset.py --out toy --only msvd lsmdc didemo activitynet

The same seed gives the same captions and frames. The output folder gets a `toy.json`, which says what was
made; `--overwrite` replaces only a folder that has one.
"""

from __future__ import annotations

import argparse
import functools
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
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import write_json
from common.errors import UserError, file_errors, run_program
from tools.toy.annotations import WRITERS as PUBLISHED_WRITERS
from tools.toy.annotations import Clip, DatasetPlan, Sizes
from tools.toy.bert import write_toy_bert
from tools.toy.drawing import write_clip
from tools.toy.field_annotations import FIELD_WRITERS
from tools.toy.own_table import write_table

SIZES = {
    "tiny": Sizes(
        msrvtt_train=12,
        msrvtt_test=8,
        msrvtt_captions=3,
        vatex_train=8,
        vatex_val=4,
        vatex_test=6,
        vatex_captions=4,
        chvtt_pretrain=12,
        chvtt_query_train=4,
        chvtt_query_val=4,
        field_train=6,
        field_val=3,
        field_test=5,
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
    # For tools/demo.py --toy. An English model learned faster from many scenes, a Chinese one from few.
    "demo": Sizes(vatex_val=8, vatex_test=36, simple=("val", "test")),
    "demo_chinese": Sizes(vatex_train=320, vatex_val=8, vatex_test=36, simple=("train", "val", "test")),
}
WRITERS: dict[str, Callable[..., DatasetPlan]] = {
    **PUBLISHED_WRITERS,
    **FIELD_WRITERS,
    "table": write_table,  # of one's own videos
}
BERT = "toy-bert"
PARTS = (*PUBLISHED_WRITERS, BERT)  # made by default
MARKER = "toy.json"
_CLIPS_FOR_A_POOL = 150  # from this number on, a pool of processes is faster


def make_toy_dataset(
    out: Path,
    *,
    seed: int = 0,
    sizes: Sizes = SIZES["default"],
    parts: Sequence[str] = PARTS,
    overwrite: bool = False,
    workers: int | None = None,
) -> dict[str, dict[str, int]]:
    """Make `parts` in the folder `out` and return {data set: {"clips": n, "captions": n}}.

    The folder is written under a temporary name next to `out` and renamed at the end. `workers` None: one
    process per usable core. Raises `UserError` if `out` is not empty, unless `overwrite` is set and this tool
    made it, and if it cannot be written.
    """
    _check_replaceable(out, overwrite=overwrite)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    writing = functools.partial(file_errors, f"--out {out}", "cannot be written")
    try:
        summary, clips = {}, []
        for name in (part for part in WRITERS if part in parts):
            with writing():
                (unfinished / name / "videos").mkdir(parents=True)
            plan = WRITERS[name](unfinished / name, seed=seed, sizes=sizes)
            clips += plan.clips
            summary[name] = {"clips": len(plan.clips), "captions": plan.captions}
        with writing():
            _write_clips(clips, workers=workers)
            if BERT in parts:
                write_toy_bert(unfinished / BERT, seed=seed)
        write_json(
            unfinished / MARKER,
            {"seed": seed, "sizes": asdict(sizes), "made": summary},
        )
        with writing():
            if out.exists():
                shutil.rmtree(out)
            unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("make_toy_dataset.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    summary = make_toy_dataset(
        args.out,
        seed=args.seed,
        sizes=SIZES[args.size],
        parts=args.only,
        overwrite=args.overwrite,
        workers=args.workers,
    )
    for name, made in summary.items():
        print(f"{name:8} {made['clips']:5} clips {made['captions']:6} captions")
    print(f"{args.out}: made in {time.perf_counter() - started:.1f} s")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="make_toy_dataset.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to make; must be empty or not exist"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and captions (default: 0)")
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="default",
        help="number of clips, and in the two for the demo also simple scenes (default: default)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*WRITERS, BERT),
        default=PARTS,
        metavar="PART",
        help=f"make these: {', '.join((*WRITERS, BERT))} (default: {' '.join(PARTS)})",
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
        raise UserError(f"--out {out}: is a file; give a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"--out {out}: not empty; choose another folder, or --overwrite to replace it")
    if not (out / MARKER).is_file():
        raise UserError(f"--out {out}: has no {MARKER}, so this tool did not make it; delete it yourself")


def _write_clips(clips: Sequence[Clip], *, workers: int | None) -> None:
    workers = (
        workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    paths, scenes = [clip.path for clip in clips], [clip.scene for clip in clips]
    if workers == 1 or len(clips) < _CLIPS_FOR_A_POOL:
        list(map(write_clip, paths, scenes))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_clip, paths, scenes, chunksize=16))


if __name__ == "__main__":
    sys.exit(main())
