"""Merge VATEX's release files, of one language or both, into one vatex_data.json.

    python tools/convert_vatex.py vatex_training_v1.0.json vatex_validation_v1.0.json \
        --out data/vatex/vatex_data.json

A file has the release's form, [{"videoID", "enCap", "chCap"}, ...], or is merged already. A video may be in
several files if its captions agree. --list prints how many videos of split lists have captions; --covered
writes those of one list that have captions in --language to a new list.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Run as a program, only tools/ itself is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.atomic_files import check_target, write_text
from common.errors import UserError, run_program
from dataloaders.datasets.files import name_some, read_id_list
from dataloaders.datasets.known_splits import identify
from dataloaders.datasets.vatex import CAPTION_KEYS, SPEC, read_entries

Merged = dict[str, dict[str, list[str]]]


def merge(files: Sequence[Path]) -> Merged:
    """{video id: {"enCap": [...], "chCap": [...]}} of all `files`; a video without captions has no key.

    Raises `UserError` if captions are not a list of strings, or differ from those in an earlier file.
    """
    merged: Merged = {}
    for path in files:
        for video_id, entry in read_entries(path):
            merged_captions = merged.setdefault(video_id, {})
            for key in CAPTION_KEYS.values():
                captions = _captions(path, video_id, entry, key=key)
                if captions and merged_captions.setdefault(key, captions) != captions:
                    raise UserError(
                        f"{path}: video {video_id} has other captions ({key}) than in an earlier file"
                    )
    return merged


def covered(merged: Merged, id_list: Path, *, language: str) -> tuple[list[str], list[str]]:
    """(listed videos with captions in `language`, listed videos without)."""
    key = CAPTION_KEYS[language]
    covered_ids: list[str] = []
    other_ids: list[str] = []
    for video_id in read_id_list(id_list):
        (covered_ids if key in merged.get(video_id, {}) else other_ids).append(video_id)
    return covered_ids, other_ids


def describe(merged: Merged) -> list[str]:
    """The number of videos, and of captions by language."""
    lines = [f"{len(merged):,} videos"]
    for language, key in CAPTION_KEYS.items():
        counts = [len(captions[key]) for captions in merged.values() if key in captions]
        each = f", {min(counts)} to {max(counts)} each" if counts else ""
        lines.append(f"{language} ({key}): {sum(counts):,} captions of {len(counts):,} videos{each}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_program("convert_vatex.py", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    _check_flags(args)
    merged = merge(args.files)
    lines = describe(merged)
    for id_list in args.list:
        lines += [_coverage(merged, id_list, language=language) for language in CAPTION_KEYS]
    if args.covered:
        covered_ids, other_ids = covered(merged, args.list[0], language=args.language)
        if not covered_ids:
            raise UserError(f"{args.list[0]}: none of its videos has {args.language} captions")
        write_text(args.covered, "".join(f"{video_id}\n" for video_id in covered_ids))
        lines.append(f"{args.covered}: {len(covered_ids):,} videos written, {len(other_ids):,} left out")
    if args.out:
        write_text(args.out, json.dumps(merged, ensure_ascii=False) + "\n")
        lines.append(f"{args.out}: written")
    print("\n".join(lines))
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    if args.covered and len(args.list) != 1:
        raise UserError("--covered: needs exactly one --list")
    for flag, target in (("--out", args.out), ("--covered", args.covered)):
        if target is None:
            continue
        if target.exists() and not args.overwrite:
            raise UserError(f"{target}: exists; choose another name, or --overwrite to replace it")
        check_target(target, flag)


def _captions(path: Path, video_id: str, entry: Any, *, key: str) -> list[str]:
    captions = entry.get(key, []) if isinstance(entry, dict) else None
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{path}: video {video_id}: {key!r} must be a list of strings")
    return captions


def _coverage(merged: Merged, id_list: Path, *, language: str) -> str:
    covered_ids, other_ids = covered(merged, id_list, language=language)
    total = len(covered_ids) + len(other_ids)
    text = f"{id_list}: {len(covered_ids):,} of {total:,} videos have {language} captions"
    if other_ids:
        text += f"; not: {name_some(other_ids)}"
    split_list = identify(SPEC.name, [*covered_ids, *other_ids])
    return f"{text} [{split_list.name} list]" if split_list else text


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="convert_vatex.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="release files, or merged ones")
    parser.add_argument(
        "--out", type=Path, help="vatex_data.json to write; without it only counts are printed"
    )
    parser.add_argument(
        "--list", nargs="+", type=Path, default=[], metavar="LIST", help="split lists to check"
    )
    parser.add_argument(
        "--covered", type=Path, help="file for the videos of --list that have captions in --language"
    )
    parser.add_argument("--language", choices=tuple(CAPTION_KEYS), default="chinese")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
