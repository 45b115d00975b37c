"""Make tar shards for `--shards` from a frame store or from videos, with the captions of a data set.

    python tools/make_shards.py --out SHARDS --dataset msrvtt                      from its frame store
    python tools/make_shards.py --out SHARDS --dataset msrvtt --video_dir VIDEOS   the video files themselves
    python tools/make_shards.py count SOURCE...                                    sizes.json for other shards

Writes 000000.tar, 000001.tar, ..., and sizes.json, which says how many samples each holds. A second run with
the same arguments continues where the first stopped; the same arguments give the same bytes. docs/SHARDS.md
says more. Exit code: 0 all written, 1 some videos could not be read (they are named), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

import numpy as np

from common.arguments import ArgumentParser
from common.errors import UserError, run_program
from common.languages import BILINGUAL
from dataloaders.datasets.registry import DATASETS, dataset_spec, default_files, read_examples
from dataloaders.datasets.spec import DatasetSpec, SplitFiles
from dataloaders.datasets.splits import exclude_missing, match_store_ids
from dataloaders.examples import Examples
from dataloaders.frame_store.reader import FrameStore
from dataloaders.tar_shards.addresses import folder_and_name, shard_addresses
from dataloaders.tar_shards.index import count_shards, write_index
from dataloaders.video_frames.file_table import FileTable, VideoFinder
from tools.shards.contents import Contents, SplitTexts, StoredFrames, VideoFiles, shard_ends, video_order
from tools.shards.writing import ShardPlan, make_shards

_PROGRAM = "make_shards.py"
_SHOWN = 5  # videos that could not be read


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=_PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the shards")
    add("--dataset", required=True, metavar="NAME", help=f"data set: {', '.join(DATASETS)}")
    add("--split", default="train", choices=("pretrain", "train"), help="(default: train)")
    add("--data_dir", default=os.environ.get("HMMC_DATA", "data"), help="folder of data sets (default: data)")
    add("--annotations", help="annotation file, instead of the default")
    add("--list", help="list of videos, instead of the default")
    add("--store", help="frame store, instead of the default")
    add("--video_dir", type=Path, help="put in the files of this folder, not frames of a store")
    add("--samples", type=int, default=1000, help="videos in a shard at most (default: 1000)")
    add("--bytes", type=float, help="bytes in a shard, about, at most: 5e8")
    add("--seed", type=int, default=0, help="of the order of the videos (default: 0)")
    add("--num_workers", type=int, default=1, help="processes that write (default: 1)")
    add("--allow_missing", action="store_true", help="leave out videos that are not there")
    add("--overwrite", action="store_true", help="replace the shards in --out")
    return parser


def build_count_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=f"{_PROGRAM} count", description="Count the samples of shards and write sizes.json beside them."
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="as in --shards: a/{000..123}.tar, s3://"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_program(_PROGRAM, lambda: _count(given[1:]) if given[:1] == ["count"] else _make(given))


def _count(argv: Sequence[str]) -> int:
    args = build_count_parser().parse_args(argv)
    sizes: dict[str, dict[str, int]] = {}
    addresses = [address for source in args.sources for address in shard_addresses(source)]
    for address, samples in zip(addresses, count_shards(addresses), strict=True):
        folder, name = folder_and_name(address)
        sizes.setdefault(folder, {})[name] = samples
    for folder, table in sizes.items():
        print(f"{write_index(folder, table)}: {sum(table.values()):,} samples in {len(table):,} shards")
    return 0


def _make(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.samples < 1 or (args.bytes is not None and args.bytes < 1):
        raise UserError("--samples, --bytes: must be at least 1")
    plan = _plan(args)
    made = make_shards(plan, workers=max(args.num_workers, 1), overwrite=args.overwrite, say=_say)
    _say(
        f"{args.out}: {sum(made.sizes.values()):,} samples in {plan.count:,} shards"
        + (f" ({made.before:,} before this run)" if made.before else "")
    )
    if made.failed:
        named = "; ".join(f"{video_id}: {why}" for video_id, why in made.failed[:_SHOWN])
        _say(f"{len(made.failed):,} videos could not be read: {named}")
    return 1 if made.failed else 0


def _plan(args: argparse.Namespace) -> ShardPlan:
    spec = dataset_spec(args.dataset)
    files = default_files(args.data_dir, spec.name, args.split)
    files = files.with_paths(args.annotations, args.list, args.store)
    language = spec.languages[0] if len(spec.languages) == 1 else BILINGUAL
    examples = read_examples(spec.name, args.split, language=language, files=files)
    examples, contents = _contents(args, examples, files, spec)
    texts = SplitTexts(examples)
    order = video_order(examples.num_videos, args.seed).tolist()
    sizes = None
    if args.bytes is not None:
        sizes = [contents.size(examples.video_ids[video]) for video in order]
    most_bytes = None if args.bytes is None else int(args.bytes)
    ends = shard_ends(sizes, len(order), samples=args.samples, most_bytes=most_bytes)
    settings = {
        "dataset": spec.name,
        "split": args.split,
        "contents": "videos" if args.video_dir else "frames",
        "samples": args.samples,
        "bytes": args.bytes,
        "seed": args.seed,
        "sha256": texts.digest(),
    }
    return ShardPlan(args.out, contents, texts, order, ends, settings)


def _contents(
    args: argparse.Namespace, examples: Examples, files: SplitFiles, spec: DatasetSpec
) -> tuple[Examples, Contents]:
    """The videos that are there, and what is put in of them."""
    contents: Contents
    if args.video_dir is not None:
        finder = VideoFinder(args.video_dir, clip_from_id=False)
        table = FileTable.of(examples.video_ids, finder)
        keep = np.array([table.get(video_id) is not None for video_id in examples.video_ids], dtype=bool)
        examples, missing = examples.keep_videos(keep), int((~keep).sum())
        contents, place = VideoFiles(args.video_dir, table), args.video_dir
    else:
        store = FrameStore(files.store)
        examples = match_store_ids(examples, store, prefix=spec.store_prefix)
        examples, lacking = exclude_missing(examples, store)
        contents, place, missing = StoredFrames(store, spec.first_seconds), files.store, lacking.count
    if missing and not args.allow_missing:
        raise UserError(f"{place}: lacks {missing:,} videos of the split; add them, or give --allow_missing")
    if not examples.num_videos:
        raise UserError(f"{place}: has none of the videos of the split")
    return examples, contents


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
