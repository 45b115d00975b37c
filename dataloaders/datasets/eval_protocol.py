"""Evaluation protocols: which captions of a split are queries (docs/EVALUATION.md), and texts to train on."""

from __future__ import annotations

import numpy as np

from common.languages import LANGUAGES
from dataloaders.examples import Examples, PackedStrings, merge_languages


def apply_protocol(examples: Examples, protocol: str) -> Examples:
    """The split with the captions that are queries under `protocol`.

    - `auto`, `several_captions`: every caption.
    - `one_caption`: the first caption of each video.
    - `paragraph`: the captions of a video joined by spaces, in file order; the tokenizer truncates the text
      at --max_words.

    Videos keep their order; those without a caption stay candidates. The captions are of one language.
    """
    if protocol in ("auto", "several_captions"):
        return examples
    assert protocol in ("one_caption", "paragraph"), protocol
    order = np.argsort(examples.video_of_caption, kind="stable")
    assert examples.languages is None or (examples.languages == examples.languages[0]).all()
    videos, starts = np.unique(examples.video_of_caption[order], return_index=True)
    groups = np.split(order, starts[1:])
    if protocol == "one_caption":
        texts = [examples.captions[int(group[0])] for group in groups]
    else:
        texts = [" ".join(examples.captions[int(i)] for i in group) for group in groups]
    return Examples(
        video_ids=examples.video_ids,
        captions=PackedStrings.from_iterable(texts),
        video_of_caption=videos.astype(np.int64),
        durations=examples.durations,
        languages=None if examples.languages is None else examples.languages[: len(videos)],
    )


def name_protocol(examples: Examples, protocol: str) -> str:
    """`protocol`, or in place of "auto" that of the captions as they are."""
    if protocol != "auto":
        return protocol
    counts = np.bincount(examples.video_of_caption)
    return "several_captions" if len(counts) and counts.max() > 1 else "one_caption"


def split_languages(examples: Examples) -> list[Examples]:
    """The examples of each language, with all videos; the examples themselves if they are of one language."""
    if examples.languages is None:
        return [examples]
    return [examples.in_language(number) for number in range(len(LANGUAGES))]


def training_texts(examples: Examples, protocol: str) -> Examples:
    """What to train on under `protocol`: each caption or, for `paragraph`, all captions of a video joined.

    Captions with tags are never joined.
    """
    if protocol != "paragraph" or examples.tags is not None:
        return examples
    parts = [apply_protocol(part, protocol) for part in split_languages(examples)]
    return parts[0] if len(parts) == 1 else merge_languages(parts)
