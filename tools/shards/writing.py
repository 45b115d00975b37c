"""Write shards: each under a temporary name, then renamed; several processes; a second run goes on."""

from __future__ import annotations

import io
import json
import multiprocessing
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from common.atomic_files import atomic_path, write_json
from common.errors import FileError, UserError, file_errors
from common.locks import FileLock
from dataloaders.tar_shards.index import INDEX_FILE, count_shards
from tools.shards.contents import Contents, SplitTexts

PLAN_FILE = "make_shards.json"
LOCK_FILE = "make_shards.lock"
_OURS = re.compile(r"\d{6}\.tar")


@dataclass(frozen=True)
class ShardPlan:
    """Which videos each shard holds: `order` of all videos of the split, cut at `ends`."""

    folder: Path
    contents: Contents
    texts: SplitTexts
    order: list[int]
    ends: list[int]
    settings: dict[str, Any]

    @property
    def count(self) -> int:
        return len(self.ends)

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:06}.tar"

    def videos(self, shard: int) -> range:
        """Places in `order`."""
        return range(self.ends[shard - 1] if shard else 0, self.ends[shard])


@dataclass
class Made:
    """What a run has done: samples of each shard's file, and why videos are in none."""

    sizes: dict[str, int] = field(default_factory=dict)
    before: int = 0  # shards of an earlier run
    failed: list[tuple[str, str]] = field(default_factory=list)


def make_shards(plan: ShardPlan, *, workers: int, overwrite: bool, say: Callable[[str], None]) -> Made:
    """Write the shards that are not there, then the index. Raises `UserError` for a folder of others."""
    with file_errors(plan.folder, "cannot be made"):
        plan.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.folder / LOCK_FILE):
        _settle_folder(plan, overwrite=overwrite)
        done = [shard for shard in range(plan.count) if plan.path(shard).is_file()]
        todo = sorted(set(range(plan.count)) - set(done))
        made = Made(before=len(done))
        counts = count_shards([str(plan.path(shard)) for shard in done])
        made.sizes = {plan.path(shard).name: count for shard, count in zip(done, counts, strict=True)}
        for shard, samples, failed in _written(plan, todo, workers=min(workers, len(todo))):
            made.sizes[plan.path(shard).name] = samples
            made.failed += failed
            say(f"{plan.path(shard)}: {samples:,} samples; {len(made.sizes):,} of {plan.count:,} shards")
        write_json(plan.folder / INDEX_FILE, dict(sorted(made.sizes.items())), durable=True)
    return made


def _settle_folder(plan: ShardPlan, *, overwrite: bool) -> None:
    """Make the folder one of this plan, or raise `UserError`."""
    marker = plan.folder / PLAN_FILE
    if overwrite:
        with file_errors(plan.folder, "cannot be emptied"):
            for path in plan.folder.iterdir():
                if _OURS.fullmatch(path.name) or path.name == INDEX_FILE:
                    path.unlink()
    elif marker.is_file():
        try:
            with file_errors(marker):
                earlier = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            earlier = None
        if earlier != plan.settings:
            raise UserError(
                f"{plan.folder}: holds shards of other videos, texts or settings; give another --out, or "
                "--overwrite to replace them"
            )
    elif any(_OURS.fullmatch(path.name) for path in plan.folder.iterdir()):
        raise UserError(f"{plan.folder}: holds shards that this program did not make; give another --out")
    write_json(marker, plan.settings)


Written = tuple[int, int, list[tuple[str, str]]]


def _written(plan: ShardPlan, todo: list[int], *, workers: int) -> Iterator[Written]:
    if workers <= 1:
        yield from (_write(plan, shard) for shard in todo)
        return
    context = multiprocessing.get_context("spawn")  # LMDB must not be open across a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(plan,)) as pool:
        futures = [pool.submit(_write_one, shard) for shard in todo]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


_plan: ShardPlan  # of a process of the pool


def _start(plan: ShardPlan) -> None:
    global _plan
    _plan = plan


def _write_one(shard: int) -> Written:
    return _write(_plan, shard)


def _write(plan: ShardPlan, shard: int) -> Written:
    """Write one shard; returns (shard, its samples, (video id, why) of those that cannot be read)."""
    failed: list[tuple[str, str]] = []
    samples = 0
    with (
        atomic_path(plan.path(shard), durable=True) as temporary,
        open(temporary, "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for place in plan.videos(shard):
            video = plan.order[place]
            video_id = plan.texts.examples.video_ids[video]
            try:
                files = list(plan.contents.files(video_id))
            except FileError as error:
                if error.exit_code == 1:
                    raise
                failed.append((video_id, str(error)))
                continue
            except UserError as error:
                failed.append((video_id, str(error)))
                continue
            record = json.dumps(plan.texts.record(video), ensure_ascii=False).encode("utf-8", "replace")
            # A key has no dot and no slash; ids may have any. So keys are numbers, and ids are in the json.
            for suffix, data in [*files, ("json", record)]:
                _add(archive, f"{place:09}.{suffix}", data)
            samples += 1
    return shard, samples, failed


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Equal contents give equal archives: no times, no owners."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    file: IO[bytes] = io.BytesIO(data)
    archive.addfile(member, file)
