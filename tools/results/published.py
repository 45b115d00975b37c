"""The published tables of `published_results.json`, with their source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from dataloaders.datasets.files import read_json

DATA_FILE = Path(__file__).with_name("published_results.json")
DIRECTIONS = {"t2v": "text to video (T2V)", "v2t": "video to text (V2T)"}
COLUMNS = ("R@1", "R@5", "R@10", "MedianR", "MeanR")


@dataclass(frozen=True)
class PublishedRow:
    """One row of the published tables, both directions. Its id is also the name of its script."""

    id: str
    table: str  # "zero-shot" or "fine-tune"
    method: str
    test: str  # the test set as the tables write it
    dataset: str
    language: str
    pretrained: bool
    settings: Mapping[str, Any]  # flags whose published value is known
    figures: Mapping[
        str, float
    ]  # by "t2v/R@1" and so on; recalls in percent, ranks from 1; NaN: not published
    source: str = ""  # an entry of `Published.source`; "": the published HMMC code


@dataclass(frozen=True)
class Published:
    """All rows by id in the order of the tables, their source, and the sizes of the test lists."""

    rows: Mapping[str, PublishedRow]
    source: Mapping[str, str]
    test_sizes: Mapping[str, Mapping[str, int]]

    def row(self, row_id: str) -> PublishedRow:
        """The row of this id. Raises `UserError` for an unknown id."""
        if row_id not in self.rows:
            raise UserError(f"--row {row_id}: no such row; there are {', '.join(self.rows)}")
        return self.rows[row_id]


def load_published() -> Published:
    """Read `published_results.json`."""
    content = read_json(DATA_FILE)
    assert tuple(content["columns"]) == COLUMNS
    rows = [_row(entry, content["settings"]) for entry in content["rows"]]
    return Published({row.id: row for row in rows}, content["source"], content["test_sizes"])


def _row(entry: dict[str, Any], settings_of_all: dict[str, Any]) -> PublishedRow:
    figures = {
        f"{direction}/{column}": math.nan if value is None else value
        for direction in DIRECTIONS
        for column, value in zip(COLUMNS, entry.pop(direction), strict=True)
    }
    settings = {**settings_of_all, **entry.pop("settings")}
    return PublishedRow(**entry, settings=settings, figures=figures)
