"""Where a run's frames come from: frame stores, or video files with a cache of what was decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from dataloaders.datasets.files import name_some
from dataloaders.datasets.registry import dataset_spec
from dataloaders.datasets.spec import SplitFiles
from dataloaders.datasets.splits import (
    MissingVideos,
    exclude_missing,
    is_without_prefix,
    match_store_ids,
    spread,
    with_store_durations,
)
from dataloaders.examples import Examples
from dataloaders.frame_source import FrameSource
from dataloaders.frame_store.reader import FrameStore
from engine.config import Config
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.output_folder import on_main

if TYPE_CHECKING:  # PyAV and OpenCV are loaded only where videos are decoded
    from dataloaders.video_frames.source import VideoFrames
    from video.sample import Settings

_INSPECTED = 32  # videos that are looked at before the first step
_SHOWN = 3  # videos in a message


def open_frames(config: Config, dataset: str, files: SplitFiles) -> FrameSource:
    """The frames of a split. Raises `UserError` if its store or folder of videos cannot be used."""
    if files.videos is None:
        return FrameStore(files.store)
    return _open_videos(config, files.videos, dataset_spec(dataset).first_seconds)


def _open_videos(config: Config, path: Path, first_seconds: float | None) -> VideoFrames:
    from dataloaders.video_frames.cache import FrameCache
    from dataloaders.video_frames.source import VideoFrames

    settings, folder = frame_settings(config), _cache_folder(config)
    return VideoFrames(
        path,
        settings,
        timeout=config.video_timeout,
        clip_from_id=config.clip_from_id,
        first_seconds=first_seconds,
        cache=None if folder is None else FrameCache(folder, settings.as_record()),
    )


def find_videos(
    config: Config, dataset: str, files: SplitFiles, examples: Examples, log: RunLog, *, evaluates: bool
) -> tuple[Examples, MissingVideos, FrameSource]:
    """What there is of a split, with durations where they are needed; the missing videos; and the frames.

    For one rank: a million look-ups from every rank would overload the server of a network disk. Of video
    files to evaluate (`evaluates`) all are tried, and missing if they do not decode; of those to train on
    some are tried, and a warning says what fails.
    """
    frames = open_frames(config, dataset, files)
    examples = match_store_ids(examples, frames, prefix=dataset_spec(dataset).store_prefix)
    present, missing = exclude_missing(examples, frames)
    if files.videos is not None:
        assert isinstance(frames, _video_frames())
        frames.find(present.video_ids)
        frames.check_cache(spread(present.video_ids, _INSPECTED))
        log.info(_describe(config, frames))
        if evaluates:
            faults = frames.undecodable(present.video_ids, workers=config.num_thread_reader)
            keep = np.array([video_id not in faults for video_id in present.video_ids], dtype=bool)
            present, missing = present.keep_videos(keep), _with_faults(missing, faults)
        else:
            _try_some(config, frames, present, log)
    if config.frame_sample_len == "dynamic":
        present = with_store_durations(present, frames)
    return present, missing, frames


def missing_of_list(
    config: Config, dataset: str, files: SplitFiles, video_ids: Sequence[str]
) -> tuple[Sequence[str], MissingVideos, Path]:
    """(ids of a test list as its frames have them, those that are missing, and from where). For one rank."""
    frames = open_frames(config, dataset, files)
    prefix = dataset_spec(dataset).store_prefix
    if is_without_prefix(video_ids, frames, prefix=prefix):
        video_ids = [video_id.removeprefix(prefix) for video_id in video_ids]
    missing = MissingVideos(tuple(frames.missing(video_ids)), len(video_ids), kind=frames.kind)
    if files.videos is not None:
        assert isinstance(frames, _video_frames())
        missing = _with_faults(missing, frames.undecodable(video_ids, workers=config.num_thread_reader))
    return video_ids, missing, frames.path


def _try_some(config: Config, frames: VideoFrames, present: Examples, log: RunLog) -> None:
    """Try files of a training set. Raises `UserError` if none of them decodes."""
    chosen = spread(present.video_ids, _INSPECTED)
    faults = frames.undecodable(chosen, workers=config.num_thread_reader)
    if faults and len(faults) == len(chosen):
        raise UserError(f"{frames.path}: none of {len(chosen)} inspected videos decodes: {_some(faults)}")
    if faults:
        log.warning(
            f"{len(faults)} of {len(chosen)} inspected videos do not decode: {_some(faults)}; training takes "
            "other videos in their place"
        )


def _with_faults(missing: MissingVideos, faults: Mapping[str, str]) -> MissingVideos:
    reasons = tuple(_fault(video_id, reason) for video_id, reason in faults.items())
    return replace(missing, ids=(*missing.ids, *faults), faults=reasons)


def _some(faults: Mapping[str, str]) -> str:
    return name_some((_fault(video_id, reason) for video_id, reason in faults.items()), _SHOWN)


def _fault(video_id: str, reason: str) -> str:
    return f"{video_id}: {reason}"


def _describe(config: Config, frames: VideoFrames) -> str:
    size = f"{config.short_side} pixels" if config.short_side else "their own size"
    kept = f", kept in {frames.cache.path}" if frames.cache is not None else ""
    return (
        f"frames are decoded from {frames.path}: {config.num_frames} of a video, {size}, "
        f"quality {config.quality}{kept}"
    )


def _video_frames() -> type[VideoFrames]:
    from dataloaders.video_frames.source import VideoFrames

    return VideoFrames


# The cache


@contextlib.contextmanager
def frame_cache(config: Config, world: World, log: RunLog) -> Iterator[None]:
    """The run in the block may fill --frame_cache; after it, the folder is a frame store. Collective.

    Only rank 0 writes the store, before any rank reads it and after all have ended reading. After an error
    the new videos stay files, which the next run puts into the store.
    """
    folder = _cache_folder(config)
    if folder is None:
        yield
        return
    from dataloaders.video_frames.cache import CacheOwner

    owner = CacheOwner(folder, frame_settings(config).as_record(), say=log.info)
    on_main(world, owner.open)
    done = False
    try:
        yield
        world.gather(None)  # every rank has ended reading
        done = True
    finally:
        if world.is_main:
            try:
                owner.close(merge=done)
            except UserError as error:  # a full disk: what the run has trained does not depend on it
                log.warning(f"{error}; the new videos stay files, and the next run puts them into the store")


def frame_settings(config: Config) -> Settings:
    """The settings of a frame store that holds the frames of this run."""
    from video.sample import Settings

    return Settings(config.num_frames, config.short_side, config.quality)


def _cache_folder(config: Config) -> Path | None:
    is_used = config.frames_from == "videos" and config.frame_cache
    return Path(config.frame_cache).expanduser() if is_used and config.frame_cache else None
