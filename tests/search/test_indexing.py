"""Indexing a folder or a store: changes, faults, kills, a second writer, a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search import Retriever, VideoIndex, VideoIndexError
from search.index_writer import IndexWriter
from search.indexing import IndexReport, index_videos, remove_videos
from search.sources import FolderSource
from tests.processes import fast_python
from tests.search.conftest import COLOURS, coloured
from tests.search.synthetic import features, fill, record, settings
from tools import frame2lmdb

PROGRAM = str(Path(__file__).with_name("odd_indexer.py"))


def run(retriever: Retriever, index: Path, **options: Any) -> IndexReport:
    return index_videos(retriever, index, **{"engine": "exact", "quiet": True, **options})


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged + report.moved, report.removed


def test_only_what_is_new_or_changed_is_encoded(retriever: Retriever, videos: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert counts(run(retriever, index, video_dir=videos)) == (4, 0, 0, 0)
    assert counts(run(retriever, index, video_dir=videos)) == (0, 0, 4, 0)
    with VideoIndex(index) as opened:
        before = opened.vector("red.mp4")
    coloured(videos / "red.mp4", COLOURS["blue"], frames=30)  # changed
    os.utime(videos / "blue.mp4", ns=(1, 1))  # touched only
    coloured(videos / "new.mp4", (120, 20, 200))
    (videos / "green.mp4").unlink()
    report = run(retriever, index, video_dir=videos)
    assert counts(report) == (1, 1, 2, 0) and report.moved == 0
    with VideoIndex(index) as opened:
        assert not np.allclose(opened.vector("red.mp4"), before)
        assert "green.mp4" in opened and len(opened) == 5
    assert counts(run(retriever, index, video_dir=videos, prune=True)) == (0, 0, 4, 1)
    with VideoIndex(index) as opened:
        assert {r.video_id for r in opened.records()} == {
            *("red.mp4", "blue.mp4", "new.mp4", "more/grey.mp4")
        }


def test_a_folder_that_moved_is_not_encoded_again(retriever: Retriever, videos: Path, tmp_path: Path) -> None:
    run(retriever, tmp_path / "index", video_dir=videos)
    videos.rename(tmp_path / "elsewhere")
    report = run(retriever, tmp_path / "index", video_dir=tmp_path / "elsewhere")
    assert counts(report) == (0, 0, 4, 0)
    assert not any(hit.missing for hit in retriever.search(tmp_path / "index", "a dog"))


def test_files_that_give_no_frames_are_named(retriever: Retriever, videos: Path, tmp_path: Path) -> None:
    (videos / "zip.mp4").write_bytes(b"PK\x03\x04" + bytes(200))
    (videos / "empty.mkv").touch()
    (videos / "gone.mp4").symlink_to(tmp_path / "nowhere")
    Path(os.fsdecode(os.fsencode(videos) + b"/\xff.mp4")).write_bytes(b"x")
    os.mkfifo(videos / "pipe.mp4")  # would keep its reader waiting
    report = run(retriever, tmp_path / "index", video_dir=videos)
    assert report.added == 4 and sum(report.failed.values()) == 3
    lines = (tmp_path / "index" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["video_id"] for line in lines} >= {"zip.mp4", "empty.mkv"}
    for name in ("zip.mp4", "empty.mkv", os.fsdecode(b"\xff.mp4")):
        (videos / name).unlink()
    run(retriever, tmp_path / "index", video_dir=videos)
    assert not (tmp_path / "index" / "failures.jsonl").exists()


def test_what_ffmpeg_opens_is_indexed_and_the_rest_is_counted(
    retriever: Retriever, videos: Path, tmp_path: Path
) -> None:
    shutil.copy(videos / "red.mp4", videos / "more" / "red.3gpp2x")
    shutil.copy(videos / "red.mp4", videos / "noext")
    (videos / "data.bin2").write_bytes(b"no video")
    (videos / "._red.mp4").write_bytes(b"\0\5\x16\7")
    (videos / "folder.mp4").mkdir()
    (videos / ".Trash-1000").mkdir()
    shutil.copy(videos / "red.mp4", videos / ".Trash-1000" / "red.mp4")
    report = run(retriever, tmp_path / "index", video_dir=videos)
    assert (report.added, report.copied) == (4, 2) and not report.failed
    assert report.left_out == {".txt": 1, ".bin2": 1, "hidden": 2}
    assert str(report).startswith("6 videos found: 4 added, 2 copies of others; left out: ")
    assert counts(run(retriever, tmp_path / "index", video_dir=videos, prune=True)) == (0, 0, 6, 0)


def test_a_frame_store_gives_the_features_of_its_files(
    retriever: Retriever, videos: Path, tmp_path: Path
) -> None:
    shutil.move(videos / "more" / "grey.mp4", videos / "grey.mp4")
    store = tmp_path / "store"
    assert frame2lmdb.main(["--video_dir", str(videos), "--lmdb_path", str(store), "--num_workers", "1"]) == 0
    run(retriever, tmp_path / "files", video_dir=videos)
    run(retriever, tmp_path / "frames", store=store)
    run(retriever, tmp_path / "both", store=store, video_dir=videos)
    assert counts(run(retriever, tmp_path / "frames", store=store)) == (0, 0, 4, 0)
    with (
        VideoIndex(tmp_path / "files") as files,
        VideoIndex(tmp_path / "frames") as frames,
        VideoIndex(tmp_path / "both") as both,
    ):
        for name in COLOURS:
            np.testing.assert_allclose(files.vector(f"{name}.mp4"), frames.vector(name), atol=1e-3)
            record = frames.record(name)
            assert record is not None and record.path is None
            assert record.times == files.record(f"{name}.mp4").times  # type: ignore[union-attr]
            assert both.record(name).path == str((videos / f"{name}.mp4").resolve())  # type: ignore[union-attr]
    assert not any(hit.missing for hit in retriever.search(tmp_path / "frames", "a dog"))


def test_a_video_that_is_written_to_meanwhile_is_taken_the_next_time(
    retriever: Retriever, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FolderSource.clips

    def clips(self: FolderSource, *wanted: Any, **options: Any) -> Any:
        for found, clip in real(self, *wanted, **options):
            if found.name == "red.mp4":  # as by a download that goes on
                coloured(videos / "red.mp4", COLOURS["blue"], frames=30)
            yield found, clip

    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "clips", clips)
        report = run(retriever, tmp_path / "index", video_dir=videos)
    assert report.added == 3 and report.failed == {"changed": 1}
    assert counts(run(retriever, tmp_path / "index", video_dir=videos)) == (1, 0, 3, 0)
    with VideoIndex(tmp_path / "index") as index:
        now = retriever.encode_video(videos / "red.mp4").video
        np.testing.assert_allclose(index.vector("red.mp4"), now, atol=2e-3)


def test_videos_of_a_folder_that_cannot_be_read_are_not_pruned(
    retriever: Retriever, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(retriever, tmp_path / "index", video_dir=videos)
    (videos / "red.mp4").unlink()
    real = os.scandir

    def scandir(path: Any) -> Any:  # the tests may run as root, who can read everything
        if Path(path).name == "more":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = run(retriever, tmp_path / "index", video_dir=videos, prune=True)
    assert counts(report) == (0, 0, 2, 1)
    assert report.failures == [("more/", "unreadable folder", "Permission denied")]
    with VideoIndex(tmp_path / "index") as index:
        assert "more/grey.mp4" in index and "red.mp4" not in index


def test_a_killed_run_goes_on(retriever: Retriever, checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    command = [fast_python(), PROGRAM, str(videos), str(tmp_path / "index"), str(checkpoint), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "1\n"
        with pytest.raises(VideoIndexError, match=f"another process .pid {pid}. is writing"):
            run(retriever, tmp_path / "index", video_dir=videos)
        assert len(retriever.search(tmp_path / "index", "a dog")) == 1  # readers are not kept out
        os.kill(pid, signal.SIGKILL)
    with open(tmp_path / "index" / "frames-0.f16", "ab") as file:
        file.write(b"half a row")
    assert counts(run(retriever, tmp_path / "index", video_dir=videos)) == (3, 0, 1, 0)
    run(retriever, tmp_path / "whole", video_dir=videos)
    with VideoIndex(tmp_path / "index") as index, VideoIndex(tmp_path / "whole") as whole:
        for found in whole.records():
            np.testing.assert_allclose(index.vector(found.video_id), whole.vector(found.video_id), atol=2e-3)


@pytest.mark.parametrize("which", [0, 1])
def test_a_full_disk_leaves_the_index_as_it_was(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "index", 30, engine="exact")
    video, frames = features(5, seed=1)

    class Full:
        """A file that writes half of the data, then raises "disk full"."""

        def __init__(self, file: Any) -> None:
            self._file = file
            self._taken = False

        def write(self, data: Any) -> int:
            if self._taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self._taken = True
            return int(self._file.write(data[: len(data) // 2]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    with IndexWriter(folder, settings(engine="exact")) as writer:
        real = writer._files[which]
        writer._files[which] = Full(real)  # type: ignore[call-overload]
        with pytest.raises(OSError, match="No space left"):
            writer.add_arrays([record(f"new{i}") for i in range(5)], video, frames)
        writer._files[which] = real
        assert writer.catalog.count() == 30
        writer.add_arrays([record(f"new{i}") for i in range(5)], video, frames)
    with VideoIndex(folder) as index:
        assert len(index) == 35
        np.testing.assert_allclose(index.vector("new3"), video[3], atol=1e-3)


def test_removing(tmp_path: Path) -> None:
    folder = fill(tmp_path / "index", 20, engine="exact")
    with pytest.raises(VideoIndexError, match="no such video in the index: 'absent'"):
        remove_videos(folder, ["0-1", "absent"])
    assert remove_videos(folder, ["0-1", "0-2"]) == 2
    with VideoIndex(folder) as index:
        assert len(index) == 18 and "0-1" not in index and "0-3" in index


def test_folders_that_are_no_index(retriever: Retriever, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoIndexError, match="no index there"):
        VideoIndex(tmp_path / "absent")
    with pytest.raises(VideoIndexError, match="no index there"):
        remove_videos(tmp_path / "absent", ["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoIndexError, match="no index there"):
        remove_videos(tmp_path / "empty", ["a"])
    assert not list((tmp_path / "empty").iterdir())
    with pytest.raises(VideoIndexError, match="holds other files and no index"):
        run(retriever, videos, video_dir=videos)
    folder = fill(tmp_path / "index", 5, engine="exact")
    (folder / "videos-0.f16").write_bytes(b"short")
    with pytest.raises(VideoIndexError, match="absent or cut off"):
        VideoIndex(folder)
    (folder / "index.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(VideoIndexError, match="format 99, this program reads 1"):
        VideoIndex(folder)
    (folder / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(VideoIndexError, match="cannot be read"):
        VideoIndex(folder)


def test_an_open_index_does_not_answer_for_one_that_was_deleted_or_made_anew(tmp_path: Path) -> None:
    folder = fill(tmp_path / "index", 20, engine="exact")
    with VideoIndex(folder) as index:
        folder.rename(tmp_path / "elsewhere")
        for look in (index.refresh, lambda: index.record("0-1"), lambda: index.thumbnail("0-1")):
            with pytest.raises(VideoIndexError, match="moved, deleted or replaced .* open the index again"):
                look()
        fill(folder, 5, seed=1, engine="exact")
        with pytest.raises(VideoIndexError, match="deleted or replaced"):
            index.snapshot()
        shutil.rmtree(folder)
        (tmp_path / "elsewhere").rename(folder)  # a disk that was away for a moment
        assert index.record("0-1") is not None and not index.refresh()


def test_an_open_index_takes_up_what_is_written(tmp_path: Path) -> None:
    folder = fill(tmp_path / "index", 20, engine="exact")
    with VideoIndex(folder) as index:
        fill(folder, 10, seed=1, engine="exact")
        assert "1-3" in index and index.refresh() and len(index) == 30 and not index.refresh()
