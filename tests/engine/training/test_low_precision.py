"""bf16 and fp16 against float32 on a toy task: losses of 50 steps, and R@1 at the end.

A clip shows one of 8 patterns on its left and one on its right, under noise; its caption names both.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from engine.distributed.precision import autocast
from engine.distributed.world import World
from engine.logs.run_log import RunLog
from engine.training.loss_scale import LossScale
from engine.training.optimizer import build_optimizer
from engine.training.trainer import Trainer
from modules.dual_encoder import DualEncoder
from tests.device import DEVICE
from tests.modules import tiny

PATTERNS, STEPS = 8, 50
SCALE = 64.0
END, FIRST_WORD, FILLERS = tiny.VOCAB - 1, 10, 60


class Pairs(Dataset[dict[str, Tensor]]):
    """`steps` batches of `clips` clips, the same for the same seed."""

    def __init__(self, steps: int, *, clips: int, seed: int = 0) -> None:
        self.steps, self.clips, self.seed = steps, clips, seed
        look = torch.Generator().manual_seed(99)
        self.patterns = torch.rand(2, PATTERNS, 3, 32, 16, generator=look)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(1000 * self.seed + step)
        pair = torch.randperm(PATTERNS * PATTERNS, generator=draw)[: self.clips]
        left, right = pair // PATTERNS, pair % PATTERNS
        picture = torch.cat([self.patterns[0, left], self.patterns[1, right]], dim=-1)
        noise = torch.rand(self.clips, tiny.FRAMES, 3, 32, 32, generator=draw)
        frames = (255 * (0.3 * picture[:, None] + 0.7 * noise)).to(torch.uint8)
        ids = torch.randint(FIRST_WORD + 20, FILLERS, (self.clips, tiny.WORDS), generator=draw)
        ids[:, 1], ids[:, 3], ids[:, -1] = FIRST_WORD + left, FIRST_WORD + PATTERNS + right, END
        labels = torch.full_like(ids, -100)
        labels[::2, 1] = ids[::2, 1]
        return {
            "frames": frames,
            "frame_mask": torch.ones(self.clips, tiny.FRAMES, dtype=torch.bool),
            "text_ids": ids,
            "text_mask": torch.ones_like(ids),
            "text_mlm_ids": ids.masked_fill(labels != -100, 3),
            "text_mlm_labels": labels,
            "index": pair,
        }


class Recording(Trainer):
    """Keeps the loss of every step."""

    kept: list[float]

    def _report(self, losses: dict[str, Tensor], *, epoch: int, step: int) -> None:
        self.kept.append(float(losses["loss"]))


def trained(
    kind: str, precision: str, *, clips: int, rate: float, seed: int = 0
) -> tuple[DualEncoder, list[float]]:
    """A model after `STEPS` steps of `clips` clips, and its losses. `seed` is that of the clips."""
    model = tiny.retrieval_model() if kind == "fine-tuning" else tiny.pretrain_model(queue_size=64)
    optimizer = build_optimizer(
        model, lr=rate, text_lr=rate, coef_lr=1.0, weight_decay=0.05, warmup=0.1, total_steps=STEPS
    )
    trainer = Recording(
        model,
        optimizer,
        DataLoader(Pairs(STEPS, clips=clips, seed=seed), batch_size=None),
        world=World(0, 1, DEVICE),
        log=RunLog(Path(), active=False),
        precision=precision,
        n_display=1,
    )
    if precision == "fp16":  # so low that no step is skipped: a skipped step would be another training
        trainer.scaler = LossScale(DEVICE, enabled=True, initial=SCALE)
    trainer.kept = []
    trainer.train_epoch(0)
    return model, trainer.kept


@torch.no_grad()
def recall(model: DualEncoder, precision: str) -> float:
    """Text-to-video R@1, in percent, of all pairs of patterns."""
    batch = Pairs(1, clips=PATTERNS**2, seed=77)[0]
    model.eval()
    with autocast(precision, DEVICE):
        texts = model.encode_text(batch["text_ids"], batch["text_mask"]).float()
        videos = model.encode_video(batch["frames"], batch["frame_mask"])[0].float()
    scores = nn.functional.normalize(texts, dim=-1) @ nn.functional.normalize(videos, dim=-1).T
    return 100.0 * float((scores.argmax(1) == torch.arange(PATTERNS**2)).float().mean())


@functools.cache
def losses(kind: str, precision: str, clips: int) -> list[float]:
    return trained(kind, precision, clips=clips, rate=5e-4)[1]


# Processors multiply float16 slowly, so its batches are small.
@pytest.mark.parametrize(("precision", "clips"), [("bf16", 16), ("fp16", 4)])
@pytest.mark.parametrize("kind", ["fine-tuning", "pre-training"])
def test_every_loss_of_fifty_steps_is_within_one_percent(kind: str, precision: str, clips: int) -> None:
    exact, ours = losses(kind, "fp32", clips), losses(kind, precision, clips)
    assert len(ours) == STEPS and ours != exact
    assert exact[-1] < 0.6 * exact[0], "the toy task is learned"
    assert max(abs(one - other) / other for one, other in zip(ours, exact, strict=True)) < 0.01


def test_the_final_recall_is_within_the_noise_of_three_seeds() -> None:
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(3):
        for precision, recalls in found.items():
            model, _ = trained("fine-tuning", precision, clips=16, rate=1e-3, seed=seed)
            assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())
            recalls.append(recall(model, precision))
    exact, ours = found["fp32"], found["bf16"]
    assert min(exact) > 20 and max(exact) < 100, "neither chance, 1.6, nor all right"
    noise = (max(exact) - min(exact)) / 2
    assert abs(sum(ours) - sum(exact)) / 3 < noise
