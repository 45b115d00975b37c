"""The programs: `hmmc NAME` where the package is installed, a script in a checkout.

In a checkout the packages are at the top level (`common`, `search`, ...). In the installed package they lie
in `hmmc` (`hmmc.common`, ...): setup.py moves them and changes their imports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMESPACE = (__package__ or "").removesuffix("common")  # "hmmc." in the installed package, else ""
_FOLDER = Path(__file__).resolve().parents[1]  # the checkout, or that of the installed package


@dataclass(frozen=True)
class Command:
    """What `hmmc NAME` runs: a script of the checkout. `flags` come first unless a `--do_` flag is given."""

    script: str
    summary: str
    flags: tuple[str, ...] = ()

    @property
    def is_run(self) -> bool:
        """Whether it is one of the two main programs, which may run on several ranks."""
        return bool(self.flags)

    @property
    def module(self) -> str:
        return module_of(self.script)

    def arguments(self, given: Sequence[str]) -> list[str]:
        """The command line of the script for what the user gave to `hmmc NAME`."""
        has_job = any(argument.startswith("--do_") for argument in given)
        return [*(() if has_job else self.flags), *given]


COMMANDS = {
    "pretrain": Command("main_pretrain.py", "pre-train a model", ("--do_pretrain",)),
    "train": Command("main_task_retrieval.py", "fine-tune a model", ("--do_train",)),
    "eval": Command("main_task_retrieval.py", "evaluate a model", ("--do_eval",)),
    "watch": Command("tools/watch_checkpoints.py", "evaluate the checkpoints of a run as they are written"),
    "search": Command("tools/search.py", "index videos, and search them"),
    "demo": Command("tools/demo.py", "serve a page and a JSON API that search an index"),
    "frames": Command("tools/frame2lmdb.py", "make, check and show frame stores"),
    "shards": Command("tools/make_shards.py", "make tar shards from a frame store or videos"),
    "check": Command("tools/check_data.py", "check lists, captions and frame stores"),
    "merge": Command("tools/convert_vatex.py", "merge the annotation files of a release"),
    "convert": Command("tools/convert_checkpoint.py", "translate a checkpoint into the published names"),
    "export": Command("tools/export_onnx.py", "write a model as ONNX files, also quantised"),
    "features": Command("tools/evaluate_features.py", "metrics of features that any model made"),
    "compare": Command("tools/compare_reports.py", "compare two evaluations, with tests of significance"),
    "results": Command("tools/collect_results.py", "put runs beside the published rows"),
    "plot": Command("tools/plot_runs.py", "draw the curves of runs"),
    "toy": Command("tools/make_toy_dataset.py", "make toy data sets"),
    "ablations": Command("tools/run_ablations.py", "run the method's ablations on toy data"),
}
running: str | None = None  # the name in `COMMANDS` with which `hmmc` started this process


def module_of(script: str) -> str:
    """The dotted name of a script of the checkout."""
    return NAMESPACE + script.removesuffix(".py").replace("/", ".")


def process_of(script: str) -> list[str]:
    """The beginning of a command line that runs `script` in a process of its own, from any folder."""
    return [sys.executable, *(("-m", module_of(script)) if NAMESPACE else (str(_FOLDER / script),))]


def as_called(text: str) -> str:
    """`text` as it is right for users of the installed package, if `hmmc` started the process.

    Scripts become `hmmc search`, and requirements files the extras `"hmmc[search]"`.
    """
    if running is None:
        return text
    return _REQUIREMENTS.sub(r'pip install "hmmc[\1]"', _SCRIPT.sub(_name_of, text))


def _name_of(match: re.Match[str]) -> str:
    if running is not None and _STEMS[running] == match[1]:
        return f"hmmc {running}"
    return f"hmmc {next(name for name in COMMANDS if _STEMS[name] == match[1])}"


_STEMS = {name: Path(command.script).stem for name, command in COMMANDS.items()}
_SCRIPT = re.compile(  # not where it is part of a longer path: that is a file of the user
    rf"(?<![\w./\\-])(?:python )?(?:tools/)?({'|'.join(set(_STEMS.values()))})\.py(?![\w./\\])"
)
_REQUIREMENTS = re.compile(r"pip install -r requirements-(\w+)\.txt")
