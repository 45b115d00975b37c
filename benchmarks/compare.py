"""Compare two runs of one benchmark: the ratio new / old of every figure that both have.

    python benchmarks/compare.py OLD.json NEW.json

Rows are matched by their names. What only one of the files has is listed below the table, and so are settings
and parts of the machine that differ: a ratio then does not show a change of the code alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_json import FORM, format_figure
from common.arguments import ArgumentParser
from common.errors import FileError, UserError, file_errors, run_program


def read_report(path: Path) -> dict[str, Any]:
    """The content of a benchmark's JSON file. Raises `UserError` that names the file if it is none."""
    try:
        with file_errors(path):
            content = json.loads(path.read_text(encoding="utf-8"))
    except FileError:
        raise
    except ValueError:
        raise UserError(f"{path}: is not JSON; give a file that a benchmark wrote with --json") from None
    if not isinstance(content, dict) or not {"benchmark", "rows"} <= content.keys():
        raise UserError(f"{path}: is not a benchmark's file; give one that was written with --json")
    if content.get("form") != FORM:
        raise UserError(f"{path}: has form {content.get('form')}, this program reads form {FORM}")
    return content


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The lines to print. Raises `UserError` if the files are of different benchmarks."""
    if old["benchmark"] != new["benchmark"]:
        raise UserError(f"the files are of two benchmarks: {old['benchmark']} and {new['benchmark']}")
    lines = ["| | figure | old | new | new / old |", "| --- | --- | ---: | ---: | ---: |"]
    old_rows, new_rows = ({row["row"]: row for row in side["rows"]} for side in (old, new))
    for name in (name for name in old_rows if name in new_rows):
        lines += [f"| {name} | {line}" for line in _ratios(old_rows[name], new_rows[name])]
    only = [("old", old_rows.keys() - new_rows.keys()), ("new", new_rows.keys() - old_rows.keys())]
    lines += [f"only in the {side} file: {name}" for side, names in only for name in sorted(names)]
    for part in ("settings", "machine"):
        lines += [f"{part} differ: {line}" for line in _differences(old.get(part, {}), new.get(part, {}))]
    return lines


def _ratios(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key, before in old.items():
        after = new.get(key)
        if _is_number(before) and _is_number(after):
            ratio = f"{after / before:.3g}" if before else ""
            yield f"{key} | {format_figure(before)} | {format_figure(after)} | {ratio} |"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name}: {old.get(name)} -> {new.get(name)}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def main() -> int:
    return run_program("compare.py", _main)


def _main() -> int:
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    args = parser.parse_args()
    print("\n".join(compare(read_report(args.old), read_report(args.new))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
