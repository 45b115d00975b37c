"""Indexing again: files that were renamed, copied, moved or taken out; several folders in one index."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from search import Retriever, VideoIndex, VideoIndexError
from search.changes import IndexReport
from search.indexing import index_videos, remove_videos, restore_videos
from search.sources import FolderSource
from tests.search.conftest import COLOURS, coloured

NAMES = {"red.mp4", "green.mp4", "blue.mp4", "more/grey.mp4"}


@pytest.fixture
def index(retriever: Retriever, videos: Path, tmp_path: Path) -> Path:
    run(retriever, tmp_path / "index", video_dir=videos)
    return tmp_path / "index"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    real, names = FolderSource.clips, []

    def clips(self: FolderSource, wanted: Any, **options: Any) -> Any:
        wanted = list(wanted)
        names.extend(video.name for video in wanted)
        return real(self, wanted, **options)

    monkeypatch.setattr(FolderSource, "clips", clips)
    return names


def run(retriever: Retriever, index: Path, **options: Any) -> IndexReport:
    return index_videos(retriever, index, **{"engine": "exact", "quiet": True, **options})


def ids(index: Path) -> set[str]:
    with VideoIndex(index) as opened:
        assert not [record.video_id for record in opened.records() if record.is_missing]
        return {record.video_id for record in opened.records()}


def test_renamed_files_are_followed_without_encoding_them(
    retriever: Retriever, videos: Path, index: Path, encoded: list[str]
) -> None:
    with VideoIndex(index) as opened:
        before = opened.vector("red.mp4"), opened.record("red.mp4"), opened.thumbnail("red.mp4")
    (videos / "red.mp4").rename(videos / "more" / "rose.mp4")
    report = run(retriever, index, video_dir=videos)
    assert (report.moved, report.unchanged, encoded) == (1, 3, [])
    assert str(report).startswith("4 videos found: 1 moved or renamed, 3 unchanged")
    assert ids(index) == NAMES - {"red.mp4"} | {"more/rose.mp4"}
    with VideoIndex(index) as opened:
        record = opened.record("more/rose.mp4")
        assert record is not None and before[1] is not None
        assert (record.times, record.duration) == (before[1].times, before[1].duration)
        np.testing.assert_array_equal(opened.vector("more/rose.mp4"), before[0])
        assert opened.thumbnail("more/rose.mp4") == before[2]


def test_files_that_change_places_are_followed(
    retriever: Retriever, videos: Path, index: Path, encoded: list[str]
) -> None:
    with VideoIndex(index) as opened:
        red = opened.vector("red.mp4")
    for old, new in (("red.mp4", "x"), ("blue.mp4", "red.mp4"), ("x", "blue.mp4")):
        (videos / old).rename(videos / new)
    run(retriever, index, video_dir=videos)
    assert ids(index) == NAMES and encoded == []
    with VideoIndex(index) as opened:
        np.testing.assert_array_equal(opened.vector("blue.mp4"), red)


def test_exact_copies_are_encoded_once_and_shown_as_one(
    retriever: Retriever, videos: Path, index: Path, encoded: list[str]
) -> None:
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(videos / "red.mp4", videos / name)
    violet = coloured(videos / "violet.mp4", (120, 20, 200))
    shutil.copy(violet, videos / "violet2.mp4")
    report = run(retriever, index, video_dir=videos)
    assert (report.added, report.copied, encoded) == (1, 3, ["violet.mp4"])
    found = retriever.search(index, "a dog")
    assert len(found) == 5
    groups = {frozenset((hit.video_id, *hit.copies)) for hit in found if hit.copies}
    assert groups == {frozenset(("red.mp4", "one.mp4", "two.mp4")), frozenset(("violet.mp4", "violet2.mp4"))}
    assert len(retriever.search(index, "a dog", top=2)) == 2
    similar = retriever.similar(index, "one.mp4", top=9)
    assert {hit.video_id for hit in similar} & {"red.mp4", "one.mp4", "two.mp4"} == set()
    with VideoIndex(index) as opened:
        assert opened.info()["copies"] == 3
    (videos / "red.mp4").unlink()  # a copy that still exists stands for it
    (hit,) = [hit for hit in retriever.search(index, "a dog") if len(hit.copies) == 2]
    assert not hit.missing and "red.mp4" in hit.copies


def test_copies_of_a_broken_file_fail_like_it(retriever: Retriever, videos: Path, index: Path) -> None:
    for name in ("zip.mp4", "zip2.mp4"):
        (videos / name).write_bytes(b"PK\x03\x04" + bytes(200))
    report = run(retriever, index, video_dir=videos)
    assert sum(report.failed.values()) == 2 and {f[0] for f in report.failures} == {"zip.mp4", "zip2.mp4"}


def test_what_was_removed_does_not_come_back_unless_restored(
    retriever: Retriever, videos: Path, index: Path, encoded: list[str]
) -> None:
    assert remove_videos(index, ["red.mp4"]) == 1
    report = run(retriever, index, video_dir=videos)
    assert (report.taken_out, report.unchanged) == (1, 3)
    assert "1 taken out before" in str(report)
    (videos / "red.mp4").rename(videos / "rose.mp4")  # under another name it is the same video
    assert run(retriever, index, video_dir=videos).taken_out == 1
    assert ids(index) == NAMES - {"red.mp4"} and encoded == []
    with VideoIndex(index) as opened:
        assert opened.info()["taken_out"] == ["red.mp4"]
    with pytest.raises(VideoIndexError, match="not removed before: 'blue.mp4'"):
        restore_videos(index, ["blue.mp4"])
    assert restore_videos(index, ["red.mp4"]) == 1
    assert run(retriever, index, video_dir=videos).added == 1
    assert ids(index) == NAMES - {"red.mp4"} | {"rose.mp4"}


def test_another_video_under_the_name_of_a_removed_one_is_taken(
    retriever: Retriever, videos: Path, index: Path
) -> None:
    remove_videos(index, ["red.mp4"])
    coloured(videos / "red.mp4", (120, 20, 200), frames=30)
    assert run(retriever, index, video_dir=videos).added == 1
    assert ids(index) == NAMES
    with VideoIndex(index) as opened:
        assert opened.info()["taken_out"] == []


def test_a_removed_copy_leaves_the_others_alone(retriever: Retriever, videos: Path, index: Path) -> None:
    shutil.copy(videos / "red.mp4", videos / "copy.mp4")
    run(retriever, index, video_dir=videos)
    remove_videos(index, ["copy.mp4"])
    (videos / "red.mp4").rename(videos / "rose.mp4")
    report = run(retriever, index, video_dir=videos)
    assert (report.moved, report.taken_out) == (1, 1)
    assert ids(index) == NAMES - {"red.mp4"} | {"rose.mp4"}


def test_two_folders_share_an_index(retriever: Retriever, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    coloured(other / "red.mp4", (120, 20, 200))
    coloured(other / "violet.mp4", (90, 20, 200))
    both = {"video_dir": [videos, other]}
    assert run(retriever, tmp_path / "index", **both).added == 6
    assert ids(tmp_path / "index") == NAMES | {"other/red.mp4", "violet.mp4"}
    report = run(retriever, tmp_path / "index", **both)
    assert (report.unchanged, report.added) == (6, 0)
    coloured(other / "red.mp4", COLOURS["green"], frames=30)
    assert run(retriever, tmp_path / "index", video_dir=other).updated == 1
    (videos / "red.mp4").unlink()
    assert run(retriever, tmp_path / "index", prune=True, **both).removed == 1
    assert ids(tmp_path / "index") == NAMES - {"red.mp4"} | {"other/red.mp4", "violet.mp4"}
    with VideoIndex(tmp_path / "index") as opened:
        assert Counter(opened.info()["sources"]) == {str(videos): 3, str(other): 2}
    with pytest.raises(UserError, match="more: is in .*videos, which is enough"):
        run(retriever, tmp_path / "index", video_dir=[videos, videos / "more"])


def test_a_file_that_moved_to_another_folder_is_followed(
    retriever: Retriever, videos: Path, tmp_path: Path, encoded: list[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    coloured(other / "violet.mp4", (120, 20, 200))
    run(retriever, tmp_path / "index", video_dir=[videos, other])
    encoded.clear()
    (videos / "red.mp4").rename(other / "rose.mp4")
    run(retriever, tmp_path / "index", video_dir=[videos, other])
    assert ids(tmp_path / "index") == NAMES - {"red.mp4"} | {"rose.mp4", "violet.mp4"} and encoded == []


def test_a_folder_that_moved_keeps_its_ids(
    retriever: Retriever, videos: Path, index: Path, tmp_path: Path, encoded: list[str]
) -> None:
    videos.rename(tmp_path / "elsewhere")
    coloured(tmp_path / "elsewhere" / "red.mp4", COLOURS["blue"], frames=30)  # changed on the way
    report = run(retriever, index, video_dir=tmp_path / "elsewhere")
    assert (report.moved, report.updated, encoded) == (3, 1, ["red.mp4"])
    assert ids(index) == NAMES


def test_an_index_of_the_former_version_is_read_and_brought_up_to_date(
    retriever: Retriever, videos: Path, index: Path, encoded: list[str]
) -> None:
    with sqlite3.connect(index / "catalog.sqlite") as db:
        db.executescript("DROP INDEX videos_by_digest; DROP TABLE taken_out;")
        db.execute("ALTER TABLE videos DROP COLUMN name")
    db.close()
    assert len(retriever.search(index, "a dog")) == 4
    with VideoIndex(index) as opened:
        assert opened.info()["taken_out"] == []
        (videos / "red.mp4").rename(videos / "rose.mp4")
        assert run(retriever, index, video_dir=videos).moved == 1
        assert encoded == [] and len(retriever.search(opened, "a dog")) == 4
    assert ids(index) == NAMES - {"red.mp4"} | {"rose.mp4"}


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (IndexReport(), "0 videos found"),
        (IndexReport(listed=1, added=1), "1 video found: 1 added"),
        (IndexReport(listed=1, failed=Counter(unopenable=1)), "1 video found; failed: 1 unopenable"),
        (
            IndexReport(listed=2, unchanged=2, left_out=Counter({".txt": 1})),
            "2 videos found: 2 unchanged; left out: .txt (1)",
        ),
    ],
)
def test_the_report_is_a_sentence(report: IndexReport, text: str) -> None:
    assert str(report).startswith(text)
