"""MSVD annotation files -> Examples: 1,970 clips with about 41 English captions each.

Three forms of the same captions are read: the official text (`AllVideoDescriptions.txt`: an id and a caption
a line), the official table (`video_corpus.csv`: captions in many languages, of which the English ones count),
and the pickle of earlier repositories (`raw-captions.pkl`: {video id: [[word, ...], ...]}). A text file lists
the ids of a split, one a line. An id is VIDEO_S_E: source video, and the seconds of start and end.

Source: Chen and Dolan, Collecting Highly Parallel Data for Paraphrase Evaluation, ACL 2011.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from dataloaders.datasets.files import FilePath, csv_rows, open_text, read_id_list, require_all
from dataloaders.datasets.plain_pickle import read_plain_pickle
from dataloaders.datasets.spec import HELD_OUT, TRAINING, DatasetSpec, KnownList, SplitSpec
from dataloaders.examples import Examples, ExamplesBuilder
from video.clip_ids import Part

_CLIP_ID = re.compile(r"(.+)_(\d+)_(\d+)", re.DOTALL)
_COLUMNS = ("VideoID", "Start", "End", "Language", "Description")


def read_split(annotations: FilePath, id_list: FilePath) -> Examples:
    """All English captions of the listed videos, in the order of the list.

    Raises `UserError` if a file is missing, empty or of another form, and if listed videos have no captions.
    """
    wanted = read_id_list(id_list)
    captions_of = _captions_of(Path(annotations))
    require_all(annotations, wanted, captions_of, listed_in=id_list)
    builder = ExamplesBuilder()
    for video_id in wanted:
        for caption in captions_of[video_id]:
            builder.add(video_id, caption)
    return builder.build()


def _captions_of(path: Path) -> Mapping[str, Sequence[str]]:
    """The captions of every video. Raises `UserError` if there are none."""
    if path.suffix in (".pkl", ".pickle"):
        return dict(_of_pickle(path))
    captions: dict[str, list[str]] = defaultdict(list)
    for video_id, caption in _of_table(path) if path.suffix == ".csv" else _of_lines(path):
        captions[video_id].append(caption)
    if not captions:
        raise UserError(f"{path}: is empty")
    return captions


def _of_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(video id, caption) of the official text. Lines that begin with # are comments."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip("\r\n")
            if not text.strip() or text.startswith("#"):
                continue
            video_id, _, caption = text.partition(" ")
            if _span_of_id(video_id) is None:
                raise UserError(f"{path}, line {number}: must be VIDEO_START_END, a space and a caption")
            yield video_id, caption


def _of_table(path: Path) -> Iterator[tuple[str, str]]:
    """(video id, caption) of the English rows of the official table."""
    rows = csv_rows(path, column=_COLUMNS[0])
    header = next((cells for _, cells in rows), [])
    absent = [name for name in _COLUMNS if name not in header]
    if absent:
        raise UserError(f"{path}: has no column {absent[0]!r} (its header is: {','.join(header)})")
    places = [header.index(name) for name in _COLUMNS]
    for _, row in rows:
        video, start, end, language, caption = (row[place] for place in places)
        if language == "English" and caption.strip():
            yield f"{video}_{start}_{end}", caption


def _of_pickle(path: Path) -> Iterator[tuple[str, list[str]]]:
    content = read_plain_pickle(path)
    form = "{video id: [[word, ...], ...]}"
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must hold {form}")
    for video_id, captions in content.items():
        if not isinstance(video_id, str) or not isinstance(captions, list | tuple):
            raise UserError(f"{path}: entry {video_id!r}: must be {form}")
        yield video_id, [_sentence(path, video_id, words) for words in captions]


def _sentence(path: Path, video_id: str, words: object) -> str:
    if isinstance(words, str):
        return words
    if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
        return " ".join(words)
    raise UserError(f"{path}: video {video_id} has a caption that is no list of words")


def _span_of_id(video_id: str) -> Part | None:
    match = _CLIP_ID.fullmatch(video_id)
    return Part(match[1], float(match[2]), float(match[3])) if match else None


def _split(id_list: str) -> SplitSpec:
    return SplitSpec(
        "AllVideoDescriptions.txt",
        id_list,
        "msvd_lmdb",
        lambda files, _: read_split(files.annotations, files.required_list()),
        other_annotations=("video_corpus.csv", "raw-captions.pkl"),
    )


_TRAIN, _VAL = _split("train_list.txt"), _split("val_list.txt")

SPEC = DatasetSpec(
    name="msvd",
    languages=("english",),
    splits={
        "pretrain": _TRAIN.for_pretraining(),
        "train": _TRAIN,
        "val": _VAL,
        "test": _split("test_list.txt"),
    },
    validation=_VAL,
    protocol="several_captions",
    span_of_id=_span_of_id,
    known_lists=(
        KnownList(
            "train", 1_200, "abfb8ab5660b464cf547d63a37a369920ff92c5f547af80f07aedd709df335d3", TRAINING
        ),
        KnownList("val", 100, "9527cf1ef6c8fe2fb1ecfda0e1856acc563fecef5ff0a409b5d908b65c1e6ed4", HELD_OUT),
        KnownList("test", 670, "95eacd1fddb1d88cd7144267913ef02d0ecb8cc94a88bc484035433a2d8f9c7a", HELD_OUT),
    ),
)
