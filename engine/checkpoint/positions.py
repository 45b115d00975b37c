"""A checkpoint with another number of positions than the model: of frames, or of the tokens of a text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from modules.positions import TEXT_POSITIONS_KEPT, resize_positions

_FRAMES = re.compile(r"visual_encoder(_k)?\.frame_position_embeddings\.weight")
_TOKENS = re.compile(
    r"text_encoder(_k)?\.(positional_embedding|text_model\.embeddings\.position_embedding\.weight)"
)


def fit_positions(
    state: Mapping[str, Tensor], current: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """(`state` with as many positions as the model has, what was done about it).

    `current` is the state of the model. Positions of another width are left as they are.
    """
    fitted, remarks = dict(state), []
    for name, tensor in current.items():
        frames, tokens = _FRAMES.fullmatch(name), _TOKENS.fullmatch(name)
        given = state.get(name)
        if given is None or not (frames or tokens) or given.ndim != 2 or given.shape[1:] != tensor.shape[1:]:
            continue
        before, count = len(given), len(tensor)
        if before == count:
            continue
        kept = 0 if frames else TEXT_POSITIONS_KEPT
        fitted[name] = resize_positions(given, count, kept=kept)
        what, unit = ("temporal transformer", "frames") if frames else ("text encoder", "tokens")
        how = f"the first {count} are used" if count < before else f"interpolated to {count}"
        if name.split(".")[0].endswith("_k"):
            continue
        remarks.append(f"{what}: trained with positions of {before} {unit}; {how}")
    return fitted, tuple(remarks)
