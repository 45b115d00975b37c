"""The rules of docs/ARCHITECTURE.md that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "common": {"common"},
    "modules": {"modules", "common"},
    "dataloaders": {"dataloaders", "common"},
    "video": {"video", "common"},
    "engine": {"engine", "modules", "dataloaders", "common"},
    "search": {"search", "engine", "modules", "dataloaders", "video", "common"},
    "demo": {"demo", "search", "engine", "modules", "dataloaders", "video", "common"},
    "tools": {"tools", "demo", "search", "engine", "modules", "dataloaders", "video", "common"},
}
OURS = {*MAY_IMPORT, "tests", "benchmarks", "main_pretrain", "main_task_retrieval"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert (imports(path) & OURS) <= MAY_IMPORT[package], path.name


def test_no_file_outgrows_one_idea() -> None:
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
