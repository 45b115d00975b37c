"""The toy data sets' annotations, in the file formats of MSR-VTT, VATEX and CHVTT.

Each `write_...` function writes the annotation files of one data set and returns the clips to draw.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import write_text
from tools.toy.captions import LANGUAGES, make_captions, make_query, make_tag
from tools.toy.drawing import clip_seconds
from tools.toy.scenes import Scene, make_scenes, simple_types, split_world, training_types, unique_types

VIDEOS_PER_QUERY = 2


@dataclass(frozen=True)
class Sizes:
    """Number of clips in each split (CHVTT: of queries), and of captions per clip (VATEX: per language).

    `field_...`: those of each of the other data sets (`field_annotations.py`).

    `simple`: the splits that have simple scenes only.
    """

    msrvtt_train: int = 1800
    msrvtt_test: int = 100
    msrvtt_captions: int = 3
    vatex_train: int = 400
    vatex_val: int = 40
    vatex_test: int = 100
    vatex_captions: int = 10
    chvtt_pretrain: int = 600
    chvtt_query_train: int = 100
    chvtt_query_val: int = 100
    field_train: int = 60
    field_val: int = 12
    field_test: int = 24
    simple: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A video to draw: its file and its scene."""

    path: Path
    scene: Scene


@dataclass(frozen=True)
class DatasetPlan:
    """The clips and the number of captions of a data set whose annotation files are written."""

    clips: list[Clip]
    captions: int


def write_msrvtt(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv, videos.jsonl."""
    train = scenes_of("msrvtt", "train", sizes.msrvtt_train, seed=seed, simple=sizes.simple)
    test = scenes_of("msrvtt", "test", sizes.msrvtt_test, seed=seed, simple=sizes.simple)
    rng = random_generator("msrvtt captions", seed)
    names = [f"video{i}" for i in range(len(train) + len(test))]
    captions = [make_captions(s, "english", count=sizes.msrvtt_captions, rng=rng) for s in train + test]
    videos = [
        _msrvtt_video(i, scene, "train" if i < len(train) else "test") for i, scene in enumerate(train + test)
    ]
    pairs = [(name, caption) for name, texts in zip(names, captions, strict=True) for caption in texts]
    sentences = [{"caption": c, "video_id": name, "sen_id": i} for i, (name, c) in enumerate(pairs)]
    write_json_line(
        folder / "MSRVTT_data.json",
        {"info": {"description": "toy scenes"}, "videos": videos, "sentences": sentences},
    )
    _write_csv(folder / "MSRVTT_train.9k.csv", [["video_id"], *([name] for name in names[: len(train)])])
    header = ["key", "vid_key", "video_id", "sentence"]
    numbers = range(len(train), len(names))
    rows = [[f"ret{k}", f"msr{i}", names[i], captions[i][0]] for k, i in enumerate(numbers)]
    _write_csv(folder / "MSRVTT_JSFUSION_test.csv", [header, *rows])
    write_store_list(folder / "videos.jsonl", names)
    return DatasetPlan(clips_of(folder, names, train + test), len(pairs))


def write_vatex(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """vatex_data.json, train_list.txt, val_list.txt, test_list.txt, videos.jsonl."""
    rng = random_generator("vatex captions", seed)
    data: dict[str, dict[str, list[str]]] = {}
    clips: list[Clip] = []
    for split, count in (("train", sizes.vatex_train), ("val", sizes.vatex_val), ("test", sizes.vatex_test)):
        scenes = scenes_of("vatex", split, count, seed=seed, simple=sizes.simple)
        names = [_vatex_name(len(data) + i, scene, rng) for i, scene in enumerate(scenes)]
        for name, scene in zip(names, scenes, strict=True):
            english, chinese = (
                make_captions(scene, language, count=sizes.vatex_captions, rng=rng) for language in LANGUAGES
            )
            data[name] = {"enCap": english, "chCap": chinese}
        write_text(folder / f"{split}_list.txt", "".join(f"{name}\n" for name in names))
        clips += clips_of(folder, names, scenes)
    write_json_line(folder / "vatex_data.json", data)
    write_store_list(folder / "videos.jsonl", data)
    return DatasetPlan(clips, 2 * sizes.vatex_captions * len(data))


def write_chvtt(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """videoinfo_bilingual.json, query_data_{train,val}_bilingual.json, and a video list per frame store."""
    rng = random_generator("chvtt captions", seed)
    scenes = scenes_of("chvtt pretrain", "train", sizes.chvtt_pretrain, seed=seed, simple=sizes.simple)
    docids = [str(10000 + i) for i in range(len(scenes))]
    infos = [_videoinfo(d, s, rng) for d, s in zip(docids, scenes, strict=True)]
    _write_json_lines(folder / "videoinfo_bilingual.json", infos)
    clips = clips_of(folder, [f"Video{docid}" for docid in docids], scenes)
    write_store_list(folder / "videoinfo_videos.jsonl", [clip.path.stem for clip in clips])
    query_clips: list[Clip] = []
    for split, count, copies in (
        ("train", sizes.chvtt_query_train, VIDEOS_PER_QUERY),
        ("val", sizes.chvtt_query_val, 1),
    ):
        # The published queries have only two splits; "val" is the test set.
        scene_split = "train" if split == "train" else "test"
        types = [s.type for s in scenes_of("chvtt query", scene_split, count, seed=seed, simple=sizes.simple)]
        lines = []
        for scene_type in types:
            shown = make_scenes([scene_type] * copies, rng)
            docids = [str(50000 + len(query_clips) + i) for i in range(copies)]
            query_clips += clips_of(folder, [f"Video{docid}" for docid in docids], shown)
            video_infos = [_videoinfo(d, s, rng, with_tag=False) for d, s in zip(docids, shown, strict=True)]
            query, query_eng = (
                make_query(scene_type, language, rng=rng) for language in ("chinese", "english")
            )
            lines.append({"query": query, "query_eng": query_eng, "videolist": video_infos})
        _write_json_lines(folder / f"query_data_{split}_bilingual.json", lines)
    write_store_list(folder / "query_videos.jsonl", [clip.path.stem for clip in query_clips])
    texts = 4 * len(infos) + 2 * (sizes.chvtt_query_train + sizes.chvtt_query_val + len(query_clips))
    return DatasetPlan(clips + query_clips, texts)


def scenes_of(dataset: str, split: str, count: int, *, seed: int, simple: Sequence[str] = ()) -> list[Scene]:
    """Scenes of one split. Splits share no scene type; outside of training, no type repeats.

    The splits in `simple` have the types of `simple_types`, in turn.
    """
    rng = random_generator(f"{dataset} {split}", seed)
    if split in simple:
        return make_scenes(list(itertools.islice(itertools.cycle(simple_types(seed)), count)), rng)
    choose = training_types if split == "train" else unique_types
    return make_scenes(choose(split_world(seed)[split], count, rng), rng)


def random_generator(purpose: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose.encode("utf-8"))])


def clips_of(folder: Path, names: Iterable[str], scenes: Iterable[Scene]) -> list[Clip]:
    return [Clip(folder / "videos" / f"{name}.mp4", s) for name, s in zip(names, scenes, strict=True)]


def _msrvtt_video(number: int, scene: Scene, split: str) -> dict[str, Any]:
    times = {"start time": 0.0, "end time": clip_seconds(scene)}
    return {"category": 0, "url": "", "video_id": f"video{number}", **times, "split": split, "id": number}


def _vatex_name(number: int, scene: Scene, rng: np.random.Generator) -> str:
    """ID_SSSSSS_EEEEEE: an id of eleven characters, as on video sites, and start and end in seconds."""
    start = int(rng.integers(0, 120))
    return f"toy-Clip{number:03d}_{start:06d}_{start + round(clip_seconds(scene)):06d}"


def _videoinfo(
    docid: str, scene: Scene, rng: np.random.Generator, *, with_tag: bool = True
) -> dict[str, str | float]:
    title_eng, title = (make_captions(scene, language, count=1, rng=rng)[0] for language in LANGUAGES)
    info: dict[str, str | float] = {"docid": docid, "title": title, "title_eng": title_eng}
    if with_tag:
        info["tag_eng"], info["tag"] = (make_tag(scene, language, rng=rng) for language in LANGUAGES)
    return info | {"duration": clip_seconds(scene)}


def write_store_list(path: Path, names: Iterable[str]) -> None:
    _write_json_lines(path, [{"video_id": name} for name in names])


def write_json_line(path: Path, value: object) -> None:
    _write_json_lines(path, [value])


def _write_json_lines(path: Path, values: Iterable[object]) -> None:
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def _write_csv(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


WRITERS = {"msrvtt": write_msrvtt, "vatex": write_vatex, "chvtt": write_chvtt}
