"""What runs answer by themselves, as far as somebody asks."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from vlmtrace.models import VLM, Inputs
from vlmtrace.models.products import FastProducts, by_fast_products


class GivenAnswers:
    """What the runs of a batch answer by themselves, continued for all of them at once and only as far as is asked.

    Args:
        model: the model that ran
        inputs: of the batch
        logits: (pair, vocabulary), of the first answer token
    """

    def __init__(self, model: VLM, inputs: Inputs, logits: Tensor):
        self.model, self.inputs, self.logits = model, inputs, logits
        self.first: list[int] = logits.argmax(-1).tolist()
        self._ids = [[token] for token in self.first]
        self._asked = 1

    @functools.cached_property
    def image(self) -> Tensor:
        """The image embeddings of the batch, which no further token changes."""
        with torch.no_grad(), FastProducts():
            return self.model.image_embeddings(self.inputs)

    @by_fast_products
    def ids(self, n: int) -> list[list[int]]:
        """The first tokens of each answer.

        Args:
            n: so many at most

        Returns:
            by pair, the ids; without the token that ends the answer, and none behind it
        """
        stops = self.model.stop_ids
        if n > self._asked:
            # What stands behind the end of an answer does not matter.
            rows = [row + [min(stops, default=0)] * (self._asked - len(row)) for row in self._ids]
            begun = torch.tensor(rows, device=self.logits.device, dtype=self.inputs["input_ids"].dtype)
            self._ids = self.model.greedy_ids(self.inputs, n, self.image, begun)
            self._asked = n
        return [list(itertools.takewhile(lambda token: token not in stops, row[:n])) for row in self._ids]


def own_answer(model: VLM, given: GivenAnswers, row: int, n: int) -> tuple[int, ...]:
    """The first tokens of the answer that a run gives itself.

    Args:
        model: the model that ran
        given: what the runs of the batch answer
        row: of the pair in the batch
        n: so many tokens at most

    Returns:
        one id at least: a run that ends its answer at once answers with the token that ends it
    """
    first = given.first[row]
    if n == 1 or first in model.stop_ids:
        return (first,)
    return tuple(given.ids(n)[row])
