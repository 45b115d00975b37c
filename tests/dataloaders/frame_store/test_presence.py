"""A run changes a store that it adds to only while it is the only one that uses it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dataloaders.frame_store import presence
from dataloaders.frame_store.presence import FOLDER, TOO_OLD, Presence, users_of


def joined(store: Path) -> Presence:
    run = Presence(store)
    run.join(waiting=lambda _: None)
    return run


def test_only_one_that_is_alone_may_change_the_store(tmp_path: Path) -> None:
    one = joined(tmp_path)
    with one.alone() as alone:
        assert alone
    other = joined(tmp_path)
    for run in (one, other):
        with run.alone() as alone:
            assert not alone
    assert len(users_of(tmp_path)) == 2
    other.leave()
    with one.alone() as alone:
        assert alone
    one.leave()
    assert not (tmp_path / FOLDER).exists() and users_of(tmp_path) == []


def test_who_comes_while_the_store_changes_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_LOOK_EVERY", 0.01)
    one, other = joined(tmp_path), Presence(tmp_path)
    told, has_joined = list[str](), threading.Event()

    def join() -> None:
        other.join(waiting=told.append)
        has_joined.set()

    thread = threading.Thread(target=join)
    with one.alone() as alone:
        assert alone
        thread.start()
        while not told:
            pass
        assert not has_joined.is_set()
    thread.join(20)
    assert has_joined.is_set() and len(told) == 1
    one.leave()
    other.leave()


def test_two_that_want_to_change_the_store_at_once_both_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = joined(tmp_path), joined(tmp_path)
    monkeypatch.setattr(one, "others", iter([[], ["other"]]).__next__)  # the other came between the two looks
    with one.alone() as alone:
        assert not alone
    one.leave()
    other.leave()


def test_the_file_of_a_killed_run_is_soon_too_old(tmp_path: Path) -> None:
    killed = joined(tmp_path)
    killed._ended.set()
    os.utime(killed._file, (1, os.stat(killed._file).st_mtime - TOO_OLD - 5))
    run = joined(tmp_path)
    assert run.others() == []
    with run.alone() as alone:
        assert alone
    run.leave()
    assert not (tmp_path / FOLDER).exists()


def test_a_run_touches_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "TOUCH_EVERY", 0.01)
    run = joined(tmp_path)
    os.utime(run._file, (1, 1))
    while os.stat(run._file).st_mtime < 2:
        pass
    run.leave()
