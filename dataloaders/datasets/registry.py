"""All data sets: languages, default files of every split under `--data_dir`, and readers.

A new data set is one file with its reader and one entry of DATASETS. Importing this file is cheap (numpy at
most), because flags are checked against it before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import FileError, UserError
from common.languages import languages_of
from dataloaders.datasets import chvtt, msrvtt, vatex
from dataloaders.datasets.files import csv_columns, read_csv, read_id_list
from dataloaders.examples import Examples, merge_languages

SPLITS = ("pretrain", "train", "val", "test")
VALIDATION = "validation"  # see DatasetSpec.validation


@dataclass(frozen=True)
class SplitFiles:
    """Paths of one split's files. `list` is None if the annotations alone define the videos of the split."""

    annotations: Path
    list: Path | None
    store: Path


@dataclass(frozen=True)
class SplitSpec:
    """File names of a split in its data set's folder, and its reader (files, language) -> examples."""

    annotations: str
    list: str | None
    store: str
    read: Callable[[SplitFiles, str], Examples]


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    `validation` are the videos that --select_on val chooses a checkpoint with. They are never the test
    videos; None if the data set has no such list.
    """

    languages: tuple[str, ...]
    splits: Mapping[str, SplitSpec]
    validation: SplitSpec | None = None


def _list_of(files: SplitFiles) -> Path:
    if files.list is None:
        raise UserError(f"{files.annotations}: a file that lists the videos of the split is needed too")
    return files.list


def _msrvtt(list_csv: str, read: Callable[[Path, Path], Examples]) -> SplitSpec:
    return SplitSpec(
        "MSRVTT_data.json", list_csv, "msrvtt_lmdb", lambda files, _: read(files.annotations, _list_of(files))
    )


def _vatex(id_list: str) -> SplitSpec:
    return SplitSpec(
        "vatex_data.json",
        id_list,
        "vatex_lmdb",
        lambda files, language: vatex.read_split(files.annotations, _list_of(files), language=language),
    )


def _chvtt_queries(query_data: str, *, first_only: bool) -> SplitSpec:
    return SplitSpec(
        query_data,
        None,
        "query_lmdb",
        lambda files, language: chvtt.read_queries(
            files.annotations, language=language, first_only=first_only
        ),
    )


_MSRVTT_TRAIN = _msrvtt("MSRVTT_train.9k.csv", msrvtt.read_captions_of_list)
_MSRVTT_TEST = _msrvtt("MSRVTT_JSFUSION_test.csv", msrvtt.read_test)
_MSRVTT_VALIDATION = SplitSpec(
    "MSRVTT_data.json", None, "msrvtt_lmdb", lambda files, _: msrvtt.read_validation(files.annotations)
)
_VATEX_VAL = _vatex("val_list.txt")
_CHVTT_VAL = _chvtt_queries("query_data_val_bilingual.json", first_only=True)

DATASETS: Mapping[str, DatasetSpec] = {
    # The published lists have no "val" split, so "val" is the test list. The official split of the data set
    # has validation videos, but the usual training lists contain them.
    "msrvtt": DatasetSpec(
        ("english",),
        {"pretrain": _MSRVTT_TRAIN, "train": _MSRVTT_TRAIN, "val": _MSRVTT_TEST, "test": _MSRVTT_TEST},
        validation=_MSRVTT_VALIDATION,
    ),
    "vatex": DatasetSpec(
        ("english", "chinese"),
        {
            "pretrain": _vatex("train_list.txt"),
            "train": _vatex("train_list.txt"),
            "val": _VATEX_VAL,
            "test": _vatex("test_list.txt"),
        },
        validation=_VATEX_VAL,
    ),
    "chvtt": DatasetSpec(
        ("english", "chinese"),
        {
            "pretrain": SplitSpec(
                "videoinfo_bilingual.json",
                None,
                "videoinfo_lmdb",
                lambda files, language: chvtt.read_pretrain(files.annotations, language=language),
            ),
            "train": _chvtt_queries("query_data_train_bilingual.json", first_only=False),
            "val": _CHVTT_VAL,
            "test": _CHVTT_VAL,
        },
    ),
}


def default_files(data_dir: Path | str, dataset: str, split: str) -> SplitFiles:
    """The default paths of a split, `data_dir`/`dataset`/...; no file is opened.

    Raises `UserError` for `VALIDATION` of a data set without validation videos.
    """
    spec = _split_spec(dataset, split)
    folder = Path(data_dir) / dataset
    return SplitFiles(
        annotations=folder / spec.annotations,
        list=None if spec.list is None else folder / spec.list,
        store=folder / spec.store,
    )


def read_test_ids(dataset: str, files: SplitFiles) -> list[str] | None:
    """The video ids of a test list, read without captions; None if ids and captions are in one file.

    Raises `UserError` if a file of the split is missing or empty.
    """
    if files.list is None:
        _require_file(files.annotations)
        return None
    if dataset == "msrvtt":
        ids = [video_id for _, (video_id,) in read_csv(files.list, ["video_id"])]
        has_captions = "sentence" in csv_columns(files.list)
    else:
        ids, has_captions = read_id_list(files.list), False
    if not has_captions:
        _require_file(files.annotations)
    return list(dict.fromkeys(ids))


def _require_file(path: Path) -> None:
    if not path.is_file() and not path.is_fifo():
        raise FileError(f"{path}: no such file")


def read_examples(dataset: str, split: str, *, language: str, files: SplitFiles) -> Examples:
    """Read one split of one data set.

    `language` "bilingual": the captions of both languages, with their `languages`. Raises `UserError` for an
    unknown name, for a language that the data set does not have, and for a file that cannot be read or has
    the wrong form.
    """
    spec = _split_spec(dataset, split)
    has = DATASETS[dataset].languages
    wanted = languages_of(language)
    if not set(wanted) <= set(has):
        raise UserError(f"--language {language}: {dataset} has captions in {' and '.join(has)} only")
    parts = [spec.read(files, each) for each in wanted]
    return parts[0] if len(parts) == 1 else merge_languages(parts)


def _split_spec(dataset: str, split: str) -> SplitSpec:
    if dataset not in DATASETS:
        raise UserError(f"--dataset {dataset}: choose from {', '.join(DATASETS)}")
    if split == VALIDATION:
        validation = DATASETS[dataset].validation
        if validation is None:
            raise UserError(
                f"--select_on val: {dataset} has no validation list; --select_on held_out needs none"
            )
        return validation
    assert split in SPLITS, split
    return DATASETS[dataset].splits[split]
