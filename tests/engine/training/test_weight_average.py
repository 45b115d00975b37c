"""The moving average of the weights against its formula, and its swap with the weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.distributed.sharding import full_state
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.training.saved_weights import SavedWeights
from engine.training.weight_average import WeightAverage
from tests.modules import tiny
from tests.processes import run_ranks

DECAY, STEPS = 0.8, 3


def change(model: nn.Module, step: int) -> None:
    """A step of a training: new weights, different for each parameter."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.mul_(1.0 + 0.1 * ((number + step) % 5 - 2))


def small() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    return model


def test_it_is_the_weighted_sum_of_all_weights_so_far() -> None:
    model = small()
    average = WeightAverage(model, DECAY)
    seen = [model[0].weight.detach().double().clone()]
    for step in range(STEPS):
        change(model, step)
        average.update()
        seen.append(model[0].weight.detach().double().clone())
    expected = DECAY**STEPS * seen[0]
    for age, weight in enumerate(reversed(seen[1:])):
        expected = expected + (1 - DECAY) * DECAY**age * weight
    state = average.state(keep=True)
    assert set(state) == {"0.weight", "1.weight", "1.bias"}  # what is trained
    torch.testing.assert_close(state["0.weight"].double(), expected.cpu(), rtol=1e-6, atol=1e-7)
    assert average.state(keep=False) == {}


def test_the_model_holds_the_average_in_the_block_and_its_weights_after_it() -> None:
    model = small()
    average = WeightAverage(model, DECAY)
    change(model, 0)
    average.update()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), average.applied():
        assert all(
            torch.equal(value.cpu(), average_of)
            for value, average_of in zip(
                (model.state_dict()[name] for name in ("0.weight", "1.weight", "1.bias")),
                WeightAverage(model, DECAY).state(keep=True).values(),
                strict=True,
            )
        )
        assert not torch.equal(model[0].weight, before["0.weight"])
        for forbidden in (average.update, average.applied().__enter__, lambda: average.state(keep=True)):
            with pytest.raises(AssertionError):
                forbidden()
        raise RuntimeError("stop")  # an evaluation that is interrupted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_restored_average_continues_bit_for_bit() -> None:
    first, second = tiny.retrieval_model(), tiny.retrieval_model()
    whole, resumed = SavedWeights(first, ema=DECAY), SavedWeights(second, ema=DECAY)
    change(first, 0)
    whole.after_step()
    contents = whole.contents(keep=True)
    second.load_state_dict(contents["model"])
    resumed.restore(contents)
    for model, weights in ((first, whole), (second, resumed)):
        change(model, 1)
        weights.after_step()
    one, other = whole.contents(keep=True), resumed.contents(keep=True)
    for part in ("model", "ema"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    with whole.as_saved():
        saved = {name: value.clone().cpu() for name, value in whole.checkpoint(keep=True).items()}
    assert all(torch.equal(saved[name], value) for name, value in one["ema"].items())
    assert set(saved) == set(one["model"])


def test_without_the_flag_the_trained_weights_are_saved() -> None:
    model = tiny.retrieval_model()
    weights = SavedWeights(model)
    with weights.as_saved():
        assert weights.checkpoint(keep=True).keys() == model.state_dict().keys()
    assert set(weights.contents(keep=True)) == {"model"} and weights.describe() is None


def sharded(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        model = tiny.retrieval_model()
        wrap(model, World(rank, 2, torch.device("cpu")), fsdp=True)
        result = average_and_weights(SavedWeights(model, ema=DECAY), keep=rank == 0)
        torch.save(result, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def average_and_weights(weights: SavedWeights, *, keep: bool) -> dict[str, dict[str, Tensor]]:
    """What is saved after two steps, with a restored average in between."""
    for step in (0, 1):
        change(weights.model, step)
        weights.after_step()
        weights.restore(dist_copy(weights.contents(keep=True)))
    with weights.as_saved():
        saved = {name: value.clone() for name, value in weights.checkpoint(keep=keep).items()}
    return {"saved": saved, "trained": full_state(weights.model, keep=keep, copy=True)}


def dist_copy(contents: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {part: {name: value.clone() for name, value in of.items()} for part, of in contents.items()}


def test_sharded_weights_have_the_average_of_full_ones(tmp_path: Path) -> None:
    run_ranks(sharded, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    expected = average_and_weights(SavedWeights(tiny.retrieval_model(), ema=DECAY), keep=True)
    assert second == {"saved": {}, "trained": {}}
    for part, tensors in expected.items():
        assert set(first[part]) == set(tensors)
        assert all(torch.equal(first[part][name], value.cpu()) for name, value in tensors.items()), part
    assert not torch.equal(
        expected["saved"]["text_encoder.text_projection"], expected["trained"]["text_encoder.text_projection"]
    )
