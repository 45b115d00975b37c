"""The results of a search: hits with scores, moments and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from search.index_format import TRAINED


def clock(seconds: float, *, tenths: bool) -> str:
    """Seconds as players show them: "1:02:03", with tenths "1:02:03.5"."""
    seconds = max(seconds, 0.0)
    minutes, rest = divmod(round(seconds * 10) if tenths else 10 * int(seconds), 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 10:04.1f}" if tenths else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"


@dataclass(frozen=True)
class Moment:
    """A frame that matches: its number among those of the video, its time, its cosine with the query.

    `seconds` is None if the time of the frame is not known. Of a long video, a moment from second `start` to
    `end`, its best frame, and its score, as `Hit.score`.
    """

    frame: int
    seconds: float | None
    score: float
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Hit:
    """One video that was found.

    `score` = `video_score` + weight x `frame_score`: the cosine with the video, and the mean cosine with the
    best frames. Models with `--head wti` or `xpool` have another `score`, that of their head. `moment`
    (seconds) and `frame` belong to the best frame; `moments` are all frames that counted, best first. `path`
    is the file, None for a video of a frame store without files. `missing`: the file no longer exists.
    `copies` are the ids of exact copies, which have no hit of their own. Of a long video that is cut into
    moments, the scores are those of its best moment, `start` to `end`, and `moments` are the best ones.
    """

    video_id: str
    score: float
    video_score: float
    frame_score: float
    moment: float | None
    frame: int
    moments: tuple[Moment, ...]
    path: str | None
    duration: float | None
    missing: bool
    copies: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class SearchResults:
    """Hits, best first; remarks to show to the user; the time of the search in seconds.

    `model`: "zero-shot" for a published model as it is, "trained" for a checkpoint.
    """

    hits: tuple[Hit, ...]
    remarks: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    model: str = TRAINED

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def to_json(self, *, paths: bool = True) -> dict[str, Any]:
        """A dict for `json.dumps`. `paths=False` leaves out where the files are."""
        hits = [asdict(hit) for hit in self.hits]
        if not paths:
            hits = [{name: value for name, value in hit.items() if name != "path"} for hit in hits]
        whole = {"hits": hits, "remarks": list(self.remarks), "seconds": round(self.seconds, 4)}
        return {**whole, "model": self.model}
