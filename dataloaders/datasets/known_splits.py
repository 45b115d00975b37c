"""Published split lists, recognised by size and hash; and the overlap of training and test.

We may not redistribute the lists, but the SHA-256 of the sorted ids is enough to recognise one, whatever its
order, repeats and file name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from dataloaders.datasets.files import name_some
from dataloaders.examples import Examples


@dataclass(frozen=True)
class KnownSplit:
    """A list of videos that papers use. `remark` is what users of the list must know."""

    dataset: str
    name: str
    videos: int
    sha256: str  # list_digest of its ids
    serves: tuple[str, ...]  # the splits that it may be used for
    remark: str = ""
    pairs_sha256: str = ""  # pairs_digest, if the list is published with sentences


_TRAINING = ("pretrain", "train")
_HELD_OUT = ("val", "test")

KNOWN_SPLITS = (
    KnownSplit(
        "msrvtt",
        "JSFusion 1k-A test",
        1_000,
        "64462f74c95235d602a0a231e7f2125640ebbf3de0e226fbdd5e64f621c46d83",
        _HELD_OUT,
        pairs_sha256="d69752e478073bce2227b78bc9d47a54aabb27644a983d8e3d83af150c40fcad",
    ),
    KnownSplit(
        "msrvtt",
        "train 9k",
        9_000,
        "12e456ceab25905ffc585c4dfdf1d2972f563b63c317effdee7943bc84075ace",
        _TRAINING,
        "for the 1k-A test; holds 1,990 videos of the full test",
    ),
    KnownSplit(
        "msrvtt",
        "train 7k",
        7_010,
        "e63825a66cb7194c0502b86c4178dc1dc4b0e84bd47337b563d9f4cd58890596",
        _TRAINING,
        "the official training and validation videos together",
    ),
    KnownSplit(
        "msrvtt",
        "full train",
        6_513,
        "3824b98b962a59653d7191fee6b92eef5954374ae97ef284ed9a1f777c7e1825",
        _TRAINING,
    ),
    KnownSplit(
        "msrvtt",
        "full val",
        497,
        "e58250844311d2323f43865e51e84f42b2862099f0df726d5a0df59f17f97f12",
        _HELD_OUT,
    ),
    KnownSplit(
        "msrvtt",
        "full test",
        2_990,
        "e033df45731e025a1b7b4731ee3eddc400b6040c93fffd4ab3eb45a551f0526e",
        _HELD_OUT,
        "figures on it are not comparable with those on 1k-A",
    ),
    KnownSplit(
        "vatex",
        "published train",
        25_991,
        "b03ec83a23fa56c606fe17b14d1ed90612c3543beb206a3d5db9889d01e452bc",
        _TRAINING,
    ),
    KnownSplit(
        "vatex",
        "published val",
        1_500,
        "77fde2983497b56959246411452a9c4587c66956449deafd12ab3e678bc85d21",
        _HELD_OUT,
    ),
    KnownSplit(
        "vatex",
        "published test",
        1_500,
        "efc26b559080d66fa7c8d694e6b3b051378322a051ef35f22c8312c117849d8d",
        _HELD_OUT,
        "id for id CLIP2Video's HGR list",
    ),
    KnownSplit(
        "vatex",
        "random test1k5",
        1_500,
        "6ecb94ff2f4ca1a501a5488f551f5e28f3fbb8f7c8aadb04164772854b913556",
        (),
        "not the published test list: it shares 724 ids with that and 776 with the published val list, "
        "so figures are not comparable",
    ),
)

# (pattern of a list file's name, number of videos that such a name implies), by data set.
_SIZES_BY_NAME: dict[str, tuple[tuple[str, int], ...]] = {
    "msrvtt": (
        (r"jsfusion", 1_000),
        (r"\b9k\b", 9_000),
        (r"\b7k\b", 7_010),
        (r"train\.full", 6_513),
        (r"val\.full", 497),
        (r"test\.full", 2_990),
    ),
    "vatex": ((r"test1k5", 1_500),),
}


def list_digest(ids: Iterable[str]) -> str:
    """SHA-256 of the sorted distinct ids, one per line: equal for equal sets of videos."""
    digest = hashlib.sha256()
    for video_id in sorted(set(ids)):
        digest.update(video_id.encode("utf-8") + b"\n")
    return digest.hexdigest()


def pairs_digest(examples: Examples) -> str:
    """SHA-256 of all (video, caption) pairs; their order does not matter."""
    lines = sorted(
        f"{examples.video_id_of(number)}\t{caption}\n" for number, caption in enumerate(examples.captions)
    )
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def has_other_sentences(split_list: KnownSplit | None, examples: Examples) -> bool:
    """Whether the list was published with sentences and `examples` have different ones.

    35 of the 1k-A sentences are spelled differently in MSR-VTT's own annotations, and a spreadsheet program
    changes more.
    """
    return split_list is not None and split_list.pairs_sha256 not in ("", pairs_digest(examples))


def identify(dataset: str, video_ids: Iterable[str]) -> KnownSplit | None:
    """The published list of exactly these videos, or None."""
    ids = set(video_ids)
    candidates = [item for item in KNOWN_SPLITS if item.dataset == dataset and item.videos == len(ids)]
    if not candidates:
        return None
    digest = list_digest(ids)
    return next((item for item in candidates if item.sha256 == digest), None)


def is_published_test(dataset: str, examples: Examples) -> bool:
    """Whether `examples` are a published test list with the published sentences."""
    split_list = identify(dataset, examples.video_ids)
    if split_list is None or "test" not in split_list.serves:
        return False
    return not has_other_sentences(split_list, examples)


def describe_split(dataset: str, split: str, examples: Examples) -> str:
    """One line for the log: which published list the videos of `split` are, or that they are not a published
    list.

    `examples` must be the whole split, before missing videos are left out.
    """
    split_list = identify(dataset, examples.video_ids)
    if split_list is None:
        text = f"{dataset} {split}: {examples.num_videos:,} videos, not a published list"
        return text + _published_lists(dataset, split)
    text = f"{dataset} {split}: {split_list.name} list ({split_list.videos:,} videos)"
    if split_list.remark:
        text += f"; {split_list.remark}"
    if split_list.serves and split not in split_list.serves:
        text += f"; papers use it for {' and '.join(split_list.serves)}, not for {split}"
    different = has_other_sentences(split_list, examples)
    return text + ("; the sentences differ from the published ones" if different else "")


def _published_lists(dataset: str, split: str) -> str:
    names = [f"{s.name} {s.videos:,}" for s in KNOWN_SPLITS if s.dataset == dataset and split in s.serves]
    return f" ({', '.join(names)})" if names else ""


def name_mismatch(dataset: str, list_file: str | PathLike[str] | None, *, num_videos: int) -> str | None:
    """A warning if the list file's name implies another number of videos than the file has, else None.

    `MSRVTT_train.9k.csv` must list 9,000 videos, `.7k` 7,010, `JSFUSION` 1,000, `test1k5` 1,500, and `*.full`
    as many as the official split.
    """
    if list_file is None:
        return None
    name = Path(list_file).name.lower()
    for pattern, expected in _SIZES_BY_NAME.get(dataset, ()):
        if re.search(pattern, name) and expected != num_videos:
            return f"{list_file}: lists {num_videos:,} videos, its name implies {expected:,}"
    return None


@dataclass(frozen=True)
class Leaks:
    """What training and test have in common. True if a video is in both."""

    videos: tuple[str, ...]  # ids in both, in the order of the test split
    captions: tuple[str, ...]  # distinct test captions whose text is also in training

    def __bool__(self) -> bool:
        return bool(self.videos)

    def __str__(self) -> str:
        parts = []
        if self.videos:
            parts.append(f"test videos in the training set: {len(self.videos):,} ({name_some(self.videos)})")
        if self.captions:
            parts.append(f"test captions whose text is in the training set: {len(self.captions):,}")
        return "; ".join(parts) or "training and test share no video and no caption"


def leaks(train: Examples, test: Examples) -> Leaks:
    """Videos and caption texts that both splits have. Takes seconds for 200,000 captions.

    Texts are compared without case, outer spaces and repeated spaces, as the tokenizers ignore them.
    """
    training_ids = set(train.video_ids)
    captions = {normalize_text(caption): caption for caption in test.captions}
    shared = {text for text in map(normalize_text, train.captions) if text and text in captions}
    return Leaks(
        videos=tuple(video_id for video_id in test.video_ids if video_id in training_ids),
        captions=tuple(caption for text, caption in captions.items() if text in shared),
    )


def normalize_text(caption: str) -> str:
    """The caption in lower case with single spaces."""
    return " ".join(caption.lower().split())
