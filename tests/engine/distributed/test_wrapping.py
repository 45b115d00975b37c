"""A model wrapped for one rank, compiled, sharded; impossible options are refused in one line."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import UserError
from engine.distributed.sharding import full_state, load_full_state
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from tests.modules import tiny

ALONE = World(0, 1, torch.device("cpu"))


def test_one_process_gets_the_model_itself() -> None:
    model = tiny.retrieval_model()
    assert wrap(model, ALONE) is model


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fsdp": True}, "--fsdp: .* start several"), ({"fsdp": True, "compiled": True}, "--compile: .*--fsdp")],
)
def test_impossible_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        wrap(tiny.retrieval_model(), ALONE, **options)
    assert "\n" not in str(error.value)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="--compile: needs a C\\+\\+ compiler .*no-such-compiler"):
        wrap(tiny.retrieval_model(), ALONE, compiled=True)


def test_compiling_keeps_the_names_of_weights() -> None:
    """The model is not run: compiling begins with the first call."""
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    plain, compiled = tiny.pretrain_model(), tiny.pretrain_model()
    assert wrap(compiled, ALONE, compiled=True) is compiled
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in compiled.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_a_compiled_model_gives_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and split by torch.compile, but run without generated C++, which would take a minute."""
    plain, compiled = tiny.retrieval_model(), tiny.retrieval_model()
    monkeypatch.setattr(torch.nn.Module, "compile", _compile_eagerly(torch.nn.Module.compile))
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    wrap(compiled, ALONE, compiled=True)
    batch = tiny.batch(4, padded=True)
    for model in (plain, compiled):
        model(batch)["loss"].backward()
    ours, expected = tiny.gradients(compiled), tiny.gradients(plain)
    assert set(ours) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def _compile_eagerly(original: Any) -> Any:
    return lambda module: original(module, backend="aot_eager")


def test_a_full_state_goes_into_another_model() -> None:
    source, target = tiny.pretrain_model(), tiny.pretrain_model()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    assert full_state(source, keep=False) == {}
    state = full_state(source, keep=True)
    load_full_state(target, state)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in state.items())


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
