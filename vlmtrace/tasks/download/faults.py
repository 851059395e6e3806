"""Why an image cannot be had."""

from __future__ import annotations


class Refused(Exception):
    """An image that cannot be had, however often one asks."""


class Unreachable(Exception):
    """A fault that may pass.

    Args:
        reason: what happened
        wait: the seconds that the server asks to wait
        answered: whether it answered at all
    """

    def __init__(self, reason: str, wait: float = 0.0, answered: bool = True):
        super().__init__(reason)
        self.wait, self.answered = wait, answered
