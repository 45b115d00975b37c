"""Videos that wait to be put into the frame store of the same folder: one zip file each, in STORE/loose.

LMDB allows one writer, and on a file system that several machines share not even safe readers beside it. So
while a run decodes videos, all its processes add files here, each under a temporary name until it is
complete; later one process alone puts them into the store. Two processes that decode the same video write the
same bytes, so it does not matter which of them is last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import file_errors
from dataloaders.frame_store.format import from_json, to_json
from dataloaders.frame_store.writer import FrameStoreWriter

FOLDER = "loose"
_RECORD = "video.json"
_SUFFIX, _UNFINISHED = ".zip", ".tmp"
_COMMIT_EVERY = 64  # videos: their files are removed only after that
# What reading a damaged or absent zip file raises.
_DAMAGED = (
    *(OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


@dataclass(frozen=True)
class Merged:
    """What was put into a store: `videos`; `unusable`, files that were damaged or of other settings."""

    videos: int = 0
    unusable: int = 0


class LooseVideos:
    """The loose videos of the store in folder `store`; those with other `settings` count as absent."""

    def __init__(self, store: Path, settings: dict[str, Any]) -> None:
        self._folder = store / FOLDER
        self._settings = settings

    def put(self, video_id: str, jpegs: Sequence[bytes], *, record: dict[str, Any]) -> None:
        """Add all frames of a video with its manifest record. Raises `FileError`, as for a full disk."""
        path = self._path(video_id)
        temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{_UNFINISHED}")
        record = {**record, "frames": len(jpegs)}
        content = to_json({"video_id": video_id, "settings": self._settings, "record": record})
        with file_errors(path, "cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with zipfile.ZipFile(temporary, "w") as file:
                    file.writestr(_RECORD, content)
                    for index, jpeg in enumerate(jpegs):
                        file.writestr(_name(index), jpeg)
                os.replace(temporary, path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def read_jpegs(self, video_id: str, indices: Sequence[int]) -> list[bytes] | None:
        """The JPEGs of the frames `indices`; None if the video is not here."""
        found = self._load(self._path(video_id), indices)
        return None if found is None else found[1]

    def record(self, video_id: str) -> dict[str, Any] | None:
        """The manifest record of a video; None if the video is not here."""
        found = self._load(self._path(video_id), ())
        return None if found is None else found[0]["record"]

    def __contains__(self, video_id: str) -> bool:
        return self.record(video_id) is not None

    def __bool__(self) -> bool:
        """Whether any file is here."""
        return next(self._files(), None) is not None

    def merge_into(self, writer: FrameStoreWriter) -> Merged:
        """Put all videos into the store, and remove their files. Nobody else may read the store meanwhile.

        A kill loses nothing: a file goes after its video is committed. Raises `FrameStoreWriteError` if the
        disk is full; then too, what was not committed stays here.
        """
        videos, unusable, done = 0, 0, list[Path]()
        for path in self._files():
            added = path.suffix == _SUFFIX and self._merge_file(path, writer)
            videos += added
            unusable += path.suffix == _SUFFIX and not added
            done.append(path)
            if len(done) >= _COMMIT_EVERY:
                _remove_after_commit(done, writer)
                done = []
        _remove_after_commit(done, writer)
        for folder in [*self._folder.glob("*"), self._folder]:
            with contextlib.suppress(OSError):  # not empty: a process still writes
                folder.rmdir()
        return Merged(videos, unusable)

    def _merge_file(self, path: Path, writer: FrameStoreWriter) -> bool:
        found = self._load(path, None)
        if found is None:
            return False
        content, jpegs = found
        if content["video_id"] not in writer:
            writer.put(content["video_id"], jpegs, record=content["record"])
        return True

    def _load(self, path: Path, indices: Sequence[int] | None) -> tuple[dict[str, Any], list[bytes]] | None:
        """What a file says of its video, and the JPEGs of the frames `indices` (None: of all).

        None if the file is absent, damaged or of other settings: the video is decoded again.
        """
        try:
            with zipfile.ZipFile(path) as file:
                content = from_json(file.read(_RECORD))
                if content is None or content["settings"] != self._settings:
                    return None
                chosen = range(len(file.namelist()) - 1) if indices is None else indices
                return content, [file.read(_name(index)) for index in chosen]
        except _DAMAGED:
            return None

    def _files(self) -> Iterator[Path]:
        """All files, also those that a killed process left unfinished."""
        if self._folder.is_dir():
            for folder in sorted(self._folder.iterdir()):
                yield from sorted(folder.iterdir())

    def _path(self, video_id: str) -> Path:
        # An id may hold what no name of a file can, or be longer.
        name = hashlib.sha256(video_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        return self._folder / name[:2] / f"{name}{_SUFFIX}"


def count_loose(store: Path) -> int:
    """The number of files of loose videos of the store in a folder, whatever their settings."""
    return sum(1 for _ in (store / FOLDER).glob(f"*/*{_SUFFIX}"))


def _name(index: int) -> str:
    return f"{index:05d}.jpg"


def _remove_after_commit(paths: Sequence[Path], writer: FrameStoreWriter) -> None:
    writer.commit()
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
