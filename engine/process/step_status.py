"""The status of a training step, which all ranks share, and the hooks that the training loop calls."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class StepStatus:
    """Counts over all ranks, equal on every rank."""

    not_finite: int = 0  # ranks whose loss or gradient norm is not finite
    unreadable: int = 0  # clips that were replaced by another one
    stop_wanted: int = 0  # ranks that received a signal
    save_failed: int = 0  # ranks that could not write a state

    def __add__(self, other: StepStatus) -> StepStatus:
        """The sums of both."""
        return StepStatus(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class StepHooks:
    """Hooks that do nothing. A subclass overrides those that it needs."""

    def stop_wanted(self) -> bool:
        """Whether this rank received a signal."""
        return False

    def save_failed(self) -> bool:
        """Whether this rank failed to write a state."""
        return False

    def save_due(self, epoch: int, step: int) -> bool:
        """Whether a state is saved after this step, equal on all ranks. Its status is then read at once."""
        return False

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        """Called on all ranks when `step` optimiser steps of the epoch are done and their status is known.

        `status` has the sums of all steps since the last call: of one step, or of more on a GPU, where the
        status of a step is read late.
        """

    def last_save(self) -> str:
        """The last saved state, for the message of a run that stops. Collective."""
        return "nothing was saved"
