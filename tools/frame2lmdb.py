"""Prepare a frame store: n frames of every video, as JPEGs under the keys {video_id}_{i}.

    python tools/frame2lmdb.py --video_dir FOLDER --lmdb_path STORE [--json_path LIST]
    python tools/frame2lmdb.py info STORE | verify STORE | extract STORE ID | sheet STORE ID...

A second run with the same arguments continues where the first stopped. docs/FRAME_STORE.md says more.
Exit code: 0 all stored, 1 some failed (failures.jsonl in the store names them) or the disk is full, 2 wrong
usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import UserError, run_program
from tools.store import commands as store_commands
from tools.store.build import BuildOptions, BuildResult, build
from tools.store.flag_values import not_negative, positive, seconds, share, share_below_half
from tools.store.remarks import MIN_DECODED
from tools.store.shards import parse_shard, shard_of_environment
from video.sample import Settings

_PROGRAM = "frame2lmdb.py"
_MOST_FRAMES, _LARGEST_MAP = 99_999, 1 << 46  # of a video; in bytes
_SLACK_HELP = """how far a frame may move to a position that is cheap to decode, as a share of the distance
between two frames. Only in videos of 3000 frames and more. 0.25 decodes two to three times faster, but the
positions are not exactly even (default 0)"""

_DECODED_HELP = f"""name the stored videos of which a smaller share of the frames decodes: their files are cut
off or damaged (default {MIN_DECODED})"""


def build_parser() -> argparse.ArgumentParser:
    """The flags of building; those of the commands on a store are in `tools/store/commands.py`."""
    parser = ArgumentParser(
        prog=_PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--video_dir", type=Path, required=True, help="folder with the videos; never written to")
    add("--lmdb_path", type=Path, required=True, help="folder of the store")
    add("--json_path", type=Path, help="a table or JSON lines of the videos to store, or one id a line")
    add("--strict", action="store_true", help="end if several videos have one name, instead of taking one")
    add("--num_frames", type=positive, default=30, help="frames a video (default 30; docs/DATA.md)")
    add("--num_workers", type=positive, default=os.cpu_count() or 1, help="processes (default: all cores)")
    add("--short_side", type=not_negative, default=256, help="pixels; 0 keeps the size (default 256)")
    add("--quality", type=int, default=95, choices=range(1, 101), metavar="1..100", help="JPEG (default 95)")
    add("--slack", type=share_below_half, default=0.0, help=_SLACK_HELP)
    add("--first_seconds", type=seconds, help="store the first seconds of each video only (docs/DATA.md)")
    add("--clip_from_id", action="store_true", help="ids VIDEO_SSSSSS_EEEEEE are seconds S to E of VIDEO")
    add("--min_decoded", type=share, default=MIN_DECODED, help=_DECODED_HELP)
    add("--timeout", type=seconds, default=300.0, help="seconds a video may take (default 300)")
    add("--shard", help="i/n: store part i of n; 'none' for all (default: from torchrun or SLURM)")
    add("--overwrite", action="store_true", help="remove the store in this folder first")
    add("--map_size", type=positive, default=64 << 20, help="first size of the map in bytes; it grows")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    return run_program(_PROGRAM, lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int:
    parser = build_parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if argv[0] in store_commands.COMMANDS:
        return store_commands.run(argv)
    return _build(parser.parse_args(argv))


def _build(args: argparse.Namespace) -> int:
    shard = shard_of_environment() if args.shard is None else parse_shard(args.shard)
    if shard is not None:
        _say(f"part {shard.index} of {shard.count} (by {shard.source})")
    for flag, most in (("num_frames", _MOST_FRAMES), ("map_size", _LARGEST_MAP)):
        if getattr(args, flag) > most:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be at most {most}")
    settings = Settings(args.num_frames, args.short_side, args.quality, args.slack)
    options = BuildOptions(
        video_dir=args.video_dir,
        lmdb_path=args.lmdb_path,
        json_path=args.json_path,
        settings=settings,
        num_workers=args.num_workers,
        timeout=args.timeout,
        shard=shard,
        overwrite=args.overwrite,
        clip_from_id=args.clip_from_id,
        strict=args.strict,
        min_decoded=args.min_decoded,
        map_size=args.map_size,
        first_seconds=args.first_seconds,
    )
    result = build(options, say=_say)
    _say(_summary(result, options))
    return result.exit_code


def _summary(result: BuildResult, options: BuildOptions) -> str:
    stored = result.stored_before + result.stored
    text = f"stored {stored} of {result.listed} videos in {options.folder}"
    if result.stored_before:
        text += f" ({result.stored_before} before this run)"
    if result.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.failed.most_common())
        text += f"; failed: {reasons}; see {options.folder / 'failures.jsonl'}"
    if result.stopped_by:
        text += "; stopped by a signal: the same command continues from here"
    return text


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
