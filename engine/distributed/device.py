"""A rank's device: which one it is, and copying batches to it.

A device is a CUDA GPU (NVIDIA, or AMD with torch's ROCm build) or the CPU. Other accelerators that torch
knows are not used: Apple's MPS, for one, has no float64, which ranking needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
import torch.distributed as dist

from common.errors import UserError
from dataloaders.colour_augmentation import augment_colours
from dataloaders.encoded_frames import ENTRIES, decode_clips
from engine.distributed.environment import Place

Batch = dict[str, torch.Tensor]
# The model and the trainer look into these to decide shapes and messages. On a GPU each look would stop the
# CPU until the GPU has done all its work.
READ_ON_CPU = ("frame_mask", "index", "replaced", "colours", "language")
LABELS = "_mlm_labels"  # so are all entries with this ending


def default_device() -> torch.device:
    """The device of a program with one process: the current GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(place: Place) -> torch.device:
    """The device of this rank, which becomes the current one: the GPU with its local rank, or the CPU.

    A rank that sees one GPU uses it, whatever its local rank: schedulers show each task its own GPU only.
    Raises `UserError` if there are several GPUs and fewer than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if place.local_rank >= count > 1:
        raise UserError(
            f"local rank {place.local_rank} has no GPU: {count} visible; start at most {count} processes on "
            "this machine, or run on the CPU by hiding all GPUs (CUDA_VISIBLE_DEVICES=)"
        )
    index = 0 if count == 1 else place.local_rank
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def refuse_shared_devices(place: Place, device: torch.device, node: str, store: dist.Store) -> None:
    """Raise `UserError` on rank 0 if two ranks have one GPU, with which NCCL fails. `node`: this machine.

    The ranks tell each other through `store`. On the CPU nothing is checked.
    """
    if device.type != "cuda":
        return
    store.set(f"device of {place.rank}", f"{node} {torch.cuda.get_device_properties(device).uuid}")
    if place.rank:
        return
    rank_of: dict[bytes, int] = {}
    for rank in range(place.size):
        other = rank_of.setdefault(store.get(f"device of {rank}"), rank)
        if other != rank:
            raise UserError(
                f"ranks {other} and {rank} use the same GPU: start at most one process for each visible GPU, "
                "or run on the CPU by hiding all GPUs (CUDA_VISIBLE_DEVICES=)"
            )


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> Batch:
    """A copy of the batch on `device`, except what is read on the CPU.

    If the batch's memory is pinned, the CPU does not wait for the copy. Frames that are JPEGs are decoded
    there, for which it waits. The frames' colours are changed there, as `colours` says. What these two
    need is left out of the copy.
    """
    copied = {
        name: tensor if _stays(name) else tensor.to(device, non_blocking=True)
        for name, tensor in batch.items()
        if name not in ENTRIES
    }
    if "jpegs" in batch:
        copied["frames"] = decode_clips(batch, device)
    colours = copied.pop("colours", None)
    if colours is not None:
        augment_colours(copied["frames"], colours)
    return copied


def _stays(name: str) -> bool:
    return name in READ_ON_CPU or name.endswith(LABELS)


class BatchCopier:
    """Copies batches to `device`; a GPU copies while it computes what it was given before.

    The copies have a stream of their own. The trainer starts at most one step ahead of the GPU, so one step's
    batches have memory besides those in use. Other loops need a `Pace`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> Batch:
        """`to_device` of the batch. The current stream's next work waits for the copy; the CPU does not."""
        if self._stream is None:
            return to_device(batch, self.device)
        with torch.cuda.stream(self._stream):
            copied = to_device(batch, self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in copied.values():
            if tensor.is_cuda:
                tensor.record_stream(current)  # its memory is free once the step is done
        return copied


class Pace:
    """Keeps the CPU at most `AHEAD` batches ahead of a GPU, where no step makes it wait.

    Otherwise the copies of all batches that the loader has ready would lie in the GPU's memory.
    """

    AHEAD = 2

    def __init__(self, device: torch.device) -> None:
        self._events: deque[torch.cuda.Event] | None = deque() if device.type == "cuda" else None

    def batch_done(self) -> None:
        """All work of a batch is given to the GPU. Waits until the batch `AHEAD` before it is done there."""
        if self._events is None:
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > self.AHEAD:
            self._events.popleft().synchronize()
