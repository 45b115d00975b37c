"""The builder as a command: what it stores, what it says, and that nothing stops it or loses its work."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from dataloaders.frame_store import FrameStore, FrameStoreError
from tests import video_fixtures as make
from tests.video_fixtures import read_number, write_video
from tools import frame2lmdb

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools" / "frame2lmdb.py")]
GOOD = {"a": 40, "-b.c_1": 12, "视频 d": 5, "e": 90}


@pytest.fixture(autouse=True)
def _lone_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["RANK", "WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, frames in GOOD.items():
        write_video(folder / f"{name}.mp4", frames=frames)
    return folder


def arguments(folder: Path, store: Path, *more: str) -> list[str]:
    return ["--video_dir", str(folder), "--lmdb_path", str(store), "--num_workers", "2", *more]


def contents(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def failures(store: Path) -> dict[str, str]:
    path = store / "failures.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["video_id"]: line["reason"] for line in map(json.loads, lines)}


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
    names = tmp_path / "list.jsonl"
    ids = ["empty", "a", "text", "audio", "gone", "x" * 600, "e"]
    names.write_text("".join(json.dumps({"video_id": i}) + "\n" for i in ids), encoding="utf-8")
    before = names.read_bytes()
    done = run(*arguments(videos, tmp_path / "s", "--json_path", str(names)))
    assert done.returncode == 1
    assert failures(tmp_path / "s") == {
        "empty": "unopenable",
        "text": "unopenable",
        "audio": "no video stream",
        "gone": "missing",
        "x" * 600: "bad id",
    }
    assert set(FrameStore(tmp_path / "s").video_ids()) == {"a", "e"}
    assert "stored 2 of 7 videos" in done.stderr and "2 unopenable" in done.stderr
    assert "Traceback" not in done.stderr
    assert names.read_bytes() == before


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, *argv], capture_output=True, text=True, timeout=120, **options)


def test_bare_it_explains_itself() -> None:
    done = run()
    assert done.returncode == 2 and "--video_dir" in done.stderr and "verify STORE" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--video_dir", "nowhere"], "no such folder of videos"),
        (["--json_path", "nolist"], "nolist: cannot be read"),
        (["--num_frames", "0"], "must be at least 1"),
        (["--short_side", "-1"], "must be at least 0"),
        (["--slack", "0.7"], "less than 0.5"),
        (["--quality", "101"], "invalid choice"),
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
    assert "(4 were there)" in capsys.readouterr().err


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


# What stops a builder


def start(*argv: str, **trouble: str) -> subprocess.Popen[str]:
    """The tool with trouble of its own making (tests/tools/odd_builder.py)."""
    environment = {**os.environ, **{f"HMMC_TEST_{name.upper()}": value for name, value in trouble.items()}}
    command = [sys.executable, str(ROOT / "tests" / "tools" / "odd_builder.py"), *argv]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """A folder of sixty videos, and the contents of its store, built in one go."""
    folder = tmp_path_factory.mktemp("many")
    source = write_video(folder / "v00.mp4", frames=120)
    for number in range(1, 60):
        shutil.copy(source, folder / f"v{number:02d}.mp4")
    store = tmp_path_factory.mktemp("whole")
    assert frame2lmdb.main(arguments(folder, store)) == 0
    return folder, contents(store)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(
    number: signal.Signals, many: tuple[Path, dict[bytes, bytes]], tmp_path: Path
) -> None:
    folder, whole = many
    store = tmp_path / "s"
    process = start(*arguments(folder, store), dawdles="0.1")
    wait_for(lambda: (store / "data.mdb").exists() and count(store) > 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "the same command goes on from here" in said and "Traceback" not in said
    with pytest.raises(FrameStoreError, match=r"incomplete: \d+ of 60"):
        FrameStore(store)
    assert frame2lmdb.main(arguments(folder, store)) == 0
    assert contents(store) == whole


KILLS = int(os.environ.get("HMMC_TEST_KILLS", "3"))


def test_kills_lose_nothing(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """SIGKILL at random moments (FR-19): refused while unfinished, and then the same keys and bytes.

    HMMC_TEST_KILLS sets how many. Whenever a run gets through, the store is compared and begun anew.
    """
    folder, whole = many
    store, chance, halfway = tmp_path / "s", random.Random(1), 0
    duration = undisturbed(folder, store)
    for _ in range(KILLS):
        process = start(*arguments(folder, store), dawdles="0.01")
        time.sleep(chance.uniform(0.3, 1.0) * duration)
        process.kill()
        process.communicate()
        stored = check_whole_videos(store)
        halfway += 0 < stored < 60
        if stored == 60:
            finish_and_compare(folder, store, whole)
    finish_and_compare(folder, store, whole)
    sys.stdout.write(f"{KILLS} kills, {halfway} of them with part of the videos stored\n")


def undisturbed(folder: Path, store: Path) -> float:
    began = time.monotonic()
    start(*arguments(folder, store), dawdles="0.01").communicate(timeout=60)
    shutil.rmtree(store)
    return time.monotonic() - began


def count(store: Path) -> int:
    state = json.loads(contents(store).get(b"\0store", b'{"videos": 0}'))
    return int(state["videos"])


def check_whole_videos(store: Path) -> int:
    """The number of videos stored; no part of a video is there, and readers refuse the store."""
    if not (store / "data.mdb").exists():
        return 0
    found = contents(store)
    state = json.loads(found.pop(b"\0store", b'{"videos": 0}'))
    assert sum(key.startswith(b"\0video/") for key in found) == state["videos"]
    assert len(found) == 31 * state["videos"]
    if state.get("complete") is False:
        with pytest.raises(FrameStoreError, match="incomplete: "):
            FrameStore(store)
    return int(state["videos"])


def finish_and_compare(folder: Path, store: Path, whole: dict[bytes, bytes]) -> None:
    assert frame2lmdb.main(arguments(folder, store)) == 0
    assert contents(store) == whole
    shutil.rmtree(store)


def test_a_killed_worker_costs_nothing(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """SIGKILL to a worker of four (FR-09): the command ends, and the video is tried again."""
    folder, whole = many
    process = start(*arguments(folder, tmp_path / "s", "--num_workers", "4"), dawdles="0.05")
    workers: list[int] = []

    def found() -> bool:
        workers[:] = [pid for child in children(process.pid) for pid in children(child)] or []
        return len(workers) >= 4

    wait_for(found)
    time.sleep(0.3)
    os.kill(workers[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert contents(tmp_path / "s") == whole


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def test_crashes_and_endless_loops_cost_one_video(videos: Path, tmp_path: Path) -> None:
    """A decoder that dies or loops for one id (X-01): that id is named, the others are stored."""
    process = start(*arguments(videos, tmp_path / "s", "--timeout", "2"), dies="a", loops="e")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert failures(tmp_path / "s") == {"a": "crashed", "e": "timeout"}
    assert set(FrameStore(tmp_path / "s").video_ids()) == {"-b.c_1", "视频 d"}


def test_it_works_in_little_address_space_and_with_a_small_map(videos: Path, tmp_path: Path) -> None:
    """`ulimit -v` of about 8 GB, and a first map of 64 kB (FR-12)."""
    line = f'ulimit -v 8000000; exec {" ".join(map(_quote, TOOL))} "$@"'
    argv = arguments(videos, tmp_path / "s", "--map_size", "65536")
    done = subprocess.run(["bash", "-c", line, "bash", *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(FrameStore(tmp_path / "s").video_ids())) == 4


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def test_a_full_disk_is_said_and_survived(many: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    folder, whole = many
    line = f'ulimit -f 1000; exec {" ".join(map(_quote, TOOL))} "$@"'
    argv = arguments(folder, tmp_path / "s")
    done = subprocess.run(["bash", "-c", line, "bash", *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "stored so far are kept" in done.stderr and "Traceback" not in done.stderr
    assert frame2lmdb.main(argv) == 0
    assert contents(tmp_path / "s") == whole


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


def test_names_that_are_no_text_are_bad_ids(videos: Path, tmp_path: Path) -> None:
    (videos / os.fsdecode(b"caf\xe9.mp4")).write_bytes((videos / "a.mp4").read_bytes())
    assert frame2lmdb.main(arguments(videos, tmp_path / "s")) == 1
    assert list(failures(tmp_path / "s").values()) == ["bad id"]
    assert len(list(FrameStore(tmp_path / "s").video_ids())) == 4


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
