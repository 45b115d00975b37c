"""Compare this project with the golden numbers: name, largest relative difference, tolerance.

The tests assert on these rows and the report prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.training.optimizer import build_optimizer
from modules.heads.hmmc import hmmc_similarity
from modules.losses.masked_lm import IGNORED_LABEL, masked_lm_loss
from modules.numerics import l2_normalize
from tests.golden import recipe

VALUES = 1e-4  # losses, features, queues, momentum parameters
TRAINING = 1e-3  # gradient norms and the optimiser's trajectory
# Some gradients are zero in exact arithmetic (of a key's bias under softmax, of a bias before BatchNorm), so
# both sides have rounding errors. Norms below this share of the total norm must only be small.
NOISE = 1e-7


@dataclass(frozen=True)
class Difference:
    """`value` is relative to the largest golden magnitude; each norm is relative to its own golden norm."""

    quantity: str
    value: float
    tolerance: float


def finetune_forward(language: str, folder: Path) -> Iterator[Difference]:
    """Features, similarities and losses of fine-tuning."""
    prefix = f"{language}/ft"
    model, batch = recipe.retrieval_model(language, folder), recipe.retrieval_batch(language)
    with torch.no_grad():
        video, frames = model.encode_video(batch["frames"])
        text = model.encode_text(batch["text_ids"], batch["text_mask"])
        losses = model(batch)
    cosines = torch.einsum("nd,vfd->nvf", l2_normalize(text), l2_normalize(frames))
    scale = model.logit_scale
    ours = {
        "text": text,
        "video": video,
        "frames": frames,
        "sim_video": hmmc_similarity(text, video, top_frames=3, logit_scale=scale),
        "sim_frame": scale * cosines,
        "sim_eval_top3": hmmc_similarity(text, video, frames, top_frames=3, logit_scale=scale),
        "frame_loss": losses["FTM"],
        "loss": losses["loss"],
    }
    for name, value in ours.items():
        yield _against(f"{prefix}/{name}", value)


def finetune_gradients(language: str, folder: Path) -> Iterator[Difference]:
    """Norm of every parameter's gradient in fine-tuning."""
    model = recipe.retrieval_model(language, folder)
    model(recipe.retrieval_batch(language))["loss"].backward()
    yield _gradient_norms(f"{language}/ft/grad_norm", model)


def finetune_trajectory(language: str, folder: Path) -> Iterator[Difference]:
    """Six optimiser steps on one batch: losses, gradient norms, learning rates, final parameter norms."""
    prefix = f"{language}/ft/traj"
    model, batch = recipe.retrieval_model(language, folder), recipe.retrieval_batch(language)
    rates = {"lr": 1e-4, "text_lr": 3e-5, "coef_lr": 0.8}
    optimizer = build_optimizer(model, **rates, weight_decay=0.2, warmup=0.1, total_steps=10)
    losses, norms, lrs = [], [], []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        losses.append(float(loss.detach()))
        optimizer.step()
        lrs.append(sorted(set(optimizer.current_lrs())))
    yield _against(f"{prefix}_loss", torch.tensor(losses), tolerance=TRAINING)
    yield _against(f"{prefix}_grad_norm", torch.tensor(norms), tolerance=TRAINING)
    golden = torch.tensor(recipe.numbers()[f"{prefix}_lr"], dtype=torch.float64)
    # The golden rates are those of the last step; ours are those of the next one.
    yield Difference(f"{prefix}_lr", _relative(torch.tensor(lrs, dtype=torch.float64), golden), VALUES)
    yield _norms(f"{prefix}_param_norm", {n: float(p.detach().norm()) for n, p in model.named_parameters()})


def pretrain_steps(language: str, dataset: str, folder: Path) -> Iterator[Difference]:
    """Losses, gradients, queues and momentum parameters of a pre-training step; the loss of the next step."""
    prefix = f"{language}/pt/{dataset}"
    model, batch = recipe.pretrain_model(language, dataset, folder), recipe.pretrain_batch(language, dataset)
    losses = model(batch)
    losses["loss"].backward()
    yield _against(f"{prefix}/loss_without_mlm", losses["loss"])
    yield _against(f"{prefix}/loss_FAM", losses["FAM"])
    yield _gradient_norms(f"{prefix}/grad_norm", model)
    yield from _queues(prefix, model, written=recipe.PRETRAIN_SETS[dataset])
    yield _against(f"{prefix}/queue_ptr", model.get_buffer("queue_ptr"), tolerance=0.0)
    keys = {n: float(p.norm()) for n, p in model.named_parameters() if not p.requires_grad}
    yield _norms(f"{prefix}/momentum_param_norm", keys)
    # The golden numbers were made with the clips, but not the texts, in reverse order.
    second = model({**batch, "frames": batch["frames"].flip(0)})
    yield _against(f"{prefix}/loss2_without_mlm", second["loss"])
    yield _against(f"{prefix}/queue_ptr2", model.get_buffer("queue_ptr"), tolerance=0.0)


def masked_words(language: str, folder: Path) -> Iterator[Difference]:
    """The MLM loss of the golden masks."""
    model = recipe.pretrain_model(language, "msrvtt", folder, weight_MLM=0.05)
    ids, labels, mask = (recipe.array(f"{language}/mlm/{name}") for name in ("ids", "labels", "mask"))
    with torch.no_grad():
        hidden = model.text_encoder(ids, mask)[1]
        chosen = labels != IGNORED_LABEL
        loss = masked_lm_loss(model.cls(hidden[chosen]), labels[chosen])
    yield _against(f"{language}/mlm/loss", loss)


def everything(folder: Path) -> Iterator[Difference]:
    """All comparisons, in the order of the report."""
    makers: list[Callable[[str, Path], Iterator[Difference]]] = [
        finetune_forward,
        finetune_gradients,
        finetune_trajectory,
        masked_words,
    ]
    for language in recipe.LANGUAGES:
        for make in makers:
            yield from make(language, folder)
        for dataset in recipe.PRETRAIN_SETS:
            yield from pretrain_steps(language, dataset, folder)


def _queues(prefix: str, model: nn.Module, *, written: bool) -> Iterator[Difference]:
    """Column sums of each queue. `written`: the data set has tags.

    Where the data set has no tags, the published code still pushes its inputs to the tag queue, which no loss
    reads. This project does not, so only the columns that neither wrote are compared.
    """
    pointer = int(model.get_buffer("queue_ptr"))
    for name in ("queue_v_cross_ng", "queue_title_cross_ng", "queue_tag_cross_ng"):
        first = 0 if written or "tag" not in name else pointer
        yield _against(f"{prefix}/{name}_colsum", model.get_buffer(name).sum(0), first=first)
    for name in ("queue_frame_cross_ng", "queue_frame_proj_ng"):
        yield _against(f"{prefix}/{name}_colsum", model.get_buffer(name).sum(0))


def _against(name: str, ours: Tensor, *, tolerance: float = VALUES, first: int = 0) -> Difference:
    golden = recipe.array(name)
    ours = ours.detach().reshape(golden.shape)
    return Difference(
        name, _relative(ours[first:], golden[first:]) if first else _relative(ours, golden), tolerance
    )


def _relative(ours: Tensor, golden: Tensor) -> float:
    assert ours.shape == golden.shape, (ours.shape, golden.shape)
    return float((ours.double() - golden.double()).abs().max() / golden.double().abs().max())


def _gradient_norms(name: str, model: nn.Module) -> Difference:
    return _norms(name, {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None})


def _norms(name: str, ours: dict[str, float]) -> Difference:
    golden: dict[str, Any] = recipe.numbers()[name]
    # The text projectors enter no loss and are not built.
    golden = {key: value for key, value in golden.items() if not key.startswith("t_projector")}
    assert set(ours) == set(golden), set(ours) ^ set(golden)
    total = sum(value**2 for value in golden.values()) ** 0.5
    noise = {key for key, value in golden.items() if value < NOISE * total}
    assert all(ours[key] < 2 * NOISE * total for key in noise)
    worst = max(abs(ours[key] - value) / value for key, value in golden.items() if key not in noise)
    return Difference(name, worst, TRAINING)
