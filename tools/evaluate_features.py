"""All retrieval metrics from features on disk, of our models or any other, in seconds.

    python tools/evaluate_features.py FOLDER                       what --save_features wrote
    python tools/evaluate_features.py --text text.npy --video video.npy [--frames frames.npy]
        [--video_ids ids.txt --video_of_text videos.txt]           texts in any order, several per video
    python tools/evaluate_features.py --similarity scores.npy ...  scores [texts, videos] of a model whose
                                                                   score is no product of features

Lists have one id per line, or are JSON lists. Without lists, text i belongs to video i. The similarity is the
cosine of text and video; with frames, plus the mean cosine of the best --top_frames frames. See
docs/EVALUATION.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import beside, check_target, write_json
from common.errors import FileError, UserError, run_program

_ARRAYS = {
    "text": "texts [N, D]",
    "video": "videos [V, D]",
    "frames": "frames [V, F, D]",
    "similarity": "scores [N, V]",
    "bank": "training texts [B, D], for --qb_norm",
    "bank_video": "training videos, for --qb_norm from video to text",
    "bank_frames": "their frames",
}
_MOST_RESAMPLES = 1_000_000
_LISTS = {
    "text_ids": "names of the texts; without --video_of_text, the ids of their videos",
    "video_ids": "names of the videos",
    "video_of_text": "the video id of each text",
}


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="evaluate_features.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="what --save_features wrote")
    for name, content in _ARRAYS.items():
        add(f"--{name}", type=Path, metavar="NPY", help=f".npy: {content}")
    for name, content in _LISTS.items():
        add(f"--{name}", type=Path, metavar="LIST", help=content)
    add("--checkpoint", type=Path, help="refuse features of another checkpoint than this file")
    add("--dataset", help="refuse features of another data set")
    add("--split", help="refuse features of another split")
    add("--top_frames", type=int, help="number of best frames [as saved, else 3]")
    add("--dsl", action="store_true", help="add metrics with dual softmax")
    add("--dsl_temperature", type=float, default=100.0, help="factor on cosines [100]")
    add(
        "--similarity_scale",
        type=float,
        metavar="S",
        help="the scores of --similarity are S times cosines; --dsl needs it [as saved, else guessed]",
    )
    add("--qb_norm", action="store_true", help="add metrics with querybank normalisation")
    add("--qb_beta", type=float, default=20.0, help="factor on cosines [20]")
    add("--bootstrap", type=int, default=1000, help="resamples for the 95%% intervals, 0: none [1000]")
    add("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("evaluate_features.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    _check_flags(args)
    from tools.features.evaluation import evaluate, table  # torch, so only when flags and paths are right

    result, metrics, remarks = evaluate(args)
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    print("\n".join(table(result, metrics)), file=beside(args.json))
    if args.json:
        write_json(args.json, result)
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    sources = [args.folder, args.similarity, args.text or args.video]
    if sum(source is not None for source in sources) != 1 or bool(args.text) != bool(args.video):
        raise UserError("give a FOLDER, or --text and --video, or --similarity")
    if args.similarity and args.qb_norm:
        raise UserError("--qb_norm: needs features, not --similarity")
    if args.top_frames is not None and args.top_frames < 1:
        raise UserError(f"--top_frames {args.top_frames}: must be at least 1")
    if not 0 <= args.bootstrap <= _MOST_RESAMPLES:
        raise UserError(f"--bootstrap {args.bootstrap}: give 0 to {_MOST_RESAMPLES:,}")
    if args.similarity_scale is not None and not args.similarity:
        raise UserError("--similarity_scale: needs --similarity")
    for name in ("dsl_temperature", "qb_beta", "similarity_scale"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < float("inf"):
            raise UserError(f"--{name} {getattr(args, name)}: must be above 0")
    for name in (*_ARRAYS, *_LISTS, "checkpoint"):
        path = getattr(args, name)
        if path and not path.exists():
            raise FileError(f"--{name} {path}: no such file")
    if args.json:
        check_target(args.json, "--json")
    if args.folder and not args.folder.is_dir():
        raise FileError(f"{args.folder}: no such folder, so no features there")


if __name__ == "__main__":
    sys.exit(main())
