"""Rules of docs/ARCHITECTURE.md that a machine can check: where imports point, how large things grow."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A package may import itself and these. Nothing imports tools, tests or benchmarks.
BELOW = {
    "common": (),
    "modules": ("common",),
    "dataloaders": ("video", "common"),
    "video": ("common",),
    "engine": ("modules", "dataloaders", "video", "common"),
    "search": ("engine", "modules", "dataloaders", "video", "common"),
    "demo": ("search", "engine", "modules", "dataloaders", "video", "common"),
    "hmmc": ("search", "engine", "dataloaders", "common"),
    "tools": ("hmmc", "demo", "search", "engine", "modules", "dataloaders", "video", "common"),
}
# Rooms of engine from the top down; each imports only what stands after it.
ENGINE = (
    *("program", "run", "training", "report", "evaluation", "parameters", "model_setup", "shards", "data"),
    *("input_spec", "frame_sources", "loaders", "output_folder", "inspection"),
    *(
        "checkpoint",
        "distributed",
        "logs",
        "process",
        "input_files",
        "config_checks",
        "saved_settings",
        "command_line",
        "config",
        "flags",
    ),
)
OURS = {*BELOW, "tests", "benchmarks", "main_pretrain", "main_task_retrieval"}
MOST_FILES, MOST_LINES = 18, 400


def name_of(path: Path) -> str:
    """Dotted name of a module, that of its folder for an `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for package in BELOW for path in (ROOT / package).rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Dotted names of what a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> str | None:
    """The module of ours that an imported name is, or lies in."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


IMPORTS = {
    module: {found for name in imports_of(path) if (found := module_of(name)) and found != module}
    for module, path in FILES.items()
}


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The nodes of one circle in order, or nothing."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return trail[trail.index(node) :]
        if node in done:
            return []
        for other in sorted(graph[node]):
            if circle := visit(other, [*trail, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := visit(node, []))), [])


@pytest.mark.parametrize("package", BELOW)
def test_packages_import_downwards(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        found = {name.partition(".")[0] for name in imports_of(path)} & OURS
        assert found <= {package, *BELOW[package]}, path


def test_rooms_of_engine_import_downwards() -> None:
    for module, imported in IMPORTS.items():
        if module.startswith("engine."):
            room = module.split(".")[1]
            below = ENGINE[ENGINE.index(room) :]
            rooms = {name.split(".")[1] for name in imported if name.startswith("engine.")}
            assert rooms <= set(below), module


def test_no_two_files_import_each_other_on_any_way() -> None:
    # A package's own __init__ offers what its files hold, and importing a file runs it: no circle of ours.
    graph = {m: {i for i in imported if not m.startswith(f"{i}.")} for m, imported in IMPORTS.items()}
    assert find_circle(graph) == []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_folder_or_file_outgrows_one_idea() -> None:
    for folder in {path.parent for path in FILES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
    for path in FILES.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path
