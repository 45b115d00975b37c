"""Features and similarities of a split on disk.

features.safetensors holds the arrays, features.json the names. similarity.npy holds scores, similarity.json
the factor on the cosines in them.

N captions, V videos, W words, F frames, D width, B captions of a querybank. docs/EVALUATION.md describes the
files.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
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
from dataloaders.datasets.files import read_json_object
from engine.checkpoint.files import safetensors_errors
from engine.evaluation.features import Features, parts_match, shapes_match
from engine.evaluation.similarity import Tiles

ARRAYS, NAMES = "features.safetensors", "features.json"
_FLOATS = ("text", "words", "video", "frames", "bank_text", "bank_words")
_MASKS = ("word_mask", "frame_mask", "bank_word_mask")
_OF_SPLIT = ("text", "words", "word_mask", "video", "frames", "frame_mask")
_HEAD = "head."  # before the names of a head's weights
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMAT = 1
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class FeatureSet:
    """Features with their names.

    `about` says where they come from: `dataset`, `split`, `language`, `checkpoint`, `checkpoint_sha256`,
    `settings`; each may be absent. `bank` are training captions for querybank normalisation: their `text`
    [B, D] and, if the features have them, `words` and `word_mask`. `head_state`: weights of the head.
    """

    features: Features
    video_of_caption: np.ndarray  # int64 [N]
    video_ids: Sequence[str]  # [V]
    captions: Sequence[str]  # [N]
    about: Mapping[str, Any] = field(default_factory=dict)
    bank: Mapping[str, Tensor] | None = None
    head_state: Mapping[str, Tensor] = field(default_factory=dict)

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
        "words": features.words,
        "word_mask": features.word_mask,
        "video": features.video,
        "frames": features.frames,
        "frame_mask": features.frame_mask,
        "video_of_caption": torch.from_numpy(np.asarray(feature_set.video_of_caption, dtype=np.int64)),
        **{f"bank_{name}": array for name, array in (feature_set.bank or {}).items()},
        **{f"{_HEAD}{name}": array for name, array in feature_set.head_state.items()},
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
        raise UserError(
            f"{folder}: sizes of arrays and names do not match, or types are wrong; write them again"
        )
    arrays |= in_one_type({name: arrays[name] for name in _FLOATS if name in arrays})
    arrays |= {name: arrays[name].bool() for name in _MASKS if name in arrays}
    bank = {name.removeprefix("bank_"): array for name, array in arrays.items() if name.startswith("bank_")}
    return FeatureSet(
        features=Features(**{name: arrays[name] for name in _OF_SPLIT if name in arrays}),
        video_of_caption=arrays["video_of_caption"].numpy(),
        video_ids=names["video_ids"],
        captions=names["captions"],
        about=about,
        bank=bank or None,
        head_state={n.removeprefix(_HEAD): array for n, array in arrays.items() if n.startswith(_HEAD)},
    )


def in_one_type(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the most precise of their types, so that products of any two of them are defined."""
    kind = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    return {name: tensor.to(kind) for name, tensor in tensors.items()}


def _sizes_match(arrays: Mapping[str, Tensor], names: Mapping[str, Any]) -> bool:
    if (
        not {"text", "video", "video_of_caption"} <= arrays.keys()
        or not {"video_ids", "captions"} <= names.keys()
    ):
        return False
    text, video = arrays["text"], arrays["video"]
    if any(array.dtype not in _TYPES for name, array in arrays.items() if name in _FLOATS):
        return False
    lists = (names["video_ids"], names["captions"])
    if not all(isinstance(item, list) and all(isinstance(name, str) for name in item) for item in lists):
        return False
    return (
        shapes_match(text, video, arrays.get("frames"), arrays.get("frame_mask"))
        and parts_match(text, arrays.get("words"), arrays.get("word_mask"))
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


@dataclass(frozen=True)
class SimilarityNotes:
    """What similarity.json says of similarity.npy: its scores are `scale` times cosines."""

    scale: float
    video_of_caption: np.ndarray  # int64 [N]


def save_similarity(path: Path, tiles: Tiles, notes: SimilarityNotes) -> None:
    """Write the similarity float32 [N, V], tile by tile, as an .npy file, and its notes beside it. Atomic.

    Raises `FileError` where it cannot be written, as on a full disk.
    """
    about = {
        "captions": tiles.num_captions,
        "videos": tiles.num_videos,
        "scale": notes.scale,
        "video_of_caption": notes.video_of_caption.tolist(),
    }
    with atomic_path(path.with_suffix(".json")) as notes_file, atomic_path(path) as temporary:
        shape = (tiles.num_captions, tiles.num_videos)
        matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        _take_disk_space(temporary)
        for videos in tiles.video_tiles(0, tiles.num_videos):
            for start in range(0, tiles.num_captions, tiles.height):
                captions = torch.arange(start, min(start + tiles.height, tiles.num_captions))
                block = tiles.scores(captions.to(tiles.device), videos)
                matrix[start : start + len(captions), videos.first : videos.last] = block.cpu().numpy()
        matrix.flush()
        notes_file.write_text(json.dumps(about) + "\n", encoding="utf-8")


def load_similarity_notes(path: Path, *, shape: tuple[int, ...]) -> SimilarityNotes | None:
    """The notes beside the matrix `path` of `shape` [N, V]; None if there are none.

    Raises `UserError` if they are of another matrix.
    """
    notes_path = path.with_suffix(".json")
    try:
        notes = read_json_object(notes_path)
    except UserError:
        return None  # no such file, or another program's
    owners, scale = notes.get("video_of_caption"), notes.get("scale")
    if not isinstance(scale, int | float) or not isinstance(owners, list):
        return None
    if (notes.get("captions"), notes.get("videos")) != shape or not _are_owners(owners, shape):
        raise UserError(f"{notes_path}: not of {path}, which has the shape {shape}; remove it")
    return SimilarityNotes(float(scale), np.array(owners, dtype=np.int64))


def _are_owners(owners: list[Any], shape: tuple[int, ...]) -> bool:
    return len(owners) == shape[0] and all(type(o) is int and 0 <= o < shape[1] for o in owners)


def _take_disk_space(path: Path) -> None:
    """Give every block of the file a place on disk, so that a full disk is an `OSError` now.

    Written through memory, a block without a place kills the process with SIGBUS.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    with open(path, "rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not this file system
                raise
