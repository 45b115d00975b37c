"""What a loss of fine-tuning is: one number from the logits of the texts and clips of a batch.

Shapes: N clips of all ranks and their N texts, T texts that one call scores, F frames.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor


class BatchLoss:
    """A loss of logits: cosines of texts and clips times a factor, plus a bias if there is one.

    `by_rows`: the loss is a sum over texts, so each rank scores only its own texts, and no rank holds the
    logits of all pairs; the mean of the ranks' values is the loss. Otherwise every rank scores all texts.
    `start`: the factor and bias from which both are learned; None: the factor is the backbone's constant.
    """

    by_rows: ClassVar[bool] = False
    start: ClassVar[tuple[float, float] | None] = None

    def __call__(
        self, logits: Tensor, *, excluded: Tensor | None = None, real: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """A scalar from `logits`, [T, N] or, for single frames, [F, T, N]; float32 or better.

        Text i belongs to clip `first` + i. Without `by_rows` T is N and `first` 0. `excluded` [T, N] is True
        on pairs that are no negatives; it is False on positives. `real` [F, N] is False where clip n has no
        frame f: such a column is neither a positive nor a negative, and the loss is the mean over the others.
        None: all are real.
        """
        raise NotImplementedError

    def chance(self, clips: int) -> float:
        """The loss of `clips` clips and texts for a model that cannot tell them apart."""
        raise NotImplementedError


def mean_of_real(terms: Tensor, real: Tensor | None) -> Tensor:
    """The mean of `terms`, one for each clip or frame, where `real` of the same shape is True or None."""
    if real is None:
        return terms.mean()
    return terms.masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)
