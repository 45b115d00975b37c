"""Save a moment of an indexed video as a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from search.index_folder import VideoIndex
from search.index_format import VideoIndexError
from search.results import Hit, clock
from video.long.remux import FORMATS, copy_part

_END = float("inf")
_KEY_FRAME = 0.05  # seconds by which a start may differ without a word


@dataclass(frozen=True)
class Exported:
    """A saved clip: its file, the second asked for, and the second of the key frame where it starts."""

    path: Path
    asked: float
    start: float

    def __str__(self) -> str:
        moved = abs(self.start - self.asked) > _KEY_FRAME
        at = f", from {clock(self.start, tenths=True)}: the key frame before {clock(self.asked, tenths=True)}"
        return f"saved {self.path}{at if moved else ''}"


def export_part(index: VideoIndex, video_id: str, *, start: float, end: float, out: Path) -> Exported:
    """Save seconds `start` to `end` of a video. Raises `UserError` for an unknown id, and as `copy_part`."""
    record = index.record(video_id)
    if record is None:
        raise VideoIndexError(f"{index.folder}: no video {video_id!r} in the index")
    if record.path is None or record.is_missing:
        raise VideoIndexError(f"{video_id}: there is no file to cut; the index says {record.path}")
    if record.duration is not None and start >= record.duration:
        raise UserError(f"{video_id}: ends at {record.duration:g} s; give an earlier start than {start:g}")
    return Exported(out, start, copy_part(Path(record.path), out, start=start, end=end))


def export_hit(index: VideoIndex, hit: Hit, folder: Path, *, place: int) -> Exported:
    """Save the best moment of a hit, or all of a short video, under a name of its own in `folder`."""
    suffix = Path(hit.video_id).suffix.lower()
    start, end = (0.0, _END) if hit.start is None or hit.end is None else (hit.start, hit.end)
    times = "" if end == _END else f" {_file_clock(start)}-{_file_clock(end)}"
    stem = f"{place:02d} {hit.video_id.removesuffix(Path(hit.video_id).suffix)}"
    name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in stem)[:150]
    out = folder / f"{name}{times}{suffix if suffix in FORMATS else '.mkv'}"
    return export_part(index, hit.video_id, start=start, end=end, out=out)


def _file_clock(seconds: float) -> str:
    return clock(seconds, tenths=False).replace(":", ".")
