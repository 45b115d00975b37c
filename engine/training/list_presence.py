"""What a training run looks at of its test list before the end: that it is there. No caption, no frame."""

from __future__ import annotations

from collections.abc import Iterable

from dataloaders.datasets.files import name_some
from dataloaders.datasets.registry import read_test_ids
from dataloaders.datasets.splits import MissingVideos
from dataloaders.examples import Examples
from dataloaders.frame_store.reader import FrameStore
from engine.config import Config
from engine.data import absent_videos, elsewhere, evaluation_files
from engine.distributed.world import World
from engine.logs.run_log import RunLog


def check_test_list(
    config: Config, world: World, train: Examples, chosen_on: Examples | None, log: RunLog
) -> None:
    """Days of training must not end at a wrong path: the files exist, the store opens and has the videos.

    Only ids are read, where they stand in a list of their own. Test videos that are trained on are told as a
    warning. Raises `ValueError` on all ranks alike: for what is absent, and where a test video is in the list
    `chosen_on` that the checkpoint is chosen on.
    """
    problem: str | None = None
    if world.is_main:
        try:
            _check(config, train, chosen_on, log)
        except ValueError as error:
            problem = f"{error}{elsewhere(config)}"
    problem = world.broadcast(problem)
    if problem:
        raise ValueError(problem)


def _check(config: Config, train: Examples, chosen_on: Examples | None, log: RunLog) -> None:
    files = evaluation_files(config, "test")
    ids = read_test_ids(config.test_dataset, files)
    store = FrameStore(files.store)
    if ids is None:
        return
    missing = MissingVideos(tuple(store.missing(ids)), len(ids))
    if missing.count == len(ids) or (missing and not config.allow_missing):
        raise ValueError(absent_videos(store, missing))
    both = _shared(ids, chosen_on.video_ids if chosen_on else ())
    if both and config.select_on == "val":
        raise ValueError(
            f"--select_on val: {len(both):,} of the {len(ids):,} videos in {files.list} are in the "
            f"validation list too ({name_some(both)}); choose by --select_on held_out, or test on others"
        )
    both = _shared(ids, train.video_ids)
    if both:
        log.warning(f"test videos that are trained on: {len(both):,} ({name_some(both)})")


def _shared(ids: list[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [video_id for video_id in ids if video_id in known]
