"""Training state files, OUTPUT_DIR/training_state.{step}.pt: all that a run needs to resume at a step.

They hold only tensors, numbers, strings, lists and dicts, so `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from common.archives import damaged_record
from common.errors import UserError, file_error, file_errors
from engine.checkpoint.files import refused_class, write_torch_file

FORMAT = "hmmc training state"
VERSION = 1
_NAME = re.compile(r"training_state\.(\d+)\.pt")
# What every state holds. docs/TRAINING.md describes each entry.
PARTS = ("model", "optimizer", "scaler", "random", "position", "counters", "results", "data", "config")


def state_path(folder: Path, step: int) -> Path:
    """`step` counts the optimiser steps of the whole run, skipped ones too."""
    return folder / f"training_state.{step}.pt"


def step_of(path: Path) -> int:
    """The step in a state file's name."""
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def list_states(folder: Path) -> list[Path]:
    """The state files of a folder, newest step first. Half-written files have other names."""
    if not folder.is_dir():
        return []
    with file_errors(folder):
        states = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(states, key=step_of, reverse=True)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically and force it to disk. Raises `FileError` where it cannot be written."""
    write_torch_file({"form": FORMAT, "version": VERSION, **state}, path)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of a run that was killed while it wrote."""
    for path in folder.glob("*.tmp"):
        if _NAME.fullmatch(path.name.removesuffix(".tmp")) or path.name.startswith("pytorch_model.bin."):
            with file_errors(path, "cannot be deleted"):
                path.unlink(missing_ok=True)


def read_state_file(path: Path, *, thorough: bool = False) -> dict[str, Any]:
    """The state in `path`, on the CPU. Its tensors stay in the memory-mapped file until they are used.

    `thorough` also verifies the checksums of all data. Raises `UserError` naming the file where it is absent,
    damaged or not a training state.
    """
    if not path.is_file():
        raise UserError(f"training state {path}: no such file")
    try:
        damaged = damaged_record(path) if thorough else None
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except PermissionError as error:
        raise file_error(f"training state {path}", "cannot be read", error) from None
    except Exception as error:  # a damaged file can raise anything
        refused = refused_class(error)
        reason = f"refused: it holds code ({refused})" if refused else "truncated or not a torch file"
        raise UserError(f"training state {path}: {reason}") from None
    if damaged is not None:
        raise UserError(f"training state {path}: damaged in {damaged}")
    if not isinstance(state, dict) or state.get("form") != FORMAT:
        raise UserError(f"training state {path}: not a training state of this project")
    if state.get("version") != VERSION:
        raise UserError(f"training state {path}: version {state.get('version')}, this code reads {VERSION}")
    missing = [name for name in PARTS if name not in state]
    if missing:
        raise UserError(f"training state {path}: lacks {', '.join(missing)}")
    return state


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest intact state of `folder`, or None; and why each newer state cannot be used."""
    problems = []
    for path in list_states(folder):
        try:
            read_state_file(path, thorough=True)
        except UserError as error:
            problems.append(str(error))
        else:
            return path, problems
    return None, problems
