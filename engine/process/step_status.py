"""The status of a training step, the same on all ranks, and the hooks by which a run follows the loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepStatus:
    """The same on all ranks: on how many ranks each of these holds, or how many clips."""

    not_finite: int  # ranks whose loss or gradient norm is not finite
    unreadable: int  # clips that another one stands in for
    stop_wanted: int  # ranks that received a signal
    save_failed: int  # ranks that could not write a state


class StepHooks:
    """The hooks of a run that wants nothing; others override what they need."""

    def stop_wanted(self) -> bool:
        return False

    def save_failed(self) -> bool:
        return False

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        """Called on all ranks when `step` optimiser steps of the epoch are done."""

    def last_save(self) -> str:
        """What a message about a run that stops says about the states it saved. Collective."""
        return "nothing was saved"
