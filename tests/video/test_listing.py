"""Which videos are stored: lists of every form, folders, parts cut out of videos, and shards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from common.errors import FileError, UserError, file_errors
from tests.video.fixtures import write_audio, write_video
from tools.store.shards import Shard, parse_shard, shard_of_environment
from video.file_names import OTHER, OTHER_EXTENSIONS, UNKNOWN, VIDEO_EXTENSIONS, rank_of
from video.listing import VideoFolder, Wanted, list_folder, read_list
from video.sampling import Window
from video.video_files import describe_left_out


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
        "\nkey\tvideo_id\tsentence\n1\t-a.b_1\ta, b\n2\t视频\tc\n3\t007\td\n",
        "video_id;sentence\n-a.b_1;x\n视频;y\n007;z\n",
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
        ("", "has no video id"),
        ('{"video_id": "a"}\n{"id": "b", "t": 1}\n', "line 2: no video_id or video.*has id, t$"),
        ('{"video_id": "a"}\n{oops\n', "line 2: not JSON"),
        ('{"video_id": "a", "start": "x"}', "line 1: start 'x': start and end must be seconds"),
        ('{"video_id": "a", "start": 5, "end": 5}', "start 5 s and end 5 s"),
        ('{"video_id": ""}\n', "has no video id .*line 1: its video_id is empty"),
        ('{"video_id": "a", "end": 2}\n{"video_id": "a", "end": 3}', "line 2: 'a' is repeated with another"),
        (f"video_id,sentence\na,{'x' * 200_000}\n", "line 2: is not CSV .field larger"),
        ('video_id,sentence\na,x\nb,"never closed\nc,y\nd,z\n', "lines 3 to 5: is not CSV"),
        ('sentence,video_id\nx,a\ny,"b\nz,"c"\n', "lines 3 to 4: is not CSV"),
        ('sentence,video_id\nx,a\ny,"b\nz,c"\n', "lines 3 to 4: a video_id with a line break"),
        ("video_id,sentence\na,x,y\n", "line 2: has 3 cells, the header has 2"),
        ("a\nb\tone\n", "line 2: has a tab; .* header with the column video_id"),
    ],
)
def test_lists_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"list.*{message}"):
        listed(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"video_id": "a"}\n{"video_id": ""}\n{"video_id": "b"}\n', "line 2: its video_id is empty"),
        ('["a", null, "b"]', "entry 2: its video_id is empty"),
        ('["a", 1.5, "b"]', "entry 2: its video_id is no text"),
        ('video_id,sentence\na,"two\nlines"\n,x\nb,y\n', "line 4: its video_id is empty"),
        ("video_id,sentence\na,x\n  ,x\nb,y\n", "line 3: its video_id is empty"),
    ],
)
def test_an_empty_id_costs_itself_alone(text: str, problem: str, tmp_path: Path) -> None:
    found = listed(tmp_path, text)
    assert [entry.video_id for entry in found if not entry.problem] == ["a", "b"]
    assert [entry.problem for entry in found if entry.problem] == [f"{tmp_path / 'list'}, {problem}"]


def test_a_csv_without_the_column_is_no_list_of_ids(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("key,name,sentence\nret0,video1,hello\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"list.csv: .* column video_id or video; its first line has: key, name, sentence"
    ):
        read_list(tmp_path / "list.csv")
    (tmp_path / "list.tsv").write_text("key\tname\nret0\tvideo1\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"list.tsv: .* column video_id or video; its first line has: key, na"
    ):
        read_list(tmp_path / "list.tsv")


def test_a_line_that_is_no_csv_is_an_id(tmp_path: Path) -> None:
    assert [entry.video_id for entry in listed(tmp_path, "x" * 200_000)] == ["x" * 200_000]


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00 caf\xe9")
    with pytest.raises(UserError, match="UTF-8"):
        read_list(tmp_path / "list")
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path / "nothing")


def test_parts_of_videos(tmp_path: Path) -> None:
    found = listed(tmp_path, '{"video_id": "a", "start": 1.5, "end": 4}\n{"video_id": "b", "end": null}')
    assert [entry.window for entry in found] == [Window(1.5, 4), Window()]
    text = "-OyDO1g74vc_000002_000012\nplain\n"
    first, second = listed(tmp_path, text, clip_from_id=True)
    assert first == Wanted("-OyDO1g74vc_000002_000012", "-OyDO1g74vc", Window(2, 12))
    assert second == Wanted("plain", "plain")
    assert listed(tmp_path, text)[0].file_id == "-OyDO1g74vc_000002_000012"


def test_the_table_of_captions_is_a_list_too(tmp_path: Path) -> None:
    """One file for frame store and training: several captions a video, parts by start and end."""
    text = (
        '\ufeffFile;Caption;start;end\ncat.mp4;a cat;;\ncat.mp4;"a cat;\nasleep";;\n'
        "dog.mov;a dog;1.5;4\ndog.mov;it barks;4;9\nsub/dog;a dog;;\n"
    )
    path = tmp_path / "my_data.csv"
    path.write_text(text, encoding="utf-8")
    expected = [
        Wanted("cat", "cat.mp4"),
        Wanted("dog_000001.500_000004", "dog.mov", Window(1.5, 4)),
        Wanted("dog_000004_000009", "dog.mov", Window(4, 9)),
        Wanted("sub/dog", "sub/dog"),
    ]
    assert read_list(path) == expected
    lines = '{"video": "cat.mp4", "caption": "a cat"}\n{"video": "dog.mov", "start": 4, "end": 9}\n'
    assert listed(tmp_path, lines) == [expected[0], expected[2]]
    path.write_text("video,caption\ncat.mp4,a\ncat.mov,b\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3: the id 'cat' is that of two files, cat.mp4 and cat.mov"):
        read_list(path)
    path.write_bytes("video,caption\ncat.mp4,一只猫在沙发上睡觉\n".encode("gb18030"))
    with pytest.raises(UserError, match="my_data.csv: is not UTF-8 .* but GB18030"):
        read_list(path)


def test_a_file_named_in_full_is_that_file_or_the_same_with_another_extension(tmp_path: Path) -> None:
    for name in ("cat.mp4", "cat.avi", "dog.mkv"):
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path)
    wanted = [Wanted("cat", "cat.avi"), Wanted("dog_000001_000002", "dog.mp4", Window(1, 2))]
    assert [folder.file_of(entry) for entry in wanted] == [
        (tmp_path / "cat.avi", False),
        (tmp_path / "dog.mkv", False),
    ]
    folder.check_names(wanted)
    assert not folder.other_form


def test_a_folder_gives_all_its_videos(tmp_path: Path) -> None:
    names = "b.mp4 a.WEBM c.d_e.mkv -x.avi 视频.mov both.mkv both.mp4 notes.txt list.json .mp4 pic.jpg noext"
    for name in names.split():
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    folder = VideoFolder(tmp_path)
    ids = [entry.video_id for entry in list_folder(folder)]
    assert ids == sorted(["b", "a", "c.d_e", "-x", "视频", "both"])
    assert folder.find("both") == tmp_path / "both.mp4" and folder.same_name == ["both.mkv"]
    assert folder.find("a") == tmp_path / "a.WEBM"
    assert folder.find("pic.jpg") == tmp_path / "pic.jpg"  # named in full, it is meant
    assert folder.find("pic") is None and folder.find("notes") is None  # perhaps of a video that is not there
    assert folder.left_out_with_name("pic") == ["pic.jpg"] and not folder.left_out_with_name("a")
    assert folder.find("../" + tmp_path.name + "/b.mp4") is None and folder.find("zzz") is None
    assert folder.find("/etc/passwd") is None and folder.find("/etc/passwd/x") is None
    assert folder.find("\ud800") is None and folder.find("a\0") is None  # no names that a file could have
    assert folder.left_out == {
        ".txt": 1,
        ".json": 1,
        ".jpg": 1,
        "without extension": 1,
        "hidden": 1,
        "folders": 1,
    }
    assert describe_left_out(folder.left_out).count("(1)") == 6


def test_what_ffmpeg_opens_is_a_video_whatever_its_name(tmp_path: Path) -> None:
    base = write_video(tmp_path / "base.mp4", frames=12).read_bytes()
    for name in ["a.3gpp", "b.qt", "c.m2p", "d.ogm", "e.xyz", "f", "g.2024-05-01"]:
        (tmp_path / name).write_bytes(base)
    write_audio(tmp_path / "sound.mp4").rename(tmp_path / "sound.snd2")
    (tmp_path / "text.rst2").write_text("no video\n" * 99, encoding="utf-8")
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde"
    (tmp_path / "picture.pic2").write_bytes(png + bytes(40))
    (tmp_path / "many.xyz").write_bytes(b"no video")
    (tmp_path / "many.zyx").write_bytes(base)
    (tmp_path / "._base.mp4").write_bytes(b"\0\5\x16\7")  # what macOS leaves on other disks
    (tmp_path / ".trashed-1-base.mp4").write_bytes(base)
    folder = VideoFolder(tmp_path)
    ids = [entry.video_id for entry in list_folder(folder, workers=2)]
    assert ids == ["a", "b", "base", "c", "d", "e", "f", "g", "many"]
    assert folder.find("a") == tmp_path / "a.3gpp" and folder.find("many") == tmp_path / "many.zyx"
    assert folder.left_out == {".snd2": 1, ".rst2": 1, ".pic2": 1, ".xyz": 1, "hidden": 2}


def test_of_videos_with_one_name_the_others_are_named_for_a_list_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("clip.mp4", "clip.mov", "clip.gif", "clip.txt", "alone.mp4", "sub/clip.mkv", "sub/clip.avi"):
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path)
    folder.check_names([Wanted(name, name) for name in ("clip", "alone", "sub/clip", "gone", "clip.gif")])
    assert folder.same_name == ["clip.mov", "clip.gif", "clip.avi"] and not folder.other_form


def test_names_that_differ_only_in_the_unicode_form_are_found(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (tmp_path / decomposed).mkdir()
    for name in (f"{decomposed}.mp4", f"{decomposed}/{decomposed}.mkv", "both\u00e9.mp4", "bothe\u0301.mp4"):
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path)
    assert folder.find(composed) == tmp_path / f"{decomposed}.mp4"
    assert folder.find(f"{composed}.mp4") == tmp_path / f"{decomposed}.mp4"
    assert folder.find(f"{composed}/{composed}") == tmp_path / decomposed / f"{decomposed}.mkv"
    for name in ("both\u00e9", "bothe\u0301"):  # each has its own
        assert folder.find(name) == tmp_path / f"{name}.mp4"
    ids = [composed, decomposed, "both\u00e9", f"{composed}/{composed}", f"{composed}.mp4", "gone\u00e9"]
    folder.check_names([Wanted(name, name) for name in ids])
    assert folder.other_form == [composed, f"{composed}/{composed}", f"{composed}.mp4"]


def test_a_part_may_be_in_a_file_of_its_own_name(tmp_path: Path) -> None:
    for name in ("a_000010_000020.mp4", "b_000010_000020.mp4", "b.mp4"):
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path)
    first, second = (Wanted(f"{name}_000010_000020", name, Window(10, 20)) for name in ("a", "b"))
    assert folder.file_of(first) == (tmp_path / "a_000010_000020.mp4", True)
    assert folder.file_of(second) == (tmp_path / "b.mp4", False)
    assert folder.file_of(Wanted("c", "c")) == (None, False)


def test_an_id_may_name_a_file_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for name in ("sub/clip.xyz", "sub/deep/clip.mp4", "sub/deep/clip.txt"):
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path / "sub")
    assert folder.find("deep/clip") == tmp_path / "sub" / "deep" / "clip.mp4"
    assert VideoFolder(tmp_path).find("sub/clip") == tmp_path / "sub" / "clip.xyz"  # decoding will tell
    for outside in ("deep/../../sub/clip", "./clip", "deep//clip", "nowhere/clip", "deep/\0/clip"):
        assert folder.find(outside) is None


def test_a_folder_that_cannot_be_read_is_named_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are read as bytes, which must not show (b'...'). Root may read all, hence the stand-in."""

    def refuse(path: bytes) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("video.listing.os.scandir", refuse)
    folder = tmp_path / "视频 x"
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        VideoFolder(folder)
    assert str(caught.value) == f"{folder}: cannot be read (Permission denied)"


def test_system_errors_name_files_as_they_are_written() -> None:
    path = Path("/data/视频 x")
    for name in (str(path), os.fsencode(path)):
        with pytest.raises(FileError) as caught, file_errors(path):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        assert str(caught.value) == f"{path}: cannot be read (Permission denied)"


def test_folders_without_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no videos in it"):
        list_folder(VideoFolder(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        VideoFolder(tmp_path / "nothing")


def test_common_extensions_are_judged_without_opening_the_file() -> None:
    for extension in ["mp4", "TS", "wmv", "3gpp", "y4m"]:
        assert rank_of(f"clip.{extension}") < UNKNOWN
    for extension in ["mp3", "m4a", "wav", "jpg", "avif", "srt", "vtt", "txt", "json", "csv", "xml"]:
        assert rank_of(f"clip.{extension}") == OTHER
    for name in ["clip", "clip.lvf", "clip.dat", "clip.2024-05-01"]:
        assert rank_of(name) == UNKNOWN
    assert len(set(VIDEO_EXTENSIONS)) == len(VIDEO_EXTENSIONS)
    assert not OTHER_EXTENSIONS & set(VIDEO_EXTENSIONS)


def test_shards_by_flag() -> None:
    assert parse_shard("1/4") == Shard(1, 4, "--shard")
    assert parse_shard("0/1") is None and parse_shard("none") is None
    for bad in ("4/4", "1", "a/b", "-1/4", "1/0"):
        with pytest.raises(UserError, match="--shard"):
            parse_shard(bad)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "", "WORLD_SIZE": ""}, None),
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


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(UserError, match="WORLD_SIZE=two"):
        shard_of_environment({"RANK": "0", "WORLD_SIZE": "two"})


def test_every_video_is_in_one_shard() -> None:
    shards = [Shard(index, 7, "") for index in range(7)]
    holders = [[shard.index for shard in shards if shard.holds(f"video{n}")] for n in range(500)]
    assert all(len(found) == 1 for found in holders)
    assert {found[0] for found in holders} == set(range(7))
    assert sum(shard.holds("caf\udce9") for shard in shards) == 1  # named as a bad id by one of them
