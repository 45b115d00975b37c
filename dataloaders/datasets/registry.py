"""All data sets, one line each, and the files and examples of their splits.

Importing this file is cheap (numpy at most), because flags are checked against it before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import FileError, UserError
from common.languages import languages_of
from dataloaders.datasets import activitynet, chvtt, didemo, lsmdc, msrvtt, msvd, table, vatex
from dataloaders.datasets.spec import DatasetSpec, SplitFiles
from dataloaders.examples import Examples, merge_languages

_SPECS = (
    msrvtt.SPEC,
    vatex.SPEC,
    chvtt.SPEC,
    msvd.SPEC,
    lsmdc.SPEC,
    didemo.SPEC,
    activitynet.SPEC,
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


def describe_choices() -> str:
    """The values of --split: "msrvtt 9k, 7k, full; ..."."""
    return "; ".join(f"{s.name} {', '.join(s.list_choices)}" for s in DATASETS.values() if s.list_choices)


def require_choice(choice: str | None, datasets: Iterable[str]) -> None:
    """Raise `UserError` if --split has a value that none of the data sets knows."""
    if choice is not None and not any(choice in dataset_spec(name).list_choices for name in datasets):
        raise UserError(f"--split {choice}: choose from {describe_choices()}")


def zero_shot_dataset(language: str) -> str:
    """The data set that pre-training in `language` is evaluated on."""
    return next(spec.name for spec in DATASETS.values() if language in spec.zero_shot_for)


def default_files(data_dir: Path | str, dataset: str, split: str, *, choice: str | None = None) -> SplitFiles:
    """The default paths of a split, `data_dir`/`dataset`/...; no file is opened.

    `choice` is a value of --split, which means nothing for a data set without it. Raises `UserError` for
    `VALIDATION` of a data set without validation videos.
    """
    spec = dataset_spec(dataset)
    part = spec.split(split)
    folder = Path(data_dir) / spec.name if spec.folder is None else spec.folder
    list_name = spec.list_choices.get(choice or "", {}).get(split, part.list)
    annotations = [folder / name for name in (part.annotations, *part.other_annotations)]
    return SplitFiles(
        annotations=next((path for path in annotations if path.exists()), annotations[0]),
        list=None if list_name is None else folder / list_name,
        store=folder / part.store,
    )


def read_test_ids(dataset: str, files: SplitFiles, *, language: str, split: str = "test") -> list[str] | None:
    """The video ids of a list to evaluate on, read without captions; None if they are in one file.

    Raises `UserError` if a file of the split is missing or empty.
    """
    spec = dataset_spec(dataset)
    part = spec.split(split)
    if part.quick_to_read:
        _require_file(files.annotations)
        ids = [id for each in languages_of(language) for id in part.read(files, each).video_ids]
        return list(dict.fromkeys(ids))
    if files.list is None:
        _require_file(files.annotations)
        return None
    ids, has_captions = spec.read_list(files.list)
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
