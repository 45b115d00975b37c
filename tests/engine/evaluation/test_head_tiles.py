"""Every head in tiles: the scores of the full matrix, exact ties wherever equal rows lie, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.evaluation.features import Features
from engine.evaluation.ranking import rank
from engine.evaluation.similarity import CACHED_NUMBERS, GRAIN, ScoreTiles, default_tile
from modules.heads.head import MOST_NUMBERS, HeadOptions, SimilarityHead
from modules.heads.registry import HEADS, build_head
from tests.device import DEVICE
from tests.engine.evaluation.naive_ranking import naive_t2v, naive_v2t
from tests.modules.tiny import draw

CAPTIONS, WORDS, VIDEOS, FRAMES, WIDTH = 150, 6, 70, 3, 16
OWNERS = np.arange(CAPTIONS) % VIDEOS

all_heads = pytest.mark.parametrize("name", HEADS)


def make(name: str, **options: object) -> SimilarityHead:
    torch.manual_seed(0)
    settings = {"head": name, "use_frame_fea": True, **options}
    head = build_head(HeadOptions(**settings), WIDTH).to(DEVICE)  # type: ignore[arg-type]
    return head.eval().requires_grad_(False)


def split(*, different: int = CAPTIONS) -> Features:
    """Captions and videos of which only the first `different` are not repetitions of earlier ones."""
    texts, videos = (torch.arange(count) % different for count in (CAPTIONS, VIDEOS))
    return Features(
        text=draw(CAPTIONS, WIDTH)[texts].to(DEVICE),
        words=draw(CAPTIONS, WORDS, WIDTH, seed=1)[texts].to(DEVICE),
        word_mask=(torch.arange(WORDS) < 1 + texts[:, None] % WORDS).to(DEVICE),
        video=draw(VIDEOS, WIDTH, seed=2)[videos].to(DEVICE),
        frames=draw(VIDEOS, FRAMES, WIDTH, seed=3)[videos].to(DEVICE),
        frame_mask=(torch.arange(FRAMES) < 1 + videos[:, None] % FRAMES).to(DEVICE),
    )


def matrix(tiles: ScoreTiles) -> torch.Tensor:
    columns = []
    for videos in tiles.video_tiles(0, VIDEOS):
        numbers = torch.arange(CAPTIONS, device=DEVICE).split(tiles.height)
        columns.append(torch.cat([tiles.scores(captions, videos).clone() for captions in numbers]))
    return torch.cat(columns, dim=1)


@all_heads
@pytest.mark.parametrize("tile", [(64, 64), (32, 128), (4, 3)])
def test_scores_in_tiles_are_those_of_the_head(name: str, tile: tuple[int, int]) -> None:
    head, features = make(name), split()
    found = matrix(ScoreTiles(features, head, logit_scale=100.0, tile=tile))
    rows = features.of(head.keys(), slice(None))
    torch.testing.assert_close(found, head(rows, rows, scale=100.0), rtol=1e-5, atol=1e-4)


@all_heads
def test_equal_captions_and_videos_tie_to_the_bit_in_every_tile(name: str) -> None:
    """They lie at different places of different tiles, the last of which are padded."""
    found = matrix(ScoreTiles(split(different=6), make(name), logit_scale=100.0, tile=(64, 64)))
    for first in range(6):
        assert (found[first::6] == found[first]).all()
        assert (found[:, first::6] == found[:, first : first + 1]).all()


@all_heads
def test_ranks_are_those_of_the_full_matrix(name: str) -> None:
    head, features = make(name), split(different=40)
    ranks = rank(features, OWNERS, head=head, logit_scale=100.0)
    scores = matrix(ScoreTiles(features, head, logit_scale=100.0)).cpu().numpy()
    np.testing.assert_array_equal(ranks.t2v.expected, naive_t2v(scores, OWNERS))
    np.testing.assert_array_equal(ranks.v2t.expected, naive_v2t(scores, OWNERS))


@pytest.mark.parametrize("numbers", [1, 384, 512, 77 * 48])
def test_tiles_are_smaller_where_a_pair_takes_more_memory(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, _ = default_tile(torch.device("cpu"), numbers=numbers)
    assert side == (512 if numbers == 1 else GRAIN)
    assert side == GRAIN or side**2 * numbers <= CACHED_NUMBERS
    memory = type("Properties", (), {"total_memory": 80 << 30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    side, _ = default_tile(torch.device("cuda"), numbers=numbers)
    assert side**2 * numbers <= MOST_NUMBERS < (2 * side) ** 2 * numbers
    # A tile is one chunk: chunks of other sizes could differ in the last bit.


def test_the_head_of_features_in_float64_is_a_copy() -> None:
    head, features = make("wti"), split()
    double = {
        name: rows.double()
        for name, rows in features.of(("text", "words", "video", "frames"), slice(None)).items()
    }
    tiles = ScoreTiles(Features(**double), head, logit_scale=1.0)
    assert tiles.scores(torch.arange(3, device=DEVICE), tiles.video_tile(0, 2)).dtype == torch.float64
    assert next(head.parameters()).dtype == torch.float32
