"""Clips are made ahead of their encoder, and what goes wrong is told where they are taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.clips import Clip, ClipError, Part
from search.moments import decoder
from search.moments.cutting import Cutting
from search.moments.decoder import Decoder
from tests.search.moments.conftest import CUT_ABOVE, EVERY, film


def run(paths: list[Path], *, cutting: Cutting | None = None, workers: int = 1) -> Iterator[Any]:
    cutting = cutting or Cutting(EVERY, CUT_ABOVE)
    return Decoder(paths, frames=4, size=32, cutting=cutting).run(workers=workers, timeout=60)


def test_clips_parts_and_errors_come_each_with_their_path(films: Path, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    found = dict(run([films / "film.mp4", films / "short.mp4", tmp_path / "no.mp4"]))
    part, clip, error = (
        found[path] for path in (films / "film.mp4", films / "short.mp4", tmp_path / "no.mp4")
    )
    assert isinstance(part, Part) and isinstance(clip, Clip) and isinstance(error, ClipError)
    assert error.reason == "unopenable" and clip.frames.shape == (4, 3, 32, 32)
    assert part.duration == 30.0 and len(part.times) == len(part.jpegs) == len(part.colours) == 15
    assert list(run([])) == []


def test_whoever_stops_taking_ends_processes_and_threads(films: Path) -> None:
    before = threading.active_count()
    clips = run([films / "short.mp4"] * 1 + [films / "film.mp4"], cutting=Cutting(EVERY, 0.0), workers=2)
    next(clips)
    clips.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before + 1  # of multiprocessing's own, which stays


@pytest.mark.parametrize("where", ["reader", "threads"])
def test_an_error_of_a_thread_is_raised_where_clips_are_taken(
    where: str, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(decoder, "parts_of" if where == "reader" else "clip_of_job", broken)
    with pytest.raises(ZeroDivisionError):
        list(run([films / "film.mp4" if where == "reader" else films / "short.mp4"]))


def test_one_error_for_all_parts_of_a_video(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("video.long.parts.PART_SECONDS", 8.0)

    def broken(answer: Any, jpegs: Any, *, number: int, **_: Any) -> None:
        raise ClipError("timeout", f"part {number}")

    monkeypatch.setattr(decoder, "part_of_job", broken)
    ((path, error),) = run([films / "film.mp4"])
    assert path == films / "film.mp4" and isinstance(error, ClipError) and error.reason == "timeout"


def test_hours_that_one_process_decodes_come_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels together would fill the memory."""
    monkeypatch.setattr(decoder, "_PIECE", 4)
    path = film(tmp_path / "film.avi")
    parts = [part for _, part in run([path])]
    assert [(part.number, part.parts) for part in parts] == [(number, 4) for number in range(4)]
    assert [len(part.times) for part in parts] == [4, 4, 4, 3]
    times = [time for part in parts for time in part.times]
    assert times == sorted(times) and len(parts[0].frames) == len(parts[0].jpegs) == 4
