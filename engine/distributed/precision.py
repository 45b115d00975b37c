"""`--precision`: the number format in which a device multiplies, chosen for it and switched on.

With every choice weights, optimiser state, losses and scores are float32. `fp32` is exact: no product is
rounded to TF32. `tf32` allows that in the encoders and in training. `bf16` and `fp16` are autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from engine.distributed.world import World

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
WEAKEST_FIRST = ("fp32", "fp16", "tf32", "bf16")  # ranks with different devices use what all of them have
TF32_SINCE = 8  # major version of the compute capability


def settle_precision(asked: str, world: World) -> tuple[str, str]:
    """The precision of a run, the same on every rank, and a line for the log that says why. Collective.

    `asked` is the flag. Turns TF32 off for all products outside of `products`.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # torch's own default is True
    choices = world.gather(choose_precision(asked, world.device))
    precision, reason = min(choices, key=lambda choice: WEAKEST_FIRST.index(choice[0]))
    return precision, f"precision {precision}: --precision {asked}" + (f", {reason}" if reason else "")


def choose_precision(asked: str, device: torch.device) -> tuple[str, str]:
    """What `device`, the current one, computes in for `--precision` `asked`; the reason ("": as asked)."""
    if device.type == "cpu":
        if asked == "tf32":
            return "fp32", "which only changes GPUs"
        return ("fp32", "no GPU is used") if asked == "auto" else (asked, "")
    name = torch.cuda.get_device_name(device)
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "auto":
        return ("bf16", f"{name} has bfloat16") if has_bfloat16 else ("fp16", f"{name} has no bfloat16")
    if asked == "bf16" and not has_bfloat16:
        return "bf16", f"{name} has no bfloat16 and imitates it slowly; fp16 is faster"
    if asked == "tf32" and not _has_tf32(device):
        return "fp32", f"{name} has no TF32"
    return asked, ""


def _has_tf32(device: torch.device) -> bool:
    # On AMD's GPUs torch itself decides what the permission means.
    return bool(torch.version.hip) or torch.cuda.get_device_properties(device).major >= TF32_SINCE


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """A block whose float32 products may use TF32 if `precision` is "tf32", and else stay as they are."""
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A forward pass in `precision`, as `settle_precision` returned it; the weights stay in float32."""
    assert precision in WEAKEST_FIRST, precision
    if precision not in AUTOCAST:
        return products(precision)
    return torch.autocast(device.type, dtype=AUTOCAST[precision])
