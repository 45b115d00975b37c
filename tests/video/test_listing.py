"""Which videos are stored: lists of every form, folders, parts cut out of videos, and shards."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

import av
import pytest
from av.format import ContainerFormat

from tools.frame2lmdb import describe
from tools.store.shards import Shard, parse_shard, shard_of_environment
from video.listing import VideoFolder, Wanted, list_folder, read_list
from video.sampling import Window
from video.video_extensions import (
    COMMON_EXTENSIONS,
    PICTURES,
    SOUND,
    SUBTITLES,
    TEXT,
    video_extensions,
)


def listed(tmp_path: Path, text: str, **options: bool) -> list[Wanted]:
    path = tmp_path / "list"
    path.write_bytes(text.encode())
    found = read_list(path, **options)
    assert path.read_bytes() == text.encode()  # never written to
    return found


@pytest.mark.parametrize(
    "text",
    [
        '{"video_id": "-a.b_1"}\n{"video_id": "视频"}\n\n{"video_id": "007"}\n',
        '\ufeff{"video_id": "-a.b_1", "x": 1}\r\n{"video_id": "视频"}\r\n{"video_id": "007"}',
        '[{"video_id": "-a.b_1"}, {"video_id": "视频"}, {"video_id": "007"}]',
        '["-a.b_1", "视频", "007"]',
        "video_id\n-a.b_1\n视频\n007\n",
        'key,video_id,sentence\n1,-a.b_1,"a, b"\n2,视频,c\n3,007,d\n',
        "\ufeffvideo_id,sentence\r\n-a.b_1,x\r\n视频,y\r\n007,z\r\n",
        "-a.b_1\n视频\n\n007",
    ],
)
def test_every_form_of_list(text: str, tmp_path: Path) -> None:
    assert [entry.video_id for entry in listed(tmp_path, text)] == ["-a.b_1", "视频", "007"]


def test_ids_that_come_again_are_taken_once(tmp_path: Path) -> None:
    assert [entry.video_id for entry in listed(tmp_path, "a\nb\na\n")] == ["a", "b"]


def test_a_line_separator_within_json_does_not_break_the_line(tmp_path: Path) -> None:
    assert [e.video_id for e in listed(tmp_path, '{"video_id": "a", "title": "x\u2028y"}\n')] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no video id"),
        ('{"video_id": "a"}\n{"id": "b", "t": 1}\n', "line 2: no video_id.*has id, t$"),
        ('{"video_id": "a"}\n{"video_id": ""}\n', "line 2: no video_id"),
        ('{"video_id": "a"}\n{oops\n', "line 2: not JSON"),
        ('{"video_id": "a", "start": "x"}', "line 1: start and end must be seconds"),
        ('{"video_id": "a", "start": 5, "end": 5}', "start 5 s and end 5 s"),
        ("[1, null]", "entry 2: no video_id"),
        ('{"video_id": "a", "end": 2}\n{"video_id": "a", "end": 3}', "line 2: 'a' comes again with another"),
        ('video_id,sentence\na,"two\nlines"\n,x\n', "line 4: no video_id"),
        (f"video_id,sentence\na,{'x' * 200_000}\n", "line 2: no csv: field larger"),
    ],
)
def test_lists_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"list.*{message}"):
        listed(tmp_path, text)


def test_a_csv_without_the_column_is_no_list_of_ids(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("key,vid,sentence\nret0,video1,hello\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"list.csv: .* column video_id; its first line has: key, vid, sentence"
    ):
        read_list(tmp_path / "list.csv")


def test_a_line_that_is_no_csv_is_an_id(tmp_path: Path) -> None:
    assert [entry.video_id for entry in listed(tmp_path, "x" * 200_000)] == ["x" * 200_000]


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00 caf\xe9")
    with pytest.raises(ValueError, match="UTF-8"):
        read_list(tmp_path / "list")
    with pytest.raises(ValueError, match="cannot be read"):
        read_list(tmp_path / "nothing")


def test_parts_of_videos(tmp_path: Path) -> None:
    found = listed(tmp_path, '{"video_id": "a", "start": 1.5, "end": 4}\n{"video_id": "b", "end": null}')
    assert [entry.window for entry in found] == [Window(1.5, 4), Window()]
    text = "-OyDO1g74vc_000002_000012\nplain\n"
    first, second = listed(tmp_path, text, clip_from_id=True)
    assert first == Wanted("-OyDO1g74vc_000002_000012", "-OyDO1g74vc", Window(2, 12))
    assert second == Wanted("plain", "plain")
    assert listed(tmp_path, text)[0].file_id == "-OyDO1g74vc_000002_000012"


def test_a_folder_gives_all_its_videos(tmp_path: Path) -> None:
    names = "b.mp4 a.WEBM c.d_e.mkv -x.avi 视频.mov both.mkv both.mp4 notes.txt list.json .mp4 pic.jpg noext"
    for name in names.split():
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    folder = VideoFolder(tmp_path)
    ids = [entry.video_id for entry in list_folder(folder)]
    assert ids == sorted(["b", "a", "c.d_e", "-x", "视频", "both", "folder"])
    assert folder.find("both") == tmp_path / "both.mp4"
    assert folder.find("a") == tmp_path / "a.WEBM"
    assert folder.find("pic.jpg") == tmp_path / "pic.jpg"  # named in full, it is meant
    assert folder.find("../" + tmp_path.name + "/b.mp4") is None and folder.find("zzz") is None
    assert folder.find("\ud800") is None and folder.find("a\0") is None  # no names that a file could have


def test_a_folder_that_cannot_be_read_is_named_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are read as bytes, which must not show (b'...'). Root may read all, hence the stand-in."""

    def refuse(path: bytes) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("video.listing.os.scandir", refuse)
    folder = tmp_path / "视频 x"
    folder.mkdir()
    with pytest.raises(ValueError) as caught:
        VideoFolder(folder)
    assert str(caught.value) == f"{folder}: cannot be read: Permission denied (--video_dir)"


def test_system_errors_name_files_as_they_are_written() -> None:
    name = "/data/视频 x"
    for given in (name, os.fsencode(name)):
        error = PermissionError(errno.EACCES, "Permission denied", given)
        assert describe(error) == f"{name}: Permission denied"
    assert describe(OSError("no number, no name")) == "no number, no name"
    assert describe(ValueError("a: b")) == "a: b"


def test_folders_without_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no videos in it"):
        list_folder(VideoFolder(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        VideoFolder(tmp_path / "nothing")


def claimed_extensions(*modes: Literal["r", "w"]) -> set[str]:
    known: set[str] = set()
    for name in av.formats_available:
        for mode in modes:
            try:
                known |= ContainerFormat(name, mode).extensions
            except ValueError:
                continue
    return known


def test_all_that_ffmpegs_readers_claim_is_taken_but_what_is_no_video() -> None:
    others = set(" ".join((SOUND, PICTURES, SUBTITLES, TEXT)).split())
    assert set(video_extensions()) == set(COMMON_EXTENSIONS.split()) | (claimed_extensions("r") - others)
    for extension in ["mp4", "ts", "wmv", "lvf", "moflex", "cdxl", "y4m"]:
        assert extension in video_extensions()
    for extension in ["mp3", "m4a", "wav", "jpg", "avif", "srt", "vtt", "txt", "json", "csv", "xml"]:
        assert extension not in video_extensions()


def test_common_extensions_are_ffmpegs_or_known_by_content() -> None:
    by_content = set("mpg mpeg m2v rmvb f4v 3g2 dvd vvc h266 266 divx evo nsv mod tod trp dirac".split())  # noqa: SIM905
    common = COMMON_EXTENSIONS.split()
    assert set(common) - claimed_extensions("r", "w") <= by_content
    assert len(set(common)) == len(common)


def test_files_that_are_no_videos_are_passed_over(tmp_path: Path) -> None:
    for name in ["a.mp4", "a.srt", "a.m4a", "b.LVF", "c.nfo", "d.wav", "e.jxl", "a.lvf", "f.ty+"]:
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path)
    assert folder.files == {"a": "a.mp4", "b": "b.LVF", "f": "f.ty+"}  # of a's, the common one


def test_shards_by_flag() -> None:
    assert parse_shard("1/4") == Shard(1, 4, "--shard")
    assert parse_shard("0/1") is None and parse_shard("none") is None
    for bad in ("4/4", "1", "a/b", "-1/4", "1/0"):
        with pytest.raises(ValueError, match="--shard"):
            parse_shard(bad)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}, (1, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}, (2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            (7, 8),
        ),
    ],
)
def test_shards_by_environment(environment: dict[str, str], expected: tuple[int, int] | None) -> None:
    shard = shard_of_environment(environment)
    assert (shard and (shard.index, shard.count)) == expected


def test_every_video_is_in_one_shard() -> None:
    shards = [Shard(index, 7, "") for index in range(7)]
    holders = [[shard.index for shard in shards if shard.holds(f"video{n}")] for n in range(500)]
    assert all(len(found) == 1 for found in holders)
    assert {found[0] for found in holders} == set(range(7))
    assert sum(shard.holds("caf\udce9") for shard in shards) == 1  # named as a bad id by one of them
