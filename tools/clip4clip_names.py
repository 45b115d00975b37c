"""CLIP4Clip's parameter names to ours, as far as the parts match.

Its code is at https://github.com/ArrowLuo/CLIP4Clip. Its `seqTransf` head is our temporal transformer: the
same blocks, T(f + P) + f, the mean over frames of unit vectors. It then makes the mean a unit vector, which
no cosine notices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from engine.checkpoint.weights import State

FRAME_POSITIONS = 48  # rows of our table; theirs has as many as CLIP has word positions
_POSITIONS = "frame_position_embeddings.weight"
_TEMPORAL = "transformerClip."
# First match decides.
_PREFIXES = (
    ("clip.visual.conv2.", None),
    ("clip.visual.", "visual_encoder.visual."),
    ("clip.logit_scale", None),
    ("clip.", "text_encoder."),
    (_TEMPORAL, "visual_encoder.temporal_transformer."),
)
# What is left out, and what that means.
_LEFT_OUT = {
    "clip.logit_scale": "a constant here, min(exp, 100)",
    "clip.visual.conv2": "patches over time (--linear_patch 3d) do not exist here; frame features differ",
    "cross": "the cross encoder (tightTransf) does not exist here",
    "similarity_dense": "the score of the cross encoder (tightTransf)",
    "lstm_visual": "the recurrent head (seqLSTM) does not exist here: use the model without --use_temp",
    "frame_position_embeddings": "only seqTransf uses it",
}


def is_clip4clip(state: Mapping[str, Tensor]) -> bool:
    return "clip.visual.conv1.weight" in state and "clip.token_embedding.weight" in state


def from_clip4clip(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """The tensors that match, under our names, and remarks on all others.

    Raises `ValueError` when the state has fewer frame positions than our table.
    """
    result: State = {}
    left_out: Counter[str] = Counter()
    remarks = []
    has_temporal = any(name.startswith(_TEMPORAL) for name in state)
    for name, tensor in state.items():
        if name == _POSITIONS and has_temporal:
            result[f"visual_encoder.{name}"] = _frame_positions(tensor)
            remarks.append(f"{name}: the first {FRAME_POSITIONS} of {len(tensor)} positions taken")
            continue
        target = _translated(name)
        if target is None:
            left_out[_kind(name)] += 1
        else:
            result[target] = tensor
    for kind, count in left_out.items():
        remarks.append(f"{kind}: {count} left out ({_LEFT_OUT.get(kind, 'unknown')})")
    return result, remarks


def _translated(name: str) -> str | None:
    for theirs, ours in _PREFIXES:
        if name.startswith(theirs):
            return None if ours is None else ours + name.removeprefix(theirs)
    return None


def _frame_positions(table: Tensor) -> Tensor:
    if len(table) < FRAME_POSITIONS:
        raise ValueError(f"{_POSITIONS}: {len(table)} positions; {FRAME_POSITIONS} are needed")
    # Frame i uses row i in both.
    return table[:FRAME_POSITIONS].clone()


def _kind(name: str) -> str:
    """A name's beginning, as `_LEFT_OUT` has it."""
    return next((kind for kind in _LEFT_OUT if name.startswith(f"{kind}.") or name == kind), name)
