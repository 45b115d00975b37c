"""The loss of a model that has learned nothing, and the warning about it."""

from __future__ import annotations

import math

import pytest
import torch

from engine.config import Config
from engine.training.chance import ChanceWatch, chance_loss
from modules.losses.matching import queue_video_text_matching
from tests.modules.hmmc_terms import video_text_matching


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(batch_size=256), 2 * math.log(256)),
        (Config(batch_size=256, gradient_accumulation_steps=4), 2 * math.log(64)),
        (Config(batch_size=1), None),
        (Config(batch_size=256, language="bilingual"), 2 * math.log(128)),
        (Config(batch_size=1, language="bilingual"), None),
        (Config(weight_VTM_finetune=0.0), None),
        (Config(do_pretrain=True, contrast_num_negative=1024), 2 * math.log(1025)),
        (Config(do_pretrain=True, negatives="batch", batch_size=64), 2 * math.log(64)),
        (Config(do_pretrain=True, weight_VTM=0.0), None),
    ],
)
def test_the_chance_loss(config: Config, expected: float | None) -> None:
    assert chance_loss(config) == pytest.approx(expected)


def test_equal_features_have_the_chance_loss() -> None:
    ones = torch.ones(8, 4)
    found = video_text_matching(ones, ones, logit_scale=100.0)
    assert float(found) == pytest.approx(chance_loss(Config(batch_size=8)), rel=1e-5)
    queue = torch.full((4, 12), 0.5)
    found = queue_video_text_matching(
        ones, ones, ones, ones, video_queue=queue, text_queue=queue, temperature=0.07
    )
    pretraining = Config(do_pretrain=True, contrast_num_negative=12)
    assert float(found) == pytest.approx(chance_loss(pretraining), rel=1e-5)


def warned(values: list[float], *, chance: float | None = 5.0) -> str | None:
    watch = ChanceWatch(chance)
    for step, value in enumerate(values, start=1):
        watch.add({"VTM": torch.tensor(value)}, step=step, steps=len(values))
    return watch.end_epoch(1)


def test_only_an_epoch_that_ends_at_chance_is_a_warning() -> None:
    assert "epoch 2: VTM is 5.01" in (warned([9.0] * 10 + [5.01] * 10) or "")
    assert warned([9.0] * 10 + [4.5] * 10) is None  # it begins above chance, as random weights do
    assert warned([5.0] * 9) is None  # too few steps to say so
    assert warned([5.0] * 20, chance=None) is None


def test_each_epoch_is_looked_at_by_itself() -> None:
    watch = ChanceWatch(5.0)
    for epoch, value in enumerate((5.0, 3.0)):
        for step in range(1, 21):
            watch.add({"VTM": torch.tensor(value)}, step=step, steps=20)
        assert (watch.end_epoch(epoch) is not None) == (epoch == 0)
