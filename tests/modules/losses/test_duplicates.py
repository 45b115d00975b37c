"""With `mask_duplicates`, clips of one video or with one text are not negatives of each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.dual_encoder import DualEncoder, Features
from modules.losses import duplicates
from modules.losses.duplicates import find_duplicates, rows_of_this_rank
from modules.numerics import l2_normalize
from tests.modules import tiny

# Clips 0 and 3 have the same video, clips 1 and 4 the same caption, clips 2 and 3 the same tag.
CLIPS, VIDEOS = 5, [7, 2, 5, 7, 1]


def batch(*, padded: bool = True, tags: bool = False) -> dict[str, Tensor]:
    result = tiny.batch(CLIPS, padded=padded, tags=tags)
    for kind, (copied, source) in {"text": (4, 1), "tag": (3, 2)}.items():
        if f"{kind}_ids" in result:
            result[f"{kind}_ids"][copied] = result[f"{kind}_ids"][source]
    return result | {"video": torch.tensor(VIDEOS)}


def is_duplicate(one: int, other: int, text: str | None) -> bool:
    texts = {"text": {(1, 4), (4, 1)}, "tag": {(2, 3), (3, 2)}, None: set()}
    return one != other and (VIDEOS[one] == VIDEOS[other] or (one, other) in texts[text])


@pytest.mark.parametrize("text", ["text", "tag", None])
def test_pairs_of_one_video_or_one_text(text: str | None) -> None:
    expected = [[is_duplicate(i, j, text) for j in range(CLIPS)] for i in range(CLIPS)]
    assert find_duplicates(batch(tags=True), text=text).tolist() == expected


def test_rows_are_equal_only_if_all_their_words_are() -> None:
    words = torch.randint(0, 2, (60, 5), generator=torch.Generator().manual_seed(3))
    expected = (words[:, None] == words[None]).all(dim=-1)
    assert 60 < expected.sum() < 60 * 60
    assert torch.equal(duplicates._equal_rows(words), expected)
    assert torch.equal(duplicates._equal_rows(words[:, 0]), words[:, :1] == words[None, :, 0])


def loss_of_row(scores: dict[int, float], positive: float) -> float:
    return math.log(sum(math.exp(score) for score in scores.values())) - positive


def naive_matching(text: Tensor, vectors: Tensor, real: list[bool], *, scale: float) -> list[float]:
    """Per clip: the cross-entropies of both directions over clips that are real and not duplicates."""
    scores = (scale * F.normalize(text, dim=-1) @ F.normalize(vectors, dim=-1).T).tolist()
    losses = []
    for i in range(CLIPS):
        allowed = [j for j in range(CLIPS) if not is_duplicate(i, j, "text")]
        to_video = loss_of_row({j: scores[i][j] for j in allowed if real[j]}, scores[i][i])
        to_text = loss_of_row({j: scores[j][i] for j in allowed}, scores[i][i])
        losses.append(to_video + to_text)
    return losses


def test_fine_tuning_is_the_naive_loop() -> None:
    model, clips = tiny.retrieval_model(mask_duplicates=True).double(), batch()
    features = {name: rows.detach() for name, rows in model.encode(clips).items()}
    scale = model.logit_scale
    every = naive_matching(features["text"], features["video"], [True] * CLIPS, scale=scale)
    pairs = []
    for position in range(tiny.FRAMES):
        real = clips["frame_mask"][:, position].tolist()
        rows = naive_matching(features["text"], features["frames"][:, position], real, scale=scale)
        pairs += [loss for loss, counts in zip(rows, real, strict=True) if counts]
    losses = model.losses(features, {}, clips)
    assert float(losses["VTM"]) == pytest.approx(sum(every) / CLIPS, rel=1e-12)
    assert float(losses["FTM"]) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)


def naive_loss(query: Tensor, positive: Tensor, keys: list[Tensor], *, temperature: float) -> Tensor:
    negatives = torch.stack([query @ key for key in keys]) / temperature
    score = query @ positive / temperature
    return torch.cat([score[None], negatives]).logsumexp(0) - score


def test_pre_training_on_its_batch_is_the_naive_loop() -> None:
    """VTM of titles and tags; a tag has other duplicates than a title."""
    only_vtm: dict[str, Any] = {**tiny.NO_LOSS, "weight_VTM": 1.0}
    model = tiny.pretrain_model(in_batch_negatives=True, mask_duplicates=True, **only_vtm).double().eval()
    clips = batch(tags=True)
    query = {name: l2_normalize(rows.detach()) for name, rows in model.encode(clips).items()}
    keys: Features = {name: l2_normalize(rows) for name, rows in model.encode_keys(clips).items()}
    total = torch.tensor(0.0, dtype=torch.float64)
    for kind in ("text", "tag"):
        for i in range(CLIPS):
            allowed = [j for j in range(CLIPS) if j != i and not is_duplicate(i, j, kind)]
            for one, other in (("video", kind), (kind, "video")):
                negatives = [keys[other][j] for j in allowed]
                total += naive_loss(query[one][i], keys[other][i], negatives, temperature=model.temperature)
    loss = model.losses(model.encode(clips), model.encode_keys(clips), clips)["VTM"]
    torch.testing.assert_close(loss, total / CLIPS / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["FAM", "FTM"])
def test_frames_of_a_duplicate_give_no_gradient_in_pre_training(name: str) -> None:
    """Clips 3 and 0 have the same video: the frames of 3 change the gradient of clip 1, but not of clip 0."""
    options: dict[str, Any] = {**tiny.NO_LOSS, f"weight_{name}": 1.0, "in_batch_negatives": True}
    model = tiny.pretrain_model(mask_duplicates=True, **options).double().eval()
    clips = batch(padded=False)
    moved = {key: value.clone() for key, value in clips.items()}
    moved["frames"][3] = 255 - moved["frames"][3]

    def gradient_with_keys_of(changed: dict[str, Tensor]) -> Tensor:
        """The gradient of each clip's query."""
        features = {key: rows.detach() for key, rows in model.encode(clips).items()}
        query = features["frames" if name == "FAM" else "text"].requires_grad_()
        model.losses(features, model.encode_keys(changed), clips)["loss"].backward()
        gradient = query.grad
        assert gradient is not None
        return gradient

    before, after = gradient_with_keys_of(clips), gradient_with_keys_of(moved)
    assert not torch.allclose(before[1], after[1])  # clip 3 is a negative of clip 1
    torch.testing.assert_close(before[0], after[0])


def pair(kind: str, **options: Any) -> tuple[DualEncoder, DualEncoder]:
    if kind == "finetune":
        return tiny.retrieval_model(), tiny.retrieval_model(mask_duplicates=True)
    options = {"in_batch_negatives": kind == "batch"}
    return tiny.pretrain_model(**options), tiny.pretrain_model(mask_duplicates=True, **options)


def all_losses(model: nn.Module, clips: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in model(clips).items()}


@pytest.mark.parametrize("kind", ["finetune", "batch", "queue"])
def test_without_duplicates_nothing_changes(kind: str) -> None:
    clips = tiny.batch(4, padded=True, tags=True) | {"video": torch.arange(4)}
    plain, masked = (all_losses(model, clips) for model in pair(kind))
    assert plain == masked


@pytest.mark.parametrize(("kind", "changes"), [("finetune", True), ("batch", True), ("queue", False)])
def test_duplicates_change_in_batch_losses_only(kind: str, changes: bool) -> None:
    """Keys in a queue have no video number."""
    plain, masked = (all_losses(model, batch(tags=True)) for model in pair(kind))
    assert (plain["VTM"] > masked["VTM"]) if changes else plain == masked


def test_a_batch_of_one_video_has_no_negative_left() -> None:
    clips = batch() | {"video": torch.zeros(CLIPS, dtype=torch.long)}
    losses = tiny.retrieval_model(mask_duplicates=True)(clips)
    losses["loss"].backward()
    assert float(losses["VTM"]) == pytest.approx(0.0, abs=1e-5)


def test_rows_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.arange(36).view(6, 6)
    for number in range(3):
        monkeypatch.setattr(duplicates, "rank", lambda number=number: number)
        assert torch.equal(rows_of_this_rank(matrix, 2), matrix[2 * number : 2 * number + 2])


def test_a_batch_needs_videos_or_texts() -> None:
    assert find_duplicates({"video": torch.tensor([1, 2, 1])}).tolist() == [
        [False, False, True],
        [False, False, False],
        [True, False, False],
    ]
    ids = torch.tensor([[1, 2], [1, 3], [1, 2]])
    assert find_duplicates({"text_ids": ids, "tag_ids": ids[:1].expand(3, 2)}).sum() == 2
    with pytest.raises(AssertionError):
        find_duplicates({"text_ids": ids}, text="tag")


def test_texts_of_another_language_are_no_negatives() -> None:
    """The loss is that of the clips of each language by themselves."""
    model, clips = tiny.bilingual_model().eval(), batch(padded=False)
    language = torch.tensor([0, 1, 1, 0, 1])
    features = model.encode(clips | {"language": language})
    whole = model.losses(features, {}, clips | {"language": language})
    for name in ("VTM", "FTM"):
        expected = 0.0
        for number in (0, 1):
            rows = language == number
            part = {key: value[rows] for key, value in clips.items()}
            of_language = model.losses({key: value[rows] for key, value in features.items()}, {}, part)
            expected += float(of_language[name]) * int(rows.sum()) / CLIPS
        assert float(whole[name]) == pytest.approx(expected, rel=1e-5)
        assert float(whole[name]) < float(model.losses(features, {}, clips)[name]) - 1e-3
