"""Frames that were decoded once, kept in a frame store: `--frame_cache`.

While a run lives, its processes add videos as files beside the store (loose_videos.py), on any number of
machines. One process, `CacheOwner`, puts them into the store at the end of the run, with what killed runs
have left, if no other run uses the folder. After that the folder is an ordinary frame store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import FileError, UserError, file_errors
from common.locks import FileLock
from dataloaders.frame_store.environment import shared_environment
from dataloaders.frame_store.format import DATA_FILE, LOCK_FILE, differences
from dataloaders.frame_store.loose_videos import LooseVideos, Merged
from dataloaders.frame_store.presence import Presence
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter

logger = logging.getLogger(__name__)


class FrameCache:
    """The cached videos in the folder `path`, which all have the `settings` of a store. Any process may add.

    The store is opened with the first question; `CacheOwner.open` comes before.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._loose = LooseVideos(path, settings)
        self._store: FrameStore | None = None
        self._is_open = False
        self._is_full = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None, "_is_open": False}

    def __contains__(self, video_id: str) -> bool:
        store = self._open()
        return (store is not None and video_id in store) or video_id in self._loose

    def record(self, video_id: str) -> dict[str, Any] | None:
        """The manifest record of a video; None if it is not cached."""
        store = self._open()
        record = store.manifest(video_id) if store is not None else None
        return record if record is not None else self._loose.record(video_id)

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes] | None:
        """The JPEGs of some frames of a video; None if it is not cached. Raises `FrameStoreError`."""
        store = self._open()
        if store is not None and video_id in store:
            return store.read_jpegs(video_id, indices)
        return self._loose.read_jpegs(video_id, indices)

    def put(self, video_id: str, jpegs: Sequence[bytes], *, record: dict[str, Any]) -> None:
        """Add all frames of a video. Where that fails, as on a full disk, this process adds no more."""
        if self._is_full:
            return
        try:
            self._loose.put(video_id, jpegs, record=record)
        except FileError as error:
            self._is_full = True
            logger.warning("the frame cache gets no more videos from this process: %s", error)

    def _open(self) -> FrameStore | None:
        """The store; None on another machine's own disk, where no process has made one."""
        if not self._is_open:
            self._is_open = True
            if (self.path / DATA_FILE).is_file():
                self._store = FrameStore(self.path, allow_incomplete=True)
        return self._store


class CacheOwner:
    """The process of a run that puts its loose videos into the store. Any other reads and adds only.

    `open` before the run reads from the cache, `close` after all its processes have ended reading.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, say: Callable[[str], None]) -> None:
        self._path = path
        self._settings = settings
        self._say = say
        self._presence = Presence(path)

    def open(self) -> None:
        """Make the store if there is none. What earlier runs have left is read as it is.

        Raises `UserError` if the folder holds a store of other settings, in shards or without manifests, if
        another process builds it, or if it cannot be written.
        """
        with file_errors(f"--frame_cache {self._path}", "cannot be made"):
            self._path.mkdir(parents=True, exist_ok=True)
        if any(self._path.glob("shard-*-of-*")):
            raise UserError(f"--frame_cache {self._path}: holds a store in shards; give another folder")
        self._presence.join(waiting=self._tell_waiting)
        try:
            if (self._path / DATA_FILE).is_file():
                self._check()
            else:
                FrameStoreWriter(self._path, settings=self._settings).close()
        except BaseException:
            self._presence.leave()
            raise

    def close(self, *, merge: bool) -> None:
        """Leave the folder; with `merge`, put in all loose videos, if no other run uses the folder.

        This may take as long as copying them, so no other rank may wait for it.
        """
        try:
            if merge and (LooseVideos(self._path, self._settings) or not self._is_complete()):
                self._merge()
        finally:
            self._presence.leave()

    def _check(self) -> None:
        FileLock(self._path / LOCK_FILE).release()  # raises if tools/frame2lmdb.py is at work
        (state,) = FrameStore(self._path, allow_incomplete=True).states()
        if state is None:
            raise UserError(
                f"--frame_cache {self._path}: a store without manifests, to which nothing can be added; "
                "use it with --frames_from store, or give another folder"
            )
        if state["settings"] != self._settings:
            raise UserError(
                f"--frame_cache {self._path}: made with other settings: "
                f"{differences(state['settings'], self._settings)}; give another folder"
            )

    def _is_complete(self) -> bool:
        return all(
            state is None or state["complete"]
            for state in FrameStore(self._path, allow_incomplete=True).states()
        )

    def _merge(self) -> None:
        with self._presence.alone() as alone:
            if not alone:
                others = ", ".join(self._presence.others()[:3])
                self._say(
                    f"frame cache {self._path}: other runs use it, or were killed in the last minutes "
                    f"({others}): its new videos stay files, and the last run to end, or the next one, puts "
                    "them into the store"
                )
                return
            shared_environment(self._path).close()  # LMDB allows a file to be open once in a process
            with FrameStoreWriter(self._path, settings=self._settings) as writer:
                merged = LooseVideos(self._path, self._settings).merge_into(writer)
                self._say(_describe(self._path, merged, writer.videos))

    def _tell_waiting(self, other: str) -> None:
        self._say(f"frame cache {self._path}: waiting for {other}, which puts videos into it")


def _describe(path: Path, merged: Merged, videos: int) -> str:
    text = f"frame cache {path}: a frame store of {videos:,} videos, {merged.videos:,} of them new"
    if merged.unusable:
        text += f"; {merged.unusable:,} files of other settings, or damaged, are removed"
    return text
