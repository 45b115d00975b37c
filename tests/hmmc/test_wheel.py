"""The wheel: built from a copy of the checkout without network, and used from another folder."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.commands import COMMANDS
from tests.processes import fast_python

ROOT = Path(__file__).resolve().parents[2]
BUILD = runpy.run_path(str(ROOT / "setup.py"))
FOLDERS: tuple[str, ...] = BUILD["FOLDERS"]
moved: Callable[[str, str], str] = BUILD["moved"]

GRADIO = ("hmmc.demo.page.blocks", "hmmc.demo.page.events", "hmmc.demo.gradio_access")  # takes 3 s to import
# Runs in a process that has imported the checkout and its libraries: our modules are imported anew.
IN_PACKAGE = """
import contextlib, importlib, io, json, pkgutil, sys
ours = {ours!r}
for name in [name for name in sys.modules if name.partition(".")[0] in ("hmmc", *ours)]:
    del sys.modules[name]
sys.path[:] = [{site!r}, {other!r}, *(path for path in sys.path if path not in ("", {root!r}))]
import modules, search, hmmc
from hmmc.command_line import main
path = list(sys.path)
found = [item.name for item in pkgutil.walk_packages(hmmc.__path__, "hmmc.")]
for name in found:
    if name not in {gradio!r}:
        importlib.import_module(name)
helps = dict()
for name in hmmc.common.commands.COMMANDS:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([name, "--help"])
    helps[name] = text.getvalue().split("\\n")[0]
general = sorted(name for name in sys.modules if name.partition(".")[0] in ours)
from hmmc.modules.heads.registry import HEADS, head_class
from hmmc.modules.losses.table import LOSSES, make_loss
tables = [type(make_loss(name)).__module__ for name in LOSSES] + [head_class(n).__module__ for n in HEADS]
print(json.dumps(dict(
    found=found, helps=helps, general=general, tables=tables, path_is_the_same=path == sys.path,
    others=[modules.OTHER, search.OTHER],
    public=[hmmc.Retriever.__module__, hmmc.load_model.__module__, hmmc.UserError.__module__],
)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what the repository holds of it."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in ("hmmc", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    files = [*ROOT.glob("main_*.py"), *ROOT.glob("requirements*.txt")]
    for path in (*files, *(ROOT / name for name in ("setup.py", "pyproject.toml", "README.md"))):
        shutil.copy(path, source)
    return built(folder, "wheel")


def built(folder: Path, kind: str) -> Path:
    """What a build of folder/source gives: its "wheel", or the wheel of an "editable" installation."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    target = folder / kind
    target.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=folder / "source",
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("hmmc-*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder in which the wheel is installed."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def test_everything_lies_in_hmmc(site: Path) -> None:
    (metadata,) = site.glob("*.dist-info")
    assert {path.name for path in site.iterdir()} == {"hmmc", metadata.name}
    kept = {path.relative_to(site / "hmmc") for path in (site / "hmmc").rglob("*") if path.is_file()}
    for folder in ("hmmc", *FOLDERS):
        base = ROOT / "hmmc" if folder == "hmmc" else ROOT
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.stem != "write_flag_docs":
                assert path.relative_to(base) in kept, path
    assert Path("main_pretrain.py") in kept and Path("py.typed") in kept


def test_an_editable_install_is_the_checkout(wheel: Path) -> None:
    folder = wheel.parents[1]
    with zipfile.ZipFile(built(folder, "editable")) as archive:
        (added,) = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert added.endswith(".pth") and archive.read(added).decode().strip() == str(folder / "source")


def test_metadata(site: Path) -> None:
    (found,) = importlib.metadata.distributions(name="hmmc", path=[str(site)])
    (command,) = found.entry_points
    assert (command.group, command.name, command.value) == (
        "console_scripts",
        "hmmc",
        "hmmc.command_line:run",
    )
    wanted = found.requires or []
    needed = {re.split(r"[>=]", line)[0] for line in wanted if "extra ==" not in line}
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert needed == {re.split(r"[>=]", line)[0] for line in listed if not line.startswith("#")}
    assert 'faiss-cpu>=1.8; extra == "search"' in wanted and 'pytest>=8; extra == "dev"' in wanted


def test_all_of_it_works_beside_packages_with_the_same_names(site: Path, tmp_path: Path) -> None:
    for name in ("modules", "search"):
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "__init__.py").write_text(f"OTHER = {name!r}\n", encoding="utf-8")
    ours = (*FOLDERS, "main_pretrain", "main_task_retrieval")
    folders = {"site": str(site), "other": str(tmp_path / "other"), "root": str(ROOT)}
    code = IN_PACKAGE.format(ours=ours, gradio=GRADIO, **folders)
    done = subprocess.run(
        [fast_python(), "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=240
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["others"] == ["modules", "search"] and result["general"] == ["modules", "search"]
    assert result["path_is_the_same"]
    assert {*GRADIO, "hmmc.tools.search", "hmmc.main_pretrain"} <= set(result["found"])
    assert all(result["helps"][name].startswith(f"usage: hmmc {name} ") for name in COMMANDS)
    assert all(name.startswith("hmmc.modules.") for name in result["tables"])
    assert result["public"] == ["hmmc.search.retriever", "hmmc.model", "hmmc.common.errors"]


def test_programs_run_from_another_folder(site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def hmmc(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hmmc", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )

    drawn = hmmc("toy", "--out", "toy", "--size", "tiny", "--only", "msrvtt")
    assert drawn.returncode == 0, drawn.stderr
    data = "toy/msrvtt"
    stored = hmmc("frames", "--video_dir", f"{data}/videos", "--lmdb_path", f"{data}/msrvtt_lmdb")
    assert stored.returncode == 0 and "stored 20 of 20 videos" in stored.stderr
    checked = hmmc("check", "--dataset", "msrvtt", "--data_dir", "toy")
    assert checked.returncode == 0 and "0 problems" in checked.stdout, checked.stderr
    refused = hmmc("check", "--dataset", "msrvtt", "--data_dir", "nowhere")
    assert refused.returncode == 2 and refused.stderr.startswith("hmmc check: error: ")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from common.errors import UserError\n", "from hmmc.common.errors import UserError\n"),
        ("from search import Hit\n", "from hmmc.search import Hit\n"),
        ("def f():\n    from tools.toy import bert\n", "def f():\n    from hmmc.tools.toy import bert\n"),
        ("import search\n", "import hmmc.search as search\n"),
        ("import os, demo.api as api\n", "import os, hmmc.demo.api as api\n"),
        ("import common.early_interrupt  # first\n", "import hmmc.common.early_interrupt  # first\n"),
        ("é = 1; from video import listing\n", "é = 1; from hmmc.video import listing\n"),
        ('NAME = f"{NAMESPACE}common.errors"\n', None),
        ("import torch\nfrom tools2 import a\nfrom . import b\n", None),
        ('text = "from common.errors import UserError, search"\n', None),
        (
            "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # any folder\n",
            "pass  # any folder\n",
        ),
    ],
)
def test_imports_are_moved(source: str, expected: str | None) -> None:
    assert moved(source, "a.py") == (source if expected is None else expected)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("\nimport common.errors\ncommon.errors.x()\n", "a.py, line 2: import common.errors: write"),
        ('NAME = "modules.heads.hmmc"\n', "a.py, line 1: 'modules.heads.hmmc': make the name"),
        ("import sys\nsys.path.append('x')\n", "a.py, line 2: sys.path: the installed package must"),
    ],
)
def test_what_cannot_be_moved_fails_the_build(source: str, reason: str) -> None:
    with pytest.raises(SyntaxError, match=re.escape(reason)):
        moved(source, "a.py")
