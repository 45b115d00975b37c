"""Do ranks, accumulation, the gradient cache and sharding change the numbers? Largest relative differences.

    python benchmarks/equality.py [--steps 5] [--float32]

Trains tiny models with the real trainer for several steps of 8 clips: in one process, on 2 and 4 ranks
(gloo), with DDP and with fully_shard, with and without accumulation and gradient cache, each loss by itself.
Compares with one process: losses, gradient norms and gradients of every step, and after the last step the
optimiser state, queues, momentum weights and weights. Differences are relative to the largest number of each
tensor. With --float32 the table also shows how far one process in float32 is from float64, which is the
effect of rounding.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.distributed.sharding import full_state
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.logs.run_log import RunLog
from engine.process.step_status import StepHooks, StepStatus
from engine.training.optimizer import MOMENTS, build_optimizer, optimizer_state
from engine.training.trainer import Trainer
from modules.adapters import add_adapters
from modules.dual_encoder import DualEncoder
from modules.logits import logits_for
from modules.losses.table import make_loss
from tests.device import DEVICE
from tests.modules import tiny

CLIPS, LIMIT_S = 8, 900
FINETUNING = {
    "finetune VTM": {"weight_FTM": 0.0},
    "finetune FTM": {"weight_VTM": 0.0},
    "finetune all": {},
    "finetune sigmoid": {"loss": "sigmoid"},
    "finetune adapters": {"lora": 2},
    "finetune wti": {"head": "wti"},
}
PRETRAINING = {
    **{f"pretrain {name}": {**tiny.NO_LOSS, f"weight_{name}": 1.0} for name in ("FAM", "VTM", "FTM", "MLM")},
    "pretrain all": {},
}
CASES = (*FINETUNING, *PRETRAINING)
KINDS = {
    "losses, gradient norm": ("step",),
    "gradients": ("gradient",),
    "optimiser": MOMENTS,
    "queues": ("queue",),
    "momentum weights": ("momentum",),
    "weights": ("weight",),
}
# The difference of a small tensor is relative to at least this share of the largest number of its kind.
FLOOR = 1e-3


@dataclass(frozen=True)
class Setting:
    """How the steps are computed."""

    ranks: int = 1
    fsdp: bool = False
    accumulation: int = 1
    cache: int = 0

    @property
    def reference(self) -> Setting:
        return Setting(accumulation=self.accumulation)

    def __str__(self) -> str:
        over = "" if self.ranks == 1 else ", fully_shard" if self.fsdp else ", DDP"
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''}{over}"


Results = dict[tuple[str, Setting], dict[str, Tensor]]
SETTINGS = (
    *(
        Setting(ranks, accumulation=passes, cache=n)
        for ranks in (1, 2, 4)
        for passes in (1, 2)
        for n in (0, 1)
    ),
    *(Setting(2, True, passes, n) for passes in (1, 2) for n in (0, 1)),
)


class _Steps(Dataset[dict[str, Tensor]]):
    """The clips of one rank, in the order of its forward passes."""

    def __init__(self, setting: Setting, rank: int, steps: int) -> None:
        self.batches = list(self._batches(setting, rank, steps))

    @staticmethod
    def _batches(setting: Setting, rank: int, steps: int) -> Iterator[dict[str, Tensor]]:
        share = CLIPS // setting.accumulation // setting.ranks
        for step in range(steps):
            batch = tiny.batch(CLIPS, padded=True, tags=True, seed=step)
            batch["index"] = torch.arange(CLIPS)
            for part in range(setting.accumulation):
                start = part * (CLIPS // setting.accumulation) + rank * share
                yield {name: rows[start : start + share] for name, rows in batch.items()}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.batches[number]


class _Recorder(StepHooks):
    """Keeps the losses of every step."""

    def __init__(self) -> None:
        self.losses: list[dict[str, Tensor]] = []

    def after_step(self, epoch: int, step: int, status: StepStatus) -> None:
        assert not status.not_finite


class _Recording(Trainer):
    """A trainer that keeps the losses of every step, averaged over the ranks."""

    def _report(self, losses: dict[str, Tensor], *, epoch: int, step: int) -> None:
        recorder = self.hooks
        assert isinstance(recorder, _Recorder)
        recorder.losses.append({name: self.world.mean(value.detach()) for name, value in losses.items()})


def make_model(case: str, dtype: torch.dtype) -> DualEncoder:
    torch.manual_seed(0)
    options: dict[str, Any] = dict({**FINETUNING, **PRETRAINING}[case])
    if "loss" in options:
        options["loss"] = make_loss(options["loss"])
        options["logits"] = logits_for(options["loss"], scale=1.0)
    rank = options.pop("lora", 0)
    model = tiny.retrieval_model(**options) if case in FINETUNING else tiny.pretrain_model(**options)
    if rank:
        add_adapters(model, rank=rank)
    return model.to(dtype)


def train(case: str, setting: Setting, world: World, *, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Losses, gradient norms and gradients of `steps` steps, and the state after them, by name."""
    model = make_model(case, dtype)
    called = wrap(model, world, fsdp=setting.fsdp, cached=setting.cache > 0)
    optimizer = build_optimizer(
        model, lr=1e-3, text_lr=1e-3, coef_lr=1.0, weight_decay=0.1, warmup=0.2, total_steps=steps + 1
    )
    gradients: dict[str, Tensor] = {}

    def keep_gradients(*_: object) -> None:
        step = len(recorder.losses)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.full_tensor() if setting.fsdp else parameter.grad
                gradients[f"gradient {step} {name}"] = gradient.clone()

    optimizer.register_step_pre_hook(keep_gradients)
    recorder = _Recorder()
    trainer = _Recording(
        called,
        optimizer,
        DataLoader(_Steps(setting, world.rank, steps), batch_size=None),
        world=world,
        log=RunLog(Path(), active=False),
        accumulation=setting.accumulation,
        grad_cache=setting.cache,
        n_display=1,
        hooks=recorder,
        after_step=model.after_step,
    )
    trainer.train_epoch(0)
    result = {f"step {i} {name}": v for i, losses in enumerate(recorder.losses) for name, v in losses.items()}
    moments = optimizer_state(model, optimizer)
    result |= {f"{moment} {name}": v for moment in MOMENTS for name, v in moments[moment].items()}
    state = full_state(model, keep=True)
    return _parts(result | gradients | {f"{kind_of(name)} {name}": v for name, v in state.items()})


def _parts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, with the biases of queries, keys and values in place of the packed tensor of all three.

    Attention does not change when a vector is added to all keys, so the bias of the keys has no gradient.
    """
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("in_proj_bias"):
            biases = zip(("queries", "keys", "values"), tensor.chunk(3), strict=True)
            parts |= {f"{name}.{part}": bias for part, bias in biases}
        else:
            parts[name] = tensor
    return parts


def kind_of(name: str) -> str:
    """ "queue", "momentum" or "weight", for an entry of a model's state."""
    if name.startswith("queue"):
        return "queue"
    return "momentum" if name.partition(".")[0].endswith("_k") else "weight"


def zero_gradients(exact: dict[str, Tensor]) -> frozenset[str]:
    """Parameters whose gradients are zero except for rounding, from a float64 run.

    A BatchNorm follows them, or they are the bias of keys.
    In float32 their gradients are only rounding errors, so they differ completely.
    """
    sizes = {n: float(value.abs().max()) for n, value in exact.items() if n.startswith("gradient")}
    return frozenset(name.split()[-1] for name, size in sizes.items() if size < 1e-12 * max(sizes.values()))


def difference(
    ours: dict[str, Tensor], expected: dict[str, Tensor], *kinds: str, zero: Container[str] = ()
) -> float:
    """Largest difference of the tensors of `kinds`, each relative to the tensor's largest number.

    Gradients of the parameters `zero` are relative to the largest number of their kind.
    """
    assert set(ours) == set(expected)
    worst = 0.0
    for kind in kinds:
        named = {n: v for n, v in expected.items() if n.split()[0] == kind and v.is_floating_point()}
        sizes = {name: float(value.abs().max()) for name, value in named.items()}
        largest = max(sizes.values(), default=0.0)
        for name, value in named.items():
            apart = float((ours[name].double() - value.double()).abs().max())
            floor = largest if name.split()[-1] in zero else FLOOR * largest
            worst = max(worst, apart / max(sizes[name], floor) if apart else 0.0)
    return worst


def _work(
    rank: int,
    folder: str,
    ranks: int,
    cases: tuple[str, ...],
    settings: tuple[Setting, ...],
    steps: int,
    dtype: torch.dtype,
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    try:
        world = World(rank, ranks, torch.device("cpu"))
        results = {
            (case, str(setting), setting.accumulation, setting.cache): train(
                case, setting, world, steps=steps, dtype=dtype
            )
            for setting in settings
            if setting.ranks == ranks
            for case in cases
        }
        torch.save([[*key, value] for key, value in results.items()], f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def spawn(function: Callable[..., None], ranks: int, *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in `ranks` new processes. Raises `TimeoutError`."""
    context = mp.spawn(function, args=arguments, nprocs=ranks, join=False)
    try:
        end = time.monotonic() + LIMIT_S
        while not context.join(timeout=1, grace_period=5):
            if time.monotonic() > end:
                raise TimeoutError(f"the ranks did not end within {LIMIT_S} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()


def train_on_ranks(
    ranks: int,
    *,
    cases: tuple[str, ...] = CASES,
    settings: tuple[Setting, ...] = SETTINGS,
    steps: int,
    dtype: torch.dtype,
    start: Callable[..., None] = spawn,
) -> list[Results]:
    """The results of each of `ranks` processes, by case and setting."""
    with tempfile.TemporaryDirectory() as folder:
        start(_work, ranks, folder, ranks, cases, settings, steps, dtype)
        results = []
        for rank in range(ranks):
            rows = torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True)
            names = {(str(s), s.accumulation, s.cache): s for s in SETTINGS}
            results.append({(row[0], names[tuple(row[1:4])]): row[4] for row in rows})
        return results


def train_alone(*, cases: tuple[str, ...] = CASES, steps: int, dtype: torch.dtype) -> Results:
    """The results of one process, by case and setting."""
    world = World(0, 1, DEVICE)
    return {
        (case, setting): train(case, setting, world, steps=steps, dtype=dtype)
        for setting in SETTINGS
        if setting.ranks == 1
        for case in cases
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--float32", action="store_true", help="instead of float64")
    args = parser.parse_args()
    dtype = torch.float32 if args.float32 else torch.float64
    torch.set_num_threads(1)
    results = train_alone(steps=args.steps, dtype=dtype)
    for ranks in (2, 4):
        results |= train_on_ranks(ranks, steps=args.steps, dtype=dtype)[0]
    exact = train_alone(steps=args.steps, dtype=torch.float64) if args.float32 else results
    zero = {case: zero_gradients(exact[case, Setting()]) for case in CASES}

    def print_row(name: str, setting: Setting, others: Results) -> None:
        worst = [
            max(
                difference(results[c, setting], others[c, setting.reference], *kinds, zero=zero[c])
                for c in CASES
            )
            for kinds in KINDS.values()
        ]
        figures = " | ".join(f"{value:.1e}" for value in worst)
        print(f"| {name} | {setting.accumulation} | {setting.cache or 'off'} | {figures} |")

    print(f"{str(dtype).removeprefix('torch.')}, {args.steps} steps, {len(CASES)} choices of losses")
    print("| | passes | cache | " + " | ".join(KINDS) + " |")
    print("| --- | ---: | ---: | " + " | ".join("---:" for _ in KINDS) + " |")
    for setting in SETTINGS:
        if setting != setting.reference:
            print_row(str(setting), setting, results)
        elif args.float32:
            print_row("1 rank, from float64", setting, exact)


if __name__ == "__main__":
    main()
