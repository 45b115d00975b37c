"""Towers of every kind give the features that open_clip and transformers give with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.backbones.backbone import Backbone
from modules.backbones.registry import build_backbone
from modules.backbones.request import Request
from tests.modules.backbones.architectures import (
    ENCODERS,
    HF_MODELS,
    IMAGES,
    TEXTS,
    VOCAB,
    WIDTH,
    WORDS,
    hf_model,
    with_encoder,
    write_config,
)

END, PAD = VOCAB - 1, 0


def texts(*, end: int = END, pad: int = PAD) -> tuple[Tensor, Tensor]:
    """Ids [3, W] of 5, 3 and W tokens with their end token, and the mask."""
    ids = torch.randint(4, VOCAB - 1, (3, WORDS), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(WORDS) < torch.tensor([5, 3, WORDS])[:, None]
    last = mask.sum(1) - 1
    ids[torch.arange(3), last] = end
    return torch.where(mask, ids, pad), mask.long()


def reference(config: dict[str, Any]) -> Any:
    """open_clip's own model of a configuration."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    values = {key: value for key, value in config.items() if key not in ("custom_text", "languages")}
    if "multimodal_cfg" in values:
        return CoCa(**values).eval()
    custom = config.get("custom_text") or "hf_model_name" in config["text_cfg"]
    return (CustomTextCLIP if custom else CLIP)(**values).eval()


def built(config: dict[str, Any], folder: Path, theirs: Any) -> Backbone:
    """Our backbone with the weights of open_clip's model, through a file."""
    torch.save(theirs.state_dict(), folder / "weights.pt")
    return build_backbone(Request(write_config(folder, config), str(folder / "weights.pt")))


@pytest.mark.parametrize("kind", TEXTS)
@torch.no_grad()
def test_text_and_image_features_are_those_of_open_clip(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = reference(TEXTS[kind])
    ours = built(TEXTS[kind], tmp_path, theirs)
    ids, mask = texts(end=2 if kind == "MetaCLIP 2" else END)
    features, words = ours.text.eval()(ids, mask)
    expected = theirs.encode_text(ids, normalize=False)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert words.shape == (3, WORDS, WIDTH)
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        ours.image.eval()(pixels), theirs.encode_image(pixels, normalize=False), atol=1e-5, rtol=1e-5
    )
    assert ours.logit_scale == pytest.approx(theirs.logit_scale.exp().item())
    assert ours.logit_bias == (None if theirs.logit_bias is None else -10.0)


@pytest.mark.parametrize("kind", sorted(TEXTS.keys() - {"CoCa"}))
@torch.no_grad()
def test_the_text_feature_is_the_word_feature_of_one_token(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = build_backbone(Request(write_config(tmp_path, TEXTS[kind]))).text.eval()
    ids, mask = texts(end=2 if kind == "MetaCLIP 2" else END)
    features, words = text(ids, mask)
    place = {"SigLIP": -1, "CLIPA": -1, "first token": 0}.get(kind)
    chosen = words[torch.arange(3), mask.sum(1) - 1] if place is None else words[:, place]
    torch.testing.assert_close(features, chosen)


@pytest.mark.parametrize("kind", TEXTS)
def test_word_features_train_all_but_the_parameters_of_the_pooler(kind: str, tmp_path: Path) -> None:
    """Heads that only read words freeze those: a parameter without a gradient would stop DDP."""
    text = build_backbone(Request(write_config(tmp_path, TEXTS[kind]))).text
    text(*texts(end=2 if kind == "MetaCLIP 2" else END))[1].sum().backward()
    without = {id(p) for p in text.parameters() if p.grad is None}
    assert without == {id(p) for p in text.pooler_parameters()}  # type: ignore[operator]


@pytest.mark.parametrize("kind", TEXTS)
@torch.no_grad()
def test_padding_may_be_left_out_where_it_is_no_part_of_the_text(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(Request(write_config(tmp_path, TEXTS[kind])))
    text = backbone.text.eval()
    ids, mask = (rows[:2] for rows in texts(end=2 if kind == "MetaCLIP 2" else END))
    torch.testing.assert_close(text(ids[:, :5], mask[:, :5])[0], text(ids, mask)[0])
    assert backbone.reads_padding == (kind not in ("CLIP", "MetaCLIP 2", "no projection"))
    other = ids.masked_fill(mask == 0, 7)
    same = torch.allclose(text(other, mask)[0], text(ids, mask)[0])
    assert same != backbone.reads_padding


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_encoders_of_transformers_are_pooled_as_in_open_clip(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = with_encoder(tmp_path, kind)
    theirs = reference({**config, "text_cfg": {**config["text_cfg"], "hf_model_pretrained": False}})
    ours = built(config, tmp_path, theirs)
    pad = theirs.text.config.pad_token_id
    ids, mask = texts(pad=pad)
    features, words = ours.text.eval()(ids, mask)
    torch.testing.assert_close(features, theirs.encode_text(ids), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.text(ids)[0], features)
    torch.testing.assert_close(ours.text(ids[:2, :5], mask[:2, :5])[0], features[:2], atol=1e-5, rtol=1e-5)
    assert words.shape == (3, WORDS, WIDTH) and not ours.reads_padding


@pytest.mark.parametrize("kind", HF_MODELS)
@torch.no_grad()
def test_features_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = hf_model(kind)
    theirs.save_pretrained(tmp_path)
    ours = build_backbone(Request(str(tmp_path), "openai"))
    ids, mask = texts(end=3 if kind == "metaclip_2" else END, pad=1 if kind == "metaclip_2" else 0)
    masks = {"attention_mask": mask} if kind == "chinese_clip" else {}
    expected = theirs.get_text_features(input_ids=ids, **masks)
    pixels = torch.randn(2, 3, 32, 32)
    image = theirs.get_image_features(pixel_values=pixels)
    features, words = ours.text.eval()(ids, mask)
    torch.testing.assert_close(features, getattr(expected, "pooler_output", expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours.image.eval()(pixels), getattr(image, "pooler_output", image), atol=1e-5, rtol=1e-5
    )
    assert words.shape == (3, WORDS, ours.embed_dim)
    assert (ours.logit_bias is not None) == (kind == "siglip")


@pytest.mark.parametrize("kind", IMAGES)
@torch.no_grad()
def test_image_features_of_other_towers(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = reference(IMAGES[kind])
    ours = built(IMAGES[kind], tmp_path, theirs)
    size = ours.preprocessing.size
    pixels = torch.randn(1, 3, size, size)
    torch.testing.assert_close(ours.image.eval()(pixels), theirs.encode_image(pixels), atol=1e-5, rtol=1e-5)
