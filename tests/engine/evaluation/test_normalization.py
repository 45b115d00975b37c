"""Dual softmax and querybank normalisation against the formulas on the whole matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.distributed.world import World
from engine.evaluation.features import Features
from engine.evaluation.normalization import BankSums, DualSoftmax, QueryBank, log_sums
from engine.evaluation.ranking import SINGLE_PROCESS, Rankings, rank_tiles
from engine.evaluation.similarity import ScoreTiles
from tests.engine.evaluation.naive_ranking import naive_t2v, naive_v2t, random_features, whole_matrix
from tests.processes import run_ranks

CAPTIONS, VIDEOS, BANK, BANK_VIDEOS, BETA = 31, 11, 40, 13, 20.0


def split(seed: int) -> tuple[Features, Features, np.ndarray]:
    """A test split, a bank of captions and videos, and the owners of the captions; a video has none."""
    rng = np.random.default_rng(seed)
    made = random_features(rng, CAPTIONS, VIDEOS, 4)
    bank = random_features(rng, BANK, BANK_VIDEOS, 4)
    return made, bank, rng.integers(0, VIDEOS - 1, size=CAPTIONS)


def tiles(made: Features, tile: tuple[int, int] = (8, 5)) -> ScoreTiles:
    return ScoreTiles(made, top_frames=3, logit_scale=100.0, tile=tile)


def bank_tiles(made: Features, bank: Features) -> tuple[ScoreTiles, ScoreTiles]:
    """Bank captions with test videos, and test captions with bank videos."""
    return tiles(replace(made, text=bank.text)), tiles(replace(bank, text=made.text))


def query_bank(made: Features, bank: Features, plain: Rankings, *, dynamic: bool) -> QueryBank:
    of_videos, of_captions = bank_tiles(made, bank)
    options = {"beta": BETA, "logit_scale": 100.0}
    return QueryBank(
        plain,
        videos=BankSums.of_videos(of_videos, **options),
        captions=BankSums.of_captions(of_captions, **options),
        dynamic=dynamic,
        **options,
    )


def cosines(made: Features) -> np.ndarray:
    return whole_matrix(made).astype(np.float64) / 100


@pytest.mark.parametrize("seed", range(10))
def test_dual_softmax_is_the_formula(seed: int) -> None:
    made, _, owner = split(seed)
    c = cosines(made)
    found = rank_tiles(
        tiles(made), owner, scoring=DualSoftmax(tiles(made), temperature=30.0, logit_scale=100.0)
    )
    over_captions = c * np.exp(30 * c) / np.exp(30 * c).sum(axis=0, keepdims=True)
    over_videos = c * np.exp(30 * c) / np.exp(30 * c).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(found.t2v, naive_t2v(over_captions, owner))
    np.testing.assert_array_equal(found.v2t, naive_v2t(over_videos, owner))
    np.testing.assert_allclose(found.t2v_own, over_captions[np.arange(CAPTIONS), owner], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_querybank_normalisation_is_the_formula(seed: int, dynamic: bool) -> None:
    made, bank, owner = split(seed)
    plain = rank_tiles(tiles(made), owner)
    found = rank_tiles(tiles(made), owner, scoring=query_bank(made, bank, plain, dynamic=dynamic))
    c = cosines(made)
    bank_t2v = cosines(replace(made, text=bank.text))  # [bank, V]
    bank_v2t = cosines(replace(bank, text=made.text))  # [N, bank videos]
    t2v = np.exp(BETA * c) / np.exp(BETA * bank_t2v).sum(axis=0)
    v2t = np.exp(BETA * c) / np.exp(BETA * bank_v2t).sum(axis=1, keepdims=True)
    if dynamic:
        t2v = np.where(np.isin(c.argmax(axis=1), bank_t2v.argmax(axis=1))[:, None], t2v, c)
        v2t = np.where(np.isin(c.argmax(axis=0), bank_v2t.argmax(axis=0)), v2t, c)
    np.testing.assert_array_equal(found.t2v, naive_t2v(t2v, owner))
    np.testing.assert_array_equal(found.v2t, naive_v2t(v2t, owner))
    np.testing.assert_array_equal(found.v2t_any, naive_v2t(v2t, owner, any_caption=True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_query_alone_has_the_scores_it_has_among_the_others(dynamic: bool) -> None:
    made, bank, owner = split(3)
    plain = rank_tiles(tiles(made), owner)
    whole = rank_tiles(tiles(made), owner, scoring=query_bank(made, bank, plain, dynamic=dynamic))
    for query in range(0, CAPTIONS, 5):
        alone = replace(made, text=made.text[query : query + 1])
        mine = owner[query : query + 1]
        plain_alone = rank_tiles(tiles(alone), mine)
        found = rank_tiles(tiles(alone), mine, scoring=query_bank(alone, bank, plain_alone, dynamic=dynamic))
        np.testing.assert_array_equal(found.t2v_top[0], whole.t2v_top[query])
        np.testing.assert_allclose(found.t2v_top_scores[0], whole.t2v_top_scores[query], rtol=1e-4, atol=1e-5)
        assert found.t2v[0] == whole.t2v[query]


def test_a_bank_that_activates_nothing_of_a_query_leaves_it_plain() -> None:
    made, bank, owner = split(4)
    plain = rank_tiles(tiles(made), owner)
    scoring = query_bank(made, bank, plain, dynamic=True)
    assert scoring.normalised_captions.any() and not scoring.normalised_captions.all()
    found = rank_tiles(tiles(made), owner, scoring=scoring)
    untouched = ~scoring.normalised_captions
    np.testing.assert_array_equal(found.t2v[untouched], plain.t2v[untouched])


def test_a_direction_without_a_bank_keeps_its_ranks() -> None:
    made, bank, owner = split(5)
    plain = rank_tiles(tiles(made), owner)
    videos = BankSums.of_videos(bank_tiles(made, bank)[0], beta=BETA, logit_scale=100.0)
    scoring = QueryBank(plain, videos=videos, beta=BETA, logit_scale=100.0, dynamic=False)
    np.testing.assert_array_equal(rank_tiles(tiles(made), owner, scoring=scoring).v2t, plain.v2t)


def test_sharp_temperatures_neither_overflow_nor_tie() -> None:
    made, _, owner = split(6)
    scoring = DualSoftmax(tiles(made), temperature=300.0, logit_scale=100.0)
    found = rank_tiles(tiles(made), owner, scoring=scoring)
    assert np.isfinite(found.t2v_own).all() and (found.t2v % 1 == 0).all()


def _rank_of(number: int, size: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=size)
    made, _, _ = split(7)
    ours = log_sums(tiles(made), factor=0.2, world=World(number, size, torch.device("cpu")))
    alone = log_sums(tiles(made), factor=0.2, world=SINGLE_PROCESS)
    for name in ("of_caption", "of_video", "best_video", "best_caption"):
        np.testing.assert_allclose(getattr(ours, name), getattr(alone, name), rtol=1e-6)
    Path(folder, f"{number}.ok").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_ranks_share_the_sums(tmp_path: Path) -> None:
    run_ranks(_rank_of, 2, 2, str(tmp_path / "store"), str(tmp_path))
    assert len(list(tmp_path.glob("*.ok"))) == 2
