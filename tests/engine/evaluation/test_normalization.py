"""Dual softmax and querybank normalisation against the formulas on the full matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from engine.distributed.world import World
from engine.evaluation.features import Features
from engine.evaluation.normalization import BankSums, DualSoftmax, QueryBank, log_sums
from engine.evaluation.ranking import SINGLE_PROCESS, Rankings, rank_tiles
from engine.evaluation.similarity import MatrixTiles, ScoreTiles
from modules.heads.hmmc import hmmc_head
from tests.device import DEVICE
from tests.engine.evaluation.naive_ranking import full_matrix, naive_t2v, naive_v2t, random_features
from tests.processes import run_ranks

CAPTIONS, VIDEOS, BANK, BANK_VIDEOS, BETA = 31, 11, 40, 13, 20.0


def split(seed: int) -> tuple[Features, Features, np.ndarray]:
    """(test features, features of the bank, video of each caption); one video has no caption."""
    rng = np.random.default_rng(seed)
    features = random_features(rng, CAPTIONS, VIDEOS, 4)
    bank = random_features(rng, BANK, BANK_VIDEOS, 4)
    return features, bank, rng.integers(0, VIDEOS - 1, size=CAPTIONS)


def tiles(features: Features, tile: tuple[int, int] = (8, 5)) -> ScoreTiles:
    return ScoreTiles(features, hmmc_head(), logit_scale=100.0, tile=tile)


def bank_tiles(features: Features, bank: Features) -> tuple[ScoreTiles, ScoreTiles]:
    """Bank captions with test videos, and test captions with bank videos."""
    return tiles(replace(features, text=bank.text)), tiles(replace(bank, text=features.text))


def query_bank(features: Features, bank: Features, plain: Rankings, *, dynamic: bool) -> QueryBank:
    t2v, v2t = bank_tiles(features, bank)
    return QueryBank(
        plain,
        videos=BankSums.for_t2v(t2v, beta=BETA, logit_scale=100.0),
        captions=BankSums.for_v2t(v2t, beta=BETA, logit_scale=100.0),
        beta=BETA,
        logit_scale=100.0,
        dynamic=dynamic,
    )


def cosines(features: Features) -> np.ndarray:
    return full_matrix(features).astype(np.float64) / 100


@pytest.mark.parametrize("seed", range(10))
def test_dual_softmax_is_the_formula(seed: int) -> None:
    features, _, owner = split(seed)
    c = cosines(features)
    rankings = rank_tiles(
        tiles(features), owner, scoring=DualSoftmax(tiles(features), temperature=30.0, logit_scale=100.0)
    )
    over_captions = c * np.exp(30 * c) / np.exp(30 * c).sum(axis=0, keepdims=True)
    over_videos = c * np.exp(30 * c) / np.exp(30 * c).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(rankings.t2v.expected, naive_t2v(over_captions, owner))
    np.testing.assert_array_equal(rankings.v2t.expected, naive_v2t(over_videos, owner))
    np.testing.assert_allclose(
        rankings.t2v_positive, over_captions[np.arange(CAPTIONS), owner], rtol=1e-3, atol=1e-9
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_querybank_normalisation_is_the_formula(seed: int, dynamic: bool) -> None:
    features, bank, owner = split(seed)
    plain = rank_tiles(tiles(features), owner)
    rankings = rank_tiles(tiles(features), owner, scoring=query_bank(features, bank, plain, dynamic=dynamic))
    c = cosines(features)
    bank_t2v = cosines(replace(features, text=bank.text))  # [bank, V]
    bank_v2t = cosines(replace(bank, text=features.text))  # [N, bank videos]
    t2v = np.exp(BETA * c) / np.exp(BETA * bank_t2v).sum(axis=0)
    v2t = np.exp(BETA * c) / np.exp(BETA * bank_v2t).sum(axis=1, keepdims=True)
    if dynamic:
        t2v = np.where(np.isin(c.argmax(axis=1), bank_t2v.argmax(axis=1))[:, None], t2v, c)
        v2t = np.where(np.isin(c.argmax(axis=0), bank_v2t.argmax(axis=0)), v2t, c)
    np.testing.assert_array_equal(rankings.t2v.expected, naive_t2v(t2v, owner))
    np.testing.assert_array_equal(rankings.v2t.expected, naive_v2t(v2t, owner))
    np.testing.assert_array_equal(rankings.v2t_any.expected, naive_v2t(v2t, owner, any_caption=True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_other_test_queries_do_not_change_the_scores_of_a_query(dynamic: bool) -> None:
    features, bank, owner = split(3)
    plain = rank_tiles(tiles(features), owner)
    together = rank_tiles(tiles(features), owner, scoring=query_bank(features, bank, plain, dynamic=dynamic))
    for query in range(0, CAPTIONS, 5):
        alone = replace(features, text=features.text[query : query + 1])
        owner_alone = owner[query : query + 1]
        plain_alone = rank_tiles(tiles(alone), owner_alone)
        rankings = rank_tiles(
            tiles(alone), owner_alone, scoring=query_bank(alone, bank, plain_alone, dynamic=dynamic)
        )
        np.testing.assert_array_equal(rankings.t2v_top[0], together.t2v_top[query])
        np.testing.assert_allclose(
            rankings.t2v_top_scores[0], together.t2v_top_scores[query], rtol=1e-4, atol=1e-5
        )
        assert rankings.t2v.expected[0] == together.t2v.expected[query]


def test_a_query_whose_best_candidate_is_not_activated_keeps_its_rank() -> None:
    features, bank, owner = split(4)
    plain = rank_tiles(tiles(features), owner)
    scoring = query_bank(features, bank, plain, dynamic=True)
    assert scoring.normalised_captions.any() and not scoring.normalised_captions.all()
    rankings = rank_tiles(tiles(features), owner, scoring=scoring)
    untouched = ~scoring.normalised_captions
    np.testing.assert_array_equal(rankings.t2v.expected[untouched], plain.t2v.expected[untouched])


def test_a_direction_without_a_bank_keeps_its_ranks() -> None:
    features, bank, owner = split(5)
    plain = rank_tiles(tiles(features), owner)
    videos = BankSums.for_t2v(bank_tiles(features, bank)[0], beta=BETA, logit_scale=100.0)
    scoring = QueryBank(plain, videos=videos, beta=BETA, logit_scale=100.0, dynamic=False)
    np.testing.assert_array_equal(
        rank_tiles(tiles(features), owner, scoring=scoring).v2t.expected, plain.v2t.expected
    )


def test_sharp_temperatures_neither_overflow_nor_tie() -> None:
    features, _, owner = split(6)
    scoring = DualSoftmax(tiles(features), temperature=300.0, logit_scale=100.0)
    rankings = rank_tiles(tiles(features), owner, scoring=scoring)
    assert np.isfinite(rankings.t2v_positive).all() and (rankings.t2v.expected % 1 == 0).all()


def test_a_candidate_of_score_minus_infinity_ranks_last() -> None:
    """It is left out of all sums, so the others rank as without it; the caption of only such scores too."""
    c = np.random.default_rng(0).standard_normal((4, 5)) / 5
    masked = c.copy()
    masked[1, 1] = masked[2, 0] = masked[3] = masked[:, 4] = -np.inf
    scoring = DualSoftmax(MatrixTiles(masked), temperature=30.0, logit_scale=1.0)
    rankings = rank_tiles(MatrixTiles(masked), np.arange(4), scoring=scoring)
    assert rankings.t2v.above[1] == 3 and rankings.t2v.tied[1] == 1  # the video without a score as well
    assert rankings.t2v.expected[3] == 3.0  # all five tie
    for ranks in (rankings.t2v, rankings.v2t):
        assert (ranks.ranked.expected >= 1).all()
    assert (rankings.t2v_ap <= 1).all()


@pytest.mark.parametrize("value", [np.inf, 1e308])
def test_other_scores_without_a_finite_result_name_the_pair(value: float) -> None:
    c = np.eye(4)
    c[2, 3] = value
    scoring = DualSoftmax(MatrixTiles(c), temperature=100.0, logit_scale=1.0)
    with pytest.raises(UserError, match=r"dual softmax: the score .* of caption 2 with video 3 gives no"):
        rank_tiles(MatrixTiles(c), np.arange(4), scoring=scoring)


def _rank_of(number: int, size: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=size)
    features, _, _ = split(7)
    ours = log_sums(tiles(features), factor=0.2, world=World(number, size, DEVICE))
    alone = log_sums(tiles(features), factor=0.2, world=SINGLE_PROCESS)
    for name in ("caption_sums", "video_sums", "best_video", "best_caption"):
        np.testing.assert_allclose(getattr(ours, name), getattr(alone, name), rtol=1e-6)
    Path(folder, f"{number}.ok").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_ranks_give_the_sums_of_one(tmp_path: Path) -> None:
    run_ranks(_rank_of, 2, 2, str(tmp_path / "store"), str(tmp_path))
    assert len(list(tmp_path.glob("*.ok"))) == 2
