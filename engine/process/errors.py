"""Errors that end a run and are not bugs: our exceptions, and one-line messages for errors of torch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from common import commands

LOST_RANK = "stopped: another rank ended"
NO_ANSWER = "stopped: another rank did not answer in time; it hangs, or its machine is down"
_CLOSED = (
    "Connection closed by peer",
    "Connection reset by peer",
    "connectFullMesh failed",  # a rank ended before all were connected
    "Broken pipe",
    "failed to recv, got 0 bytes",  # rank 0, which serves the store, ended
)
_TIMED_OUT = ("Timed out waiting", "Watchdog caught collective operation timeout", "Application timeout")


class TrainingStopped(RuntimeError):
    """Training cannot continue. The message says why and names samples and the last state. Exit code 1."""


class EndedRank(RuntimeError):
    """Another rank ended, and so this one has to. The message says which and why. Exit code 1."""


class StoppedBySignal(BaseException):
    """A signal stopped the run. `exit_code` is what the program returns.

    Like KeyboardInterrupt it does not derive from `Exception`: it may be raised anywhere, and handlers of
    errors must not catch it.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


MORE_MEMORY = "lower --num_thread_reader, or give the container more shared memory (docker run --shm-size)"


def program_name() -> str:
    """The name of this program, for messages of threads and libraries that are not told it."""
    return f"hmmc {commands.running}" if commands.running else Path(sys.argv[0]).name


def explain(error: Exception) -> str | None:
    """One line for an error of torch with a cause outside of the program; None for any other error."""
    if isinstance(error, EndedRank):
        return str(error)
    import torch  # takes seconds; a wrong flag is reported without it
    import torch.distributed as dist

    text = str(error)
    if isinstance(error, (ConnectionError, EOFError)):
        # Killed while it sent a batch: torch notices the broken connection before the end of the process.
        return (
            f"stopped: loader process ended while it sent a batch, perhaps Killed for memory: {MORE_MEMORY}"
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "stopped: no memory left on the device; give --grad_checkpointing, --grad_cache N (clips encoded "
            "at once), --gradient_accumulation_steps or a smaller --batch_size"
        )
    if "shared memory segment" in text:  # of NCCL, between the ranks of one machine
        return f"stopped: shared memory is full: {MORE_MEMORY}"
    if any(sign in text for sign in _TIMED_OUT):
        return NO_ANSWER
    if isinstance(error, dist.DistBackendError) or any(sign in text for sign in _CLOSED):
        return LOST_RANK
    return _lost_worker(text)


def _lost_worker(text: str) -> str | None:
    """One line on a loader process that was killed: torch raises a RuntimeError with its process id."""
    match = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)
    if not match:
        return None
    process_ids, reason = match[1].strip(), match[2].split(".")[0]
    return f"stopped: loader process {process_ids} {reason}; most often memory ran out: {MORE_MEMORY}"
