"""Where the videos of an index come from: a folder with its subfolders, or a frame store.

A source lists its videos with a signature (size, time of change, digest of the contents), by which the
indexer finds what is new or changed, and decodes their clips.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from common.errors import UserError
from dataloaders.frame_store.format import FrameStoreError
from dataloaders.frame_store.reader import FrameStore
from dataloaders.transforms import FrameSize
from search.clips import Clip, ClipError, Part, clip_of_store
from search.index_format import VideoRecord
from search.moments.cutting import Cutting
from search.moments.decoder import Decoder
from video.file_names import HIDDEN, OTHER, UNKNOWN, kind_left_out, rank_of
from video.listing import VideoFolder
from video.video_files import videos_by_content

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_READ = 1 << 20


@dataclass(frozen=True)
class SourceVideo:
    """A video of a source: its id there, file (None: frames only), size in bytes, time of change."""

    name: str
    path: Path | None
    size: int
    mtime_ns: int


class Source(Protocol):
    """A place with videos."""

    name: str
    unread: list[tuple[str, str]]
    """After `list`: (prefix of ids, reason) of the subfolders that could not be read."""
    left_out: Counter[str]
    """After `list`: how many files are no videos, by extension or reason."""

    def list(self) -> list[SourceVideo]:
        """All videos, by id."""
        ...

    def digest(self, video: SourceVideo) -> str:
        """SHA-256 of a video's contents. Raises `ClipError`."""
        ...

    def clips(
        self, wanted: Iterable[SourceVideo], *, frames: int, size: FrameSize, cutting: Cutting
    ) -> Iterator[tuple[SourceVideo, Clip | Part | ClipError]]:
        """Each video with its clip, with the parts of a long one, or with its error, in any order."""
        ...


class FolderSource:
    """The video files under a folder; the id is the path from there, such as "holiday/beach.mp4".

    Hidden files and folders are left out, links to folders are not followed. Raises `UserError` if there is
    no such folder.
    """

    def __init__(self, folder: Path, *, workers: int = 1, timeout: float = 300.0) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of videos (--video_dir)")
        self.folder = folder.resolve()
        self.name = str(self.folder)
        self.unread: list[tuple[str, str]] = []
        self.left_out: Counter[str] = Counter()
        self._workers = workers
        self._timeout = timeout

    def list(self) -> list[SourceVideo]:
        self.unread.clear()
        self.left_out.clear()
        videos: list[SourceVideo] = []
        unknown: list[SourceVideo] = []
        for place, folders, names in os.walk(self.folder, onerror=self._skip):
            self.left_out.update(HIDDEN for name in folders if name.startswith("."))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                rank = OTHER if name.startswith(".") else rank_of(name)
                video = self._entry(Path(place, name)) if rank < OTHER else None
                if video is None:
                    self.left_out[kind_left_out(name)] += 1
                else:
                    (unknown if rank == UNKNOWN else videos).append(video)
        paths = [video.path for video in unknown if video.path is not None]
        by_content = videos_by_content(paths, workers=self._workers, timeout=self._timeout)
        self.left_out.update(kind_left_out(path.name) for path in paths if path not in by_content)
        videos += [video for video in unknown if video.path in by_content]
        return sorted(videos, key=lambda video: video.name) if by_content else videos

    def _entry(self, path: Path) -> SourceVideo | None:
        """The entry of a regular file; None for a broken link, or a pipe, which would block its reader."""
        try:
            status = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        name = path.relative_to(self.folder).as_posix()
        return SourceVideo(name, path, status.st_size, status.st_mtime_ns)

    def _skip(self, error: OSError) -> None:
        folder = Path(error.filename).relative_to(self.folder).as_posix()
        self.unread.append(("" if folder == "." else f"{folder}/", error.strerror or "cannot be read"))

    def digest(self, video: SourceVideo) -> str:
        """SHA-256 of the file. Raises `ClipError` if it changed since it was listed."""
        assert video.path is not None
        digest = hashlib.sha256()
        try:
            with open(video.path, "rb") as file:
                while data := file.read(_READ):
                    digest.update(data)
                status = os.fstat(file.fileno())
        except OSError as error:
            raise ClipError("unreadable", f"{video.path}: {error.strerror}") from None
        if (status.st_size, status.st_mtime_ns) != (video.size, video.mtime_ns):
            # Its frames may be older than this digest, and a later run would not notice.
            raise ClipError("changed", f"{video.path}: was written to during indexing; index again")
        return digest.hexdigest()

    def clips(
        self, wanted: Iterable[SourceVideo], *, frames: int, size: FrameSize, cutting: Cutting
    ) -> Iterator[tuple[SourceVideo, Clip | Part | ClipError]]:
        """Decoded by a pool of processes: a file that crashes or hangs its process does not affect the
        others."""
        by_path = {video.path: video for video in wanted if video.path is not None}
        decoder = Decoder(by_path, frames=frames, size=size, cutting=cutting)
        for path, clip in decoder.run(workers=self._workers, timeout=self._timeout):
            yield by_path[path], clip


class StoreSource:
    """The videos of a frame store; `videos` is the folder with their files, if the page should play them."""

    def __init__(self, store: Path, *, videos: Path | None = None) -> None:
        self._store = FrameStore(store)
        self._files = VideoFolder(videos) if videos is not None else None
        self.name = str(store.resolve())
        self.unread: list[tuple[str, str]] = []
        self.left_out: Counter[str] = Counter()

    def list(self) -> list[SourceVideo]:
        videos = []
        for video_id in self._store.video_ids():
            path = self._files.find(video_id) if self._files is not None else None
            size = int((self._store.manifest(video_id) or {}).get("bytes", 0))
            videos.append(SourceVideo(video_id, path.resolve() if path else None, size, 0))
        return videos

    def digest(self, video: SourceVideo) -> str:
        """SHA-256 of the manifest and the frames."""
        manifest = self._store.manifest(video.name)
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
        try:
            count = self._store.num_frames(video.name)
            for jpeg in self._store.read_jpegs(video.name, np.arange(count)):
                digest.update(jpeg)
        except FrameStoreError as error:
            raise ClipError("unreadable", str(error)) from None
        return digest.hexdigest()

    def clips(
        self, wanted: Iterable[SourceVideo], *, frames: int, size: FrameSize, cutting: Cutting
    ) -> Iterator[tuple[SourceVideo, Clip | Part | ClipError]]:
        """Stored frames are few, so that videos of any length are one clip."""
        for video in wanted:
            try:
                yield video, clip_of_store(self._store, video.name, frames=frames, size=size)
            except ClipError as error:
                yield video, error


def record_of(
    source: Source, video: SourceVideo, *, video_id: str, digest: str, clip: Clip | None = None
) -> VideoRecord:
    """The record of a listed video, with the times and duration of its clip."""
    return VideoRecord(
        video_id=video_id,
        source=source.name,
        path=str(video.path) if video.path is not None else None,
        size=video.size,
        mtime_ns=video.mtime_ns,
        digest=digest,
        duration=clip.duration if clip else None,
        times=clip.times if clip else (),
        name="" if video_id == video.name else video.name,
    )


def open_sources(
    video_dir: Paths | None, store: str | os.PathLike[str] | None, *, workers: int = 1, timeout: float = 300.0
) -> list[Source]:
    """The sources at these paths (--video_dir, --store). Raises `UserError` if there is none.

    With a store, `video_dir` is the folder of its files.
    """
    folders = folders_of(video_dir)
    if store is not None:
        if len(folders) > 1:
            raise UserError("--video_dir: give one folder with --store, that of its files")
        return [StoreSource(Path(store), videos=folders[0] if folders else None)]
    if not folders:
        raise UserError("nothing to index: give --video_dir or --store")
    return [FolderSource(folder, workers=workers, timeout=timeout) for folder in folders]


def folders_of(video_dir: Paths | None) -> list[Path]:
    """The folders of --video_dir, each once. Raises `UserError` if one lies in another one."""
    if video_dir is None:
        return []
    given = [video_dir] if isinstance(video_dir, str | os.PathLike) else list(video_dir)
    folders = {Path(folder).resolve(): Path(folder) for folder in given}
    for inner in folders:
        for outer in folders:
            if outer in inner.parents:
                raise UserError(f"--video_dir {folders[inner]}: is in {folders[outer]}, which is enough")
    return list(folders.values())
