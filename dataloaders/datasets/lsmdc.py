"""LSMDC annotation files -> Examples: clips of movies, each with one sentence of its audio description.

A file has no header; a line has six cells with tabs between them: clip id, start and end as aligned, start
and end as cut out (HH.MM.SS.mmm), sentence. A clip id may come in several lines, which are then several
captions. The ids end with the times of the clip in its movie: 0001_American_Beauty_00.00.51.926-00.00.54.129.

Source: Rohrbach et al., Movie Description, IJCV 2017; the files of the challenge of 2016.
"""

from __future__ import annotations

import re

from common.errors import UserError
from dataloaders.datasets.files import FilePath, open_text
from dataloaders.datasets.spec import HELD_OUT, TRAINING, DatasetSpec, KnownList, SplitSpec
from dataloaders.examples import Examples, ExamplesBuilder
from video.clip_ids import Part

_CELLS = "clip id, start and end aligned, start and end extracted, sentence"
_TIME = r"(\d+)\.(\d+)\.(\d+)[.,](\d+)"
_SECONDS = re.compile(_TIME)
_CLIP_ID = re.compile(rf"(.+)_{_TIME}-{_TIME}")


def read_split(annotations: FilePath) -> Examples:
    """All sentences of the file with their clips, and the durations of those.

    Raises `UserError` with the line if it does not have six cells between tabs or no clip id, and if the file
    has no line.
    """
    builder = ExamplesBuilder()
    with open_text(annotations) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) != 6 or not cells[0].strip():
                raise UserError(
                    f"{annotations}, line {number}: has {len(cells)} cells between tabs, not 6: {_CELLS}"
                )
            clip_id, _, _, start, end, sentence = cells
            if number == 1 and not any(map(str.isdigit, "".join(cells[1:5]))):
                raise UserError(f"{annotations}, line 1: is a header ({cells[0]}, ...); the file has none")
            builder.add(clip_id.strip(), sentence, duration=_duration(start, end))
    examples = builder.build()
    if not examples.num_captions:
        raise UserError(f"{annotations}: is empty")
    return examples


def _duration(start: str, end: str) -> float | None:
    times = [_SECONDS.fullmatch(text.strip()) for text in (start, end)]
    if times[0] is None or times[1] is None:
        return None
    seconds = _seconds(times[1].groups()) - _seconds(times[0].groups())
    return seconds if seconds > 0 else None


def _seconds(parts: tuple[str, ...]) -> float:
    """Seconds of hours, minutes, seconds and the digits of a fraction."""
    hours, minutes, seconds, fraction = parts
    return 3600 * int(hours) + 60 * int(minutes) + float(f"{seconds}.{fraction}")


def _span_of_id(clip_id: str) -> Part | None:
    match = _CLIP_ID.fullmatch(clip_id)
    if match is None:
        return None
    movie, *times = match.groups()
    return Part(movie, _seconds(tuple(times[:4])), _seconds(tuple(times[4:])))


def _split(annotations: str) -> SplitSpec:
    return SplitSpec(
        annotations,
        None,
        "lsmdc_lmdb",
        lambda files, _: read_split(files.annotations),
        quick_to_read=True,
    )


_TRAIN, _VAL = _split("LSMDC16_annos_training.csv"), _split("LSMDC16_annos_val.csv")

SPEC = DatasetSpec(
    name="lsmdc",
    languages=("english",),
    splits={
        "pretrain": _TRAIN.for_pretraining(),
        "train": _TRAIN,
        "val": _VAL,
        "test": _split("LSMDC16_challenge_1000_publictect.csv"),
    },
    validation=_VAL,
    span_of_id=_span_of_id,
    known_lists=(
        KnownList("training", 101_079, "", TRAINING),
        KnownList("validation", 7_408, "", HELD_OUT),
        KnownList("1,000 test clips", 1_000, "", HELD_OUT, captions=1_000),
    ),
)
