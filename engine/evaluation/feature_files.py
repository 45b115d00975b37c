"""Features of a split on disk: features.safetensors with the arrays, features.json with the names.

N captions, V videos, F frames, D width, B captions of a querybank. docs/EVALUATION.md describes the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.atomic_files import atomic_path
from common.errors import UserError
from engine.evaluation.features import Features

ARRAYS, NAMES = "features.safetensors", "features.json"
FORMAT = 1
_READ = 1 << 20


@dataclass(frozen=True)
class FeatureSet:
    """Features with their names.

    `about` says what they are of: `dataset`, `split`, `language`, `checkpoint`, `checkpoint_sha256`,
    `weights_sha256`, `settings`; each may be absent. `bank` [B, D] are training captions for querybank
    normalisation.
    """

    features: Features
    video_of_caption: np.ndarray  # int64 [N]
    video_ids: Sequence[str]  # [V]
    captions: Sequence[str]  # [N]
    about: Mapping[str, Any] = field(default_factory=dict)
    bank: Tensor | None = None

    def __post_init__(self) -> None:
        assert len(self.video_ids) == len(self.features.video)
        assert len(self.captions) == len(self.video_of_caption) == len(self.features.text)


def save_features(folder: Path, made: FeatureSet) -> None:
    """Write both files under temporary names, force them to disk, rename them. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "format": FORMAT,
        **made.about,
        "video_ids": list(made.video_ids),
        "captions": list(made.captions),
    }
    text = json.dumps(names, ensure_ascii=False, indent=0) + "\n"
    arrays = {
        "text": made.features.text,
        "video": made.features.video,
        "frames": made.features.frames,
        "frame_mask": made.features.frame_mask,
        "video_of_caption": torch.from_numpy(np.asarray(made.video_of_caption, dtype=np.int64)),
        "bank_text": made.bank,
    }
    tensors = {name: array.cpu().contiguous() for name, array in arrays.items() if array is not None}
    partner = {"names_sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}
    # The names are renamed last and hold the partner's hash: a pair from two runs is recognised.
    with (
        atomic_path(folder / NAMES, durable=True) as names_file,
        atomic_path(folder / ARRAYS, durable=True) as file,
    ):
        names_file.write_text(text, encoding="utf-8")
        safetensors.torch.save_file(tensors, file, metadata=partner)


def load_features(folder: Path, **expected: str | None) -> FeatureSet:
    """Read what `save_features` wrote; the arrays stay in the mapped file until they are used.

    `expected` are entries of `about`, for instance `dataset="msrvtt"`, `split="test"`,
    `checkpoint_sha256=...`. Raises `UserError`: no such files, not ours, halves of two writings, or of
    another model or split, where both sides are known.
    """
    try:
        text = (folder / NAMES).read_text(encoding="utf-8")
        names = json.loads(text)
        with safetensors.safe_open(folder / ARRAYS, framework="pt") as file:
            partner = (file.metadata() or {}).get("names_sha256")
        arrays = safetensors.torch.load_file(folder / ARRAYS)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features there; expected {ARRAYS} and {NAMES}") from None
    except (ValueError, safetensors.SafetensorError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise UserError(f"{folder}: not features as --save_features writes them ({error})") from None
    if not isinstance(names, dict) or names.get("format") != FORMAT:
        raise UserError(f"{folder / NAMES}: not of format {FORMAT}")
    if partner != hashlib.sha256(text.encode("utf-8")).hexdigest():
        raise UserError(f"{folder}: {ARRAYS} and {NAMES} are not of one writing; write them again")
    about = {key: value for key, value in names.items() if key not in ("format", "video_ids", "captions")}
    for key, wanted in expected.items():
        if wanted is not None and about.get(key) is not None and about[key] != wanted:
            raise UserError(f"{folder}: features of {key} {about[key]}, not {wanted}")
    try:
        return FeatureSet(
            features=Features(
                arrays["text"], arrays["video"], arrays.get("frames"), arrays.get("frame_mask")
            ),
            video_of_caption=arrays["video_of_caption"].numpy(),
            video_ids=names["video_ids"],
            captions=names["captions"],
            about=about,
            bank=arrays.get("bank_text"),
        )
    except (KeyError, AssertionError):
        raise UserError(f"{folder}: arrays and names do not fit each other") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's weights by name, type, shape and bytes: the same for the same model, in hex."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
