"""Moments as files of their own, by the command line."""

from __future__ import annotations

import os
from pathlib import Path

import av
import pytest

from search import Hit, VideoIndex
from search.moments.export import export_hit, export_part
from search.results import Moment, SearchResults
from tools import search
from tools.search import table


def seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) / 5


def test_a_part_is_saved_and_a_moved_start_is_told(
    cut_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.mp4"
    assert search.main(["export", str(cut_index), "film.mp4", "0:13", "18", "--out", str(out)]) == 0
    assert capsys.readouterr().err == f"saved {out}, from 0:12.0: the key frame before 0:13.0\n"
    assert 5.5 <= seconds(out) <= 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4", "1", "2"], "no video 'absent.mp4' in the index"),
        (["film.mp4", "31", "32"], "film.mp4: ends at 30 s; give an earlier start than 31"),
        (["film.mp4", "3", "2"], "from 3 to 2 s"),
    ],
)
def test_what_cannot_be_cut_is_told(
    arguments: list[str], message: str, cut_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.main(["export", str(cut_index), *arguments, "--out", str(tmp_path / "a.mp4")]) == 2
    assert message in capsys.readouterr().err and os.listdir(tmp_path) == []


@pytest.mark.parametrize("start", ["x", "1:x", "-1", "1e9", "inf"])
def test_wrong_times_are_refused(
    start: str, cut_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        search.main(["export", str(cut_index), "film.mp4", start, "2", "--out", str(tmp_path / "a.mp4")])
    assert ended.value.code == 2 and capsys.readouterr().err


def test_the_source_is_never_written(
    cut_index: Path, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (films / "film.mp4").read_bytes()
    target = str(films / "film.mp4")
    assert search.main(["export", str(cut_index), "film.mp4", "1", "2", "--out", target]) == 2
    assert "is the video itself" in capsys.readouterr().err
    assert (films / "film.mp4").read_bytes() == before


def test_hits_are_saved_under_names_of_their_own(cut_index: Path, tmp_path: Path) -> None:
    with VideoIndex(cut_index) as index:
        record = index.record("film.mp4")
        assert record is not None
        moment = Moment(8, 13.0, 0.5, 12.0, 18.0)
        hit = Hit(
            "film.mp4", 0.5, 0.2, 0.3, 13.0, 8, (moment,), record.path, 30.0, False, start=12.0, end=18.0
        )
        done = export_hit(index, hit, tmp_path, place=1)
        assert done.path.name == "01 film 0.12-0.18.mp4" and 5.5 <= seconds(done.path) <= 7
        short = Hit("short.mp4", 0.5, 0.2, 0.3, 1.0, 0, (), record.path, 1.6, False)
        assert export_hit(index, short, tmp_path, place=2).path.name == "02 short.mp4"
        with pytest.raises(ValueError, match="exists already"):
            export_part(index, "film.mp4", start=1, end=2, out=done.path)


def test_a_query_saves_its_best_moments(
    cut_index: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["query", str(cut_index), "red", "--export", str(tmp_path / "clips")]
    assert search.main(flags) == 0
    names = sorted(os.listdir(tmp_path / "clips"))
    assert len(names) == 2 and {name[:2] for name in names} == {"01", "02"}
    assert search.main(flags) == 1  # they are there: nothing is overwritten
    assert capsys.readouterr().err.count("not saved: ") == 2


def test_the_table_shows_moments_and_few_names_of_copies() -> None:
    moments = tuple(Moment(n, 3600.0 + n, 0.5 - n / 100, 3600.0 + n, 3624.0 + n) for n in range(8))
    names = tuple(f"{number}.mp4" for number in range(1500))
    hit = Hit("a.mp4", 0.5, 0.2, 0.3, 3600.0, 0, moments, None, 7200.0, False, names, 3600.0, 3624.0)
    first, second = table(SearchResults((hit,))).splitlines()[1:]
    assert "1:00:00-1:00:24" in first and first.endswith("(also 0.mp4, 1.mp4, 2.mp4, 1,497 more)")
    assert second.split(",")[0].split() == ["also", "1:00:01-1:00:25", "(0.490)"] and second.count("(") == 3
