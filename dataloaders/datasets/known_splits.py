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
from dataloaders.datasets.registry import dataset_spec
from dataloaders.datasets.spec import KnownList
from dataloaders.examples import Examples


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


def has_other_sentences(split_list: KnownList | None, examples: Examples) -> bool:
    """Whether the list was published with sentences and `examples` have different ones.

    35 of the 1k-A sentences are spelled differently in MSR-VTT's own annotations, and a spreadsheet program
    changes more.
    """
    published = split_list.pairs_sha256 if split_list is not None else ""
    return bool(published) and published != pairs_digest(examples)


def identify(dataset: str, video_ids: Iterable[str]) -> KnownList | None:
    """The published list of exactly these videos, or None."""
    ids = set(video_ids)
    candidates = [item for item in dataset_spec(dataset).known_lists if item.videos == len(ids)]
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


def list_identity(dataset: str, examples: Examples) -> str:
    """The name of the published list that `examples` are, else a hash of its videos and captions."""
    split_list = identify(dataset, examples.video_ids)
    if split_list is not None and not has_other_sentences(split_list, examples):
        return split_list.name
    return f"sha256:{pairs_digest(examples)[:16]}"


def describe_split(dataset: str, split: str, examples: Examples) -> str:
    """One line for the log: which published list the videos of `split` are, or that they are not a published
    list.

    `examples` must be the whole split, before missing videos are left out.
    """
    split_list = identify(dataset, examples.video_ids)
    if split_list is None and dataset_spec(dataset).is_table:
        counts = f"{examples.num_videos:,} videos, {examples.num_captions:,} captions"
        return f"{dataset} {split}: {counts}, {list_identity(dataset, examples)}"
    if split_list is None:
        text = f"{dataset} {split}: {examples.num_videos:,} videos, "
        same_size = [
            item.name for item in dataset_spec(dataset).known_lists if _may_be(item, examples, split)
        ]
        if same_size:
            return f"{text}as many as in the published list {same_size[0]}"
        return f"{text}not a published list{_published_lists(dataset, split)}"
    text = f"{dataset} {split}: {split_list.name} list ({split_list.videos:,} videos)"
    if split_list.remark:
        text += f"; {split_list.remark}"
    if split_list.serves and split not in split_list.serves:
        text += f"; papers use it for {' and '.join(split_list.serves)}, not for {split}"
    different = has_other_sentences(split_list, examples)
    return text + ("; the sentences differ from the published ones" if different else "")


def _may_be(item: KnownList, examples: Examples, split: str) -> bool:
    """Whether only the number of videos is known of a list, and it is that of `examples`."""
    return not item.sha256 and item.videos == examples.num_videos and split in item.serves


def _published_lists(dataset: str, split: str) -> str:
    names = [f"{s.name} {s.videos:,}" for s in dataset_spec(dataset).known_lists if split in s.serves]
    return f" ({', '.join(names)})" if names else ""


def name_mismatch(dataset: str, list_file: str | PathLike[str] | None, *, num_videos: int) -> str | None:
    """A warning if the list file's name implies another number of videos than the file has, else None.

    `MSRVTT_train.9k.csv` must list 9,000 videos, `.7k` 7,010, `JSFUSION` 1,000, `test1k5` 1,500, and `*.full`
    as many as the official split.
    """
    if list_file is None:
        return None
    name = Path(list_file).name.lower()
    for pattern, expected in dataset_spec(dataset).sizes_by_name:
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
