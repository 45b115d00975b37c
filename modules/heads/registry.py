"""The table of similarity heads (`--head`): a new one is one file here and one line in `HEADS`.

Reading the table does not import torch, so `--help` stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.heads.head import HeadOptions, SimilarityHead

# Name on the command line -> module of this package, and class.
HEADS = {
    "hmmc": ("hmmc", "HmmcHead"),
    "mean": ("mean", "MeanHead"),
    "wti": ("wti", "WtiHead"),
    "xpool": ("xpool", "XpoolHead"),
}
STATE_PREFIX = "head."  # of a head's weights in the state of a model


def head_class(name: str) -> type[SimilarityHead]:
    """The class of the head `name`."""
    module, kind = HEADS[name]
    found: type[SimilarityHead] = getattr(importlib.import_module(f"{__package__}.{module}"), kind)
    return found


def build_head(options: HeadOptions, width: int) -> SimilarityHead:
    """The head `options.head` for features of `width` numbers, with new weights."""
    return head_class(options.head)(options, width)


def head_of_state(names: Iterable[str]) -> str | None:
    """The head whose weights are among the `names` of a model's state; None if there are none."""
    children = {name.split(".")[1] for name in names if name.startswith(STATE_PREFIX)}
    return next((head for head in HEADS if children & set(head_class(head).parts)), None)
