"""Names the split lists in use by their size and hash, and finds what training and test share.

The lists themselves are not ours to hand out; the SHA-256 of their sorted ids is enough to know one. A list
is known whatever its order, its repeats and its file's name.
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
    """A list of videos that papers use. `remark` is what its user must know, where there is anything."""

    dataset: str
    name: str
    videos: int
    sha256: str  # list_digest of its ids
    serves: tuple[str, ...]  # splits of the data set that may be made of it
    remark: str = ""
    pairs_sha256: str = ""  # pairs_digest, where the list carries its sentences


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

# What the name of a list file promises, by data set; names that promise nothing are not looked at.
_PROMISES: dict[str, tuple[tuple[str, int], ...]] = {
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
    """SHA-256 of the ids sorted, each once, one a line: the same for the same set of videos."""
    digest = hashlib.sha256()
    for video_id in sorted(set(ids)):
        digest.update(video_id.encode("utf-8") + b"\n")
    return digest.hexdigest()


def pairs_digest(examples: Examples) -> str:
    """SHA-256 of all (video, caption) pairs, whatever their order."""
    lines = sorted(
        f"{examples.video_id_of(number)}\t{caption}\n" for number, caption in enumerate(examples.captions)
    )
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def other_sentences(known: KnownSplit | None, examples: Examples) -> bool:
    """Whether a list that is published with its sentences has others here.

    35 of the 1k-A sentences are spelled otherwise in MSR-VTT's own annotations, and a spreadsheet program
    changes more.
    """
    return known is not None and known.pairs_sha256 not in ("", pairs_digest(examples))


def identify(dataset: str, video_ids: Iterable[str]) -> KnownSplit | None:
    """The list in use that holds exactly these videos, or None."""
    ids = set(video_ids)
    candidates = [known for known in KNOWN_SPLITS if known.dataset == dataset and known.videos == len(ids)]
    if not candidates:
        return None
    digest = list_digest(ids)
    return next((known for known in candidates if known.sha256 == digest), None)


def describe_split(dataset: str, split: str, examples: Examples) -> str:
    """One line for the log: which list the videos of `split` are, or that it is none in use.

    Give the split as its list says it, before videos that the store lacks are taken out.
    """
    known = identify(dataset, examples.video_ids)
    if known is None:
        text = f"{dataset} {split}: a list of {examples.num_videos:,} videos that is none of the known ones"
        return text + _usual(dataset, split)
    text = f"{dataset} {split}: {known.name} list ({known.videos:,} videos)"
    if known.remark:
        text += f"; {known.remark}"
    if known.serves and split not in known.serves:
        text += f"; in use for {' and '.join(known.serves)}, not for {split}"
    return text + ("; with other sentences than published" if other_sentences(known, examples) else "")


def _usual(dataset: str, split: str) -> str:
    names = [f"{k.name} {k.videos:,}" for k in KNOWN_SPLITS if k.dataset == dataset and split in k.serves]
    return f" ({', '.join(names)})" if names else ""


def name_mismatch(dataset: str, list_file: str | PathLike[str] | None, *, num_videos: int) -> str | None:
    """A warning where the name of a list file promises another number of videos than it holds, else None.

    `MSRVTT_train.9k.csv` must list 9,000, `.7k` 7,010, `JSFUSION` 1,000, `test1k5` 1,500, `*.full` the
    official splits' numbers.
    """
    if list_file is None:
        return None
    name = Path(list_file).name.lower()
    for pattern, promised in _PROMISES.get(dataset, ()):
        if re.search(pattern, name) and promised != num_videos:
            return f"{list_file}: lists {num_videos:,} videos, by its name it should be {promised:,}"
    return None


@dataclass(frozen=True)
class Leaks:
    """What training and test share. True where a video is in both."""

    videos: tuple[str, ...]  # ids in both, in the order of the test split
    captions: tuple[str, ...]  # distinct texts of the test split that training has too

    def __bool__(self) -> bool:
        return bool(self.videos)

    def __str__(self) -> str:
        parts = []
        if self.videos:
            shown = name_some(self.videos)
            parts.append(f"test videos that are trained on: {len(self.videos):,} ({shown})")
        if self.captions:
            parts.append(f"test captions whose text occurs in training: {len(self.captions):,}")
        return "; ".join(parts) or "training and test share no video and no caption"


def leaks(train: Examples, test: Examples) -> Leaks:
    """Videos and caption texts that both splits have; texts are compared without case and outer or double
    spaces, as the tokenizers read them. Seconds for 200,000 captions."""
    trained_on = set(train.video_ids)
    captions = {same_text(caption): caption for caption in test.captions}
    shared = {text for text in map(same_text, train.captions) if text and text in captions}
    return Leaks(
        videos=tuple(video_id for video_id in test.video_ids if video_id in trained_on),
        captions=tuple(caption for text, caption in captions.items() if text in shared),
    )


def same_text(caption: str) -> str:
    """What is left of a caption once case and spacing are set aside."""
    return " ".join(caption.lower().split())
