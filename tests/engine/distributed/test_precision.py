"""What `--precision` becomes on each kind of device, and that TF32 stays inside of its block."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from engine.distributed.precision import autocast, choose_precision, products, settle_precision
from engine.distributed.world import World

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU of NVIDIA; `major` is the major version of its compute capability."""
    state = SimpleNamespace(major=9)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {state.major}.0")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=state.major)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return state


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    before = allowed()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def allowed() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("asked", "chosen", "reason"),
    [
        ("auto", "fp32", "no GPU is used"),
        ("tf32", "fp32", "which only changes GPUs"),
        ("bf16", "bf16", ""),
        ("fp32", "fp32", ""),
    ],
)
def test_on_a_cpu(asked: str, chosen: str, reason: str) -> None:
    assert choose_precision(asked, CPU) == (chosen, reason)


@pytest.mark.parametrize(
    ("major", "asked", "chosen", "reason"),
    [
        (9, "auto", "bf16", "GPU of 9.0 has bfloat16"),
        (7, "auto", "fp16", "GPU of 7.0 has no bfloat16"),
        (7, "bf16", "bf16", "GPU of 7.0 has no bfloat16 and imitates it slowly; fp16 is faster"),
        (9, "bf16", "bf16", ""),
        (8, "tf32", "tf32", ""),
        (7, "tf32", "fp32", "GPU of 7.0 has no TF32"),
        (9, "fp32", "fp32", ""),
        (9, "fp16", "fp16", ""),
    ],
)
def test_on_a_gpu(major: int, asked: str, chosen: str, reason: str, gpu: SimpleNamespace) -> None:
    gpu.major = major
    assert choose_precision(asked, GPU) == (chosen, reason)


def test_ranks_use_what_all_of_their_devices_have(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 2, CPU)
    for of_ranks, chosen in (
        (
            [("bf16", "A has bfloat16"), ("fp16", "B has no bfloat16")],
            "fp16: --precision auto, B has no bfloat16",
        ),
        ([("fp32", "B has no TF32"), ("tf32", "")], "fp32: --precision auto, B has no TF32"),
    ):
        monkeypatch.setattr(World, "gather", lambda self, value, of_ranks=of_ranks: of_ranks)
        precision, line = settle_precision("auto", world)
        assert line == f"precision {chosen}" and precision == chosen[:4]


def test_tf32_is_off_except_in_its_block() -> None:
    torch.backends.cudnn.allow_tf32 = True
    assert settle_precision("bf16", World(0, 1, CPU)) == ("bf16", "precision bf16: --precision bf16")
    assert allowed() == ("highest", False)
    with products("tf32"):
        assert allowed() == ("high", True)
        with pytest.raises(KeyError), autocast("tf32", CPU):  # inside of a training
            raise KeyError
        assert allowed() == ("high", True)
    assert allowed() == ("highest", False)
    for precision in ("fp32", "bf16", "fp16"):
        with products(precision), autocast(precision, CPU):
            assert allowed() == ("highest", False)


def test_autocast_takes_settled_values_only() -> None:
    """Else a forgotten "auto" would train in float32 without a word."""
    with pytest.raises(AssertionError):
        autocast("auto", CPU)
