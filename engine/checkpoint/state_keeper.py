"""StateKeeper: writes training states in a thread beside the training, and keeps the newest of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from common.errors import FileError
from engine.checkpoint.states import list_states, state_path, step_of, write_state


class StateKeeper:
    """The states of one run. Only rank 0 has one.

    At most one write is under way: the next `save` waits for it. A write that failed is told by `problem`,
    and the states before it stay. `keep` states stay, and those of `protected` steps. `own` are the files
    that this run goes on from: others in the folder are of another run, and go at the first save.
    """

    def __init__(self, folder: Path, *, keep: int, own: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.keep = keep
        self.protected: set[int] = set()
        self.problem: str | None = None
        self.last_good: Path | None = max(own, key=step_of, default=None)
        self._own = set(own)
        self._writer: threading.Thread | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Copy `state` and begin to write it. The caller may change its tensors when this returns."""
        self.wait()
        if self.problem:
            return
        path = state_path(self.folder, step)
        copied = copy_to_cpu(state)
        self._writer = threading.Thread(target=self._write, args=(copied, path), name="training state")
        self._writer.start()

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, state: dict[str, Any], path: Path) -> None:
        try:
            write_state(state, path)
            self.last_good = path
            self._own.add(path)
            self._remove_old()
        except Exception as error:  # told to the training loop, which ends the run on all ranks
            named = isinstance(error, FileError)
            self.problem = str(error) if named else f"{path}: cannot be written ({error})"

    def _remove_old(self) -> None:
        newest = sorted(self._own, key=step_of, reverse=True)[: self.keep]
        for path in list_states(self.folder):
            if path not in newest and not (path in self._own and step_of(path) in self.protected):
                path.unlink(missing_ok=True)
                self._own.discard(path)


def copy_to_cpu(value: Any) -> Any:
    """`value` with memory of its own for every tensor, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: copy_to_cpu(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copy_to_cpu(item) for item in value]
    return value
