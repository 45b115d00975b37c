"""From a name to a backbone: every family, forms of weights, what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from modules.backbones.registry import FAMILIES, build_backbone, family_of
from modules.backbones.request import OPEN_CLIP_FILE, Request
from tests.modules.backbones.architectures import HF_MODELS, IMAGES, TEXTS, VOCAB, hf_model, write_config
from tests.modules.backbones.test_towers import reference
from tests.modules.backbones.toy_tokenizers import write_unigram


def hub_folder(folder: Path, kind: str = "SigLIP", **more: Any) -> Path:
    """A folder as the hub has it in open_clip's form; returns the file of its weights."""
    settings = {"model_cfg": TEXTS[kind], "preprocess_cfg": {"resize_mode": "squash", "mean": [0.5] * 3}}
    (folder / OPEN_CLIP_FILE).write_text(json.dumps(settings | more), encoding="utf-8")
    torch.save(reference(TEXTS[kind]).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder / "open_clip_pytorch_model.bin"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_found_and_built(family: str, tmp_path: Path) -> None:
    if family == "open_clip":
        hub_folder(tmp_path)
    else:
        hf_model(family).config.save_pretrained(tmp_path)
    request = Request(str(tmp_path), "none")
    assert family_of(request) == family
    backbone = build_backbone(request)
    assert backbone.image_layers and backbone.text_layers
    assert backbone.vocab_size == VOCAB and backbone.preprocessing.size == 32


def test_a_folder_in_open_clips_form_brings_all(tmp_path: Path) -> None:
    weights = torch.load(hub_folder(tmp_path))
    write_unigram(tmp_path, ["▁a"], kind="siglip")
    backbone = build_backbone(Request(str(tmp_path), "openai"))
    preprocessing = backbone.preprocessing
    assert (preprocessing.resize, preprocessing.mean) == ("squash", (0.5, 0.5, 0.5))
    torch.testing.assert_close(backbone.text.state_dict()["ln_final.bias"], weights["text.ln_final.bias"])
    assert backbone.tokenizer("english").encode("a", 3)[0].tolist() == [4, 1, 1]
    with pytest.raises(UserError, match="has its own weights; leave the flag out"):
        build_backbone(Request(str(tmp_path), "webli"))
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no open_clip_model\.safetensors or .*--clip_weights none"):
        build_backbone(Request(str(tmp_path), "openai"))


def test_preprocessing_of_transformers(tmp_path: Path) -> None:
    hf_model("siglip").config.save_pretrained(tmp_path)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 2}), "utf-8")
    preprocessing = build_backbone(Request(str(tmp_path), "none")).preprocessing
    assert (preprocessing.resize, preprocessing.interpolation) == ("squash", "bilinear")
    assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)


@torch.no_grad()
def test_weights_of_transformers_fit_open_clips_architecture(tmp_path: Path) -> None:
    theirs = hf_model("clip")
    torch.save(theirs.state_dict(), tmp_path / "weights.bin")
    config = {**TEXTS["CLIP"], "vision_cfg": {**TEXTS["CLIP"]["vision_cfg"], "mlp_ratio": 1.0}}
    config["text_cfg"] = {**config["text_cfg"], "mlp_ratio": 1.0}
    backbone = build_backbone(Request(write_config(tmp_path, config), str(tmp_path / "weights.bin")))
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs.get_image_features(pixel_values=pixels)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(backbone.image.eval()(pixels), expected, atol=1e-4, rtol=1e-4)


def test_a_text_tower_at_the_top_fits_one_that_is_a_part(tmp_path: Path) -> None:
    """Files from before open_clip had text towers of their own."""
    state = reference(TEXTS["MobileCLIP"]).state_dict()
    flat = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    torch.save(flat, tmp_path / "weights.pt")
    path = write_config(tmp_path, TEXTS["MobileCLIP"])
    backbone = build_backbone(Request(path, str(tmp_path / "weights.pt")))
    torch.testing.assert_close(backbone.text.state_dict()["ln_final.bias"], state["text.ln_final.bias"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(reference(TEXTS["CLIP"]).state_dict(), tmp_path / "weights.pt")
    path = write_config(tmp_path, IMAGES["ResNet"])
    with pytest.raises(UserError, match=r"not the weights of .*: \d+ missing, \d+ unknown, .*; first "):
        build_backbone(Request(path, str(tmp_path / "weights.pt")))
    folder = tmp_path / "siglip"
    hf_model("siglip").config.save_pretrained(folder)
    with pytest.raises(UserError, match=r"not the weights of .*: \d+ missing, \d+ unknown"):
        build_backbone(Request(str(folder), str(tmp_path / "weights.pt")))


def test_what_is_no_backbone_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"of the type 'bert', not an image and a text tower.*open_clip, clip"
    ):
        build_backbone(Request(str(tmp_path)))
    path = tmp_path / "image_only.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": {}}), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"image_only\.json: text_cfg missing .*, so the model has no text tower"
    ):
        build_backbone(Request(str(path)))
    with pytest.raises(UserError, match=r"'ViT-B-16-SigLIP3' is unknown.*ViT-B-16-SigLIP2"):
        build_backbone(Request("ViT-B-16-SigLIP3"))


def test_the_languages_of_a_text_tower(tmp_path: Path) -> None:
    from modules.backbones.clip_configs import clip_config, languages_of

    both = {"english", "chinese"}
    for name in ("ViT-B-16-SigLIP2", "ViT-H-14-worldwide", "xlm-roberta-base-ViT-B-32", "nllb-clip-base"):
        assert languages_of(clip_config(name)) == both, name
    for name in ("ViT-B-32-quickgelu", "ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "roberta-ViT-B-32"):
        assert languages_of(clip_config(name)) == {"english"}, name
    path = write_config(tmp_path, {**TEXTS["CLIP"], "languages": ["chinese"]})
    assert build_backbone(Request(path)).languages == {"chinese"}
    hf_model("chinese_clip").config.save_pretrained(tmp_path / "c")
    assert build_backbone(Request(str(tmp_path / "c"), "none")).languages == {"chinese"}


def test_preprocessing_follows_the_tag(tmp_path: Path) -> None:
    from modules.backbones.clip_configs import clip_config, preprocessing_of

    def of(name: str, weights: str = "none") -> tuple[str, str, float]:
        found = preprocessing_of(name, clip_config(name), weights=weights, size=224)
        return found.resize, found.interpolation, found.mean[0]

    assert of("ViT-B-16-SigLIP2") == ("squash", "bicubic", 0.5)
    assert of("PE-Core-B-16") == ("squash", "bilinear", 0.5)
    assert of("ViT-H-14") == ("shortest", "bicubic", 0.48145466)
    assert of("ViT-H-14", "dfn5b") == ("squash", "bicubic", 0.48145466)
    assert of("MobileCLIP-S1") == ("shortest", "bilinear", 0.0)
    path = write_config(tmp_path, {**TEXTS["CLIP"], "preprocess_cfg": {"resize_mode": "round"}})
    with pytest.raises(UserError, match=r"resize_mode is 'round', it must be one of shortest, squash"):
        build_backbone(Request(path))


def test_hf_models_have_a_test() -> None:
    assert FAMILIES.keys() == {"open_clip", *HF_MODELS}
