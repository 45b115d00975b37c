"""Heads against the numbers of their authors' own code: similarities, losses and every gradient.

Each file of `heads/` holds inputs, weights and, in float64, results. Padded places hold random numbers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.heads.head import HeadOptions, SimilarityHead
from modules.heads.registry import build_head
from modules.losses.contrastive import in_batch_cross_entropy
from modules.video_encoder import _mean_direction

FOLDER = Path(__file__).parent / "heads"
VIDEOS, WIDTH = 5, 32  # the first five of six texts belong to the videos
# head: options, file, prefix of weights, prefix of the gradients and losses, name of the similarity
CASES = {
    "wti": ({}, "arch2_", "arch2_left_out_", "arch2_similarity_padding_left_out"),
    "wti published": ({"head_padding": "published"}, "arch2_", "arch2_", "arch2_similarity"),
    "xpool": ({}, "heads1_", "heads1_masked_", "heads1_masked_similarity"),
    "xpool published": ({"head_padding": "published"}, "heads1_", "heads1_", "heads1_similarity"),
    "meanp": ({}, "", "", "similarity"),
}


@cache
def golden(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{file}.npz") as archive:
        return dict(archive)


def weights_of(head: SimilarityHead, prefix: str, file: str) -> dict[str, str]:
    """The golden name of each weight."""
    names = {}
    for name, _ in head.named_parameters():
        part, *place, kind = name.split(".")
        layer = str(int(place[0]) // 2) if place else ""  # between linear layers stands a ReLU
        names[name] = f"{part}{layer}_{kind}"
    assert all(f"{prefix}{golden_name}" in golden(file) for golden_name in names.values())
    return names


def run(case: str, dtype: torch.dtype) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Ours and the golden value by name."""
    options, weight_prefix, prefix, similarity_name = CASES[case]
    file = case.split()[0]
    values = golden(file)
    name = {"meanp": "mean"}.get(file, file)
    head = build_head(HeadOptions(head=name, **options), WIDTH).to(dtype).eval()
    names = weights_of(head, weight_prefix, file)
    state = {n: torch.from_numpy(values[weight_prefix + g]).to(dtype) for n, g in names.items()}
    head.load_state_dict(state)
    inputs = {n: torch.from_numpy(values[n]).to(dtype) for n in ("text", "words", "frames")}
    inputs = {n: rows.requires_grad_() for n, rows in inputs.items()}
    masks = {n: torch.from_numpy(values[n]) for n in ("word_mask", "frame_mask")}
    found: dict[str, tuple[Tensor, np.ndarray]] = {}
    for loss_name in ("R", "ce"):
        for tensor in (*inputs.values(), *head.parameters()):
            tensor.grad = None
        features = inputs | masks | {"video": _mean_direction(inputs["frames"], masks["frame_mask"])}
        similarity = head(features, features)
        weighted = (torch.from_numpy(values["R"]).to(dtype) * similarity).sum()
        # The golden loss is half the sum of both directions.
        loss = weighted if loss_name == "R" else in_batch_cross_entropy(100 * similarity[:VIDEOS]) / 2
        loss.backward()
        found["similarity"] = (similarity.detach(), values[similarity_name])
        found[f"loss_{loss_name}"] = (loss.detach(), values[f"{prefix}loss_{loss_name}"])
        gradients = {n: rows.grad for n, rows in inputs.items() if rows.grad is not None}
        gradients |= {names[n]: p.grad for n, p in head.named_parameters() if p.grad is not None}
        for n, gradient in gradients.items():
            found[f"grad_{loss_name}_{n}"] = (gradient.clone(), values[f"{prefix}grad_{loss_name}_{n}"])
    expected = {n.removeprefix(prefix) for n in values if n.startswith(f"{prefix}grad_")}
    assert {n for n in found if n.startswith("grad_")} == expected
    return found


@pytest.mark.parametrize("case", CASES)
def test_in_float64_everything_agrees(case: str) -> None:
    for name, (ours, theirs) in run(case, torch.float64).items():
        largest = max(np.abs(theirs).max(), 1.0 if "grad" not in name else 0.01)
        assert np.abs(ours.numpy() - theirs).max() <= 1e-10 * largest, name


@pytest.mark.parametrize("case", CASES)
def test_in_float32_it_agrees_within_the_rounding(case: str) -> None:
    for name, (ours, theirs) in run(case, torch.float32).items():
        difference = np.abs(ours.double().numpy() - theirs).max()
        if name == "similarity":
            assert difference <= 2e-7
        elif name.startswith("loss"):
            assert difference <= 1e-6 * abs(theirs)
        else:
            tolerance = 1e-5 if name.startswith("grad_R") else 1e-4
            assert difference <= tolerance * max(np.abs(theirs).max(), 0.01), name


def test_published_padding_differs_from_padding_left_out() -> None:
    for file, least in (("wti", 0.1), ("xpool", 0.1)):
        left_out, published = (
            run(case, torch.float64)["similarity"][0] for case in (file, f"{file} published")
        )
        assert float((left_out - published).abs().max()) > least


def test_the_pooled_vectors_of_xpool() -> None:
    values = golden("xpool")
    for options, name in (({"head_padding": "published"}, "pooled"), ({}, "masked_pooled")):
        head = build_head(HeadOptions(head="xpool", **options), WIDTH).double().eval()
        names = weights_of(head, "heads1_", "xpool")
        head.load_state_dict({n: torch.from_numpy(values[f"heads1_{g}"]) for n, g in names.items()})
        rows = {n: torch.from_numpy(values[n]).double() for n in ("text", "frames")}
        video = head.prepare_video(rows | {"frame_mask": torch.from_numpy(values["frame_mask"])})
        ours = head.pooled(head.prepare_text(rows, 1.0), video)  # type: ignore[operator]
        assert np.abs(ours.detach().numpy() - values[f"heads1_{name}"]).max() < 1e-10
