"""info, verify, extract and sheet, on stores of every form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from dataloaders.frame_store.format import METADATA_FILE, shard_name, shard_of
from dataloaders.frame_store.writer import FrameStoreWriter
from tools import frame2lmdb
from tools.store.commands import histogram

IDS = ["a", "-b", "视频/x"]


def jpeg(value: int, *, height: int = 24) -> bytes:
    return cv2.imencode(".jpg", np.full((height, 32, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with FrameStoreWriter(tmp_path / "s", settings={"quality": 95}) as writer:
        for video_id in IDS:
            record = {"height": 24, "width": 32, "codec": "h264", "bytes": 12 * len(jpeg(9))}
            writer.put(video_id, [jpeg(20 * index) for index in range(12)], record=record)
    return tmp_path / "s"


def change(path: Path, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        assert txn.delete(key) if value is None else txn.put(key, value)


def run(*argv: str | Path) -> int:
    return frame2lmdb.main(list(map(str, argv)))


def test_a_sound_store_is_found_sound(store: Path, capsys: Any) -> None:
    assert run("verify", store) == 0
    assert run("verify", store, "--sample", "2") == 0
    assert capsys.readouterr().out.splitlines() == [f"{n} videos checked, 0 faults" for n in (3, 2)]


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        (b"a_7", None, "video 'a', frame 7: not stored"),
        (b"a_7", b"", "video 'a', frame 7: empty"),
        (b"a_7", jpeg(5)[:100], "video 'a', frame 7: broken JPEG"),
        (b"a_7", jpeg(5, height=48), r"video 'a', frame 7: is \(48, 32\), the manifest says \(24, 32\)"),
        (b"a_12", jpeg(5), "video 'a': has more frames than the 12 of its manifest"),
        (b"\0video/a", None, "the state record says 3 videos, the store has 2"),
    ],
)
def test_faults_are_found(key: bytes, value: bytes | None, fault: str, store: Path, capsys: Any) -> None:
    change(store, key, value)
    assert run("verify", store) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert re.search(fault, first) and "1 faults" in last


def test_unfinished_and_published_stores_are_verified(tmp_path: Path, capsys: Any) -> None:
    with lmdb.open(str(tmp_path / "p"), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for index in range(30):
            txn.put(f"video0_{index}".encode(), jpeg(index))
    assert run("verify", tmp_path / "p") == 0
    assert run("info", tmp_path / "p") == 0
    assert "published layout" in (said := capsys.readouterr().out) and "1 x 30" in said
    FrameStoreWriter(tmp_path / "u", expected=3).close()
    assert run("verify", tmp_path / "u") == 1
    assert "incomplete: 0 of 3" in capsys.readouterr().out


def test_info(store: Path, capsys: Any) -> None:
    assert run("info", store) == 0
    said = capsys.readouterr().out
    assert "complete; 0 failed; quality 95" in said
    assert "videos: 3; frames a video: 3 x 12" in said and "3 x h264" in said


def test_a_histogram_counts_every_video() -> None:
    lines = histogram([1000, 2000, 2000, 9000], bins=4)
    assert [int(line.split("kB")[1].split()[0]) for line in lines] == [3, 0, 0, 1]
    assert histogram([]) == []


def test_frames_are_extracted_byte_for_byte(store: Path, tmp_path: Path) -> None:
    assert run("extract", store, "--out", tmp_path / "out", "--", "-b", "视频/x") == 0
    assert (tmp_path / "out" / "-b_3.jpg").read_bytes() == jpeg(60)
    assert (tmp_path / "out" / "视频_x_11.jpg").exists()
    assert len(os.listdir(tmp_path / "out")) == 24


def test_ids_that_begin_with_a_dash_need_no_care(store: Path, tmp_path: Path, capsys: Any) -> None:
    for place, argv in enumerate((["-b", "--out", tmp_path / "0"], [f"--out={tmp_path / '1'}", "a", "-b"])):
        assert run("extract", store, *argv) == 0
        assert (tmp_path / str(place) / "-b_3.jpg").read_bytes() == jpeg(60)
    assert run("sheet", store, "-b", "--out", tmp_path / "sheet.png") == 0
    with pytest.raises(SystemExit):
        run("extract", store, "--help")


def test_a_reader_that_has_had_enough_is_no_fault(store: Path) -> None:
    """As `info STORE | head -0`."""
    tool = Path(frame2lmdb.__file__)
    command = [sys.executable, str(tool), "info", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_contact_sheet(store: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("sheet", store, "a", "视频/x", "--out", tmp_path / "sheet.png") == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (200, 10 * 130, 3)
    shown = [int(sheet[48, 64 + 130 * column, 0]) for column in range(10)]
    assert shown[0] == pytest.approx(0, abs=3) and shown[-1] == pytest.approx(220, abs=3)
    assert shown == sorted(shown)
    assert capsys.readouterr().out.splitlines() == ["row 1: a", "row 2: 视频/x"]


@pytest.mark.parametrize("command", ["extract", "sheet"])
def test_absent_videos_are_named(command: str, store: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(command, store, "a", "nobody", "--out", tmp_path / "x.png") == 2
    assert "does not hold 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sheet", "sheet.xyz", "nowhere/sheet.png"])
def test_a_sheet_that_cannot_be_written(name: str, store: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("sheet", store, "a", "--out", tmp_path / name) == 2
    assert ".png or .jpg" in capsys.readouterr().err


def test_metadata_that_does_not_fit_is_a_fault(store: Path, capsys: Any) -> None:
    (store / METADATA_FILE).write_text('{"length": 4}', encoding="utf-8")
    assert run("verify", store) == 1
    assert "metadata.json says 4 videos" in capsys.readouterr().out


def test_a_store_without_videos_is_not_sound(tmp_path: Path, capsys: Any) -> None:
    lmdb.open(str(tmp_path / "s")).close()
    assert run("verify", tmp_path / "s") == 1
    assert "the store holds no video" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_no_store_is_refused(command: str, tmp_path: Path, capsys: Any) -> None:
    assert run(command, tmp_path / "nothing") == 2
    assert "no such folder" in capsys.readouterr().err


def test_shards_are_looked_into_as_one(tmp_path: Path, capsys: Any) -> None:
    for shard in range(2):
        with FrameStoreWriter(tmp_path / "s" / shard_name(shard, 2)) as writer:
            for video_id in (f"v{n}" for n in range(20) if shard_of(f"v{n}", 2) == shard):
                writer.put(video_id, [jpeg(1)])
    assert run("verify", tmp_path / "s") == 0
    assert "20 videos checked, 0 faults" in capsys.readouterr().out
