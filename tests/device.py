"""Tests on an accelerator: `pytest --device cuda` or `HMMC_TEST_DEVICE=cuda pytest`.

Golden, module, engine and equality tests then run on `DEVICE`, in float32 with TF32 off, with deterministic
kernels and with the tolerances that they have on the CPU. The others are left out: they start programs, which
choose their device themselves.

A test that makes tensors as on the CPU needs no change. `TensorsOfTests` makes the tensors that a file of
tests/ asks for on the CPU, so that they hold the same numbers, and moves them to `DEVICE`. It does not touch
what the tested code does, whose mistakes with devices must show. Models are built on the CPU and moved by the
test: `model.to(DEVICE)`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import get_worker_info

from common.errors import UserError

VARIABLE = "HMMC_TEST_DEVICE"
DEVICE = torch.device(os.environ.get(VARIABLE, "cpu"))
ROOMS = ("checkpoint", "distributed", "evaluation", "training")
FOLDERS = ("golden", "modules", *(f"engine/{room}" for room in ROOMS))
ON_DEVICE = tuple(f"tests/{folder}/" for folder in FOLDERS)
# They are about the choice of a device, and have stand-ins for GPUs.
NOT_ON_DEVICE = tuple(f"tests/engine/distributed/test_{name}.py" for name in ("device", "precision"))
FACTORIES = {
    *(torch.tensor, torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.arange),
    *(torch.linspace, torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal),
}


def choose_device(name: str) -> torch.device:
    """Make `name` the device of this test run. Raises `UserError` if it is not here."""
    global DEVICE
    if name == "cpu":
        DEVICE = torch.device(name)
        return DEVICE
    try:
        DEVICE = torch.zeros(1, device=name).device  # with its number, as in a run
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {name}: is not here ({reason}); leave it out to test on the CPU") from None
    os.environ[VARIABLE] = str(DEVICE)  # for `DEVICE` in the processes that tests start
    if DEVICE.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # else cuBLAS may add in another order
        torch.use_deterministic_algorithms(True, warn_only=True)
    return DEVICE


def split_by_device(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """(tests that run on `DEVICE`, those that are left out)."""

    def runs(item: pytest.Item) -> bool:
        chosen = item.nodeid.startswith(ON_DEVICE) and not item.nodeid.startswith(NOT_ON_DEVICE)
        return DEVICE.type == "cpu" or chosen

    return list(filter(runs, items)), list(itertools.filterfalse(runs, items))


def skip_if_ranks_lack_devices() -> None:
    """Skip a test that needs a device for each of several ranks."""
    if DEVICE.type != "cpu":
        pytest.skip("needs two devices: its ranks are tested on the CPU, without --device")


class TensorsOfTests(TorchFunctionMode):
    """See above. Reading a tensor into numpy copies it from the device first."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        caller = sys._getframe(1).f_globals.get("__name__", "")
        # A worker of a loader is a fork of this process: it cannot use the device.
        if not caller.startswith("tests.") or get_worker_info() is not None:
            return func(*args, **kwargs)
        if func is torch.Tensor.numpy:
            return args[0].cpu().numpy(**kwargs)
        if func not in FACTORIES or "device" in kwargs:
            return func(*args, **kwargs)
        trained = kwargs.pop("requires_grad", False)
        made = func(*args, **kwargs)
        if kwargs.get("out") is not None:
            return made
        return made.to(DEVICE).requires_grad_(trained)


def untouched_tensors() -> contextlib.AbstractContextManager[None]:
    """A block without `TensorsOfTests`: torch.compile would trace it as a part of the model."""
    return torch._C.DisableTorchFunction()


def tensors_of_tests() -> Callable[[], None]:
    """Turn `TensorsOfTests` on; returns what turns it off."""
    mode = TensorsOfTests()
    mode.__enter__()
    return lambda: mode.__exit__(None, None, None)
