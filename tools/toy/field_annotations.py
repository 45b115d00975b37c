"""Toy annotations in the file formats of MSVD, LSMDC, DiDeMo and ActivityNet Captions.

Each `write_...` function writes the annotation files of one data set and returns the clips to draw. The
shapes are those of the real files; the numbers of captions and moments are smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import write_text
from tools.toy.annotations import (
    Clip,
    DatasetPlan,
    Sizes,
    clips_of,
    random_generator,
    scenes_of,
    write_json_line,
    write_store_list,
)
from tools.toy.captions import make_captions
from tools.toy.drawing import clip_seconds
from tools.toy.scenes import Scene

MSVD_CAPTIONS = 5  # the real data set has about 41
MOMENTS = 3
PIECE_SECONDS = 5  # of DiDeMo's moments
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Split:
    """One split: its name and the id, scene and captions of each clip."""

    name: str
    ids: list[str]
    scenes: list[Scene]
    captions: list[list[str]]

    def __iter__(self) -> Iterator[tuple[str, Scene, list[str]]]:
        return zip(self.ids, self.scenes, self.captions, strict=True)


def write_msvd(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """AllVideoDescriptions.txt, train_list.txt, val_list.txt, test_list.txt, videos.jsonl."""

    def name(number: int, scene: Scene) -> str:
        return f"toy-MSVD{number:03d}_{number}_{number + round(clip_seconds(scene))}"

    splits = _make_splits("msvd", seed, sizes, name, captions=MSVD_CAPTIONS)
    lines = ["# toy scenes: an id, a space and a caption in each line", ""]
    for split in splits:
        write_text(folder / f"{split.name}_list.txt", "".join(f"{video_id}\n" for video_id in split.ids))
        lines += [f"{video_id} {caption}" for video_id, _, captions in split for caption in captions]
    write_text(folder / "AllVideoDescriptions.txt", "\n".join(lines) + "\n")
    return _plan(folder, splits)


def write_lsmdc(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """LSMDC16_annos_training.csv, ..._annos_val.csv, ..._challenge_1000_publictect.csv, videos.jsonl."""
    movies = dict(zip(SPLITS, ("0001_Toy_Movie", "0002_Toy_Movie", "1001_Toy_Movie"), strict=True))
    files = dict(zip(SPLITS, ("annos_training", "annos_val", "challenge_1000_publictect"), strict=True))

    def name(number: int, scene: Scene) -> str:
        start = 10.5 * number
        return f"MOVIE_{_lsmdc_time(start)}-{_lsmdc_time(start + clip_seconds(scene))}"

    splits = []
    for made in _make_splits("lsmdc", seed, sizes, name, captions=1):
        ids = [video_id.replace("MOVIE", movies[made.name]) for video_id in made.ids]
        splits.append(_Split(made.name, ids, made.scenes, made.captions))
        rows = []
        for clip_id, _, (sentence,) in splits[-1]:
            times = clip_id.rsplit("_", 1)[1].split("-")
            rows.append("\t".join([clip_id, *times, *times, sentence]) + "\n")
        write_text(folder / f"LSMDC16_{files[made.name]}.csv", "".join(rows))
    return _plan(folder, splits)


def write_didemo(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """train_data.json, val_data.json, test_data.json, videos.jsonl."""

    def name(number: int, scene: Scene) -> str:
        return f"{10_000_000 + number}@N01_{4_000_000_000 + number}_{number:010x}"

    splits = _make_splits("didemo", seed, sizes, name, captions=MOMENTS)
    rng = random_generator("didemo moments", seed)
    annotation = 0
    for split in splits:
        moments = []
        for video_id, scene, captions in split:
            pieces = max(1, round(clip_seconds(scene) / PIECE_SECONDS))
            for text in captions:
                annotation += 1
                moments.append(_didemo_moment(video_id, text, pieces, annotation, rng))
        write_json_line(folder / f"{split.name}_data.json", moments)
    return _plan(folder, splits)


def write_activitynet(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """train.json, val_1.json, videos.jsonl."""
    splits = _make_splits("activitynet", seed, sizes, lambda n, _: f"v_toyClip{n:04d}", captions=MOMENTS)
    files = {"train": "train.json", "test": "val_1.json"}
    used = [split for split in splits if split.name in files]
    for split in used:
        content = {}
        for video_id, scene, captions in split:
            duration = clip_seconds(scene)
            times = [[round(i * duration / MOMENTS, 2), duration] for i in range(len(captions))]
            sentences = [captions[0], *(f" {text}" for text in captions[1:])]  # as in the real files
            content[video_id] = {"duration": duration, "timestamps": times, "sentences": sentences}
        write_json_line(folder / files[split.name], content)
    return _plan(folder, used)


def _make_splits(
    dataset: str, seed: int, sizes: Sizes, name: Callable[[int, Scene], str], *, captions: int
) -> list[_Split]:
    counts = dict(zip(SPLITS, (sizes.field_train, sizes.field_val, sizes.field_test), strict=True))
    rng = random_generator(f"{dataset} captions", seed)
    splits: list[_Split] = []
    for split, count in counts.items():
        scenes = scenes_of(dataset, split, count, seed=seed, simple=sizes.simple)
        first = sum(len(before.ids) for before in splits)
        ids = [name(first + number, scene) for number, scene in enumerate(scenes)]
        texts = [make_captions(scene, "english", count=captions, rng=rng) for scene in scenes]
        splits.append(_Split(split, ids, scenes, texts))
    return splits


def _plan(folder: Path, splits: list[_Split]) -> DatasetPlan:
    clips: list[Clip] = []
    for split in splits:
        clips += clips_of(folder, split.ids, split.scenes)
    write_store_list(folder / "videos.jsonl", [video_id for split in splits for video_id in split.ids])
    return DatasetPlan(clips, sum(len(texts) for split in splits for texts in split.captions))


def _lsmdc_time(seconds: float) -> str:
    """HH.MM.SS.mmm, as in LSMDC's ids."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}.{minutes:02d}.{rest:06.3f}"


def _didemo_moment(
    video_id: str, text: str, pieces: int, annotation: int, rng: np.random.Generator
) -> dict[str, Any]:
    first = int(rng.integers(pieces))
    last = int(rng.integers(first, pieces))
    return {
        "num_segments": pieces,
        "description": text,
        "dl_link": "",
        "times": [[first, last]] * 4,
        "video": f"{video_id}.mp4",
        "annotation_id": annotation,
    }


FIELD_WRITERS: dict[str, Callable[..., DatasetPlan]] = {
    "msvd": write_msvd,
    "lsmdc": write_lsmdc,
    "didemo": write_didemo,
    "activitynet": write_activitynet,
}
