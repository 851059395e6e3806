"""Numbers that are not finite are never a result."""

from __future__ import annotations

from torch import Tensor

from vlmtrace.core.errors import VlmtraceError

#: What to do about it.
REMEDY = "Check its weights, or load it with dtype float32 where another one overflows."


class NotFinite(VlmtraceError):
    """A run gave NaN or infinity.

    Attributes:
        row: of the batch, the first one that did
    """

    def __init__(self, sentence: str, row: int):
        """Say it in a sentence."""
        super().__init__(sentence)
        self.row = row


def check_finite(name: str, logits: Tensor) -> Tensor:
    """Return logits if they can be read.

    A model may give −∞ on purpose, to tokens that it never says; what is refused is NaN, +∞, and a row of −∞ alone.

    Args:
        name: of the model
        logits: (batch, …, vocabulary)

    Returns:
        the same logits

    Raises:
        NotFinite: a row of the batch cannot be read
    """
    bad = (logits.isnan() | logits.isposinf()).any(-1) | logits.isneginf().all(-1)
    if bad.any():
        row = int(bad.flatten(1).any(1).nonzero()[0] if bad.ndim > 1 else bad.nonzero()[0])
        raise NotFinite(
            f"{name} gives numbers that are not finite for row {row + 1} of {len(logits)} of a batch. {REMEDY}", row
        )
    return logits
