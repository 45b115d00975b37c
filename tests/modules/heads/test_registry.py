"""Every head of the table: what all of them must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.heads import head as head_module
from modules.heads.head import TEXT_KEYS, VIDEO_KEYS, HeadOptions, SimilarityHead
from modules.heads.registry import HEADS, build_head
from tests.modules.heads.oracles import ORACLES, TOP_FRAMES, XPOOL_HEADS
from tests.modules.tiny import draw

TEXTS, WORDS, VIDEOS, FRAMES, WIDTH = 5, 6, 4, 3, 16
FRAME_MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
WORD_MASK = torch.arange(WORDS) < torch.tensor([6, 2, 4, 1, 5])[:, None]

all_heads = pytest.mark.parametrize("name", HEADS)


def make(name: str) -> SimilarityHead:
    """With weights that are all different from those of a new head."""
    torch.manual_seed(0)
    options = {"top_frames": TOP_FRAMES, "xpool_heads": XPOOL_HEADS, "wti_layers": 3}
    head = build_head(HeadOptions(head=name, use_frame_fea=True, **options), WIDTH).eval()
    for number, weight in enumerate(head.parameters()):
        weight.data += 0.2 * draw(*weight.shape, seed=number)
    return head


def features() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    texts = {"text": draw(TEXTS, WIDTH), "words": draw(TEXTS, WORDS, WIDTH, seed=1), "word_mask": WORD_MASK}
    videos = {"video": draw(VIDEOS, WIDTH, seed=2), "frames": draw(VIDEOS, FRAMES, WIDTH, seed=3)}
    return texts, {**videos, "frame_mask": FRAME_MASK}


@all_heads
def test_a_head_reads_known_features_and_scores_every_pair(name: str) -> None:
    head, (texts, videos) = make(name), features()
    assert head.keys() <= {*TEXT_KEYS, *VIDEO_KEYS}
    only = ({n: rows for n, rows in side.items() if head.reads(n)} for side in (texts, videos))
    similarity = head(*only)
    assert similarity.shape == (TEXTS, VIDEOS) and similarity.dtype == torch.float32
    assert torch.equal(similarity, head(texts, videos))
    assert torch.allclose(head(texts, videos, scale=10.0), 10 * similarity, atol=1e-5)


def test_every_head_has_an_oracle() -> None:
    assert HEADS.keys() == ORACLES.keys()


@all_heads
def test_the_similarity_is_that_of_the_oracle(name: str) -> None:
    head = make(name).double()
    texts, videos = ({n: rows if "mask" in n else rows.double() for n, rows in s.items()} for s in features())
    with torch.no_grad():
        similarity = head(texts, videos, scale=3.0)
    weights = {n: p.detach().numpy() for n, p in head.named_parameters()}
    for n in range(TEXTS):
        for v in range(VIDEOS):
            words = list(texts["words"][n][WORD_MASK[n]].numpy())
            frames = list(videos["frames"][v][FRAME_MASK[v]].numpy())
            pair = (texts["text"][n].numpy(), words, videos["video"][v].numpy(), frames)
            assert float(similarity[n, v]) == pytest.approx(3.0 * ORACLES[name](weights, *pair), abs=1e-12)


@all_heads
def test_chunks_give_the_same_values_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (head_module.MOST_NUMBERS, 1, 2 * VIDEOS * WORDS * FRAMES):
        monkeypatch.setattr(head_module, "MOST_NUMBERS", most)
        head, (texts, videos) = make(name), features()
        read = [rows.requires_grad_() for rows in (texts | videos).values() if rows.is_floating_point()]
        with torch.no_grad():
            plain = head(texts, videos)
        similarity = head(texts, videos)
        (similarity * draw(TEXTS, VIDEOS, seed=4)).sum().backward()
        tensors = (*read, *head.parameters())
        found.append([plain, similarity, *(t.grad for t in tensors if t.grad is not None)])
    for others in found[1:]:
        for ours, expected in zip(others, found[0], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@all_heads
def test_with_and_without_gradient_it_is_the_same_and_every_feature_it_reads_gets_one(name: str) -> None:
    head, (texts, videos) = make(name), features()
    with torch.no_grad():
        plain = head(texts, videos)
    read = {n: rows.requires_grad_() for n, rows in (texts | videos).items() if rows.is_floating_point()}
    similarity = head(texts, videos)
    assert torch.allclose(similarity, plain, atol=1e-6)
    (similarity * draw(TEXTS, VIDEOS, seed=4)).sum().backward()
    reached = {n for n, rows in read.items() if rows.grad is not None and bool(rows.grad.any())}
    assert reached == head.keys() & read.keys()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in head.parameters())


@all_heads
def test_padding_does_not_matter_and_a_mask_of_ones_changes_nothing(name: str) -> None:
    head, (texts, videos) = make(name), features()
    changed_texts = {**texts, "words": torch.where(WORD_MASK[..., None], texts["words"], 9.0)}
    changed_videos = {**videos, "frames": torch.where(FRAME_MASK[..., None], videos["frames"], 9.0)}
    with torch.no_grad():
        assert torch.equal(head(texts, videos), head(changed_texts, changed_videos))
        full = (
            {**texts, "word_mask": torch.ones_like(WORD_MASK)},
            {
                **videos,
                "frame_mask": torch.ones_like(FRAME_MASK),
            },
        )
        without = [{n: rows for n, rows in side.items() if "mask" not in n} for side in full]
        assert torch.allclose(head(*full), head(*without), atol=1e-6)


@all_heads
def test_texts_and_videos_without_anything_real_give_finite_scores(name: str) -> None:
    head, (texts, videos) = make(name), features()
    texts = {**texts, "text": texts["text"] * 0, "word_mask": WORD_MASK & False}
    videos = {n: rows & False if "mask" in n else rows * 0 for n, rows in videos.items()}
    assert torch.isfinite(head(texts, videos)).all()


@all_heads
def test_autocast_changes_nothing(name: str) -> None:
    head, (texts, videos) = make(name), features()
    plain = head(texts, videos)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(texts, videos), plain)


@all_heads
def test_the_weights_of_a_head_are_recognised_by_their_names(name: str) -> None:
    head = make(name)
    assert {n.partition(".")[0] for n, _ in head.named_parameters()} == set(head.parts)
