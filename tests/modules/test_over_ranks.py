"""Two ranks with two clips each compute what one process with four clips computes (gloo, CPU, float64)."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.logits import logits_for
from modules.losses.table import make_loss
from tests.modules import tiny
from tests.processes import run_ranks

RANKS, CLIPS = 2, 4
RETRIEVAL: dict[str, dict[str, Any]] = {
    "finetune VTM": {"weight_FTM": 0.0},
    "finetune FTM": {"weight_VTM": 0.0},
    "finetune without duplicates": {"mask_duplicates": True},
    "finetune sigmoid": {"loss": "sigmoid", "mask_duplicates": True},
    "finetune hard negatives": {"loss": "softmax", "hard_negatives": 0.5, "mask_duplicates": True},
    "finetune scale": {"loss": "softmax", "learn": True},
    "finetune mean": {"head": "mean"},
    "finetune wti": {"head": "wti"},
    "finetune wti sigmoid": {"head": "wti", "loss": "sigmoid"},
    "finetune xpool": {"head": "xpool", "mask_duplicates": True},
}
PRETRAINING: dict[str, dict[str, Any]] = {
    **{f"pretrain {name}": {**tiny.NO_LOSS, f"weight_{name}": 1.0} for name in ("FAM", "VTM", "FTM", "MLM")},
    "pretrain all": {},
    "pretrain without duplicates": {"in_batch_negatives": True, "mask_duplicates": True},
}
BILINGUAL: dict[str, Any] = {
    "finetune bilingual": tiny.bilingual_model,
    "pretrain bilingual": tiny.bilingual_pretrain_model,
}
CASES = [*RETRIEVAL, *PRETRAINING, *BILINGUAL]


def make_model(case: str) -> nn.Module:
    if case in BILINGUAL:
        bilingual: nn.Module = BILINGUAL[case]()
        return bilingual.double()
    options: dict[str, Any] = dict({**RETRIEVAL, **PRETRAINING}[case])
    if "loss" in options:
        options["loss"] = make_loss(options["loss"], hard_negatives=options.pop("hard_negatives", 0.0))
        options["logits"] = logits_for(options["loss"], scale=5.0, learn=options.pop("learn", False))
    model = tiny.retrieval_model(**options) if case in RETRIEVAL else tiny.pretrain_model(**options)
    return model.double()


def clips(seed: int) -> dict[str, Tensor]:
    """Clips 0 and 2 have one video, clips 1 and 3 one caption; the clips of a pair are on different ranks.

    The first rank has texts of both languages, the second of one.
    """
    batch = tiny.batch(CLIPS, padded=True, tags=True, seed=seed)
    batch["text_ids"][3] = batch["text_ids"][1]
    return batch | {"video": torch.tensor([5, 1, 5, 2]), "language": torch.tensor([1, 0, 0, 0])}


def two_steps(model: nn.Module, rank: int, ranks: int) -> dict[str, Any]:
    """Losses and gradients of two steps on this rank's share of the clips, and the state after them."""
    result: dict[str, Any] = {"losses": [], "gradients": []}
    for seed in (1, 2):
        model.zero_grad()
        losses = model(share(clips(seed), rank, ranks))
        losses["loss"].backward()
        result["losses"].append({name: value.detach() for name, value in losses.items()})
        result["gradients"].append(tiny.gradients(getattr(model, "module", model)))
    result["state"] = getattr(model, "module", model).state_dict()
    return result


def share(batch: dict[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """This rank's clips."""
    rows = slice(rank * CLIPS // ranks, (rank + 1) * CLIPS // ranks)
    return {key: value[rows] for key, value in batch.items()}


def step_with_a_bad_clip(rank: int) -> dict[str, Tensor]:
    """The state after a step in which the last clip, on the last rank, is not finite."""
    model, batch = make_model("pretrain all"), clips(1)
    batch["frames"] = batch["frames"].double()
    batch["frames"][-1] = torch.nan
    model(share(batch, rank, RANKS))
    return model.state_dict()


def work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        results = {
            case: two_steps(DistributedDataParallel(make_model(case), broadcast_buffers=False), rank, RANKS)
            for case in CASES
        }
        results["bad clip"] = step_with_a_bad_clip(rank)
        torch.save(results, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, RANKS, str(folder))
    return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(ours) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-10, atol=1e-10, msg=partial("{}: {}".format, name)
        )


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_one_process(case: str, two_ranks: list[dict[str, Any]]) -> None:
    expected = two_steps(make_model(case), 0, 1)
    assert any(value.abs().max() > 1e-3 for value in expected["gradients"][0].values())
    for step in (0, 1):
        for rank in two_ranks:
            assert_same(rank[case]["gradients"][step], expected["gradients"][step])
        shares = [rank[case]["losses"][step] for rank in two_ranks]
        mean = {name: (shares[0][name] + shares[1][name]) / RANKS for name in shares[0]}
        assert_same(mean, expected["losses"][step])


@pytest.mark.parametrize("case", CASES)
def test_queues_statistics_and_momentum_encoders_are_equal_on_all_ranks(
    case: str, two_ranks: list[dict[str, Any]]
) -> None:
    first, second = (rank[case]["state"] for rank in two_ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_same(first, two_steps(make_model(case), 0, 1)["state"])


def test_a_bad_clip_of_one_rank_is_written_as_zeros_on_all(two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["bad clip"] for rank in two_ranks)
    before = make_model("pretrain all").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(value).all() for value in first.values())
    assert first["queue_v_cross_ng"][:, :CLIPS].any(dim=0).tolist() == [True, True, True, False]
    statistics = [name for name in first if name.startswith("v_projector.") and "running" in name]
    assert statistics and all(torch.equal(first[name], before[name]) for name in statistics)
