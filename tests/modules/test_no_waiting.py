"""A training step has no operation for which the CPU waits for a GPU.

On CPUs the operations of a step are looked at one by one. What is on the host in a batch may be read, by the
functions of host_masks.py only. With a GPU, torch itself refuses to wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modules import host_masks
from modules.dual_encoder import DualEncoder
from modules.logits import Logits, logits_for
from modules.losses.table import make_loss
from tests.device import DEVICE
from tests.modules import tiny
from tests.modules.test_grad_checkpointing import chinese

ON_HOST = ("frame_mask", "text_mlm_labels", "tag_mlm_labels", "index", "replaced", "language")
# The size of their result, or the result itself, is not known before the device has computed it.
WAITING = (
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    *("repeat_interleave", "multinomial", "lift_fresh"),  # lift_fresh: torch.tensor(), which copies
)
BY_MASK = ("index", "index_put", "index_put_", "_index_put_impl_")  # wait if the index is a mask


class NoWaiting(TorchDispatchMode):
    """Fails at an operation that waits, and at one that mixes tensors of host and device."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.kept: list[Tensor] = []  # else the address of a freed tensor could be used again
        self.on_host: set[int] = set()
        self.read = 0
        for name in ON_HOST:
            if name in batch:
                self.is_on_host(batch[name])

    def is_on_host(self, tensor: Tensor) -> None:
        self.kept.append(tensor)
        self.on_host.add(tensor.untyped_storage().data_ptr())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        hosts = [tensor.untyped_storage().data_ptr() in self.on_host for tensor in tensors]
        name = func._schema.name.split("::")[-1]
        if _waits(name, args):
            caller = _frame_in(host_masks.__file__)
            assert any(hosts) and caller is not None, f"{name} waits for the device"
            self.read += 1
        result = func(*args, **(kwargs or {}))
        if any(hosts):
            assert all(hosts), f"{name} mixes tensors of host and device"
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.is_on_host(leaf)
        return result


def _waits(name: str, args: Any) -> bool:
    if name in BY_MASK:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return name in WAITING or (name == "repeat_interleave" and isinstance(args[0], Tensor))


def _frame_in(file: str) -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return frame


@pytest.fixture
def mode_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Mapping[str, Tensor]], NoWaiting]]:
    """The mode for a batch. What `on_device` returns is a new tensor, as on a GPU."""
    if DEVICE.type != "cpu":
        pytest.skip("looks at the operations of a step on the CPU; the last test is that for a GPU")
    modes: list[NoWaiting] = []

    def start(batch: Mapping[str, Tensor]) -> NoWaiting:
        modes.append(NoWaiting(batch))
        return modes[0]

    def copy(entry: Tensor, device: torch.device) -> Tensor:
        with torch.utils._python_dispatch._disable_current_modes():
            return entry.detach().clone()

    monkeypatch.setattr(host_masks, "on_device", copy)
    yield start
    assert modes and modes[0].read, "nothing was read on the host, so this test has seen nothing"


def finetuning(folder: Path) -> DualEncoder:
    return tiny.retrieval_model(mask_duplicates=True)


def sigmoid(folder: Path) -> DualEncoder:
    loss = make_loss("sigmoid")
    return tiny.retrieval_model(loss=loss, logits=logits_for(loss, scale=1.0), mask_duplicates=True)


def hard_negatives(folder: Path) -> DualEncoder:
    loss = make_loss("softmax", hard_negatives=0.5)
    return tiny.retrieval_model(loss=loss, logits=Logits(5.0, learned=True), mask_duplicates=True)


def pretraining(folder: Path) -> DualEncoder:
    return tiny.pretrain_model()


def in_batch_negatives(folder: Path) -> DualEncoder:
    return tiny.pretrain_model(in_batch_negatives=True, mask_duplicates=True)


MODELS: dict[str, Callable[[Path], DualEncoder]] = {
    "fine-tuning": finetuning,
    "sigmoid": sigmoid,
    "hard negatives": hard_negatives,
    "WTI": lambda folder: tiny.retrieval_model(head="wti"),
    "X-Pool": lambda folder: tiny.retrieval_model(head="xpool"),
    "pre-training": pretraining,
    "in-batch negatives": in_batch_negatives,
    "Chinese": chinese,
    "bilingual": lambda folder: tiny.bilingual_model(),
    "bilingual pre-training": lambda folder: tiny.bilingual_pretrain_model(),
}


def clips(*, padded: bool) -> dict[str, Tensor]:
    batch = tiny.batch(4, padded=padded, tags=True)
    batch["text_mask"][:, -2:] = 0
    return batch | {"video": torch.tensor([3, 1, 3, 2]), "language": torch.tensor([0, 1, 1, 0])}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_does_not_wait(
    kind: str, padded: bool, tmp_path: Path, mode_of: Callable[[Mapping[str, Tensor]], NoWaiting]
) -> None:
    model, batch = MODELS[kind](tmp_path), clips(padded=padded)
    with mode_of(batch):
        loss = model(batch)["loss"]
        loss.backward()
        model.after_step()
    assert torch.isfinite(loss).item() and tiny.gradients(model)


def test_what_waits_is_noticed(mode_of: Callable[[Mapping[str, Tensor]], NoWaiting]) -> None:
    batch = clips(padded=True)
    values, mask = torch.ones(4, tiny.FRAMES), torch.ones(4, tiny.FRAMES, dtype=torch.bool)
    with mode_of(batch):
        assert not host_masks.is_full(batch["frame_mask"])
        for wait in (
            lambda: bool(mask.all()),
            lambda: values[mask],
            lambda: values.masked_select(mask),
            lambda: host_masks.is_full(mask),
            lambda: bool(batch["frame_mask"].any()),
            lambda: torch.unique(values),
            lambda: torch.tensor(1.0),
        ):
            with pytest.raises(AssertionError, match="waits"):
                wait()
        with pytest.raises(AssertionError, match="mixes"):
            values.masked_fill(batch["frame_mask"], 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_does_not_wait_for_a_gpu(kind: str, padded: bool, tmp_path: Path) -> None:
    device = torch.device("cuda")
    model = MODELS[kind](tmp_path).to(device)
    batch = {
        name: entry.cpu().pin_memory() if name in ON_HOST else entry.to(device)
        for name, entry in clips(padded=padded).items()
    }
    model(batch)["loss"].backward()  # libraries that start at their first call may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = model(batch)["loss"]
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(torch.isfinite(loss))
