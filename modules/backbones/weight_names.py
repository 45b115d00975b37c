"""Names of weights: other forms of a model's weights, translated to those of its towers here."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
# Members of a text tower, which a `CLIP` of open_clip holds itself and a `CustomTextCLIP` in `text`.
_TEXT_PARTS = ("text_projection", "positional_embedding", "token_embedding", "transformer.", "ln_final")
# Parts of a file that no tower has: CoCa's decoder, and constants that older versions saved.
_LEFT_OUT = re.compile(r"text_decoder\.|.*\.position_ids$")
_LAYER = r"(?P<tower>text|vision)_model\.encoder\.layers\.(?P<layer>\d+)\."
# transformers' names of a CLIP, and open_clip's.
_HF_CLIP = (
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (_LAYER + r"self_attn\.out_proj\.", r"\g<tower>.resblocks.\g<layer>.attn.out_proj."),
    (_LAYER + r"layer_norm(?P<number>\d)\.", r"\g<tower>.resblocks.\g<layer>.ln_\g<number>."),
    (_LAYER + r"mlp\.fc1\.", r"\g<tower>.resblocks.\g<layer>.mlp.c_fc."),
    (_LAYER + r"mlp\.fc2\.", r"\g<tower>.resblocks.\g<layer>.mlp.c_proj."),
)
_BLOCKS = {"vision.resblocks.": "visual.transformer.resblocks.", "text.resblocks.": "transformer.resblocks."}


def convert_names(state: State, clip: nn.Module) -> State:
    """`state` under the names of `clip`, where it is in another form; names that are not known stay.

    Other forms: transformers' CLIP, Apple's MobileCLIP, a text tower in `text` or at the top, CoCa.
    """
    if "vision_model.embeddings.class_embedding" in state and not hasattr(clip, "vision_model"):
        state = _from_hf_clip(state)
    if any(name.startswith("image_encoder.model.") for name in state):
        from open_clip.convert import convert_state_dict

        model: Any = clip
        state = convert_state_dict(model, state)
    expected = clip.state_dict()
    state = {name: tensor for name, tensor in state.items() if name in expected or not _LEFT_OUT.match(name)}
    if "token_embedding.weight" in state and "text.token_embedding.weight" in expected:
        return {f"text.{n}" if n.startswith(_TEXT_PARTS) else n: tensor for n, tensor in state.items()}
    if "text.token_embedding.weight" in state and "token_embedding.weight" in expected:
        return {name.removeprefix("text."): tensor for name, tensor in state.items()}
    return state


def _from_hf_clip(state: State) -> State:
    converted: State = {}
    attention: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        part = re.fullmatch(_LAYER + r"self_attn\.(?P<which>[qkv])_proj\.(?P<kind>weight|bias)", name)
        if part:
            place = part["tower"], part["layer"], part["kind"]
            attention.setdefault(place, {})[part["which"]] = tensor
        elif name in ("visual_projection.weight", "text_projection.weight"):
            ours = "visual.proj" if name.startswith("visual") else "text_projection"
            converted[ours] = tensor.T
        else:
            converted[_renamed(name)] = tensor
    for (tower, layer, kind), parts in attention.items():
        if parts.keys() == {"q", "k", "v"}:
            name = _with_blocks(f"{tower}.resblocks.{layer}.attn.in_proj_{kind}")
            converted[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return converted


def _renamed(name: str) -> str:
    for pattern, ours in _HF_CLIP:
        found = re.match(pattern, name)
        if found:
            return _with_blocks(found.expand(ours) + name[found.end() :])
    return name


def _with_blocks(name: str) -> str:
    for short, full in _BLOCKS.items():
        if name.startswith(short):
            return full + name.removeprefix(short)
    return name
