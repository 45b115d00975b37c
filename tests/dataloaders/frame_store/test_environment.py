"""LMDB environments for reading: options, one per process, short files, locks after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import pytest

from dataloaders.frame_store import environment as module
from dataloaders.frame_store.environment import ReadOnlyEnvironment, check_length, shared_environment
from dataloaders.frame_store.format import DATA_FILE, FrameStoreError


def made(path: Path, **options: Any) -> Path:
    with lmdb.open(str(path), lock=False, map_size=1 << 22, **options) as env, env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    return path


@pytest.mark.parametrize("subdir", [True, False])
def test_a_store_is_opened_to_read_without_locks(subdir: bool, tmp_path: Path) -> None:
    path = made(tmp_path / "s", subdir=subdir)
    before = sorted(tmp_path.rglob("*"))
    environment = ReadOnlyEnvironment(str(path))
    with environment.begin() as txn:
        value = txn.get(b"key")
        assert isinstance(value, memoryview) and bytes(value) == b"value"  # not a copy
    assert environment._env is not None
    flags = environment._env.flags()
    assert flags["readonly"] and not flags["lock"] and not flags["readahead"] and flags["subdir"] == subdir
    assert sorted(tmp_path.rglob("*")) == before


def test_it_is_opened_once_in_a_process_and_again_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = ReadOnlyEnvironment(str(made(tmp_path / "s")))
    first = environment._open()
    with environment.begin():
        assert environment._env is first
    assert environment._open() is first
    with monkeypatch.context() as child:
        child.setattr(module, "os", SimpleNamespace(**{**vars(os), "getpid": lambda: os.getpid() + 1}))
        with environment.begin() as txn:
            assert txn.get(b"key") == b"value"
        second = environment._env
        assert second is not first and environment._pid == os.getpid() + 1
    with pytest.raises(lmdb.Error, match=r"[Cc]losed"):
        first.begin()


def test_a_map_that_has_become_too_small_is_enlarged() -> None:
    """To the size of the data: that is what LMDB makes of 0."""
    calls: list[Any] = []

    class Grown:
        def begin(self, **options: Any) -> str:
            calls.append(options)
            if len(calls) == 1:
                raise lmdb.MapResizedError
            return "transaction"

        def set_mapsize(self, size: int) -> None:
            calls.append(size)

    environment: Any = ReadOnlyEnvironment("s")
    environment._env, environment._pid = Grown(), os.getpid()
    assert environment.begin() == "transaction"
    assert calls == [{"buffers": True}, 0, {"buffers": True}]


def _closing(closed: list[bool]) -> Any:
    return SimpleNamespace(
        stat=lambda: {"psize": 4096}, info=lambda: {"last_pgno": 99}, close=lambda: closed.append(True)
    )


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_file_may_lack_64_pages(in_folder: bool, tmp_path: Path) -> None:
    path = tmp_path if in_folder else tmp_path / DATA_FILE
    closed: list[bool] = []
    (tmp_path / DATA_FILE).write_bytes(bytes(36 * 4096))
    check_length(_closing(closed), path)
    assert not closed
    (tmp_path / DATA_FILE).write_bytes(bytes(36 * 4096 - 1))
    message = f"^frame store {path}: cut off: 147455 bytes of 409600; copy it again$"
    with pytest.raises(FrameStoreError, match=message):
        check_length(_closing(closed), path)
    assert closed == [True]


def test_a_cut_off_single_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frames.lmdb"
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 22) as env,
        env.begin(write=True) as txn,
    ):
        txn.put(b"key", bytes(1 << 20))
    os.truncate(path, 1 << 19)
    with pytest.raises(FrameStoreError, match=f"^frame store {path}: cut off: {1 << 19} bytes of "):
        ReadOnlyEnvironment(str(path)).begin()
    os.truncate(path, 0)
    (tmp_path / DATA_FILE).touch()
    for empty in (path, tmp_path):
        with pytest.raises(FrameStoreError, match=f"^frame store {empty}: incomplete: nothing stored yet"):
            ReadOnlyEnvironment(str(empty)).begin()


def test_locks_that_were_held_at_a_fork_are_new_in_the_child(tmp_path: Path) -> None:
    path = made(tmp_path / "s")
    environment = shared_environment(path)
    environment._lock.acquire()
    module._environments_lock.acquire()
    module._renew_locks_after_fork()

    found: list[ReadOnlyEnvironment] = []

    def use() -> None:
        found.append(shared_environment(path))
        with found[0].begin():
            pass

    _within_seconds(use)
    assert found == [environment]


def _within_seconds(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for a lock"
