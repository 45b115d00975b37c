from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from modules.heads.registry import HEADS
from modules.losses.contrastive import in_batch_cross_entropy
from modules.retrieval_model import RetrievalModel
from tests.device import DEVICE
from tests.modules import tiny
from tests.modules.hmmc_terms import frame_text_matching, video_text_matching


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    model, batch = tiny.retrieval_model(), tiny.batch()
    losses = model(batch)
    assert set(losses) == {"loss", "VTM", "FTM"}
    assert torch.allclose(losses["loss"], 0.85 * losses["VTM"] + 0.15 * losses["FTM"])
    assert losses["loss"].requires_grad and not losses["VTM"].requires_grad
    with torch.no_grad():
        video, frames = model.encode_video(batch["frames"], batch["frame_mask"])
        text = model.encode_text(batch["text_ids"], batch["text_mask"])
    assert torch.allclose(losses["VTM"], video_text_matching(text, video, logit_scale=5.0))
    assert torch.allclose(losses["FTM"], frame_text_matching(text, frames, logit_scale=5.0))


class WithoutPadding(nn.Module):
    """A text encoder that reads its mask: the mean of the ids of real tokens."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return (ids * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True), ids


def test_the_text_encoder_gets_the_mask() -> None:
    model, batch = tiny.retrieval_model(), tiny.batch()
    model.text_encoder = WithoutPadding()
    ids, mask = torch.tensor([[4, 6, 9]], device=DEVICE), torch.tensor([[1, 1, 0]], device=DEVICE)
    assert model.encode_text(ids, mask).tolist() == [[5.0]]
    rows = len(batch["text_ids"])
    given = {**batch, "text_ids": ids.expand(rows, -1), "text_mask": mask.expand(rows, -1)}
    assert model.encode(given)["text"].tolist() == [[5.0]] * rows


@pytest.mark.parametrize("head", [name for name in HEADS if name != "hmmc"])
def test_other_heads_have_one_loss_of_their_similarity(head: str) -> None:
    model, batch = tiny.retrieval_model(head=head, weight_VTM=1.0), tiny.batch(padded=True)
    batch["text_mask"][1, 4:] = 0
    losses = model(batch)
    assert set(losses) == {"loss", "VTM"} and torch.equal(losses["loss"], losses["VTM"])
    with torch.no_grad():
        features = model.encode(batch) | {"frame_mask": batch["frame_mask"]}
        features["word_mask"] = batch["text_mask"].bool()
        similarity = model.head(features, features, scale=5.0)
    assert torch.allclose(losses["VTM"], in_batch_cross_entropy(similarity))


@pytest.mark.parametrize("head", HEADS)
def test_padding_does_not_matter(head: str) -> None:
    model, batch = tiny.retrieval_model(head=head), tiny.batch(padded=True)
    hidden = ~batch["frame_mask"][:, :, None, None, None]
    changed = {**batch, "frames": torch.where(hidden, 255 - batch["frames"], batch["frames"])}
    assert torch.equal(model(batch)["loss"], model(changed)["loss"])
    unpadded = tiny.batch()
    without_mask = {k: v for k, v in unpadded.items() if k != "frame_mask"}
    assert torch.allclose(model(unpadded)["loss"], model(without_mask)["loss"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_frame_fea": False},
        {"weight_FTM": 0.0},
        {"weight_VTM": 0.0},
        *({"head": name, "weight_FTM": 0.0} for name in HEADS),
    ],
)
def test_every_trainable_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    model = tiny.retrieval_model(**options)
    losses = model(tiny.batch())
    losses["loss"].backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(tiny.gradients(model))
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert bool(frozen) == ("weight_VTM" in options)
    assert ("FTM" in losses) == (options.get("use_frame_fea", True) and options.get("weight_FTM", 1.0) > 0)


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="every loss has weight 0"):
        tiny.retrieval_model(weight_VTM=0.0, use_frame_fea=False)


def test_black_clips_and_empty_texts_give_finite_losses_and_gradients() -> None:
    model, batch = tiny.retrieval_model(logit_scale=100.0), tiny.batch()
    batch["frames"][1] = 0
    batch["text_ids"][2] = 0
    batch["text_mask"][2] = 0
    loss = model(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in tiny.gradients(model).values())


def test_bfloat16_autocast_stays_near_float32_and_its_gradients_finite() -> None:
    model, batch = tiny.retrieval_model(), tiny.batch()
    exact = model(batch)["loss"].item()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        loss = model(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.05)
    assert all(torch.isfinite(gradient).all() for gradient in tiny.gradients(model).values())


def test_published_settings() -> None:
    model = RetrievalModel(*tiny.encoders(), use_frame_fea=True)
    assert model.weights == {"VTM": 0.85, "FTM": 0.15}
    assert model.log_scalars() == {"logit_scale": 100.0}
    clips = tiny.batch() | {"video": torch.zeros(4, dtype=torch.long)}
    assert model(clips)["VTM"] > 0, "clips of one video are negatives of each other"
