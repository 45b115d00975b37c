"""Features of any model, from .npy files and lists of ids, checked.

N texts, V videos, F frames, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from dataloaders.datasets.files import listed_ids, read_json
from engine.evaluation.features import NAMED, Features
from engine.evaluation.similarity import float_type


def read_array(path: Path, *, axes: int, flag: str) -> np.ndarray:
    """A memory-mapped .npy file of numbers. Raises `UserError` that names flag and file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{flag} {path}: not an .npy file of numbers ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != axes or array.dtype.kind not in "fiu":
        raise UserError(f"{flag} {path}: must be an array of numbers with {axes} axes")
    return array


def read_ids(path: Path, *, flag: str) -> list[str]:
    """Ids: a JSON list, the column `video_id` of a table, or one per line. Raises `UserError`."""
    ids = read_json(path) if path.suffix == ".json" else listed_ids(path)
    if not isinstance(ids, list) or not all(isinstance(item, str | int) for item in ids):
        raise UserError(f"{flag} {path}: must be a list of ids")
    return [str(item) for item in ids]


def read_features(text: Path, video: Path, frames: Path | None) -> Features:
    """Matrices [N, D], [V, D], [V, F, D] of matching shapes, in the types of the files."""
    arrays = [read_array(text, axes=2, flag="--text"), read_array(video, axes=2, flag="--video")]
    if frames is not None:
        arrays.append(read_array(frames, axes=3, flag="--frames"))
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise UserError(f"--text is {arrays[0].shape[1]} wide, --video {arrays[1].shape[1]}")
    if frames is not None and arrays[2].shape[::2] != arrays[1].shape:
        raise UserError(
            f"--frames {arrays[2].shape}: must be (videos, frames, width) with {len(arrays[1])} videos "
            f"and width {arrays[1].shape[1]}"
        )
    if frames is not None and not arrays[2].shape[1]:
        raise UserError(f"--frames {frames}: has no frames; leave the flag out")
    return Features(*map(as_tensor, arrays))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor that shares the array's memory if torch has its type; else a float copy without loss."""
    if array.dtype not in (np.float16, np.float32, np.float64) or not array.dtype.isnative:
        array = array.astype(float_type(array.dtype))
    if not array.flags.writeable:
        # torch wants writable memory. Mode "c" maps the file copy-on-write: the file itself is never written.
        is_mapped = isinstance(array, np.memmap) and array.filename is not None
        array = (
            np.load(array.filename, mmap_mode="c", allow_pickle=False) if is_mapped else array.copy()  # type: ignore[attr-defined]
        )
    return torch.from_numpy(np.asarray(array))


def find_videos(
    *,
    texts: int,
    videos: int,
    text_ids: Sequence[str] | None,
    video_ids: Sequence[str] | None,
    video_of_text: Sequence[str] | None,
) -> np.ndarray:
    """The position of each text's video, int64 [N].

    `video_of_text` has a video id per text. Without it, `text_ids` are taken as video ids; without both, text
    i belongs to video i. Raises `UserError` that names wrong ids.
    """
    for flag, ids, count in (
        ("--text_ids", text_ids, texts),
        ("--video_ids", video_ids, videos),
        ("--video_of_text", video_of_text, texts),
    ):
        if ids is not None and len(ids) != count:
            raise UserError(f"{flag}: {len(ids)} ids for {count} rows")
    wanted = video_of_text or text_ids
    if wanted is None:
        if texts != videos:
            raise UserError(f"{texts} texts and {videos} videos: give --video_of_text and --video_ids")
        return np.arange(texts)
    if video_ids is None:
        raise UserError("--video_ids: needed to find the videos of the texts")
    _check_distinct("--video_ids", video_ids)
    if video_of_text and text_ids:
        _check_distinct("--text_ids", text_ids)
    position = {name: number for number, name in enumerate(video_ids)}
    unknown = [name for name in wanted if name not in position]
    if unknown:
        raise UserError(f"texts without a video: {_some(unknown)} not in --video_ids")
    return np.array([position[name] for name in wanted], dtype=np.int64)


def _check_distinct(flag: str, ids: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise UserError(f"{flag}: more than once: {_some(repeated)}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return f"{len(names)} ({shown}{', ...' if len(names) > NAMED else ''})"
