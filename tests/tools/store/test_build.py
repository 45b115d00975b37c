"""The builder as a command: what it stores and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataloaders.frame_store.reader import FrameStore, FrameStoreError
from tests.dataloaders.frame_store.damage import damage_leaf
from tests.tools.store.builds import GOOD, ROOT, arguments, contents, failures, run
from tests.video import fixtures as make
from tests.video.fixtures import read_number, write_video
from tools import frame2lmdb

pytestmark = pytest.mark.usefixtures("lone_process")


def test_all_videos_are_stored(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 0
    store = FrameStore(tmp_path / "s")
    assert set(store.video_ids()) == set(GOOD)
    for video_id, frames in GOOD.items():
        record: Any = store.manifest(video_id)
        assert record["source_frames"] == frames and record["frames"] == 30
        assert [read_number(f) for f in store.read_frames(video_id, range(30))] == record["indices"]
        assert record["indices"][0] == 0 and record["indices"][-1] == frames - 1
    assert json.loads((tmp_path / "s" / "metadata.json").read_text(encoding="utf-8")) == {"length": 4}
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["data.mdb", "metadata.json"]
    said = capsys.readouterr().err
    assert "stored 4 of 4 videos" in said and "4 h264" in said


def test_every_bad_video_is_named_with_its_reason(videos: Path, tmp_path: Path) -> None:
    """Bad files among good ones (FR-05): the good ones are stored, the bad ones named, and no traceback."""
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("no video\n" * 99, encoding="utf-8")
    make.write_audio(videos / "audio.mp4")
    make.write_unknown_codec(videos / "strange.mp4")
    names = tmp_path / "list.jsonl"
    ids = ["empty", "a", "text", "audio", "gone", "strange", "x" * 600, "e"]
    names.write_text("".join(json.dumps({"video_id": i}) + "\n" for i in ids), encoding="utf-8")
    before = names.read_bytes()
    done = run(*arguments(videos, tmp_path / "s", "--json_path", str(names)))
    assert done.returncode == 1
    assert failures(tmp_path / "s") == {
        "empty": "unopenable",
        "text": "unopenable",
        "audio": "no video stream",
        "gone": "missing",
        "strange": "codec not decodable",
        "x" * 600: "bad id",
    }
    assert set(FrameStore(tmp_path / "s").video_ids()) == {"a", "e"}
    assert "stored 2 of 8 videos" in done.stderr and "2 unopenable" in done.stderr
    assert "Traceback" not in done.stderr
    assert names.read_bytes() == before


def test_bare_it_explains_itself() -> None:
    done = run()
    assert done.returncode == 2 and "--video_dir" in done.stderr and "verify STORE" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--video_dir", "nowhere"], "no such folder of videos"),
        (["--json_path", "nolist"], "nolist: cannot be read"),
        (["--num_frames", "0"], "a whole number, at least 1"),
        (["--short_side", "-1"], "a whole number, at least 0"),
        (["--slack", "0.7"], "less than 0.5"),
        (["--quality", "101"], "invalid choice"),
        (["--timeout", "0"], "must be more than 0"),
        (["--shard", "3/3"], "--shard 3/3"),
        (["--lmdb_path", str(ROOT / "README.md")], "is a file"),
        (["--lmdb_path", "/proc/nothing/s"], "/proc/nothing"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    change: list[str], message: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = frame2lmdb.main([*arguments(videos, tmp_path / "s"), *change])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_second_start_has_nothing_to_do(videos: Path, tmp_path: Path, capsys: Any) -> None:
    frame2lmdb.main(arguments(videos, tmp_path / "s"))
    before = contents(tmp_path / "s")
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 0
    assert contents(tmp_path / "s") == before
    assert "(4 before this run)" in capsys.readouterr().err


def test_failed_videos_get_another_chance(videos: Path, tmp_path: Path) -> None:
    whole = (videos / "a.mp4").read_bytes()
    (videos / "a.mp4").write_bytes(whole[:500])
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 1
    assert failures(tmp_path / "s") == {"a": "unopenable"}
    assert FrameStore(tmp_path / "s").states()[0]["failed"] == 1  # type: ignore[index]
    (videos / "a.mp4").write_bytes(whole)
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 0
    assert failures(tmp_path / "s") == {} and "a" in FrameStore(tmp_path / "s")


def test_videos_are_added_to_a_finished_store(videos: Path, tmp_path: Path) -> None:
    frame2lmdb.main(arguments(videos, tmp_path / "s"))
    old = contents(tmp_path / "s")
    more = tmp_path / "more"
    more.mkdir()
    write_video(more / "new.mp4", frames=33)
    assert frame2lmdb.main(arguments(more, tmp_path / "s")) == 0
    new = contents(tmp_path / "s")
    assert set(FrameStore(tmp_path / "s").video_ids()) == {*GOOD, "new"}
    assert all(new[key] == value for key, value in old.items() if key != b"\0store")


def test_settings_are_not_mixed(videos: Path, tmp_path: Path, capsys: Any) -> None:
    frame2lmdb.main(arguments(videos, tmp_path / "s", "--num_frames", "4"))
    assert frame2lmdb.main(arguments(videos, tmp_path / "s", "--num_frames", "5", "--quality", "90")) == 2
    assert "num_frames 4 there, 5 now, quality 95 there, 90 now" in capsys.readouterr().err
    assert FrameStore(tmp_path / "s").num_frames("a") == 4
    again = arguments(videos, tmp_path / "s", "--num_frames", "5", "--overwrite")
    assert frame2lmdb.main(again) == 0
    assert FrameStore(tmp_path / "s").num_frames("a") == 5


def test_another_part_of_a_stored_video_is_refused(videos: Path, tmp_path: Path, capsys: Any) -> None:
    names = tmp_path / "list.jsonl"
    build = arguments(videos, tmp_path / "s", "--json_path", str(names))
    for end, code in ((1, 0), (1, 0), (2, 2), (None, 2)):
        names.write_text(json.dumps({"video_id": "a", "end": end}), encoding="utf-8")
        assert frame2lmdb.main(build) == code
    said = capsys.readouterr().err.splitlines()
    assert "it has seconds 0 to 1 of 'a', but seconds 0 to the end are wanted" in said[-1]
    assert FrameStore(tmp_path / "s").manifest("a")["end"] == 1  # type: ignore[index]
    assert frame2lmdb.main([*build, "--overwrite"]) == 0
    assert "end" not in FrameStore(tmp_path / "s").manifest("a")  # type: ignore[operator]


def test_a_damaged_store_is_not_added_to(videos: Path, tmp_path: Path, capsys: Any) -> None:
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 0
    damage_leaf(tmp_path / "s", b"\0store")
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"frame store {tmp_path / 's'}: its state record: the file is damaged" in said
    assert frame2lmdb.main(arguments(videos, tmp_path / "s", "--overwrite")) == 0


def test_overwrite_removes_nothing_of_others(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine", encoding="utf-8")
    assert frame2lmdb.main(arguments(videos, tmp_path / "s", "--overwrite")) == 0
    assert (tmp_path / "s" / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_the_result_does_not_depend_on_the_workers(videos: Path, tmp_path: Path) -> None:
    for workers in ("1", "3"):
        frame2lmdb.main([*arguments(videos, tmp_path / workers), "--num_workers", workers])
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_parts_of_videos_by_vatex_ids(videos: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("e_000001_000003\na_000000_000001\n", encoding="utf-8")
    more = ("--json_path", str(names), "--clip_from_id", "--num_frames", "5")
    assert frame2lmdb.main(arguments(videos, tmp_path / "s", *more)) == 0
    record: Any = FrameStore(tmp_path / "s").manifest("e_000001_000003")
    assert record["indices"] == [25, 37, 50, 62, 74][:2] + record["indices"][2:]
    assert (record["indices"][-1], record["start"], record["end"]) == (74, 1, 3)


def test_size_and_quality(videos: Path, tmp_path: Path) -> None:
    for quality in ("50", "95"):
        options = ("--short_side", "24", "--quality", quality)
        frame2lmdb.main(arguments(videos, tmp_path / quality, *options))
    low, high = FrameStore(tmp_path / "50"), FrameStore(tmp_path / "95")
    assert low.read_frames("a", [0])[0].shape == (24, 40, 3)
    assert len(low.read_jpegs("a", [0])[0]) < len(high.read_jpegs("a", [0])[0])


def test_it_runs_from_any_folder_in_any_locale(videos: Path, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    names = tmp_path / "list.txt"
    names.write_text("视频 d\n", encoding="utf-8")
    done = run(*arguments(videos, tmp_path / "s", "--json_path", str(names)), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(FrameStore(tmp_path / "s").video_ids()) == ["视频 d"]


# Shards


def test_shards_make_one_store(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    folder, whole = many
    store = tmp_path / "s"
    for index in (1, 0):
        if index == 0:
            with pytest.raises(FrameStoreError, match="1 of 2 shards absent"):
                FrameStore(store)
        assert frame2lmdb.main(arguments(folder, store, "--shard", f"{index}/2")) == 0
    read = FrameStore(store)
    assert sorted(read.video_ids()) == [f"v{number:02d}" for number in range(60)]
    assert read.read_jpegs("v17", range(30)) == [whole[f"v17_{i}".encode()] for i in range(30)]
    assert json.loads((store / "metadata.json").read_text(encoding="utf-8")) == {"length": 60}


def test_shards_by_environment_and_mixed_countings(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 0
    assert "part 0 of 2 (by RANK and WORLD_SIZE)" in capsys.readouterr().err
    for shard, message in (("0/3", "another number of shards"), ("none", "a store of shards")):
        assert frame2lmdb.main(arguments(videos, tmp_path / "s", "--shard", shard)) == 2
        assert message in capsys.readouterr().err
    frame2lmdb.main(arguments(videos, tmp_path / "plain", "--shard", "none"))
    assert frame2lmdb.main(arguments(videos, tmp_path / "plain")) == 2
    assert "a store without shards" in capsys.readouterr().err


def test_settings_are_not_mixed_among_shards(videos: Path, tmp_path: Path, capsys: Any) -> None:
    def build(part: int, *more: str) -> int:
        return frame2lmdb.main(arguments(videos, tmp_path / "s", "--shard", f"{part}/2", *more))

    assert build(0) == 0
    assert build(1, "--quality", "90") == 2
    assert (
        "shard-00000-of-00002: made with other settings: quality 95 there, 90 now" in capsys.readouterr().err
    )
    assert build(1, "--quality", "90", "--overwrite") == 0
    with pytest.raises(FrameStoreError, match="different settings .quality 95 there, 90 elsewhere"):
        FrameStore(tmp_path / "s")


def test_names_that_are_no_text_are_bad_ids(videos: Path, tmp_path: Path) -> None:
    (videos / os.fsdecode(b"caf\xe9.mp4")).write_bytes((videos / "a.mp4").read_bytes())
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 1
    assert list(failures(tmp_path / "s").values()) == ["bad id"]
    assert len(list(FrameStore(tmp_path / "s").video_ids())) == 4
    codes = [frame2lmdb.main(arguments(videos, tmp_path / "parts", "--shard", f"{i}/2")) for i in (0, 1)]
    assert sorted(codes) == [0, 1]
    assert len(list(FrameStore(tmp_path / "parts").video_ids())) == 4


def test_ids_that_no_file_could_have_cost_themselves_alone(videos: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.jsonl"
    ids = ["\ud800", "../a", "a/b", "/etc/passwd", "a"]
    names.write_text("".join(json.dumps({"video_id": i}) + "\n" for i in ids), encoding="utf-8")
    assert frame2lmdb.main(arguments(videos, tmp_path / "s", "--json_path", str(names))) == 1
    expected = {"\ud800": "bad id", "../a": "missing", "a/b": "missing", "/etc/passwd": "missing"}
    assert failures(tmp_path / "s") == expected
    assert list(FrameStore(tmp_path / "s").video_ids()) == ["a"]


def test_the_array_script_makes_one_store(videos: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "slurm" / "frame2lmdb_array.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_CPUS_PER_TASK": "1"}
    assert subprocess.run(["bash", script, str(videos)], capture_output=True).returncode == 2
    for task in ("3", "4"):
        environment = {**os.environ, **array, "SLURM_ARRAY_TASK_ID": task, "PATH": path}
        command = ["bash", script, str(videos), str(tmp_path / "s"), "--num_frames", "4"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert set(FrameStore(tmp_path / "s").video_ids()) == set(GOOD)
