"""The status of a training step, which all ranks share, and the hooks that the training loop calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepStatus:
    """Counts over all ranks, equal on every rank."""

    not_finite: int  # ranks whose loss or gradient norm is not finite
    unreadable: int  # clips that were replaced by another one
    stop_wanted: int  # ranks that received a signal
    save_failed: int  # ranks that could not write a state


class StepHooks:
    """Hooks that do nothing. A subclass overrides those that it needs."""

    def stop_wanted(self) -> bool:
        """Whether this rank received a signal."""
        return False

    def save_failed(self) -> bool:
        """Whether this rank failed to write a state."""
        return False

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        """Called on all ranks when `step` optimiser steps of the epoch are done."""

    def last_save(self) -> str:
        """The last saved state, for the message of a run that stops. Collective."""
        return "nothing was saved"
