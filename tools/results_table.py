"""Print one table of the results that runs left in their output folders."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("R@1", "R@5", "R@10", "MedianR", "MeanR")
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The evaluations in `folder`/metrics.jsonl, oldest first. Raises `ValueError` when there are none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a run writes it when it evaluates")
    with open(path, encoding="utf-8") as file:
        results = [json.loads(line) for line in file if line.strip()]
    if not results:
        raise ValueError(f"{path}: holds no evaluation yet")
    return results


def table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """A Markdown table for each direction: one line a (label, evaluation)."""
    parts = []
    for direction, title in DIRECTIONS.items():
        lines = [f"| {title} | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
        for label, result in rows:
            cells = [f"{result[f'{direction}/{column}']:.1f}" for column in COLUMNS]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "rows", nargs="+", metavar="LABEL=FOLDER", help="a row: its name, and a run's output folder"
    )
    args = parser.parse_args(argv)
    try:
        rows = []
        for row in args.rows:
            label, found, folder = row.rpartition("=")
            if not found:
                raise ValueError(f"{row}: a row is LABEL=FOLDER")
            rows.append((label, read_results(Path(folder))[-1]))
        print(table(rows))
    except ValueError as error:
        print(f"results_table.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
