"""Loading checkpoints into models: published names, full size, complete encoders or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint.files import checkpoint_path, read_state, save_state
from engine.checkpoint.weights import ENCODER_GROUPS, count_by_group, group_of, load_state
from modules.backbones.clip_towers import build_clip
from modules.backbones.text_encoder import ChineseTextEncoder, ClipTextEncoder
from modules.retrieval_model import RetrievalModel
from modules.video_encoder import VideoEncoder
from tests.engine.checkpoint.published import KINDS, filled, full_size, golden_shapes, value_of
from tests.golden import recipe
from tests.modules import tiny

State = dict[str, Tensor]


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def without_text_projectors(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith("t_projector")}


def published_model(language: str, folder: Path) -> RetrievalModel:
    """A full-size model with uninitialised weights, which takes no time to build."""
    with torch.device("meta"):
        clip: Any = build_clip("ViT-B-32-quickgelu")
        visual = VideoEncoder(clip.visual, embed_dim=512, use_temp=True)
        text: nn.Module = ClipTextEncoder(clip)
        if language == "chinese":
            bert = {"model_type": "bert", "vocab_size": 21128}
            (folder / "config.json").write_text(json.dumps(bert), encoding="utf-8")
            text = ChineseTextEncoder(folder, embed_dim=512, pretrained=False)
        model = RetrievalModel(visual, text, use_frame_fea=True)
    model.to_empty(device="cpu")
    return model


def assert_holds_values(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        low, high = torch.aminmax(tensor)
        assert float(low) == float(high) == value_of(name), name


# Names and shapes


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_our_names_are_the_published_ones(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "fill", lambda *_: None)  # values do not matter
    with torch.device("meta"):
        retrieval = recipe.retrieval_model(language, tmp_path).state_dict()
        pretrain = recipe.pretrain_model(language, "bird", tmp_path, weight_MLM=0.05).state_dict()
    assert shapes_of(retrieval) == golden_shapes(language, "ft")
    for kind in KINDS[1:]:
        assert shapes_of(pretrain) == without_text_projectors(golden_shapes(language, kind))


def test_a_saved_file_is_a_plain_published_state_dict(tmp_path: Path) -> None:
    model = recipe.retrieval_model("english", tmp_path)
    path = checkpoint_path(tmp_path, 3)
    save_state(model.state_dict(), path)
    assert path.name == "pytorch_model.bin.3"
    content = torch.load(path, weights_only=True)  # the published code reads it without weights_only
    assert type(content) is dict and shapes_of(content) == golden_shapes("english", "ft")
    assert {tensor.dtype for tensor in content.values()} == {torch.float32}
    assert all(torch.equal(content[name], tensor) for name, tensor in model.state_dict().items())


def test_every_published_name_has_a_group() -> None:
    for language in recipe.LANGUAGES:
        groups = {group_of(name) for name in golden_shapes(language, "pt/bird")}
        assert "unknown" not in groups and set(ENCODER_GROUPS) < groups
    assert group_of("text_encoder_k.chinese_encoder.embeddings.position_ids").startswith("position")
    assert group_of("clip.logit_scale") == "unknown"


# Full size


def test_a_full_size_english_file(tmp_path: Path) -> None:
    shapes = full_size("english", "ft")
    state = filled(shapes)
    # CLIP ViT-B/32 without its logit scale, four temporal layers, 48 frame positions.
    assert sum(tensor.numel() for tensor in state.values()) == 151_277_312 + 12_609_536 + 48 * 512
    assert state["visual_encoder.visual.positional_embedding"].shape == (50, 768)
    assert state["text_encoder.transformer.resblocks.11.mlp.c_fc.weight"].dtype == torch.float16
    path = tmp_path / "published.bin"
    torch.save(state, path)
    del state
    model = published_model("english", tmp_path)
    assert shapes_of(model.state_dict()) == shapes
    report = load_state(model, read_state(path), path=str(path))
    path.unlink()
    assert_holds_values(model)
    counts = "image tower 152, temporal transformer 49, text encoder 149"
    assert report.lines() == [f"{path}: loaded: {counts}"]


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_fine_tuning_from_a_full_size_pretraining_file(language: str, tmp_path: Path) -> None:
    path = tmp_path / "published.bin"
    torch.save(filled(full_size(language, "pt/bird"), dense=False), path)
    model = published_model(language, tmp_path)
    report = load_state(model, read_state(path), path=str(path))
    assert_holds_values(model)
    assert set(report.loaded) == set(full_size(language, "ft"))
    left_out = {group_of(name) for name in report.left_out}
    assert left_out == {
        "momentum encoders",
        "projector and predictor",
        "text projectors (in no loss)",
        "masked-word head",
        "queues",
    }
    assert any("left out" in line and "queues 6" in line for line in report.lines())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_become_float32(dtype: torch.dtype) -> None:
    model = tiny.retrieval_model()
    state = {name: torch.full_like(tensor, 0.25).to(dtype) for name, tensor in model.state_dict().items()}
    load_state(model, state, path="a.bin")
    for tensor in model.state_dict().values():
        assert tensor.dtype == torch.float32 and bool((tensor == 0.25).all())


# Parts


def changed(model: nn.Module) -> State:
    """The model's state with every number changed; queue_ptr stays a valid position."""
    return {name: tensor + 1 for name, tensor in model.state_dict().items()}


def test_pretraining_continues_from_a_complete_file() -> None:
    model = tiny.pretrain_model()
    state = changed(model)
    report = load_state(model, {**state, "t_projector.linear_out.bias": torch.ones(3)}, path="a.bin")
    assert report.left_out == ("t_projector.linear_out.bias",) and not report.fresh
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert int(model.get_buffer("queue_ptr")) == 1


def test_pretraining_from_encoders_alone_keeps_the_initial_values_of_the_rest() -> None:
    model = tiny.pretrain_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoders = {name: t for name, t in changed(model).items() if group_of(name) in ENCODER_GROUPS}
    report = load_state(model, encoders, path="a.bin")
    after = model.state_dict()
    for name in after:
        source = {**before, **encoders}[name.replace("_k.", ".", 1)]
        assert torch.equal(after[name], source), name
    lines = "\n".join(report.lines())
    assert "momentum encoders: incomplete in the file; start as copies of the encoders" in lines
    assert "queues: incomplete" in lines and "masked-word head: incomplete" in lines


def test_an_incomplete_part_is_not_loaded() -> None:
    model = tiny.pretrain_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = changed(model)
    del state["visual_encoder_k.visual.proj"], state["v_projector.linear_out.bias"]
    report = load_state(model, state, path="a.bin")
    after = model.state_dict()
    assert torch.equal(
        after["visual_encoder_k.visual.conv1.weight"], after["visual_encoder.visual.conv1.weight"]
    )
    assert torch.equal(after["v_projector.linear_out.weight"], before["v_projector.linear_out.weight"])
    # The momentum copy in the file belongs to a projector that was not loaded.
    assert torch.equal(after["v_projector_k.linear_out.weight"], after["v_projector.linear_out.weight"])
    assert torch.equal(after["v_predictor.linear_out.weight"], state["v_predictor.linear_out.weight"])
    assert {group_of(name) for name in report.fresh} == {"momentum encoders", "projector and predictor"}


def test_queues_of_another_size_keep_their_initial_values_and_pointer() -> None:
    model = tiny.pretrain_model(queue_size=3)
    queue = model.get_buffer("queue_v_cross_ng").clone()
    report = load_state(model, changed(tiny.pretrain_model(queue_size=6)), path="a.bin")
    assert torch.equal(model.get_buffer("queue_v_cross_ng"), queue)
    assert int(model.get_buffer("queue_ptr")) == 0
    assert len(report.misshapen) == 5 and "of another shape: queues 5" in "\n".join(report.lines())


def test_other_queues_are_loaded_where_the_file_lacks_one() -> None:
    model = tiny.pretrain_model()
    state = changed(model)
    del state["queue_frame_cross_ng"]
    report = load_state(model, state, path="a.bin")
    assert report.fresh == ("queue_frame_cross_ng",)
    assert torch.equal(model.get_buffer("queue_v_cross_ng"), state["queue_v_cross_ng"])
    assert int(model.get_buffer("queue_ptr")) == 1


@pytest.mark.parametrize("name", ["cls.bias", "cls.decoder.bias"])
def test_the_heads_bias_under_one_of_its_names(name: str) -> None:
    model = tiny.pretrain_model()
    state = changed(model)
    value = state.pop({"cls.bias": "cls.decoder.bias", "cls.decoder.bias": "cls.bias"}[name])
    report = load_state(model, state, path="a.bin")
    assert not report.missing and torch.equal(model.cls.bias, value)
    assert model.cls.bias is model.cls.decoder.bias


def test_safetensors_keep_both_names_of_the_heads_bias(tmp_path: Path) -> None:
    model = tiny.pretrain_model()
    save_state(model.state_dict(), tmp_path / "a.safetensors")
    read = read_state(tmp_path / "a.safetensors")
    assert set(read) == set(model.state_dict())
    assert torch.equal(read["cls.bias"], read["cls.decoder.bias"])


def test_leaving_out_the_temporal_transformer_is_reported() -> None:
    state = tiny.retrieval_model().state_dict()
    model = RetrievalModel(*tiny.encoders(use_temp=False), use_frame_fea=True)
    report = load_state(model, {**state, "logit_scale": torch.ones(())}, path="a.bin")
    lines = "\n".join(report.warnings())
    assert (
        "trained with --use_temp" in lines and "1 tensors left out, their names are unknown (logit_s" in lines
    )
    assert report.without_temporal


# Errors, raised before anything is loaded


def refused(state: Mapping[str, Tensor], model: nn.Module | None = None) -> str:
    model = model or tiny.retrieval_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as info:
        load_state(model, state, path="a.bin")
    message = str(info.value)
    assert message.startswith("checkpoint a.bin") and "\n" not in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return message


@pytest.mark.parametrize("group", ENCODER_GROUPS)
def test_an_absent_or_incomplete_encoder(group: str) -> None:
    state = changed(tiny.retrieval_model())
    of_group = [name for name in state if group_of(name) == group]
    del state[of_group[-1]]
    half = refused(state)
    assert f"1 of {len(state) + 1} encoder weights missing ({of_group[-1]})" in half
    assert "without --use_temp" not in half
    absent = refused({name: t for name, t in state.items() if name not in of_group})
    assert f"{len(of_group)} of {len(state) + 1} encoder weights missing ({of_group[0]}" in absent
    assert ("without --use_temp" in absent) == (group == "temporal transformer")


@pytest.mark.parametrize(
    "tower",
    ["visual_encoder.visual.transformer", "visual_encoder.temporal_transformer", "text_encoder.transformer"],
)
def test_a_deeper_encoder_is_refused(tower: str) -> None:
    state = changed(tiny.retrieval_model())
    first = {n: t for n, t in state.items() if n.startswith(f"{tower}.resblocks.0.")}
    deeper = {name.replace("resblocks.0", "resblocks.9"): tensor for name, tensor in first.items()}
    assert len(first) == 12
    assert f"12 that this model does not have ({tower}.resblocks.9" in refused({**state, **deeper})


def test_a_weight_of_another_shape() -> None:
    state = changed(tiny.retrieval_model())
    state["visual_encoder.visual.proj"] = torch.ones(3, 3)
    here = "x".join(map(str, tiny.retrieval_model().state_dict()["visual_encoder.visual.proj"].shape))
    message = refused(state)
    assert f"1 of another shape (visual_encoder.visual.proj 3x3 there, {here} here)" in message
    assert message.endswith("It was trained with another --clip_model: give the one of its training.")


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_advice_names_the_flag_and_no_language_that_is_right(language: str, tmp_path: Path) -> None:
    model = recipe.retrieval_model(language, tmp_path)
    state = changed(model)
    of_text = [name for name in state if group_of(name) == "text encoder"]
    # As with a text encoder of fewer layers.
    message = refused({name: t for name, t in state.items() if name not in of_text[3:]}, model)
    flag = {"english": "--clip_model", "chinese": "--pretrained_text"}[language]
    assert f"trained with another {flag}:" in message and "--language" not in message
    # A file that lacks a single weight is incomplete, whatever the flags are.
    last = "text_encoder.text_projection" if language == "english" else "text_encoder.text_proj.bias"
    del state[last]
    message = refused(state, model)
    assert f"({last})" in message and "the file is incomplete" in message and "--" not in message


@pytest.mark.parametrize("language", recipe.LANGUAGES)
def test_the_other_language(language: str, tmp_path: Path) -> None:
    other = {"english": "chinese", "chinese": "english"}[language]
    state = filled(golden_shapes(other, "ft"), dense=False)
    message = refused(state, recipe.retrieval_model(language, tmp_path))
    assert f"{other.title()} text encoder" in message and "--language" in message
    assert "encoder weights missing" in message


def test_files_of_other_projects() -> None:
    clip = {"visual.proj": torch.ones(2), "token_embedding.weight": torch.ones(2)}
    assert "--clip_weights" in refused(clip)
    assert "tools/convert_checkpoint.py" in refused({f"clip.{name}": t for name, t in clip.items()})


@pytest.mark.parametrize(
    ("value", "dtype"), [("nan", torch.float32), ("-inf", torch.float16), ("1e300", torch.float64)]
)
def test_numbers_that_are_not_finite_are_named(value: str, dtype: torch.dtype) -> None:
    state = changed(tiny.retrieval_model())
    bad = state["visual_encoder.visual.proj"].to(dtype)
    bad[0, 1] = float(value)
    message = refused({**state, "visual_encoder.visual.proj": bad})
    assert (
        "1 weights hold values that are not finite" in message and "(visual_encoder.visual.proj)" in message
    )


def test_numbers_that_are_not_finite_do_not_matter_in_what_is_left_out() -> None:
    model = tiny.retrieval_model()
    load_state(model, {**changed(model), "queue_v_cross_ng": torch.tensor([float("nan")])}, path="a.bin")


def test_integers_are_no_weights() -> None:
    state = changed(tiny.retrieval_model())
    state["visual_encoder.visual.proj"] = state["visual_encoder.visual.proj"].to(torch.int8)
    assert "not floating-point but int8 (visual_encoder.visual.proj)" in refused(state)


def test_count_by_group() -> None:
    assert count_by_group(["cls.bias", "queue_ptr", "queue_v_cross_ng"]) == "masked-word head 1, queues 2"
