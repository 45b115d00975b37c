"""The trainer's own part of a step reads nothing from the device; on a GPU torch checks the whole step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from engine.distributed.device import BatchCopier
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.training.optimizer import build_optimizer
from engine.training.trainer import Losses, Trainer
from tests.engine.training.test_trainer import with_bad_rows
from tests.modules import tiny
from tests.modules.test_no_waiting import WAITING

STEPS = 5
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class NoReading(TorchDispatchMode):
    """Counts all operations, and fails at those for which the CPU would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        # torch.tensor() makes the flags of this rank in pinned memory.
        assert name not in WAITING or name == "lift_fresh", f"{name} waits for the device"
        self.operations += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_reads_no_number_of_the_device(precision: str, tmp_path: Path) -> None:
    """Neither in a good step nor in one that is skipped."""
    trainer = with_bad_rows([2], tmp_path, precision=precision, own_scaler=True, late=True)
    trainer.optimizer.fused = True  # as on a GPU
    for batch in trainer.loader:
        with NoReading() as mode:
            losses = trainer._optimiser_step([batch], "step")
            trainer.chance.add(losses, step=4, steps=5)
        assert mode.operations > 20
        trainer.flags.read(all_steps=False)
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"), NoReading():
        float(losses["loss"])


class Clips(Dataset[dict[str, Tensor]]):
    def __init__(self, *, padded: bool) -> None:
        self.padded = padded

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        batch = tiny.batch(4, padded=self.padded, seed=step)
        batch |= {"index": torch.arange(4), "replaced": torch.tensor([0, step % 2, 0, 0])}
        return {name: tensor.cpu() for name, tensor in batch.items()}  # with --device cuda they are there


class Checked(Trainer):
    """Until the report at the end of an epoch the CPU may not wait for the GPU."""

    def _report(self, losses: Losses, *, epoch: int, step: int) -> None:
        torch.cuda.set_sync_debug_mode("default")
        super()._report(losses, epoch=epoch, step=step)


@needs_gpu
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["fine-tuning", "pre-training"])
@pytest.mark.parametrize(("accumulation", "grad_cache"), [(1, 0), (2, 0), (1, 2)])
def test_a_gpu_is_never_waited_for(
    kind: str, precision: str, padded: bool, accumulation: int, grad_cache: int, tmp_path: Path
) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    model = (tiny.retrieval_model() if kind == "fine-tuning" else tiny.pretrain_model()).to(device)
    rates = {"lr": 1e-3, "text_lr": 1e-3, "coef_lr": 1.0}
    optimizer = build_optimizer(model, **rates, weight_decay=0.1, warmup=0.1, total_steps=2 * STEPS)
    trainer = Checked(
        model,
        optimizer,
        DataLoader(Clips(padded=padded), batch_size=None, pin_memory=True),
        world=World(0, 1, device),
        log=RunLog(tmp_path, active=True),
        precision=precision,
        accumulation=accumulation,
        grad_cache=grad_cache,
        epochs=2,
    )
    try:
        trainer.train_epoch(0)  # the first steps load libraries and ask for memory
        before = trainer.params[0].clone()
        torch.cuda.set_sync_debug_mode("error")
        trainer.train_epoch(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.counters.unreadable == 2 * (STEPS // 2) and trainer.counters.skipped == 0
    assert not torch.equal(before, trainer.params[0])


@needs_gpu
def test_batches_arrive_whole_on_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    copier = BatchCopier(device)
    sums = []
    for number in range(20):
        frames = torch.full((1 << 22,), number, dtype=torch.uint8, device="cpu")
        batch = {"frames": frames.pin_memory(), "index": torch.arange(2, device="cpu")}
        copied = copier(batch)
        assert copied["frames"].device == device and copied["index"].device.type == "cpu"
        sums.append(copied["frames"].sum())
        del copied  # its memory is used again only when the sum is done
    assert [int(total) for total in sums] == [number << 22 for number in range(20)]
