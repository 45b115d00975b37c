"""Prepare a frame store: n frames of every video, as JPEGs under the keys {video_id}_{i}.

    python tools/frame2lmdb.py --video_dir FOLDER --lmdb_path STORE [--json_path LIST]
    python tools/frame2lmdb.py info STORE | verify STORE | extract STORE ID | sheet STORE ID...

A second start with the same arguments goes on where the first stopped. docs/FRAME_STORE.md says more.
Exit code: 0 all stored, 1 some failed (failures.jsonl in the store names them), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder

from dataloaders.frame_store.format import FrameStoreWriteError
from tools.store import commands as store_commands
from tools.store.build import BuildOptions, BuildResult, build
from tools.store.flag_values import not_negative, positive, seconds, share_below_half
from tools.store.shards import parse_shard, shard_of_environment
from video.sample import Settings

_BROKEN_PIPE = 141  # 128 + SIGPIPE, which not every system has
_SLACK_HELP = """how far, as part of their distance, frames of videos of 3000 frames and more may move to
where decoding is cheap (default 0.25, some three times faster; 0: exactly even)"""


def build_parser() -> argparse.ArgumentParser:
    """The flags of building; those of the commands on a store are in `store_commands`."""
    parser = argparse.ArgumentParser(
        prog="frame2lmdb.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--video_dir", type=Path, required=True, help="folder with the videos; never written to")
    add("--lmdb_path", type=Path, required=True, help="folder of the store")
    add("--json_path", type=Path, help="videos to store: JSON lines or csv with video_id, or one id a line")
    add("--num_frames", type=positive, default=30, help="frames a video (CHVTT: 48; default 30)")
    add("--num_workers", type=positive, default=os.cpu_count() or 1, help="processes (default: all cores)")
    add("--short_side", type=not_negative, default=256, help="pixels; 0 keeps the size (default 256)")
    add("--quality", type=int, default=95, choices=range(1, 101), metavar="1..100", help="JPEG (default 95)")
    add("--slack", type=share_below_half, default=0.25, help=_SLACK_HELP)
    add("--clip_from_id", action="store_true", help="ids VIDEO_SSSSSS_EEEEEE are seconds S to E of VIDEO")
    add("--timeout", type=seconds, default=300.0, help="seconds a video may take (default 300)")
    add("--shard", help="i/n: store part i of n; 'none' for all (default: as torchrun or SLURM says)")
    add("--overwrite", action="store_true", help="remove what the store holds first")
    add("--map_size", type=positive, default=64 << 20, help="bytes the map starts with; it grows by itself")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    try:
        if argv[0] in store_commands.COMMANDS:
            code = store_commands.run(argv)
            sys.stdout.flush()
            return code
        return _build(parser.parse_args(argv))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, OSError) as error:
        _say(f"{parser.prog}: {describe(error)}")
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return 1 if full or isinstance(error, FrameStoreWriteError) else 2


def describe(error: ValueError | OSError) -> str:
    """What went wrong, in one line; a file's name as it is written, even where the system has it as bytes."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, (str, bytes)):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _build(args: argparse.Namespace) -> int:
    shard = shard_of_environment() if args.shard is None else parse_shard(args.shard)
    if shard is not None:
        _say(f"part {shard.index} of {shard.count} (by {shard.source})")
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
        map_size=args.map_size,
    )
    result = build(options, say=_say)
    _say(_summary(result, options))
    return result.exit_code


def _summary(result: BuildResult, options: BuildOptions) -> str:
    stored = result.stored_before + result.stored
    text = f"stored {stored} of {result.listed} videos in {options.folder}"
    if result.stored_before:
        text += f" ({result.stored_before} were there)"
    if result.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.failed.most_common())
        text += f"; failed: {reasons}; see {options.folder / 'failures.jsonl'}"
    if result.stopped_by:
        text += "; stopped by a signal: the same command goes on from here"
    return text


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
