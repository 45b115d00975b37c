"""The table of similarity heads: `--head` names one of them."""

from __future__ import annotations

from collections.abc import Iterable

from modules.heads.head import HeadOptions, SimilarityHead
from modules.heads.hmmc import HmmcHead
from modules.heads.mean import MeanHead
from modules.heads.wti import WtiHead
from modules.heads.xpool import XpoolHead

HEADS: dict[str, type[SimilarityHead]] = {
    "hmmc": HmmcHead,
    "mean": MeanHead,
    "wti": WtiHead,
    "xpool": XpoolHead,
}
STATE_PREFIX = "head."  # of a head's weights in the state of a model


def build_head(options: HeadOptions, width: int) -> SimilarityHead:
    """The head `options.head` for features of `width` numbers, with new weights."""
    return HEADS[options.head](options, width)


def head_of_state(names: Iterable[str]) -> str | None:
    """The head whose weights are among the `names` of a model's state; None if there are none."""
    children = {name.split(".")[1] for name in names if name.startswith(STATE_PREFIX)}
    return next((head for head, kind in HEADS.items() if children & set(kind.parts)), None)
