"""Build a frame store: list the videos, decode them in a pool of processes, write them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from common.errors import UserError, file_errors
from dataloaders.datasets.files import name_some
from dataloaders.frame_store.format import (
    DATA_FILE,
    FAILURES_FILE,
    FrameStoreError,
    check_video_id,
    differences,
)
from dataloaders.frame_store.loose_videos import LooseVideos
from dataloaders.frame_store.presence import users_of
from dataloaders.frame_store.reader import FrameStore
from dataloaders.frame_store.writer import FrameStoreWriter, write_metadata
from tools.store.progress import BuildResult, Report, StopSignals
from tools.store.remarks import MIN_DECODED, Remarks
from tools.store.shards import Shard
from video.file_names import UNKNOWN, rank_of
from video.listing import VideoFolder, Wanted, list_folder, read_list
from video.sample import Job, Settings, probe, run_job
from video.sampling import VideoError, Window
from video.video_files import describe_left_out
from video.worker_pool import Fault, Output, WorkerPool

_COMMIT_EVERY = 2.0  # seconds of work that a kill can lose
_PROBED = 16  # files that are opened before the work starts
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class BuildOptions:
    """What to build and how: the flags of `tools/frame2lmdb.py` with the same names."""

    video_dir: Path
    lmdb_path: Path
    json_path: Path | None = None
    settings: Settings = field(default_factory=Settings)
    num_workers: int = 1
    timeout: float = 300.0
    shard: Shard | None = None
    overwrite: bool = False
    clip_from_id: bool = False
    strict: bool = False
    min_decoded: float = MIN_DECODED
    map_size: int = 64 << 20
    first_seconds: float | None = None

    @property
    def folder(self) -> Path:
        """The folder that this process writes to: the store, or its shard of it."""
        return self.lmdb_path / self.shard.folder if self.shard else self.lmdb_path


def build(options: BuildOptions, *, say: Callable[[str], None], quiet: bool = False) -> BuildResult:
    """Store the videos that are not stored yet; with `quiet` without progress.

    Raises `UserError` if it cannot start and `FrameStoreWriteError` if the disk is full.
    """
    folder = VideoFolder(options.video_dir)
    _check_place(options)
    if users := users_of(options.folder):
        raise UserError(
            f"{options.folder}: is the --frame_cache of a run ({users[0]}); wait until it ends, or "
            "five minutes if it was killed"
        )
    wanted = _listed(options, folder, say)
    say(f"{len(wanted)} videos to store in {options.folder}, {options.settings.num_frames} frames each")
    writer = FrameStoreWriter(
        options.folder,
        settings=options.settings.as_record(),
        map_size=options.map_size,
        overwrite=options.overwrite,
    )
    try:
        _add_loose(options, writer, say)
        remarks = Remarks(min_decoded=options.min_decoded)
        todo = [entry for entry in wanted if not _stored(writer, entry, remarks)]
        result = BuildResult(listed=len(wanted), stored_before=len(wanted) - len(todo))
        failures = options.folder / FAILURES_FILE
        with file_errors(failures, "cannot be removed"):
            failures.unlink(missing_ok=True)
        with StopSignals() as signals:
            if todo:
                writer.expect(writer.videos + len(todo))
                run = _Build(options, folder, writer, result, remarks, signals=signals, quiet=quiet)
                run.run(todo, say=say)
            for line in remarks.lines():
                say(line)
            result.stopped_by = signals.received
            if not result.stopped_by:
                writer.finish(failed=sum(result.failed.values()))
    finally:
        writer.close()
    if options.shard and not result.stopped_by:
        _finish_shards(options.lmdb_path)
    return result


def _add_loose(options: BuildOptions, writer: FrameStoreWriter, say: Callable[[str], None]) -> None:
    """Add what runs with --frame_cache have decoded and not yet put into the store."""
    merged = LooseVideos(options.folder, options.settings.as_record()).merge_into(writer)
    if merged.videos:
        say(f"{merged.videos} videos that runs with --frame_cache have decoded are added")


def _listed(options: BuildOptions, folder: VideoFolder, say: Callable[[str], None]) -> list[Wanted]:
    if options.json_path is not None:
        wanted = read_list(options.json_path, clip_from_id=options.clip_from_id)
        folder.check_names(wanted)
    else:
        wanted = list_folder(
            folder,
            clip_from_id=options.clip_from_id,
            workers=options.num_workers,
            timeout=options.timeout,
        )
        if folder.left_out:
            say(f"left out, no videos: {describe_left_out(folder.left_out)}")
    if folder.same_name:
        text = f"another video has the same name: {_some(folder.same_name)}"
        if options.strict:
            raise UserError(f"{folder.path}: {text}; --strict allows one video for each name")
        say(f"left out, {text}")
    if folder.other_form:
        say(f"found, with another Unicode form of the name: {_some(folder.other_form)}")
    mine = [entry for entry in wanted if options.shard is None or options.shard.holds(entry.video_id)]
    if options.first_seconds is None:
        return mine
    return [replace(entry, window=entry.window.cut_to(options.first_seconds)) for entry in mine]


def _some(names: list[str]) -> str:
    """The number of names, and the first of them."""
    return f"{len(names)} ({name_some(names, _SHOWN)})"


def _check_place(options: BuildOptions) -> None:
    path, shard = options.lmdb_path, options.shard
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; --lmdb_path must be a folder or a new name")
    shards = sorted(path.glob("shard-*-of-*")) if path.is_dir() else []
    if shard is None and shards:
        raise UserError(
            f"{path}: holds a store of shards; continue with --shard, or choose another --lmdb_path"
        )
    if shard is not None and (path / DATA_FILE).exists():
        raise UserError(f"{path}: holds a store without shards; choose another --lmdb_path")
    _check_number(path, shards, shard)
    if not options.overwrite:
        _check_settings(options, shards)


def _check_number(path: Path, shards: list[Path], shard: Shard | None) -> None:
    other = next((other for other in shards if shard and not other.name.endswith(shard.folder[-9:])), None)
    if other is not None:
        raise UserError(
            f"{path}: was started with another number of shards ({other.name}); --shard must keep it"
        )


def _check_settings(options: BuildOptions, shards: list[Path]) -> None:
    """The other shards of a store must have the same settings."""
    wanted = options.settings.as_record()
    for other in shards:
        if other == options.folder:
            continue  # the writer opens it and checks it
        try:
            state = FrameStore(other, allow_incomplete=True).states()[0]
        except FrameStoreError:
            continue  # another process is about to make it
        if state and state["settings"] != wanted:
            raise UserError(f"{other}: made with other settings: {differences(state['settings'], wanted)}")


def _finish_shards(path: Path) -> None:
    """Write the store's `metadata.json` once all shards are complete."""
    try:
        states = FrameStore(path).states()
    except FrameStoreError:
        return  # other processes are still at work
    write_metadata(path, videos=sum(state["videos"] for state in states if state))


def _stored(writer: FrameStoreWriter, entry: Wanted, remarks: Remarks) -> bool:
    """Whether a video is stored already. Raises `UserError` if another part of it is stored."""
    try:
        check_video_id(entry.video_id)
    except UserError:
        return False
    record = writer.record(entry.video_id)
    if record is None:
        return False
    remarks.look_at(entry.video_id, record)
    start, end = record.get("start"), record.get("end")
    stored = Window(start or 0.0, inf if end is None else end)
    # A file that is named like the part may have been the part alone.
    own_file = entry.file_id != entry.video_id and record.get("file", "").startswith(f"{entry.video_id}.")
    if stored != entry.window and not (own_file and stored.is_whole_video):
        raise UserError(
            f"frame store {writer.path}: it has {stored} of {entry.video_id!r}, but {entry.window} are "
            "wanted; choose another --lmdb_path, or add --overwrite"
        )
    return True


class _Build:
    """One run of the pool over the videos that are not stored yet."""

    def __init__(
        self,
        options: BuildOptions,
        folder: VideoFolder,
        writer: FrameStoreWriter,
        result: BuildResult,
        remarks: Remarks,
        *,
        signals: StopSignals,
        quiet: bool,
    ) -> None:
        self._options = options
        self._folder = folder
        self._writer = writer
        self._result = result
        self._remarks = remarks
        self._signals = signals
        self._quiet = quiet

    def run(self, todo: list[Wanted], *, say: Callable[[str], None]) -> None:
        """Store the videos. Commits also by time, so that a kill loses little."""
        workers = min(self._options.num_workers, len(todo))
        with WorkerPool(_work, workers=workers, timeout=self._options.timeout) as pool:
            if not self._quiet:
                say(self._probe(pool, todo))
            with Report(self._options.folder / FAILURES_FILE, self._result, quiet=self._quiet) as report:
                committed = time.monotonic()
                for job, outcome in pool.run(self._jobs(todo, report), stop=self._stop):
                    self._take(job, outcome, report)
                    if time.monotonic() - committed > _COMMIT_EVERY:
                        self._writer.commit()
                        committed = time.monotonic()
        self._writer.commit()

    def _stop(self) -> bool:
        return bool(self._signals.received)

    def _take(self, job: Job | Path, outcome: Output | Fault, report: Report) -> None:
        assert isinstance(job, Job)
        answer = _answer(outcome)
        if isinstance(answer, VideoError):
            report.failed(job.video_id, job.path, answer)
        else:
            record, jpegs = answer
            self._writer.put(job.video_id, jpegs, record=record)
            self._remarks.look_at(job.video_id, record)
            report.stored(record["bytes"])

    def _jobs(self, todo: list[Wanted], report: Report) -> Iterator[Job | Path]:
        """The jobs for the workers; videos without a valid id or file are reported as failed."""
        for entry in todo:
            if entry.problem:
                report.failed(entry.video_id, None, VideoError("bad id", entry.problem))
                continue
            try:
                check_video_id(entry.video_id)
            except UserError as error:
                report.failed(entry.video_id, None, VideoError("bad id", str(error)))
                continue
            path, own_file = self._folder.file_of(entry)
            if path is None:
                tried = dict.fromkeys([entry.file_id, entry.video_id])
                names = " or ".join(name if rank_of(name) < UNKNOWN else f"{name}.*" for name in tried)
                others = self._folder.left_out_with_name(entry.file_id)
                there = f"; there is {', '.join(others[:_SHOWN])}" if others else ""
                missing = VideoError("missing", f"no video {names} in {self._folder.path}{there}")
                report.failed(entry.video_id, None, missing)
            else:
                yield Job(entry.video_id, path, entry.window, self._options.settings, own_file)

    def _probe(self, pool: WorkerPool[Any], todo: list[Wanted]) -> str:
        """The codecs of a sample of the files, and which do not decode here, before hours of work."""
        chosen = todo[:: max(1, len(todo) // _PROBED)][:_PROBED]
        paths = [path for path, _ in map(self._folder.file_of, chosen) if path is not None]
        codecs: Counter[str] = Counter()
        for _, outcome in pool.run(paths, stop=self._stop):
            answer = _answer(outcome)
            codecs[answer.reason if isinstance(answer, VideoError) else answer[0]] += 1
        names = ", ".join(f"{count} {name}" for name, count in codecs.most_common())
        return f"a sample of {len(paths)} files: {names or 'none of them exists'}"


def _work(task: Job | Path) -> Output:
    return run_job(task) if isinstance(task, Job) else probe(task)


def _answer(outcome: Output | Fault) -> Output | VideoError:
    if isinstance(outcome, Fault):
        reason = "timeout" if outcome.reason == "timeout" else "crashed"
        return VideoError(reason, outcome.message)
    return outcome[0] if isinstance(outcome[0], VideoError) else outcome
