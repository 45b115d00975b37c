"""Training state files: OUTPUT_DIR/training_state.{step}.pt, all that a run needs to go on from a step.

Plain tensors, numbers, strings, lists and dicts, so that `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.atomic_files import atomic_open
from common.errors import UserError

FORM = "hmmc training state"
VERSION = 1
_NAME = re.compile(r"training_state\.(\d+)\.pt")
# What every state holds; docs/TRAINING.md says what each of them is.
PARTS = ("model", "optimizer", "scaler", "random", "position", "counters", "results", "data", "config")


def state_path(folder: Path, step: int) -> Path:
    """`step` counts the optimiser steps of the whole run, skipped ones too."""
    return folder / f"training_state.{step}.pt"


def step_of(path: Path) -> int:
    """The step in a state file's name."""
    found = _NAME.fullmatch(path.name)
    assert found, path
    return int(found[1])


def list_states(folder: Path) -> list[Path]:
    """The state files of a folder, newest step first. What was left half written has another name."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of, reverse=True
    )


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically, forced to disk. Raises `FileError` if it cannot."""
    with atomic_open(path, "wb", durable=True) as file:
        try:
            torch.save({"form": FORM, "version": VERSION, **state}, file)
        except RuntimeError as error:  # torch's word for a full disk; the system's lies beneath it
            raise _system_error(error) or error from None


def _system_error(error: BaseException) -> OSError | None:
    """The `OSError` on which `error` came up."""
    beneath: BaseException | None = error
    while beneath is not None and not isinstance(beneath, OSError):
        beneath = beneath.__cause__ or beneath.__context__
    return beneath


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed run was writing."""
    for path in folder.glob("*.tmp"):
        if _NAME.fullmatch(path.name.removesuffix(".tmp")) or path.name.startswith("pytorch_model.bin."):
            path.unlink(missing_ok=True)


def read_state_file(path: Path, *, thorough: bool = False) -> dict[str, Any]:
    """The state in `path`, on the CPU, its tensors in the mapped file. `thorough` checks every byte's sum.

    Raises `UserError` naming the file where it is absent, damaged or no training state.
    """
    if not path.is_file():
        raise UserError(f"training state {path}: no such file")
    if thorough:
        _check_sums(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception:  # damaged files fail in many ways
        raise UserError(f"training state {path}: truncated or not a torch file") from None
    if not isinstance(state, dict) or state.get("form") != FORM:
        raise UserError(f"training state {path}: not a training state of this project")
    if state.get("version") != VERSION:
        raise UserError(f"training state {path}: version {state.get('version')}, this code reads {VERSION}")
    missing = [name for name in PARTS if name not in state]
    if missing:
        raise UserError(f"training state {path}: lacks {', '.join(missing)}")
    return state


def _check_sums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError):
        raise UserError(f"training state {path}: truncated or not a torch file") from None
    if damaged is not None:
        raise UserError(f"training state {path}: damaged in {damaged}")


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest state of `folder` that is whole, or None, and why each newer one was passed over."""
    problems = []
    for path in list_states(folder):
        try:
            read_state_file(path, thorough=True)
        except ValueError as error:
            problems.append(str(error))
        else:
            return path, problems
    return None, problems
