"""A model wrapped for one rank, compiled, sharded; impossible options are refused in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UserError
from engine.distributed.precision import autocast
from engine.distributed.sharding import (
    describe_sharding,
    full_copy,
    full_state,
    load_full_state,
)
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.training.optimizer import MOMENTS, build_optimizer, load_optimizer_state, optimizer_state
from modules.backbones.layers import layers_of
from tests.device import DEVICE
from tests.engine.distributed.test_world import variables
from tests.modules import tiny
from tests.processes import free_port, run_ranks

ALONE = World(0, 1, DEVICE)
RATES: dict[str, Any] = {"lr": 1e-3, "text_lr": 1e-3, "coef_lr": 1.0, "weight_decay": 0.1, "warmup": 0.1}


def test_one_process_gets_the_model_itself() -> None:
    model = tiny.retrieval_model()
    assert wrap(model, ALONE) is model


def test_sharding_one_rank_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="--fsdp: .* start several") as error:
        wrap(tiny.retrieval_model(), ALONE, fsdp=True)
    assert "\n" not in str(error.value)


def test_a_full_state_goes_into_another_model() -> None:
    source, target = tiny.pretrain_model(), tiny.pretrain_model()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    assert full_state(source, keep=False) == {}
    state = full_state(source, keep=True)
    load_full_state(target, state)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in state.items())


def test_a_copied_state_shares_no_memory() -> None:
    """The training goes on while a thread writes it."""
    model = nn.Linear(2, 3).to(DEVICE)
    optimizer = build_optimizer(model, **RATES, total_steps=10)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = full_state(model, keep=True, copy=True)
    moments = optimizer_state(model, optimizer)
    copies = [*state.values(), *moments["exp_avg"].values(), *moments["exp_avg_sq"].values()]
    before = [copy.clone() for copy in copies]
    for _ in range(2):
        optimizer.step()
    assert len(copies) == 6 and all(map(torch.equal, copies, before))
    assert all(copy.device.type == "cpu" and not copy.requires_grad for copy in copies)
    assert full_copy(model.weight, keep=False) is None
    assert full_state(model, keep=True)["weight"].data_ptr() == model.weight.data_ptr()


class FullTensor:
    """A gathered tensor on an accelerator; counts how many there are at once."""

    alive = most = 0

    def __init__(self, value: float) -> None:
        self.value = value
        FullTensor.alive += 1
        FullTensor.most = max(FullTensor.most, FullTensor.alive)

    def __del__(self) -> None:
        FullTensor.alive -= 1

    def detach(self) -> FullTensor:
        return self

    def cpu(self) -> torch.Tensor:
        return torch.full((2,), self.value)


class Shard:
    def __init__(self, value: float) -> None:
        self.value = value
        self.gathered = 0

    def full_tensor(self) -> FullTensor:
        self.gathered += 1
        return FullTensor(self.value)


@pytest.mark.parametrize("keep", [True, False])
def test_gathered_weights_go_to_the_cpu_one_by_one(keep: bool) -> None:
    """No device holds all of them; ranks that keep nothing take part in the gathering."""
    shards = {str(number): Shard(number) for number in range(3)}
    model: Any = SimpleNamespace(state_dict=lambda: {**shards, "norm": torch.zeros(1)})
    FullTensor.most = 0
    state = full_state(model, keep=keep)
    assert [shard.gathered for shard in shards.values()] == [1, 1, 1] and FullTensor.most == 1
    if not keep:
        assert state == {}
        return
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert {name: value.tolist() for name, value in state.items()} == {
        **{str(number): [number] * 2 for number in range(3)},
        "norm": [0.0],
    }


def _one_step(model: Any, called: nn.Module) -> tuple[float, Any, dict[str, list[torch.dtype]]]:
    """The loss of a step in bfloat16, the optimiser after it, the types of the blocks' weights and inputs."""
    types: dict[str, list[torch.dtype]] = {"weights": [], "inputs": []}

    def look(block: Any, inputs: Any) -> None:
        types["weights"].append(block.mlp[0].weight.dtype)
        types["inputs"].append(inputs[0].dtype)

    for encoder in (model.visual_encoder.visual, model.text_encoder):
        encoder.transformer.resblocks[0].register_forward_pre_hook(look)
    model.visual_encoder.temporal_transformer.resblocks[0].register_forward_pre_hook(look)
    optimizer = build_optimizer(model, **RATES, total_steps=10)
    with autocast("bf16", DEVICE):
        loss = called(tiny.batch(2, padded=True))["loss"]
    loss.backward()
    optimizer.step()
    return float(loss.detach()), optimizer, types


def _sharded_in_bf16(rank: int, port: str, folder: str) -> None:
    torch.set_num_threads(1)
    world = World.from_environment(None, environ=variables(rank, 3, port))
    model = tiny.pretrain_model()
    loss, optimizer, types = _one_step(model, wrap(model, world, fsdp=True, precision="bf16"))
    assert set(types["weights"]) == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    keep = rank == 0
    moments = optimizer_state(model, optimizer, keep=keep)
    state = full_state(model, keep=keep, copy=True)
    assert bool(state) == keep and bool(moments["exp_avg"]) == keep
    every = world.broadcast((state, moments))
    if rank == 0:  # loading is not collective: the others do it later
        load_full_state(model, every[0])
        load_optimizer_state(model, optimizer, every[1])
    world.broadcast(None)
    if rank:
        load_full_state(model, {name: torch.zeros_like(value) for name, value in every[0].items()})
        load_full_state(model, every[0])
        load_optimizer_state(model, optimizer, every[1])
    again = optimizer_state(model, optimizer)
    assert all(torch.equal(again[m][n], every[1][m][n]) for m in MOMENTS for n in every[1][m])
    loaded = full_state(model, keep=True)
    assert all(torch.equal(loaded[name], value) for name, value in every[0].items())
    if keep:
        inputs = [str(dtype) for dtype in types["inputs"]]
        torch.save({"loss": loss, "inputs": inputs, "state": state, **moments}, f"{folder}/sharded.pt")
    _rows_fewer_than_ranks()
    world.close()


def _rows_fewer_than_ranks() -> None:
    from torch.distributed.fsdp import fully_shard

    layer = nn.Linear(4, 2)
    fully_shard(layer)
    values = {"weight": torch.arange(8.0).view(2, 4), "bias": torch.tensor([1.0, 2.0])}
    load_full_state(layer, values)
    loaded = full_state(layer, keep=True)
    assert all(torch.equal(loaded[name], value) for name, value in values.items())


def test_sharding_in_bfloat16(tmp_path: Path) -> None:
    """Weights are gathered in bfloat16 and kept in float32; rank 0 alone gets the full state, on the CPU."""
    run_ranks(_sharded_in_bf16, 3, free_port(), str(tmp_path))
    sharded = torch.load(tmp_path / "sharded.pt", weights_only=True)
    model = tiny.pretrain_model()
    loss, optimizer, types = _one_step(model, model)
    assert set(types["weights"]) == {torch.float32}
    assert sharded["inputs"] == [str(dtype) for dtype in types["inputs"]]
    assert sharded["loss"] == pytest.approx(loss, rel=0.02)
    assert list(sharded["state"]) == list(model.state_dict())
    moments = optimizer_state(model, optimizer)
    for moment in MOMENTS:
        assert sharded[moment].keys() == moments[moment].keys()
    whole = torch.cat([value.flatten() for value in moments["exp_avg"].values()])
    ours = torch.cat([sharded["exp_avg"][name].flatten() for name in moments["exp_avg"]])
    assert tiny.cosine(whole, ours) > 0.99


def test_layers_of_every_kind_of_encoder_are_found() -> None:
    """open_clip's transformers and ResNets, towers of timm, BERT: the innermost lists of equal modules."""
    timm = pytest.importorskip("timm")
    from transformers import BertConfig, BertModel

    vision = timm.create_model("vit_tiny_patch16_224", depth=3, embed_dim=24, num_heads=2)
    stages = timm.create_model("convnext_atto", depths=(1, 2, 1, 3), dims=(8, 8, 8, 8))
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 50}
    bert = BertModel(BertConfig(num_hidden_layers=3, **sizes))
    assert [len(layers_of(part)) for part in (vision, stages, bert)] == [3, 7, 3]
    assert {type(layer).__name__ for layer in layers_of(stages)} == {"ConvNeXtBlock"}
    line, warnings = describe_sharding(tiny.pretrain_model())
    assert "visual_encoder 2 layers" in line and "text_encoder_k 1 layers" in line
    model = tiny.retrieval_model()
    model.visual_encoder = nn.Linear(2, 2)
    assert "visual_encoder gathers 100% of its weights at once" in describe_sharding(model)[1][0]
