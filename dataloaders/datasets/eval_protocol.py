"""Evaluation protocols: which captions of a split are queries (docs/EVALUATION.md)."""

from __future__ import annotations

import numpy as np

from dataloaders.examples import Examples, PackedStrings


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
