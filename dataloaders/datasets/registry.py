"""All data sets, one line each, and the files and examples of their splits.

Importing this file is cheap (numpy at most), because flags are checked against it before torch is loaded.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import FileError, UserError
from common.languages import languages_of
from dataloaders.datasets import chvtt, msrvtt, table, vatex
from dataloaders.datasets.spec import DatasetSpec, SplitFiles
from dataloaders.examples import Examples, merge_languages

_SPECS = (
    msrvtt.SPEC,
    vatex.SPEC,
    chvtt.SPEC,
)
DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}
DEFAULT_DATASET = chvtt.SPEC.name  # as published


def dataset_spec(name: str, *, flag: str = "--dataset") -> DatasetSpec:
    """The data set of a name or an alias, or the table of a path; no file is opened.

    Raises `UserError`, which names `flag`, for any other text.
    """
    if name in DATASETS:
        return DATASETS[name]
    spec = next((spec for spec in DATASETS.values() if name in spec.aliases), None)
    if spec is None and name.lower().endswith(table.SUFFIXES):
        return table.table_spec(name)
    if spec is None:
        raise UserError(
            f"{flag} {name}: choose from {', '.join(DATASETS)}, or give a table of your own videos "
            f"({', '.join(table.SUFFIXES)}; docs/YOUR_DATA.md)"
        )
    return spec


def zero_shot_dataset(language: str) -> str:
    """The data set that pre-training in `language` is evaluated on."""
    return next(spec.name for spec in DATASETS.values() if language in spec.zero_shot_for)


def default_files(data_dir: Path | str, dataset: str, split: str) -> SplitFiles:
    """The default paths of a split, `data_dir`/`dataset`/...; no file is opened.

    Raises `UserError` for `VALIDATION` of a data set without validation videos.
    """
    spec = dataset_spec(dataset)
    part = spec.split(split)
    folder = Path(data_dir) / spec.name if spec.folder is None else spec.folder
    return SplitFiles(
        annotations=folder / part.annotations,
        list=None if part.list is None else folder / part.list,
        store=folder / part.store,
    )


def read_test_ids(dataset: str, files: SplitFiles, *, language: str, split: str = "test") -> list[str] | None:
    """The video ids of a list to evaluate on, read without captions; None if they are in one file.

    Raises `UserError` if a file of the split is missing or empty.
    """
    if files.list is None:
        _require_file(files.annotations)
        read_ids = dataset_spec(dataset).split(split).read_ids
        if read_ids is None:
            return None
        return list(dict.fromkeys(id for each in languages_of(language) for id in read_ids(files, each)))
    ids, has_captions = dataset_spec(dataset).read_list(files.list)
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
    spec = dataset_spec(dataset)
    wanted = languages_of(language)
    if not set(wanted) <= set(spec.languages):
        raise UserError(
            f"--language {language}: {dataset} has captions in {' and '.join(spec.languages)} only"
        )
    parts = [spec.split(split).read(files, each) for each in wanted]
    return parts[0] if len(parts) == 1 else merge_languages(parts)
