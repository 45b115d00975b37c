"""Builds the package `hmmc`; pyproject.toml has all other settings.

The checkout has its packages at the top level: `common`, `modules`, `search`, ... Such general names must not
reach anybody's site-packages, so there all of them lie in `hmmc`. Their imports are absolute; while the
package is built, they are changed to the new names (`from common.errors` becomes `from hmmc.common.errors`)
in the copies of the files. So the installed package needs no import hook and no entry of `sys.path`.

`pip install -e .` changes nothing: it puts the checkout on `sys.path`, with its general names.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "hmmc"
FOLDERS = ("common", "modules", "dataloaders", "video", "engine", "search", "demo", "tools")
PROGRAMS = ("main_pretrain", "main_task_retrieval")
LEFT_OUT = ("write_flag_docs",)  # writes into the checkout
ROOT = Path(__file__).resolve().parent
_OURS = {*FOLDERS, *PROGRAMS}
_DOTTED = re.compile(rf"(?:{'|'.join(_OURS)})(?:\.[a-z]\w*)+")


def moved(source: str, name: str) -> str:
    """The source of a module with the imports that it needs in `hmmc`; `name` is for messages.

    Raises `SyntaxError` for what would not work there: a name that `import a.b` binds, another use of
    `sys.path` than the first line of a script, and a string that is the dotted name of a module of ours.
    """
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    edits: list[tuple[int, int, int, str]] = []  # line, first and last column in bytes, new text
    tree = ast.parse(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # As in f"{NAMESPACE}common.errors".
    joined = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}

    def refuse(node: ast.stmt | ast.expr, reason: str) -> SyntaxError:
        return SyntaxError(f"{name}, line {node.lineno}: {reason}")

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _root(node.module) in _OURS:
            column = node.col_offset + len("from ")
            edits.append((node.lineno, column, column, f"{PACKAGE}."))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _root(alias.name) not in _OURS:
                    continue
                edits.append((alias.lineno, alias.col_offset, alias.col_offset, f"{PACKAGE}."))
                if alias.asname is None and "." not in alias.name:
                    end = alias.col_offset + len(alias.name)
                    edits.append((alias.lineno, end, end, f" as {alias.name}"))
                elif alias.asname is None and _root(alias.name) in used:
                    raise refuse(node, f"import {alias.name}: write `from ... import`, or `import ... as`")
        elif isinstance(node, ast.Constant) and id(node) not in joined and _is_module(node.value):
            raise refuse(node, f"{node.value!r}: make the name from __package__ or NAMESPACE")
    for node in tree.body:
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith(
            "sys.path.insert(0, str(Path(__file__)"
        ):
            edits.append((node.lineno, node.col_offset, node.end_col_offset or 0, "pass"))
    for number, first, last, text in sorted(edits, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:first] + text.encode() + line[last:]
    result = b"".join(lines).decode()
    for node in ast.walk(ast.parse(result)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            raise refuse(node, "sys.path: the installed package must leave it alone")
    return result


def _root(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _is_module(dotted: object) -> bool:
    if not isinstance(dotted, str) or not _DOTTED.fullmatch(dotted):
        return False
    path = ROOT / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def packages() -> dict[str, str]:
    """Every package by its name in `hmmc`, with its folder in the checkout."""
    found = {PACKAGE: PACKAGE}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("__init__.py")):
            path = file.parent.relative_to(ROOT)
            found[f"{PACKAGE}.{'.'.join(path.parts)}"] = path.as_posix()
    return found


def requirements(name: str) -> list[str]:
    """The packages that a requirements file lists, without those of the files that it includes."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    bare = (line.partition(" #")[0].strip() for line in lines)
    return [line for line in bare if line and not line.startswith(("#", "-r"))]


class BuildMoved(build_py):
    """Copies the modules to their places in `hmmc` and changes their imports."""

    def run(self) -> None:
        # Modules that a former build left here are in no checkout any more.
        shutil.rmtree(Path(self.build_lib) / PACKAGE, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        if package == PACKAGE:
            found += [(PACKAGE, program, f"{program}.py") for program in PROGRAMS]
        return [module for module in found if module[1] not in LEFT_OUT]

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        target, copied = super().build_module(module, module_file, package)
        source = Path(module_file).read_text(encoding="utf-8")
        Path(target).write_text(moved(source, module_file), encoding="utf-8")
        return target, copied


if __name__ == "__main__":
    search, onnx = requirements("requirements-search.txt"), requirements("requirements-onnx.txt")
    shards = requirements("requirements-shards.txt")
    is_editable = "editable_wheel" in sys.argv
    setup(
        packages=[PACKAGE] if is_editable else list(packages()),
        package_dir={"": "."} if is_editable else packages(),
        cmdclass={} if is_editable else {"build_py": BuildMoved},
        install_requires=requirements("requirements.txt"),
        extras_require={
            "search": search,
            "onnx": onnx,
            "shards": shards,
            "dev": [*search, *onnx, *shards, *requirements("requirements-dev.txt")],
        },
    )
