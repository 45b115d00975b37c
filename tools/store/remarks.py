"""Stored videos to look at: only a part of the file decodes, or its length is not that of its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dataloaders.frame_source import FramesError, FrameSource
from video.clip_ids import Part, ends_after, is_about, parse_clip_id

MIN_DECODED = 0.9  # the default of --min_decoded
_SHOWN = 5  # names in a line
PARTLY, LENGTH, BEYOND = "partly decoded", "length", "beyond the end"  # kinds of remarks
_WHAT = {
    PARTLY: "decodes only in part",
    LENGTH: "is not as long as its name says",
    BEYOND: "is a part that ends after its video",
}


class Remark(NamedTuple):
    """What is odd about a video: the kind, and its numbers in words."""

    kind: str
    video_id: str
    numbers: str

    def __str__(self) -> str:
        return f"video {self.video_id!r}: {_WHAT[self.kind]} ({self.numbers})"


def remarks_of(
    video_id: str, record: Mapping[str, Any], *, min_decoded: float, part: Part | None = None
) -> list[Remark]:
    """The remarks about a video, from its manifest.

    `part`: the part of a source video that it is to be; None: as its id says, if the id names one.
    """
    remarks = []
    share = decoded_share(record)
    if share < min_decoded:
        remarks.append(Remark(PARTLY, video_id, f"{100 * share:.0f} %"))
    part, length = part or parse_clip_id(video_id), length_of(record)
    if part is not None and length is not None and not is_about(length, part.seconds):
        remarks.append(Remark(LENGTH, video_id, f"{length:.0f} s, not {part.seconds:.0f} s"))
    end, until = record.get("end"), record.get("decoded_until", record.get("duration"))
    if end is not None and until is not None and ends_after(end, until):
        remarks.append(Remark(BEYOND, video_id, f"to {end:g} s of {until:.1f} s"))
    return remarks


def manifest_of(store: FrameSource, video_id: str) -> dict[str, Any]:
    """The manifest of a video; empty if there is none, or if it is broken: that is a fault of its own."""
    try:
        return store.manifest(video_id) or {}
    except FramesError:
        return {}


def decoded_share(record: Mapping[str, Any]) -> float:
    """The share of a video that decodes.

    Older stores count damaged packets only. There, damaged videos have also the frames that their header
    promises by its duration and frame rate.
    """
    if "decoded_share" in record:
        return float(record["decoded_share"])
    damaged, frames = record.get("damaged_packets", 0), record.get("source_frames", 0)
    if not damaged or not frames:
        return 1.0
    promised = 0.0 if "start" in record else (record.get("duration") or 0) * (record.get("fps") or 0)
    return float(frames / max(frames + damaged, promised))


def length_of(record: Mapping[str, Any]) -> float | None:
    """The seconds of a stored video, if all of it was taken; None if they are not known."""
    if record.get("start") is not None or record.get("end") is not None:
        return None
    length = record.get("duration")
    if "decoded_share" in record:
        length = record.get("decoded_until", length)
    return None if length is None else float(length)


class Remarks:
    """Counts remarks and keeps the first names of each kind."""

    def __init__(self, *, min_decoded: float) -> None:
        self.min_decoded = min_decoded
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def look_at(self, video_id: str, record: Mapping[str, Any]) -> None:
        """Count the remarks about a video."""
        for remark in remarks_of(video_id, record, min_decoded=self.min_decoded):
            self._counts[remark.kind] = self._counts.get(remark.kind, 0) + 1
            first = self._first.setdefault(remark.kind, [])
            if len(first) < _SHOWN:
                first.append(f"{remark.video_id}: {remark.numbers}")

    def lines(self) -> list[str]:
        """One line for each kind of remark."""
        share = f"{100 * self.min_decoded:g} %"
        texts = {
            PARTLY: f"videos of which less than {share} decodes, because they are cut off or damaged",
            LENGTH: "videos that are not as long as their names say (--clip_from_id cuts parts out)",
            BEYOND: "parts that end after their video, which are stored up to its end",
        }
        kinds = [kind for kind in texts if kind in self._counts]
        return [f"{texts[kind]}: {self._counts[kind]} ({self._names(kind)})" for kind in kinds]

    def _names(self, kind: str) -> str:
        more = ", ..." if self._counts[kind] > _SHOWN else ""
        return ", ".join(self._first[kind]) + more
