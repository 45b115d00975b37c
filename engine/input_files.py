"""The annotation files, lists, and frame stores or videos that a run reads, as its flags say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from dataloaders.datasets.registry import dataset_spec, default_files, read_test_ids
from dataloaders.datasets.spec import VALIDATION, SplitFiles
from dataloaders.frame_store.format import find_shards
from engine.config import Config


def training_split(config: Config) -> str:
    """The split of `--dataset` to train on."""
    return "pretrain" if config.do_pretrain else "train"


def training_files(config: Config) -> SplitFiles:
    """Files of the training set."""
    files = default_files(config.data_dir, config.dataset, training_split(config), choice=config.split)
    files = files.with_paths(config.train_annotations, config.train_list, config.train_store)
    whole = files.annotations != _tested(config, "test").annotations
    return replace(files, whole=whole, videos=_folder(config, config.video_dir))


def evaluation_files(config: Config, split: str) -> SplitFiles:
    """Files of the list to evaluate on: `split` is "test" or "val". --eval_list replaces the test list only.

    Raises `UserError` if the data set has no validation list.
    """
    return replace(_tested(config, split), whole=training_files(config).whole)


def _tested(config: Config, split: str) -> SplitFiles:
    files = default_files(
        config.data_dir,
        config.test_dataset,
        VALIDATION if split == "val" else split,
        choice=config.split,
    )
    list_flag = config.eval_list if split == "test" else None
    files = files.with_paths(config.eval_annotations, list_flag, config.eval_store)
    if config.eval_store:
        return files
    return replace(files, videos=_folder(config, config.eval_video_dir or config.video_dir))


def _folder(config: Config, path: str | None) -> Path | None:
    return Path(path).expanduser() if config.frames_from == "videos" and path else None


def bank_files(config: Config) -> SplitFiles:
    """Files of the querybank: the training captions of the data set to evaluate on."""
    files = default_files(config.data_dir, config.test_dataset, "train", choice=config.split)
    if config.test_dataset == config.dataset and not config.do_pretrain:
        files = files.with_paths(config.train_annotations, config.train_list, None)
    return replace(files, whole=training_files(config).whole)


def eval_dataset_hint(config: Config) -> str:
    """What to append to an error about the data set to evaluate on, if it is not the one to train on."""
    if config.test_dataset == config.dataset:
        return ""
    return f" (evaluating on {config.test_dataset}; --eval_dataset chooses another)"


def require_files(config: Config) -> None:
    """Raise `UserError` naming the first missing file. Runs before any weights are looked for."""
    if config.init_model is not None:
        path = Path(config.init_model).expanduser()
        if not path.exists():
            raise UserError(f"--init_model {config.init_model}: no such file")
    if config.is_training and config.shards is None:
        files = training_files(config)
        for path in filter(None, (files.annotations, files.list)):
            if not path.exists():
                raise UserError(f"{path}: no such file")
        _require_frames(config.dataset, files)
    splits = ["test"] if config.is_training or config.do_eval else []
    if config.is_training and config.select_on == "val":
        splits.append("val")
    for split in splits:
        files = evaluation_files(config, split)
        try:
            name = VALIDATION if split == "val" else split
            read_test_ids(config.test_dataset, files, language=config.language, split=name)
            _require_frames(config.test_dataset, files)
        except UserError as error:
            raise UserError(f"{error}{eval_dataset_hint(config)}") from None


def shown_name(dataset: str, files: SplitFiles) -> str:
    """What a split is called in the log and in results: the data set, or the name of a table's file."""
    return files.annotations.name if dataset_spec(dataset).is_table else dataset


def how_to_store(dataset: str, files: SplitFiles) -> str:
    """The command that stores the videos of a table, for a message; nothing for published data sets."""
    if not dataset_spec(dataset).is_table or files.videos is not None:
        return ""
    paths = f"--json_path {files.annotations} --lmdb_path {files.store}"
    return f"python tools/frame2lmdb.py --video_dir VIDEOS {paths}"


def _require_frames(dataset: str, files: SplitFiles) -> None:
    if files.videos is not None:
        if not files.videos.is_dir():
            raise UserError(f"{files.videos}: no such folder of videos (--video_dir)")
        return
    try:
        find_shards(files.store)
    except UserError as error:
        command = how_to_store(dataset, files)
        raise UserError(f"{error}: {command}" if command else str(error)) from None
