"""A long video in an index: cut, found by its moments, copied, removed, compacted, brought up to date."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from search import Retriever, VideoIndex, index_videos
from search.index_format import VideoIndexError, read_settings
from search.index_writer import IndexWriter
from search.indexing import remove_videos
from tests.search.moments.conftest import CUT_ABOVE, EVERY, SHOT_SECONDS, SHOTS, film
from tests.video.fixtures import write_video

STARTS = [float(SHOT_SECONDS * number) for number in range(len(SHOTS))]


def bring_up(retriever: Retriever, index: Path, videos: Path, **options: object) -> str:
    return str(index_videos(retriever, index, video_dir=videos, quiet=True, **options))  # type: ignore[arg-type]


def test_a_long_video_is_cut_at_its_shots_and_a_short_one_is_not(cut_index: Path) -> None:
    with VideoIndex(cut_index) as index:
        spans = index.spans("film.mp4")
        assert [span.start for span in spans] == STARTS
        assert [span.end for span in spans] == [*STARTS[1:], 30.0]
        assert all(span.start <= time < span.end for span in spans for time in span.times if time is not None)
        assert index.spans("short.mp4") == [] and index.spans("absent") == []
        assert len(index) == 2 and index.features.rows == len(SHOTS) + 1
        info = index.info()
        assert (info["videos"], info["moments"], info["removed_rows"]) == (2, len(SHOTS), 0)


def test_a_search_finds_the_moment_and_gives_each_video_once(
    cut_index: Path, films: Path, retriever: Retriever, tmp_path: Path
) -> None:
    """A clip with the colour of the third shot; its moments come best first, with their times."""
    query = film(tmp_path / "green.mp4", shots=SHOTS[2:3])
    with VideoIndex(cut_index) as index:
        hits = retriever.search(index, video=query).hits
        assert sorted(hit.video_id for hit in hits) == ["film.mp4", "short.mp4"]
        (hit,) = [hit for hit in hits if hit.video_id == "film.mp4"]
        assert (hit.start, hit.end) == (12.0, 18.0) and hit.duration == 30.0
        assert hit.moment is not None and 12 <= hit.moment < 18 and hit.moment == hit.moments[0].seconds
        scores = [moment.score for moment in hit.moments]
        assert scores == sorted(scores, reverse=True) and scores[0] == hit.score
        assert sorted(moment.start or 0 for moment in hit.moments) == STARTS
        # The number of a frame leads to its picture.
        assert index.thumbnail("film.mp4", frame=hit.frame) != index.thumbnail("film.mp4", frame=0)
        assert index.thumbnail("film.mp4") is not None
        (short,) = [hit for hit in hits if hit.video_id == "short.mp4"]
        assert short.start is None and short.end is None and len(short.moments) == 2


def test_features_of_a_moment_are_those_of_a_clip_of_its_frames(
    cut_index: Path, films: Path, retriever: Retriever
) -> None:
    from search.moments.cutting import Cutting
    from search.moments.decoder import Decoder

    decoder = Decoder(
        [films / "film.mp4"], frames=4, size=retriever.image_size, cutting=Cutting(EVERY, CUT_ABOVE)
    )
    ((_, part),) = list(decoder.run(workers=1, timeout=60))
    with VideoIndex(cut_index) as index:
        times = index.spans("film.mp4")[1].times
        chosen = [part.times.index(time) for time in times]  # type: ignore[union-attr]
        video, frames = retriever.encode_clips(part.frames[chosen][None])  # type: ignore[union-attr]
        row = index.catalog.find("film.mp4")
        assert row is not None
        np.testing.assert_allclose(index.features.video[row[0] + 1], video[0], atol=2e-3)
        np.testing.assert_allclose(index.features.frames[row[0] + 1], frames[0], atol=2e-3)


def test_a_long_video_is_similar_to_itself_only_in_its_place(cut_index: Path, retriever: Retriever) -> None:
    with VideoIndex(cut_index) as index:
        assert [hit.video_id for hit in retriever.similar(index, "film.mp4")] == ["short.mp4"]
        vector = index.vector("film.mp4")
        rows = np.asarray(index.features.video[: len(SHOTS) + 1], np.float32)
        row = index.catalog.find("film.mp4")
        assert row is not None
        np.testing.assert_allclose(vector, rows[row[0] : row[0] + len(SHOTS)].mean(axis=0), atol=1e-6)


def test_copies_moves_removal_and_compaction_keep_the_moments_together(
    cut_index: Path, films: Path, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, index = tmp_path / "videos", tmp_path / "index"
    shutil.copytree(films, videos)
    options = {"engine": "exact", "every": EVERY, "cut_above": CUT_ABOVE}
    assert "2 added; long ones cut into 5 moments" in bring_up(retriever, index, videos, **options)
    shutil.copy(videos / "film.mp4", videos / "again.mp4")
    (videos / "short.mp4").rename(videos / "renamed.mp4")
    assert (
        bring_up(retriever, index, videos)
        == "3 videos found: 1 moved or renamed, 1 copies of others, 1 unchanged"
    )
    with VideoIndex(index) as opened:
        (hit,) = [hit for hit in retriever.search(opened, "red") if hit.copies]
        assert {hit.video_id, *hit.copies} == {"film.mp4", "again.mp4"} and len(hit.moments) == 5
        assert opened.spans("again.mp4") == opened.spans("film.mp4")
        middle = opened.thumbnail("again.mp4")
    assert remove_videos(index, ["film.mp4"]) == 1
    monkeypatch.setattr("search.index_writer._COMPACT_FROM", 1)
    with IndexWriter(index) as writer:
        writer.compact()
    with VideoIndex(index) as opened:
        assert opened.features.rows == 6 and [span.start for span in opened.spans("again.mp4")] == STARTS
        assert opened.thumbnail("again.mp4") == middle
        hits = retriever.search(opened, "red").hits
        assert {hit.video_id for hit in hits} == {"again.mp4", "renamed.mp4"}
    film(videos / "again.mp4", shots=SHOTS[:4])  # changed: other moments in its place
    assert "1 updated" in bring_up(retriever, index, videos)
    with VideoIndex(index) as opened:
        assert [span.start for span in opened.spans("again.mp4")] == STARTS[:4]


def test_an_hour_without_a_cut_is_cut_by_time(retriever: Retriever, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    still = np.full((32, 32, 3), 90, np.uint8)
    write_video(videos / "still.mkv", frames=3600, rate=1, size=(32, 32), picture=lambda _: still)
    assert "cut into 60 moments" in bring_up(retriever, tmp_path / "i", videos, every=60.0, engine="exact")
    with VideoIndex(tmp_path / "i") as index:
        (hit,) = retriever.search(index, "red", top=5).hits
        assert len(hit.moments) == 8 and hit.duration == 3600.0


def test_a_video_without_a_duration_is_measured_by_its_packets(retriever: Retriever, tmp_path: Path) -> None:
    from tests.video.fixtures import remux

    videos = tmp_path / "videos"
    videos.mkdir()
    whole = film(tmp_path / "film.mp4")
    written = remux(tmp_path / "film.ts", whole)
    (videos / "cut.ts").write_bytes(written.read_bytes()[: written.stat().st_size * 3 // 4])
    assert "cut into" in bring_up(
        retriever, tmp_path / "i", videos, every=EVERY, cut_above=12.0, engine="exact"
    )
    with VideoIndex(tmp_path / "i") as index:
        spans = index.spans("cut.ts")
        assert 10 < spans[-1].end < 30 and spans[0].start == 0.0


def test_cutting_is_a_setting_of_the_index(retriever: Retriever, films: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    bring_up(retriever, index, films, every=EVERY, cut_above=CUT_ABOVE, engine="exact")
    bring_up(retriever, index, films)
    settings = read_settings(index)
    assert (settings.every, settings.cut_above) == (EVERY, CUT_ABOVE)
    bring_up(retriever, tmp_path / "whole", films, cut_above=0.0, engine="exact")
    with VideoIndex(tmp_path / "whole") as opened:
        assert opened.info()["moments"] == 0 and opened.record("film.mp4") is not None


def test_an_index_of_a_former_version_is_read_and_brought_up_to_date(
    retriever: Retriever, films: Path, tmp_path: Path
) -> None:
    """It has no table of moments and no settings of cutting; its long videos stay whole."""
    index, videos = tmp_path / "index", tmp_path / "videos"
    shutil.copytree(films, videos)
    bring_up(retriever, index, videos, cut_above=0.0, engine="exact")
    text = (index / "index.json").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if '"every"' not in line and '"cut_above"' not in line]
    (index / "index.json").write_text(
        "\n".join(lines).replace("},\n}", "}\n}").replace(",\n}", "\n}"), "utf-8"
    )
    with sqlite3.connect(index / "catalog.sqlite") as db:
        db.execute("DROP TABLE moments")
    db.close()
    with VideoIndex(index) as opened:
        assert len(retriever.search(opened, "red").hits) == 2 and opened.info()["moments"] == 0
        assert opened.spans("film.mp4") == []
    film(videos / "new.mp4", tail=600)
    assert "1 added, 2 unchanged; long ones cut into" in bring_up(retriever, index, videos)


def test_a_long_video_of_which_a_part_fails_is_not_half_there(
    retriever: Retriever, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.clips import ClipError
    from search.moments import decoder

    def broken(answer: object, jpegs: object, *, number: int, **_: object) -> None:
        raise ClipError("timeout", "took longer than 1 s")

    monkeypatch.setattr(decoder, "part_of_job", broken)
    report = bring_up(retriever, tmp_path / "i", films, every=EVERY, cut_above=CUT_ABOVE, engine="exact")
    assert report == "2 videos found: 1 added; failed: 1 timeout"
    with VideoIndex(tmp_path / "i") as index:
        assert len(index) == 1 and index.features.rows == 1
    monkeypatch.undo()
    assert "1 added, 1 unchanged; long ones" in bring_up(retriever, tmp_path / "i", films)


def test_hundreds_of_identical_clips_are_one_hit(retriever: Retriever, tmp_path: Path) -> None:
    from tests.search.conftest import coloured

    videos = tmp_path / "videos"
    videos.mkdir()
    first = coloured(videos / "0000.mp4", (220, 30, 30), frames=4)
    for number in range(1, 500):
        os.link(first, videos / f"{number:04d}.mp4")
    coloured(videos / "other.mp4", (20, 40, 220), frames=4)
    assert "499 copies of others" in bring_up(retriever, tmp_path / "i", videos, engine="exact")
    with VideoIndex(tmp_path / "i") as index:
        hits = retriever.search(index, "red").hits
        assert sorted(len(hit.copies) for hit in hits) == [0, 499]


def test_an_index_that_lost_its_table_of_features_is_refused(cut_index: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(cut_index, tmp_path / "broken"))
    (broken / "frames-0.f16").write_bytes(b"")
    with pytest.raises(VideoIndexError, match="absent or cut off; make the index again"):
        VideoIndex(broken)
