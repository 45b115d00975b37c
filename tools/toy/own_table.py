"""A toy table of captions in both languages, as people make one of their own videos."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from common.atomic_files import write_text
from tools.toy.annotations import Clip, DatasetPlan, Sizes, clips_of, random_generator, scenes_of
from tools.toy.captions import LANGUAGES, make_captions

CAPTIONS = 3  # of a clip in each language
TABLE = "my_data.csv"


def write_table(folder: Path, *, seed: int, sizes: Sizes) -> DatasetPlan:
    """my_data.csv: video, caption, language, split."""
    rng = random_generator("table captions", seed)
    rows = [("video", "caption", "language", "split")]
    clips: list[Clip] = []
    for split, count in (("train", sizes.field_train), ("val", sizes.field_val), ("test", sizes.field_test)):
        scenes = scenes_of("table", split, count, seed=seed, simple=sizes.simple)
        names = [f"scene_{len(clips) + number:04d}" for number in range(len(scenes))]
        clips += clips_of(folder, names, scenes)
        for name, scene in zip(names, scenes, strict=True):
            for language in LANGUAGES:
                captions = make_captions(scene, language, count=CAPTIONS, rng=rng)
                rows += [(f"{name}.mp4", caption, language, split) for caption in captions]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / TABLE, text.getvalue())
    return DatasetPlan(clips, len(rows) - 1)
