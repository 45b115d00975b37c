"""What a query is: a split as a protocol wants it (METHOD 6, docs/EVALUATION.md)."""

from __future__ import annotations

import numpy as np

from dataloaders.examples import Examples, PackedStrings


def apply_protocol(examples: Examples, protocol: str) -> Examples:
    """The split with the captions that are queries under `protocol`.

    `auto` and `several_captions`: as it is. `one_caption`: the first of each video. `paragraph`: all captions
    of a video, in the file's order, joined by spaces to one text, which the tokenizer cuts at --max_words.
    Videos keep their order; those without a caption stay candidates.
    """
    if protocol in ("auto", "several_captions"):
        return examples
    assert protocol in ("one_caption", "paragraph"), protocol
    order = np.argsort(examples.video_of_caption, kind="stable")
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
    )
