"""The flags of each step, summed over the ranks on the device, and read there by the CPU one step late.

A CPU that reads a number of the step which the device is computing waits, and afterwards the device waits for
the CPU. So on a GPU the flags of a step are read after the next step has been started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.distributed.world import World
from engine.process.step_status import StepStatus

NOT_FINITE, UNREADABLE, STOP_WANTED, SAVE_FAILED, LOSS = range(5)


@dataclass(frozen=True)
class StepResult:
    """What the trainer needs of a step once it knows its flags.

    `where` names the step. `loss` and `norm` are this rank's scalars on the device, `samples` int64 [B] the
    numbers of the clips of each pass, on the CPU.
    """

    where: str
    samples: Sequence[Tensor]
    loss: Tensor
    norm: Tensor

    @property
    def numbers(self) -> str:
        """For a message. Waits for the device."""
        return f"loss {float(self.loss)}, gradient norm {float(self.norm)}"


@dataclass(frozen=True)
class _Unread:
    result: StepResult
    values: Tensor  # float32 [5] on the CPU; on a GPU complete once `copied`
    copied: torch.cuda.Event | None


class StepFlags:
    """The flags of this run's steps. `late`: they are read one step late, as on a GPU.

    `loss` is the mean loss over the ranks of the newest step that was read; None before the first.
    """

    def __init__(self, world: World, *, late: bool | None = None) -> None:
        self.world = world
        self.late = world.device.type == "cuda" if late is None else late
        self.loss: float | None = None
        self._unread: deque[_Unread] = deque()

    @property
    def all_read(self) -> bool:
        return not self._unread

    def add(
        self,
        not_finite: Tensor,
        result: StepResult,
        *,
        unreadable: int,
        stop_wanted: bool,
        save_failed: bool,
    ) -> Tensor:
        """Add a step. Collective; the CPU does not wait for a GPU.

        `not_finite`: whether this rank's numbers are not, a bool scalar on the device. Returns whether those
        of any rank are not, on the device.
        """
        on_gpu = self.world.device.type == "cuda"
        host = torch.tensor(
            [0, unreadable, stop_wanted, save_failed, 0], dtype=torch.float32, pin_memory=on_gpu
        )
        flags = host.to(self.world.device, non_blocking=True)
        flags[NOT_FINITE].copy_(not_finite)
        flags[LOSS].copy_(result.loss)
        flags = self.world.sum(flags)
        values, copied = flags, None
        if on_gpu:
            values = torch.empty_like(host, pin_memory=True).copy_(flags, non_blocking=True)
            copied = torch.cuda.Event(blocking=True)  # a CPU that waits leaves its core to the loader
            copied.record()
        self._unread.append(_Unread(result, values, copied))
        return flags[NOT_FINITE] > 0

    def read(self, *, all_steps: bool) -> list[tuple[StepStatus, StepResult]]:
        """The steps whose flags were not read yet, in order: `all_steps`, or all but the newest if `late`.

        After a step that ends the run the newest is read too, so that the state to save is that of a step
        with a known status. Every rank returns the same statuses.
        """
        steps = []
        while len(self._unread) > (0 if all_steps or not self.late else 1):
            unread = self._unread.popleft()
            if unread.copied is not None:
                unread.copied.synchronize()
            *counts, loss = unread.values.tolist()
            status = StepStatus(*map(int, counts))
            self.loss = loss / self.world.size
            steps.append((status, unread.result))
            all_steps = all_steps or bool(status.stop_wanted or status.save_failed)
        return steps
