"""The rules of docs/ARCHITECTURE.md that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "modules": {"modules"},
    "dataloaders": {"dataloaders"},
    "engine": {"engine", "modules", "dataloaders"},
    # Of tools, these two take only what decodes videos: `DECODING`.
    "search": {"search", "engine", "modules", "dataloaders", "tools"},
    "demo": {"demo", "search", "engine", "modules", "dataloaders", "tools"},
    "tools": {"tools", "demo", "search", "engine", "modules", "dataloaders"},
}
DECODING = {
    *("tools.sample_video", "tools.video_sampling", "tools.video_list", "tools.video_extensions"),
    "tools.worker_pool",
}
OURS = {*MAY_IMPORT, "tests", "main_pretrain", "main_task_retrieval"}


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
    for path in (ROOT / package).glob("*.py"):
        assert (imports(path) & OURS) <= MAY_IMPORT[package], path.name


@pytest.mark.parametrize("package", ["search", "demo"])
def test_only_the_decoding_of_videos_is_taken_from_the_tools(package: str) -> None:
    for path in (ROOT / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tools":
                assert node.module in DECODING, f"{path.name}: {node.module}"


def test_every_file_is_named_in_the_architecture() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for package in ("modules", "dataloaders", "engine", "search", "demo"):
        for path in (ROOT / package).glob("*.py"):
            assert path.name in page or path.name == "__init__.py", f"{package}/{path.name}"


def test_no_file_outgrows_one_idea() -> None:
    for package in MAY_IMPORT:
        for path in (ROOT / package).glob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
