"""docs/DATA.md must name every file of the default layout and every flag that replaces one."""

import re
from pathlib import Path

import pytest

from dataloaders.datasets.registry import DATASETS, default_files
from dataloaders.datasets.table_rows import CAPTION, LANGUAGE, SPLIT
from video.clip_table import END, START, VIDEO

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "DATA.md").read_text(encoding="utf-8")
TEXT_OF_TABLES = (DOCS / "YOUR_DATA.md").read_text(encoding="utf-8")
SPLITS = [(dataset, split) for dataset, spec in DATASETS.items() for split in spec.splits]


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_every_default_file_is_in_the_table(dataset: str, split: str) -> None:
    files = default_files("", dataset, split)
    for path in filter(None, (files.annotations, files.list, files.store)):
        assert f"`{path.as_posix()}`" in TEXT


@pytest.mark.parametrize("side", ["train", "eval"])
@pytest.mark.parametrize("what", ["annotations", "list", "store"])
def test_every_flag_that_replaces_a_file_is_named(side: str, what: str) -> None:
    assert f"`--{side}_{what}`" in TEXT


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_published_list_is_in_the_table_of_counts(dataset: str) -> None:
    for known in DATASETS[dataset].known_lists:
        row = f"| {dataset} | {known.name} | {known.videos:,} | "
        row += f"{known.captions:,} | " if known.captions is not None else "about "
        assert row in TEXT and (known.sha256 == "" or TEXT.split(row)[1].split("\n")[0].endswith("# |"))


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_value_of_split_is_explained(dataset: str) -> None:
    for choice in DATASETS[dataset].list_choices:
        assert f"`--split {choice}`" in TEXT


def test_the_page_names_every_name_of_a_column() -> None:
    page = TEXT_OF_TABLES.partition("## The table")[2]
    for names in (VIDEO, CAPTION, SPLIT, LANGUAGE):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{names[0]}` |")]
        assert re.findall("`([^`]+)`", row.rpartition("|")[0].split("|")[1] + row.split("|")[2]) == list(
            names
        )
    assert f"`{START[0]}`, `{END[0]}` | `{START[1]}`, `{END[1]}`" in page
