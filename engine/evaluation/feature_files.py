"""Features of a split on disk: features.safetensors holds the arrays, features.json the names.

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

from common.atomic_files import ESCAPED, atomic_path
from common.errors import UserError, file_error, file_errors
from common.json_text import parse_json
from engine.checkpoint.files import safetensors_errors
from engine.evaluation.features import Features, shapes_match

ARRAYS, NAMES = "features.safetensors", "features.json"
FORMAT = 1
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class FeatureSet:
    """Features with their names.

    `about` says where they come from: `dataset`, `split`, `language`, `checkpoint`, `checkpoint_sha256`,
    `settings`; each may be absent. `bank` [B, D] are training captions for querybank normalisation.
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


def save_features(folder: Path, feature_set: FeatureSet) -> None:
    """Write both files, atomically and durably. Raises `FileError` if they cannot be written."""
    with file_errors(folder, "cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
    names = {
        "format": FORMAT,
        **feature_set.about,
        "video_ids": list(feature_set.video_ids),
        "captions": list(feature_set.captions),
    }
    text = json.dumps(names, ensure_ascii=False, indent=0) + "\n"
    text = text.encode("utf-8", ESCAPED).decode("utf-8")
    features = feature_set.features
    arrays = {
        "text": features.text,
        "video": features.video,
        "frames": features.frames,
        "frame_mask": features.frame_mask,
        "video_of_caption": torch.from_numpy(np.asarray(feature_set.video_of_caption, dtype=np.int64)),
        "bank_text": feature_set.bank,
    }
    tensors = {name: array.cpu().contiguous() for name, array in arrays.items() if array is not None}
    # The arrays hold the hash of the names and are renamed first, so a mix of two runs is detected.
    metadata = {"names_sha256": _text_digest(text)}
    with (
        atomic_path(folder / NAMES, durable=True) as names_file,
        atomic_path(folder / ARRAYS, durable=True) as arrays_file,
    ):
        names_file.write_text(text, encoding="utf-8")
        with safetensors_errors(folder / ARRAYS):
            safetensors.torch.save_file(tensors, arrays_file, metadata=metadata)


def load_features(folder: Path, **expected: str | None) -> FeatureSet:
    """Read what `save_features` wrote. The arrays stay in the mapped file until they are used.

    `expected` are entries of `about`, for instance `dataset="msrvtt"`, `split="test"`,
    `checkpoint_sha256=...`; an entry that is None or absent in the file is not checked. Raises `UserError` if
    there are no such files, if they have another format, if they come from different runs, or if an entry of
    `about` differs from the expected one.
    """
    try:
        text = (folder / NAMES).read_text(encoding="utf-8")
        names = parse_json(text)
        with safetensors.safe_open(folder / ARRAYS, framework="pt") as file:
            names_digest = (file.metadata() or {}).get("names_sha256")
        arrays = safetensors.torch.load_file(folder / ARRAYS)
    except FileNotFoundError:
        raise UserError(f"{folder}: no features there; expected {ARRAYS} and {NAMES}") from None
    except OSError as error:
        raise file_error(folder, "cannot be read", error) from error
    except (json.JSONDecodeError, UnicodeDecodeError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder}: not features as --save_features writes them ({error})") from None
    if not isinstance(names, dict) or names.get("format") != FORMAT:
        raise UserError(f"{folder / NAMES}: not of format {FORMAT}")
    if names_digest != _text_digest(text):
        raise UserError(f"{folder}: {ARRAYS} and {NAMES} are from different runs; write them again")
    about = {key: value for key, value in names.items() if key not in ("format", "video_ids", "captions")}
    for key, value in expected.items():
        if value is not None and about.get(key) is not None and about[key] != value:
            raise UserError(f"{folder}: features of {key} {about[key]}, not {value}")
    if not isinstance(about.get("settings", {}), dict):
        raise UserError(f"{folder / NAMES}: settings must be an object; write the features again")
    if not _sizes_match(arrays, names):
        raise UserError(f"{folder}: the sizes of arrays and names do not match; write them again")
    return FeatureSet(
        features=Features(arrays["text"], arrays["video"], arrays.get("frames"), arrays.get("frame_mask")),
        video_of_caption=arrays["video_of_caption"].numpy(),
        video_ids=names["video_ids"],
        captions=names["captions"],
        about=about,
        bank=arrays.get("bank_text"),
    )


def _sizes_match(arrays: Mapping[str, Tensor], names: Mapping[str, Any]) -> bool:
    if (
        not {"text", "video", "video_of_caption"} <= arrays.keys()
        or not {"video_ids", "captions"} <= names.keys()
    ):
        return False
    text, video = arrays["text"], arrays["video"]
    lists = (names["video_ids"], names["captions"])
    if not all(isinstance(item, list) and all(isinstance(name, str) for name in item) for item in lists):
        return False
    return (
        shapes_match(text, video, arrays.get("frames"), arrays.get("frame_mask"))
        and arrays["video_of_caption"].dtype == torch.int64
        and len(names["video_ids"]) == len(video)
        and len(names["captions"]) == len(arrays["video_of_caption"]) == len(text)
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises `FileError` if it cannot be read."""
    digest = hashlib.sha256()
    with file_errors(path), open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
