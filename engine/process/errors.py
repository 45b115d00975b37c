"""Ends of a run that are no bug of ours: their exceptions, and one clear line for those that torch raises."""

from __future__ import annotations

import re

LOST_RANK = "stopped: another rank ended, which says why"
_CLOSED = (
    "Connection closed by peer",
    "Connection reset by peer",
    "connectFullMesh failed",  # gone before all had met
    "Broken pipe",
    "failed to recv, got 0 bytes",  # rank 0's store is gone
)
_TIMED_OUT = ("Timed out waiting", "Watchdog caught collective operation timeout", "Application timeout")


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why, names the samples and what was saved. Exit code 1."""


class StoppedBySignal(BaseException):
    """A signal ended the run in good order; `exit_code` is what the program returns.

    No `Exception`, as KeyboardInterrupt is none: it may come up anywhere, and no handler of errors is meant.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


MORE_MEMORY = "lower --num_thread_reader, or give the container more shared memory (docker run --shm-size)"


def explain(error: Exception) -> str | None:
    """One line on an error of torch that has its cause outside of the program; None for any other."""
    import torch  # takes seconds, which the answer to a wrong flag need not wait for
    import torch.distributed as dist

    text = str(error)
    if isinstance(error, (ConnectionError, EOFError)):
        # Killed while it handed a batch over: torch then sees the broken connection before the dead process.
        return (
            f"stopped: loader process ended while it sent a batch, perhaps Killed for memory: {MORE_MEMORY}"
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "stopped: no memory left on the device; give --grad_checkpointing, --grad_cache N (clips encoded "
            "at once), --gradient_accumulation_steps or a smaller --batch_size"
        )
    if any(sign in text for sign in _TIMED_OUT):
        return "stopped: another rank did not answer in time; it hangs or its machine is gone"
    if isinstance(error, dist.DistBackendError) or any(sign in text for sign in _CLOSED):
        return LOST_RANK
    return _lost_worker(text)


def _lost_worker(text: str) -> str | None:
    """About a loader process that was killed: torch raises that as a RuntimeError naming process ids."""
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)
    if not found:
        return None
    how = found[2].split(".")[0]
    return f"stopped: loader process {found[1].strip()} {how}; most often memory ran out: {MORE_MEMORY}"
