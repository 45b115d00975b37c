"""What a benchmark reports: machine, versions, settings and rows of figures, as a table and as JSON.

    report = Report("loader", settings=vars(args), columns={"clips_per_second": "clips/s"})
    report.add("256-pixel store, ours", clips_per_second=116.0)     # printed at once
    report.note("one core")
    report.close(args.json)

A row has a name, which is unique in the report, and figures by key; `compare.py` compares rows of one name.
A key holds its unit: `ms_per_step`, `memory_gib`, `clips_per_second`. A figure is a number, None (not
measured) or a short text.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.atomic_files import STDOUT, check_target, write_json

Figure = float | int | str | None
PACKAGES = ("torchvision", "numpy", "Pillow", "transformers", "lmdb")
FORM = 1  # of the JSON file


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")


class Report:
    """Figures of one run of a benchmark. `columns`: the figures that are printed, key -> heading."""

    def __init__(self, benchmark: str, *, settings: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self.benchmark = benchmark
        self.settings = {name: _plain(value) for name, value in settings.items() if name != "json"}
        self.columns = dict(columns)
        self.machine = describe_machine()
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        path = settings.get("json")
        if isinstance(path, Path):
            check_target(path, "--json")  # before the work
        self._out = sys.stderr if str(path) == STDOUT else sys.stdout
        self._print(f"{benchmark}: {machine_line(self.machine)}")
        self._print("settings: " + ", ".join(f"{name} {value}" for name, value in self.settings.items()))

    def add(self, row: str, **figures: Figure) -> None:
        """Add a row and print it. Raises `ValueError` if there is a row of this name."""
        if any(held["row"] == row for held in self.rows):
            raise ValueError(f"two rows are named {row!r}")
        if not self.rows:
            self._print("\n| | " + " | ".join(self.columns.values()) + " |")
            self._print("| --- | " + " | ".join("---:" for _ in self.columns) + " |")
        self.rows.append({"row": row, **{key: _plain(value) for key, value in figures.items()}})
        self._print(
            f"| {row} | " + " | ".join(format_figure(figures.get(key)) for key in self.columns) + " |"
        )

    def note(self, text: str) -> None:
        """Print a remark, and keep it in the file."""
        self.notes.append(text)
        self._print(text)

    def content(self) -> dict[str, Any]:
        return {
            "form": FORM,
            "benchmark": self.benchmark,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": self.machine,
            "settings": self.settings,
            "columns": self.columns,
            "rows": self.rows,
            "notes": self.notes,
        }

    def close(self, path: Path | None) -> None:
        """Write the JSON file, if one was asked for. May be called again after further rows."""
        if path is not None:
            write_json(path, self.content())

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def describe_machine() -> dict[str, Any]:
    """Processor, memory, versions and cards. No names of hosts or users."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
        "cards": [],
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        machine["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            machine["cards"].append({"name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)})
        machine["cuda"] = torch.version.cuda or torch.version.hip
        machine["cudnn"] = torch.backends.cudnn.version()
    return machine


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    cards = ", ".join(card["name"] for card in machine["cards"]) or "no GPU"
    torch_version = machine["versions"].get("torch", "?")
    return f"{cards}; {machine['cores']} cores of {machine['processor']}; torch {torch_version}"


def format_figure(value: Figure) -> str:
    """Three significant digits or whole numbers with commas; empty where there is none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: Any) -> Any:
    """A value as JSON has it: paths become texts, numbers of torch and numpy Python's."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _versions() -> dict[str, str]:
    found = {"torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
