"""The evaluator against a naive count of the full matrix; encoding on ranks with shares of different size."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from dataloaders.loader import ShardSampler, build_loader
from engine.distributed.world import World
from engine.distributed.wrapping import wrap
from engine.evaluation.encode import Evaluator
from engine.evaluation.features import Features
from engine.logs.run_log import RunLog
from modules.heads.head import HeadOptions
from modules.heads.hmmc import hmmc_head
from modules.heads.registry import build_head
from tests.device import DEVICE
from tests.engine.distributed.test_world import variables
from tests.engine.evaluation.naive_ranking import full_matrix, naive_t2v, naive_v2t
from tests.modules import tiny
from tests.processes import free_port, run_ranks

CAPTIONS, VIDEOS, FRAMES, DIM = 23, 9, 5, 16


def random_split(seed: int, *, with_frames: bool) -> Features:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(VIDEOS, FRAMES, dtype=torch.bool)
    mask[0, 2:] = False
    return Features(
        text=torch.randn(CAPTIONS, DIM, generator=generator),
        video=torch.randn(VIDEOS, DIM, generator=generator),
        frames=torch.randn(VIDEOS, FRAMES, DIM, generator=generator) if with_frames else None,
        frame_mask=mask if with_frames else None,
    )


def evaluator(tmp_path: Path, owners: np.ndarray) -> Evaluator:
    nothing: Any = None
    return Evaluator(
        videos=nothing,
        captions=nothing,
        video_of_caption=owners,
        world=World(0, 1, DEVICE),
        log=RunLog(tmp_path, active=False),
        max_frames=FRAMES,
        logit_scale=100.0,
    )


def test_the_ranks_equal_those_of_the_full_matrix(tmp_path: Path) -> None:
    features = random_split(1, with_frames=True)
    owners = np.random.default_rng(0).permutation(np.arange(CAPTIONS) % VIDEOS)
    rankings = evaluator(tmp_path, owners).compute_metrics(features, hmmc_head()).rankings
    np.testing.assert_array_equal(rankings.t2v.expected, naive_t2v(full_matrix(features), owners))
    np.testing.assert_array_equal(rankings.v2t.expected, naive_v2t(full_matrix(features), owners))


@pytest.mark.parametrize("what", ["caption", "video"])
def test_features_that_are_not_finite_are_named(what: str, tmp_path: Path) -> None:
    features = random_split(2, with_frames=False)
    rows = features.text if what == "caption" else features.video
    rows[4, 0] = float("inf")
    with pytest.raises(UserError, match=rf"{what}s are not finite: 1 \(4\)"):
        evaluator(tmp_path, np.arange(CAPTIONS) % VIDEOS).compute_metrics(features, hmmc_head())


class Recorder(nn.Module):
    """Encodes a video and a text as their first numbers, and records the mode it is in meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = nn.Dropout(0.5)
        self.text_encoder.embed_dim = 2  # type: ignore[assignment]
        self.head = hmmc_head()
        self.modes: list[bool] = []
        self.broken = False

    def _record(self) -> None:
        self.modes += [module.training for module in self.modules()]
        if self.broken:
            raise RuntimeError("planted")

    def encode_video(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self._record()
        return frames[:, 0].double(), frames.double()

    def encode_words(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self._record()
        return ids[:, :2].double(), ids[..., None].double().expand(-1, -1, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_float32_whatever_the_encoders_compute_in(precision: str, tmp_path: Path) -> None:
    class Products(Recorder):
        def encode_video(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            products = frames @ torch.eye(2)
            types.add(products.dtype)
            return products[:, 0], products

        def encode_words(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            products = ids @ torch.eye(2)
            types.add(products.dtype)
            return products, ids

    types: set[torch.dtype] = set()
    frames, mask = torch.rand(2, 2, 2), torch.ones(2, 2, dtype=torch.bool)
    videos: Any = [{"frames": frames, "frame_mask": mask}]
    captions: Any = [{"text_ids": frames[:, 0], "text_mask": mask}]
    split = replace(evaluator(tmp_path, np.arange(2)), videos=videos, captions=captions, precision=precision)
    features = split.encode(Products())  # type: ignore[arg-type]
    assert types == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert features.text.dtype == features.video.dtype == torch.float32
    assert features.frames is not None and features.frames.dtype == torch.float32
    torch.testing.assert_close(features.frames, frames, rtol=2**-8, atol=0)


@pytest.mark.parametrize("was_training", [True, False])
@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_evaluated_in_evaluation_mode_and_keeps_its_own(
    broken: bool, was_training: bool, tmp_path: Path
) -> None:
    model: Any = Recorder().train(was_training)
    videos: Any = [
        {
            "frames": torch.arange(8.0).view(2, 2, 2),
            "frame_mask": torch.tensor([[True, True], [True, False]]),
        },
        {"frames": torch.full((1, 2, 2), 9.0), "frame_mask": torch.tensor([[True, True]])},
    ]
    captions: Any = [{"text_ids": torch.tensor([[5, 6, 7]]), "text_mask": torch.ones(1, 3)}]
    owners = np.array([2])
    evaluation = replace(evaluator(tmp_path, owners), videos=videos, captions=captions, max_frames=2)
    model.broken = broken
    if broken:
        with pytest.raises(RuntimeError, match="planted"):
            evaluation.encode(model)
        with pytest.raises(RuntimeError, match="planted"):
            evaluation.encode_texts(model, captions, "captions")
    else:
        features = evaluation.encode(model)
        assert features.text.tolist() == [[5, 6]]
        assert features.video.tolist() == [[0, 1], [4, 5], [9, 9]]
        assert features.frame_mask is not None
        assert features.frame_mask.tolist() == [[True, True], [True, False], [True, True]]
    assert model.modes and not any(model.modes), "dropout is off while features are computed"
    assert [module.training for module in model.modules()] == [was_training] * 3


class Rows(Dataset[dict[str, torch.Tensor]]):
    """The first `count` clips with their texts."""

    def __init__(self, count: int) -> None:
        self.batch = {name: rows.cpu() for name, rows in tiny.batch(count, padded=True).items()}

    def __len__(self) -> int:
        return len(self.batch["frames"])

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {name: rows[number] for name, rows in self.batch.items()}


def encode(
    world: World, folder: Path, *, videos: int, captions: int, workers: int = 0, head: str = "hmmc"
) -> dict[str, Tensor | None]:
    """The features of a tiny model, sharded where there are several ranks, and the weights of its head."""

    def loader(count: int) -> DataLoader:
        sampler = ShardSampler(count, rank=world.rank, world_size=world.size)
        return build_loader(Rows(count), sampler, batch_size=2, num_workers=workers, persistent=False)

    model = tiny.retrieval_model(head=head).double()  # in float32 processors differ by 2e-6
    if world.size > 1:
        wrap(model, world, fsdp=True)
    split = Evaluator(
        videos=loader(videos),
        captions=loader(captions),
        video_of_caption=np.arange(captions) % videos,
        world=world,
        log=RunLog(folder, active=False),
        max_frames=tiny.FRAMES,
        logit_scale=100.0,
    )
    features = split.encode(model)
    return {**vars(features), **{f"head.{n}": t for n, t in split.head_of(model).state_dict().items()}}


SHARES = {
    "videos": 2,
    "captions": 7,
}  # on three ranks: 0, 1 and 1 videos; 2, 2 and 3 captions, which are 2 passes


SHARDED = ("hmmc", "wti")  # without and with weights and words


def encode_sharded(rank: int, port: str, folder: str) -> None:
    torch.set_num_threads(1)
    world = World.from_environment(None, environ=variables(rank, 3, port))
    for head in SHARDED:
        torch.save(encode(world, Path(folder), head=head, **SHARES), f"{folder}/{head}{rank}.pt")
    world.close()


def test_sharded_ranks_with_different_shares_give_the_features_of_one_process(tmp_path: Path) -> None:
    """Each rank makes as many passes as the one with the most batches: forward passes are collective."""
    run_ranks(encode_sharded, 3, free_port(), str(tmp_path))
    for head in SHARDED:
        expected = encode(World(0, 1, DEVICE), tmp_path, head=head, **SHARES)
        for rank in range(3):
            ours = torch.load(tmp_path / f"{head}{rank}.pt", weights_only=True)
            assert ours.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_words_are_cut_to_the_longest_text_and_their_padding_is_zero(tmp_path: Path) -> None:
    texts: Any = [
        {"text_ids": torch.ones(2, 5), "text_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])},
        {"text_ids": torch.ones(1, 5), "text_mask": torch.tensor([[1, 1, 0, 0, 0]])},
    ]
    model: Any = Recorder()
    model.head = build_head(HeadOptions(head="wti"), 2)
    found = evaluator(tmp_path, np.arange(3)).encode_texts(model, texts, "")
    assert found["word_mask"].tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert found["words"].shape == (3, 3, 2)
    assert torch.equal(found["words"].any(dim=-1), found["word_mask"])
    model.head = build_head(HeadOptions(head="wti", head_padding="published"), 2)
    assert evaluator(tmp_path, np.arange(3)).encode_texts(model, texts, "")["words"].shape == (3, 5, 2)


def test_no_worker_outlives_the_encoding(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    encode(World(0, 1, DEVICE), tmp_path, videos=3, captions=3, workers=2)
    assert set(multiprocessing.active_children()) == before
