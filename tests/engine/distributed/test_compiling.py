"""--compile: layers are compiled in place, once for each kind; what fails runs without.

Most tests trace the layers and run them without generated code ("aot_eager"), which takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from engine.distributed import compiling, wrapping
from engine.distributed.compiling import compile_layers, settle_compile
from engine.distributed.precision import autocast
from engine.distributed.sharding import full_tensor
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.training.grad_cache import cached_backward
from modules.dual_encoder import DualEncoder
from modules.freezing import freeze
from modules.grad_checkpointing import checkpoint_activations
from modules.heads.head import HeadOptions
from modules.heads.hmmc import HmmcHead
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import TemporalTransformer, VideoEncoder
from tests.device import DEVICE, untouched_tensors
from tests.engine.distributed.test_world import variables
from tests.modules import tiny
from tests.modules.test_grad_checkpointing import chinese
from tests.processes import free_port, run_ranks

Step = tuple[Tensor, dict[str, Tensor]]  # loss and gradients
TRACED = "aot_eager"
CPU, GPU = World(0, 1, torch.device("cpu")), World(0, 1, torch.device("cuda"))


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test compiles anew."""
    # pytest would format all that torch traces, which takes half of the time.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def fail(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize(("choice", "world"), [("off", GPU), ("off", CPU), ("auto", CPU)])
def test_where_nothing_is_compiled_nothing_is_tried(
    choice: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_problem", lambda device, backend: fail("tried"))
    assert not settle_compile(choice, world, info=fail, warn=fail)


@pytest.mark.parametrize(("choice", "world"), [("auto", GPU), ("on", GPU), ("on", CPU)])
def test_the_toolchain_is_tried_first(choice: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_problem", lambda device, backend: None)
    lines: list[str] = []
    assert settle_compile(choice, world, info=lines.append, warn=fail)
    assert len(lines) == 1 and lines[0].startswith(f"--compile {choice}: ")
    monkeypatch.setattr(compiling, "_problem", lambda device, backend: "no compiler")
    if choice == "on":
        with pytest.raises(UserError, match=r"--compile: .*\(no compiler\); give --compile off"):
            settle_compile(choice, world, info=fail, warn=fail)
    else:
        assert not settle_compile(choice, world, info=fail, warn=lines.append)
        assert lines[1:] == ["--compile auto: off, because torch.compile does not work here (no compiler)"]


def _raise(error: Exception) -> Any:
    raise error


def test_a_toolchain_that_fails_gives_one_line() -> None:
    device = torch.device("cpu")
    assert compiling._problem(device, TRACED) is None
    problem = compiling._problem(device, "no-such-backend")
    assert problem is not None and "no-such-backend" in problem and "\n" not in problem


def deep_model() -> DualEncoder:
    """With three layers in the temporal transformer."""
    visual, text = tiny.encoders()
    deep = VideoEncoder(visual.visual, embed_dim=32, use_temp=True, temporal_layers=3, temporal_heads=2)
    return RetrievalModel(deep, text, use_frame_fea=True, logit_scale=5.0).train()


def frozen(folder: Path) -> DualEncoder:
    model = deep_model()
    freeze(model, "image", 1)
    freeze(model, "temporal", 2)
    return model


def checkpointed(folder: Path) -> DualEncoder:
    model = deep_model()
    checkpoint_activations(model)
    return model


MODELS: dict[str, Callable[[Path], DualEncoder]] = {
    "fine-tuning": lambda folder: deep_model(),
    "pre-training": lambda folder: tiny.pretrain_model(),
    "Chinese": chinese,
    "frozen": frozen,
    "checkpointed": checkpointed,
}


def step(model: nn.Module, batch: dict[str, Tensor], *, cached: bool = False) -> Step:
    """Loss and gradients; dropout draws the same numbers every time."""
    model.zero_grad()
    torch.manual_seed(5)
    if cached:
        assert isinstance(model, DualEncoder)
        losses = cached_backward(model, batch, chunk=2, scale=lambda loss: loss, cast=contextlib.nullcontext)
        return losses["loss"], tiny.gradients(model)
    loss = model(batch)["loss"]
    loss.backward()
    return loss.detach(), tiny.gradients(model)


def assert_equal_steps(ours: Step, expected: Step) -> None:
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=1e-6)
    assert set(ours[1]) == set(expected[1]) and ours[1]
    for name, gradient in expected[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", MODELS)
def test_a_compiled_model_gives_the_same_losses_and_gradients(kind: str, tmp_path: Path) -> None:
    plain, compiled = MODELS[kind](tmp_path).to(DEVICE), MODELS[kind](tmp_path).to(DEVICE)
    compiled.load_state_dict(plain.state_dict())
    batch = tiny.batch(4, padded=True, tags=kind == "pre-training")
    with untouched_tensors():
        assert compile_layers(compiled, warn=fail, backend=TRACED) >= 4
        assert list(compiled.state_dict()) == list(plain.state_dict())
        for _ in range(2):
            assert_equal_steps(step(compiled, batch), step(plain, batch))


def test_an_evaluation_and_a_gradient_cache_between_the_steps() -> None:
    plain, compiled = deep_model().to(DEVICE), deep_model().to(DEVICE)
    batch = tiny.batch(4)
    with untouched_tensors():
        compile_layers(compiled, warn=fail, backend=TRACED)
        with torch.inference_mode():
            ours, expected = (model.eval().encode_video(batch["frames"])[0] for model in (compiled, plain))
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        plain.train(), compiled.train()
        assert_equal_steps(step(compiled, batch, cached=True), step(plain, batch, cached=True))
        assert_equal_steps(step(compiled, batch), step(plain, batch))


def graphs_of(model: DualEncoder, *, passes: int = 1) -> int:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_layers(model, warn=fail, backend="eager")  # traces only: a quarter of the time
    for clips in range(4, 4 + passes):
        step(model, tiny.batch(clips, padded=clips > 4))
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_layers_of_one_kind_are_compiled_once() -> None:
    with untouched_tensors():
        few = graphs_of(tiny.retrieval_model().to(DEVICE))
        assert graphs_of(deep_model().to(DEVICE)) == few <= 5
        # Another number of frames is a second form; a third number has none of its own.
        assert graphs_of(deep_model().to(DEVICE), passes=3) == graphs_of(deep_model().to(DEVICE), passes=5)


class Two(DualEncoder):
    """Its encoders are temporal transformers."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        super().__init__(
            TemporalTransformer(16, layers=2, heads=2),
            TemporalTransformer(16, layers=2, heads=2),
            HmmcHead(HeadOptions(), 16),
        )


def both(model: DualEncoder, frames: Tensor) -> Tensor:
    output: Tensor = model.text_encoder(model.visual_encoder(frames))
    return output


def test_what_cannot_be_compiled_runs_without() -> None:
    calls: list[str] = []

    def broken(graph: Any, inputs: Any) -> Any:
        calls.append("compile")
        raise RuntimeError("no such instruction\nsecond line")

    model, warnings, frames = Two(), list[str](), torch.randn(3, 4, 16)
    expected = both(model, frames)
    compile_layers(model, warn=warnings.append, backend=broken)
    for _ in range(2):
        assert torch.equal(both(model, frames), expected)
    assert calls == ["compile"]
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert warnings[0].startswith("--compile: TransformerBlock could not be compiled and runs without (")


def test_a_later_failure_of_generated_code_too() -> None:
    def fails_later(graph: Any, inputs: Any) -> Any:
        calls = iter(range(9))
        return lambda *args: graph.forward(*args) if next(calls) < 2 else _raise(RuntimeError("bad launch"))

    model, warnings, frames = Two(), list[str](), torch.randn(3, 4, 16)
    expected = both(model, frames)
    compile_layers(model, warn=warnings.append, backend=fails_later)
    assert torch.equal(both(model, frames), expected)
    assert warnings == ["--compile: TransformerBlock could not be compiled and runs without (bad launch)"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_a_full_memory_and_a_stop_are_not_hidden(error: BaseException) -> None:
    def raises(graph: Any, inputs: Any) -> Any:
        return lambda *args: _raise(error)  # type: ignore[arg-type]

    model = Two()
    compile_layers(model, warn=fail, backend=raises)
    with pytest.raises(type(error)):
        both(model, torch.randn(3, 4, 16))


def test_a_mistake_in_a_layer_is_not_hidden() -> None:
    model = Two()
    compile_layers(model, warn=fail, backend=TRACED)
    with pytest.raises(RuntimeError, match="shape|size|dimension"):
        both(model, torch.randn(3, 4, 15))


def test_generated_code_computes_the_same() -> None:
    """The only test with a real compiler, of one kind of layer: it takes a minute on a busy machine."""
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    # One form is compiled: both layers of one encoder, whose input has a gradient.
    model = DualEncoder(Two().visual_encoder, nn.Identity(), HmmcHead(HeadOptions(), 16)).to(DEVICE)
    frames = torch.randn(3, 4, 16).requires_grad_()
    lines: list[str] = []
    with untouched_tensors():
        assert settle_compile("on", World(0, 1, DEVICE), info=lines.append, warn=fail)
        both(model, frames).square().sum().backward()
        expected = tiny.gradients(model)
        model.zero_grad()
        compile_layers(model, warn=fail)
        both(model, frames).square().sum().backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(tiny.gradients(model)[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def sharded(rank: int, port: str, precision: str) -> None:
    """Compiled and plain models, sharded over two ranks, have the same losses and gradients."""
    torch.set_num_threads(1)
    world = World.from_environment(None, environ=variables(rank, 2, port))
    wrapping.compile_layers = lambda model, warn: compile_layers(model, warn=warn, backend=TRACED)  # type: ignore[assignment,misc]
    results: list[Step] = []
    for compiled in (False, True):
        model = tiny.retrieval_model()
        wrap(model, world, fsdp=True, compiled=compiled, precision=precision, warn=fail)
        with autocast(precision, torch.device("cpu")):
            loss = model(tiny.batch(2, padded=True, seed=rank + 1))["loss"]
        loss.backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        gradients = {name: full_tensor(gradient) for name, gradient in trained.items()}
        results.append((loss.detach(), gradients))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 4
    assert_equal_steps(results[1], results[0])
    world.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharded_layers_are_compiled_too(precision: str) -> None:
    run_ranks(sharded, 2, free_port(), precision)
