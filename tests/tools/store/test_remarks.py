"""What the builder says about its choices and about odd videos."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from dataloaders.frame_store.reader import FrameStore
from tests.tools.store.builds import arguments, failures
from tests.video.fixtures import read_number, write_video
from tools import frame2lmdb
from tools.store.remarks import Remarks, decoded_share, remarks_of

pytestmark = pytest.mark.usefixtures("lone_process")


def write_list(path: Path, ids: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"video_id": i}) + "\n" for i in ids), encoding="utf-8")
    return path


def run(*argv: str | Path) -> int:
    return frame2lmdb.main(list(map(str, argv)))


def test_strict_ends_where_one_of_several_videos_would_be_taken(tmp_path: Path, capsys: Any) -> None:
    for name in ("clip.mp4", "clip.mov", "clip.gif"):
        write_video(tmp_path / name.replace(".gif", ".mkv"), frames=3)
    (tmp_path / "clip.mkv").rename(tmp_path / "clip.gif")
    for more in ([], ["--json_path", str(write_list(tmp_path / "list.jsonl", ["clip"]))]):
        assert run(*arguments(tmp_path, tmp_path / "s", "--strict", *more)) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "another video has the same name: 2 (clip.mov, clip.gif); --strict allows" in said
        assert not (tmp_path / "s").exists()


def test_choices_and_odd_videos_are_named(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "two.mov", frames=5)
    write_video(folder / "two.mp4", frames=5)
    write_video(folder / f"{unicodedata.normalize('NFD', 'café')}.mp4", frames=5)
    write_video(folder / "clip_000010_000020.mp4", frames=60, rate=1)
    options = {"movflags": "+faststart"}
    half = write_video(folder / "half.mp4", frames=200, container_options=options)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    ids = ["two", "", unicodedata.normalize("NFC", "café"), "clip_000010_000020", "half"]
    build = arguments(folder, tmp_path / "s", "--json_path", str(write_list(tmp_path / "list.jsonl", ids)))
    partly = "videos of which less than 90 % decodes, because they are cut off or damaged: 1 (half: "
    length = "videos that are not as long as their names say (--clip_from_id cuts parts out): 1 "
    for _ in range(2):  # a second start says it again
        assert run(*build) == 1
        said = capsys.readouterr().err
        assert "left out, another video has the same name: 1 (two.mov)" in said
        assert "found, with another Unicode form of the name: 1 (café)" in said
        assert partly in said and f"{length}(clip_000010_000020: 60 s, not 10 s)" in said
    assert failures(tmp_path / "s") == {"": "bad id"}
    line = json.loads((tmp_path / "s" / "failures.jsonl").read_text(encoding="utf-8"))
    assert line["message"].endswith("list.jsonl, line 2: its video_id is empty")
    assert run("info", tmp_path / "s") == 0
    said = capsys.readouterr().out
    assert partly in said and length in said
    assert run("info", tmp_path / "s", "--min_decoded", "0.1") == 0
    assert "decodes" not in capsys.readouterr().out
    assert run("verify", tmp_path / "s", "--num_workers", "1") == 0  # the store itself is right
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "remark: video 'clip_000010_000020': is not as long as its name says (60 s, not 10 s)"
    assert said[1].startswith("remark: video 'half': decodes only in part (")
    assert said[2] == "4 videos checked, 0 faults"


def test_a_part_is_taken_out_of_the_file_of_its_own_name(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "whole_000010_000020.mp4", frames=60, rate=1)
    write_video(folder / "part_000010_000020.mp4", frames=10, rate=1)
    write_video(folder / "wrong_000040_000050.mp4", frames=30, rate=1)
    for _ in range(2):
        build = arguments(folder, tmp_path / "s", "--clip_from_id", "--num_frames", "10")
        assert run(*build) == 1
    assert failures(tmp_path / "s") == {"wrong_000040_000050": "wrong length"}
    store = FrameStore(tmp_path / "s")
    for video_id, first in (("whole_000010_000020", 10), ("part_000010_000020", 0)):
        shown = [read_number(picture) for picture in store.read_frames(video_id, range(10))]
        assert shown == list(range(first, first + 10))
    assert "as long as" not in capsys.readouterr().err


def test_older_stores_count_damaged_packets_only() -> None:
    old = {"source_frames": 99, "damaged_packets": 101, "duration": 8.0}
    assert decoded_share(old) == pytest.approx(0.495)
    assert [remark.numbers for remark in remarks_of("a", old, min_decoded=0.9)] == ["50 %"]


def test_a_part_that_ends_after_its_video_is_named() -> None:
    record = {"start": 0.0, "end": 100.0, "duration": 6.2, "decoded_until": 6.2, "decoded_share": 1.0}
    remarks = Remarks(min_decoded=0.9)
    remarks.look_at("a_000000_000100", record)
    remarks.look_at("a_000000_000008", {**record, "end": 8.0})  # headers are some seconds off
    text = "parts that end after their video, which are stored up to its end"
    assert remarks.lines() == [f"{text}: 1 (a_000000_000100: to 100 s of 6.2 s)"]
    assert decoded_share({"source_frames": 200}) == 1 and decoded_share({}) == 1
    cut_off = {"source_frames": 9, "damaged_packets": 1, "duration": 3.0, "fps": 10.0}
    assert decoded_share(cut_off) == pytest.approx(0.3)
    assert decoded_share({**cut_off, "start": 0.0}) == pytest.approx(0.9)


def test_five_names_are_shown() -> None:
    remarks = Remarks(min_decoded=0.9)
    assert remarks.lines() == []
    for number in range(7):
        remarks.look_at(f"v{number}", {"decoded_share": 0.5})
    (line,) = remarks.lines()
    assert line.endswith(": 7 (v0: 50 %, v1: 50 %, v2: 50 %, v3: 50 %, v4: 50 %, ...)")
