"""Commands on a frame store: info, verify, extract, sheet. Each takes a store of any layout.

Legend: n stored frames of a video; pictures are RGB uint8 [H, W, 3].
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.arguments import ArgumentParser
from common.errors import UserError, file_errors
from dataloaders.frame_store.loose_videos import count_loose
from dataloaders.frame_store.reader import FrameStore
from tools.store.flag_values import positive, share
from tools.store.remarks import MIN_DECODED, Remarks
from tools.store.verify import verify_store

COMMANDS = ("info", "verify", "extract", "sheet")
_SHEET_COLUMNS = 10
_SHEET_HEIGHT = 96
_HISTOGRAM_WIDTH = 40


def run(argv: list[str]) -> int:
    """Run the command `argv[0]`; returns the exit code. Raises `UserError` for an unusable store."""
    args = _parser().parse_args(_ids_apart(argv) if argv[0] in ("extract", "sheet") else argv)
    return int(args.run(args))


def _ids_apart(argv: list[str]) -> list[str]:
    """`argv` with a `--` before the ids: an id may begin with a dash, as on YouTube."""
    if "--" in argv:
        return argv
    flags, others = [argv[0]], list[str]()
    words = iter(argv[1:])
    for word in words:
        if word == "--out":
            flags += [word, *islice(words, 1)]
        elif word in ("-h", "--help") or word.startswith("--out="):
            flags.append(word)
        else:
            others.append(word)
    return [*flags, "--", *others]


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="frame2lmdb.py", description=__doc__)
    commands = parser.add_subparsers(required=True)
    cpus = os.cpu_count() or 1
    help_ids = "video ids"
    help_decoded = f"name videos of which a smaller share of the frames decodes (default {MIN_DECODED})"

    info = commands.add_parser("info", help="counts, sizes and settings of a store")
    info.add_argument("store", type=Path)
    info.add_argument("--min_decoded", type=share, default=MIN_DECODED, help=help_decoded)
    info.set_defaults(run=_info)

    verify = commands.add_parser("verify", help="check that every key exists and every JPEG decodes")
    verify.add_argument("store", type=Path)
    verify.add_argument("--min_decoded", type=share, default=MIN_DECODED, help=help_decoded)
    verify.add_argument("--sample", type=positive, metavar="N", help="check N random videos")
    verify.add_argument("--num_workers", type=positive, default=cpus, help="processes (default: all cores)")
    verify.set_defaults(run=_verify)

    extract = commands.add_parser("extract", help="write a video's frames as files")
    extract.add_argument("store", type=Path)
    extract.add_argument("ids", nargs="+", metavar="ID", help=help_ids)
    extract.add_argument("--out", type=Path, required=True, help="folder for the JPEGs")
    extract.set_defaults(run=_extract)

    sheet = commands.add_parser("sheet", help="one picture with the frames of several videos")
    sheet.add_argument("store", type=Path)
    sheet.add_argument("ids", nargs="+", metavar="ID", help=help_ids)
    sheet.add_argument("--out", type=Path, required=True, help="the picture, .png or .jpg")
    sheet.set_defaults(run=_sheet)
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


# info


def _info(args: argparse.Namespace) -> int:
    store = FrameStore(args.store, allow_incomplete=True)
    states = store.states()
    for state in states:
        _say(_describe_state(state))
    videos, frames, sizes, codecs = 0, Counter[int](), [], Counter[str]()
    made, remarks = Counter[str](), Remarks(min_decoded=args.min_decoded)
    for video_id in store.video_ids():
        record = store.manifest(video_id)
        videos += 1
        frames[record["frames"] if record else store.num_frames(video_id)] += 1
        sizes.append(_stored_bytes(store, video_id, record))
        codecs[record.get("codec", "?") if record else "?"] += 1
        if record:
            made.update(_conversions(record))
            remarks.look_at(video_id, record)
    _say(f"videos: {videos}; frames a video: " + _counts(frames))
    _say(f"codecs of the sources: {_counts(codecs)}")
    if made:
        _say(f"converted: {_counts(made)}")
    _say(f"JPEGs: {sum(sizes) / 1e6:.1f} MB; file: {_file_bytes(args.store) / 1e6:.1f} MB")
    loose = count_loose(args.store)
    if loose:
        _say(
            f"beside the store: {loose} videos that runs with --frame_cache have decoded; the next such run,"
        )
        _say("or frame2lmdb.py with the same settings, puts them into it")
    for line in [*histogram(sizes), *remarks.lines()]:
        _say(line)
    return 0


def _conversions(record: dict[str, Any]) -> list[str]:
    """What was done to the pictures of a video beside shrinking."""
    made = [f"{record['tone_mapped']} to SDR"] if "tone_mapped" in record else []
    return [*made, "deinterlaced"] if record.get("deinterlaced") else made


def _describe_state(state: dict[str, Any] | None) -> str:
    if state is None:
        return "published layout, without a manifest"
    settings = ", ".join(f"{name} {value}" for name, value in sorted(state["settings"].items()))
    done = "complete" if state["complete"] else f"incomplete: {state['videos']} of {state['expected'] or '?'}"
    return f"{done}; {state['failed']} failed; {settings or 'no settings'}"


def _counts(counter: Counter[Any]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counter.most_common(8)) or "none"


def _stored_bytes(store: FrameStore, video_id: str, record: dict[str, Any] | None) -> int:
    if record and "bytes" in record:
        return int(record["bytes"])
    return sum(map(len, store.read_jpegs(video_id, range(store.num_frames(video_id)))))


def _file_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("data.mdb"))


def histogram(sizes: list[int], *, bins: int = 8) -> list[str]:
    """Lines that show how many videos take how many kB."""
    if not sizes:
        return []
    counts, edges = np.histogram(np.array(sizes) / 1e3, bins=bins)
    widest = max(1, counts.max())
    return [
        f"{low:10.1f} to {high:10.1f} kB {count:8d} {'#' * round(_HISTOGRAM_WIDTH * count / widest)}"
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


# verify


def _verify(args: argparse.Namespace) -> int:
    findings = verify_store(
        args.store, sample=args.sample, workers=args.num_workers, min_decoded=args.min_decoded
    )
    for remark in findings.remarks:
        _say(f"remark: {remark}")
    faults = [_describe_state(state) for state in findings.states if state and not state["complete"]]
    faults += findings.faults
    for fault in faults:
        _say(fault)
    _say(f"{findings.checked} videos checked, {len(faults)} faults")
    return 1 if faults else 0


# extract and sheet


def _extract(args: argparse.Namespace) -> int:
    store = FrameStore(args.store, allow_incomplete=True)
    _refuse_missing(store, args.ids)
    with file_errors(args.out, "cannot be made"):
        args.out.mkdir(parents=True, exist_ok=True)
    for video_id in args.ids:
        name = re.sub(r"[^\w.-]", "_", video_id).lstrip(".") or "video"
        for index, jpeg in enumerate(store.read_jpegs(video_id, range(store.num_frames(video_id)))):
            path = args.out / f"{name}_{index}.jpg"
            with file_errors(path, "cannot be written"):
                path.write_bytes(jpeg)
        _say(f"{video_id}: {store.num_frames(video_id)} frames in {args.out}")
    return 0


def _sheet(args: argparse.Namespace) -> int:
    store = FrameStore(args.store, allow_incomplete=True)
    _refuse_missing(store, args.ids)
    rows = [_sheet_row(store, video_id) for video_id in args.ids]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    _write_picture(args.out, np.concatenate(padded))
    for number, video_id in enumerate(args.ids, start=1):
        _say(f"row {number}: {video_id}")
    return 0


def _write_picture(path: Path, picture: np.ndarray) -> None:
    try:
        done = cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:  # an extension that OpenCV does not know
        done = False
    if not done:
        raise UserError(f"{path}: no picture can be written there; --out must be a .png or .jpg in a folder")


def _refuse_missing(store: FrameStore, video_ids: list[str]) -> None:
    missing = store.missing(video_ids)
    if missing:
        raise UserError(f"frame store {store.path}: does not hold {', '.join(map(repr, missing[:5]))}")


def _sheet_row(store: FrameStore, video_id: str) -> np.ndarray:
    """Up to ten frames of a video side by side, spread over those stored, first and last included."""
    count = store.num_frames(video_id)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _SHEET_COLUMNS)).round().astype(int))
    pictures = []
    for frame in store.read_frames(video_id, chosen):
        width = max(1, round(frame.shape[1] * _SHEET_HEIGHT / frame.shape[0]))
        pictures.append(cv2.resize(frame, (width, _SHEET_HEIGHT), interpolation=cv2.INTER_AREA))
        pictures.append(np.zeros((_SHEET_HEIGHT, 2, 3), dtype=np.uint8))
    return np.concatenate(pictures, axis=1)
