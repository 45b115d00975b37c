"""Merges VATEX's release files, of one language or both, into one vatex_data.json.

    python tools/convert_vatex.py vatex_training_v1.0.json vatex_validation_v1.0.json \
        --out data/vatex/vatex_data.json

Files may be in the release's form, [{"videoID", "enCap", "chCap"}, ...], or merged already; a video may come
in several files as long as they do not contradict each other. With --list the coverage of split lists is
said; with --covered the videos of that list that have captions in --language are written to a new list.
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

from common.atomic_files import write_text
from dataloaders.datasets.files import name_some, read_id_list
from dataloaders.datasets.known_splits import identify
from dataloaders.datasets.vatex import CAPTION_KEYS, read_entries
from tools.doctor.report import say

Merged = dict[str, dict[str, list[str]]]


def merge(files: Sequence[Path]) -> Merged:
    """{video id: {"enCap": [...], "chCap": [...]}} of all `files`, a key only where there are captions.

    Raises ValueError naming the file and video where captions are no list of strings, or differ from those
    of an earlier file.
    """
    merged: Merged = {}
    for path in files:
        for video_id, entry in read_entries(path):
            known = merged.setdefault(video_id, {})
            for key in CAPTION_KEYS.values():
                captions = _captions(path, video_id, entry, key=key)
                if captions and known.setdefault(key, captions) != captions:
                    raise ValueError(
                        f"{path}: video {video_id} has other captions ({key}) than in the files before"
                    )
    return merged


def covered(merged: Merged, id_list: Path, *, language: str) -> tuple[list[str], list[str]]:
    """The listed videos that have captions in `language`, and those that have none."""
    key = CAPTION_KEYS[language]
    have: list[str] = []
    lack: list[str] = []
    for video_id in read_id_list(id_list):
        (have if key in merged.get(video_id, {}) else lack).append(video_id)
    return have, lack


def describe(merged: Merged) -> list[str]:
    """Lines on what was merged: videos, and captions by language."""
    lines = [f"{len(merged):,} videos"]
    for language, key in CAPTION_KEYS.items():
        counts = [len(captions[key]) for captions in merged.values() if key in captions]
        each = f", {min(counts)} to {max(counts)} each" if counts else ""
        lines.append(f"{language} ({key}): {sum(counts):,} captions of {len(counts):,} videos{each}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns 0, or 2 where a file or flag is wrong."""
    args = _build_parser().parse_args(argv)
    try:
        _run(args)
    except (ValueError, OSError) as error:
        print(f"convert_vatex: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    _check_flags(args)
    merged = merge(args.files)
    lines = describe(merged)
    for id_list in args.list:
        lines += [_coverage(merged, id_list, language=language) for language in CAPTION_KEYS]
    if args.covered:
        have, lack = covered(merged, args.list[0], language=args.language)
        if not have:
            raise ValueError(f"{args.list[0]}: none of its videos has {args.language} captions")
        write_text(args.covered, "".join(f"{video_id}\n" for video_id in have))
        lines.append(f"{args.covered}: {len(have):,} videos written, {len(lack):,} left out")
    if args.out:
        write_text(args.out, json.dumps(merged, ensure_ascii=False) + "\n")
        lines.append(f"{args.out}: written")
    say(lines)


def _check_flags(args: argparse.Namespace) -> None:
    if args.covered and len(args.list) != 1:
        raise ValueError("--covered: needs exactly one --list, of which it keeps a part")
    for target in filter(None, (args.out, args.covered)):
        if target.exists() and not args.overwrite:
            raise ValueError(f"{target}: exists; choose another name, or --overwrite to replace it")
        if not target.parent.is_dir():
            raise ValueError(f"{target}: the folder {target.parent} does not exist")


def _captions(path: Path, video_id: str, entry: Any, *, key: str) -> list[str]:
    captions = entry.get(key, []) if isinstance(entry, dict) else None
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{path}: video {video_id}: {key!r} must be a list of strings")
    return captions


def _coverage(merged: Merged, id_list: Path, *, language: str) -> str:
    have, lack = covered(merged, id_list, language=language)
    text = f"{id_list}: {len(have):,} of {len(have) + len(lack):,} videos have {language} captions"
    if lack:
        text += f"; not: {name_some(lack)}"
    known = identify("vatex", [*have, *lack])
    return f"{text} [{known.name} list]" if known else text


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="release files, or merged ones")
    parser.add_argument("--out", type=Path, help="vatex_data.json to write; without it only counts are said")
    parser.add_argument(
        "--list", nargs="+", type=Path, default=[], metavar="LIST", help="split lists to look up"
    )
    parser.add_argument(
        "--covered", type=Path, help="write the part of --list that has captions in --language here"
    )
    parser.add_argument("--language", choices=tuple(CAPTION_KEYS), default="chinese")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names")
    return parser


if __name__ == "__main__":
    sys.exit(main())
