"""Features of any model, from .npy files and lists of ids, checked and named.

N texts, V videos, F frames, D width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.evaluation.features import NAMED, Features


def read_array(path: Path, *, axes: int, flag: str) -> np.ndarray:
    """An .npy file of numbers, mapped, not read. Raises `ValueError` naming flag and file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{flag} {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{flag} {path}: not an .npy file of numbers ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != axes or array.dtype.kind not in "fiu":
        raise ValueError(f"{flag} {path}: must be an array of numbers with {axes} axes")
    return array


def read_ids(path: Path, *, flag: str) -> list[str]:
    """Ids: a JSON list, or one a line. Raises `ValueError` naming flag and file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        ids = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except FileNotFoundError:
        raise ValueError(f"{flag} {path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{flag} {path}: not a list of ids ({error})") from None
    if not isinstance(ids, list) or not all(isinstance(item, str | int) for item in ids):
        raise ValueError(f"{flag} {path}: must be a list of ids")
    return [str(item) for item in ids]


def read_features(text: Path, video: Path, frames: Path | None) -> Features:
    """Matrices [N, D], [V, D] and [V, F, D] that fit each other; half precision and doubles stay so."""
    arrays = [read_array(text, axes=2, flag="--text"), read_array(video, axes=2, flag="--video")]
    if frames is not None:
        arrays.append(read_array(frames, axes=3, flag="--frames"))
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(f"--text is {arrays[0].shape[1]} wide, --video {arrays[1].shape[1]}")
    if frames is not None and arrays[2].shape[::2] != arrays[1].shape:
        raise ValueError(
            f"--frames {arrays[2].shape}: must be (videos, frames, width) with {len(arrays[1])} videos "
            f"and width {arrays[1].shape[1]}"
        )
    return Features(*(as_tensor(array) for array in arrays))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor in the array's memory where it has a type that torch computes with; else in float32."""
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float32)
    if not array.flags.writeable:
        # torch wants writable memory; private pages of the mapped file are: nothing is written to it.
        mapped = isinstance(array, np.memmap) and array.filename is not None
        array = (
            np.load(array.filename, mmap_mode="c", allow_pickle=False) if mapped else array.copy()  # type: ignore[attr-defined]
        )
    return torch.from_numpy(np.asarray(array))


def owners(
    *,
    texts: int,
    videos: int,
    text_ids: Sequence[str] | None,
    video_ids: Sequence[str] | None,
    video_of_text: Sequence[str] | None,
) -> np.ndarray:
    """The video of each text: int64 [N].

    By `video_of_text`, a video id a text; without it `text_ids` are taken for video ids; without either the
    texts belong to the videos in their order. Raises `ValueError` naming the ids at fault.
    """
    for flag, ids, count in (
        ("--text_ids", text_ids, texts),
        ("--video_ids", video_ids, videos),
        ("--video_of_text", video_of_text, texts),
    ):
        if ids is not None and len(ids) != count:
            raise ValueError(f"{flag}: {len(ids)} ids for {count} rows")
    wanted = video_of_text or text_ids
    if wanted is None:
        if texts != videos:
            raise ValueError(f"{texts} texts and {videos} videos: give --video_of_text and --video_ids")
        return np.arange(texts)
    if video_ids is None:
        raise ValueError("--video_ids: needed to find the videos that the texts name")
    _refuse_twice("--video_ids", video_ids)
    if video_of_text and text_ids:
        _refuse_twice("--text_ids", text_ids)
    position = {name: number for number, name in enumerate(video_ids)}
    homeless = [name for name in wanted if name not in position]
    if homeless:
        raise ValueError(f"texts without a video: {_some(homeless)} not in --video_ids")
    return np.array([position[name] for name in wanted], dtype=np.int64)


def _refuse_twice(flag: str, ids: Sequence[str]) -> None:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{flag}: more than once: {_some(twice)}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return f"{len(names)} ({shown}{', ...' if len(names) > NAMED else ''})"
