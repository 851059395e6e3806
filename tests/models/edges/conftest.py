"""Two runs of one pair, taken apart."""

import pytest

from vlmtrace.inputs.batching import one_by_one
from vlmtrace.models import Readout
from vlmtrace.models.edges.stacks import stacks_of


class Runs:
    """Clean and corrupt run of one pair.

    Attributes:
        model: that ran
        runs: as `one_by_one` gives them
        stacks: both, taken apart
    """

    def __init__(self, model, pairs, corruption):
        ((_, self.runs),) = one_by_one(model, pairs.iloc[[0]].reset_index(drop=True), corruption, "options")
        self.model = model
        self.stacks = stacks_of(model, self.runs.clean, self.runs.corrupt, self.runs.inputs, self.runs.answer_ids)
        # Of the answers' first tokens, also where an answer has several.
        self.clean, self.base = (
            Readout.of(run.logits, self.runs.answer_ids) for run in (self.runs.clean, self.runs.corrupt)
        )


@pytest.fixture
def runs_of(model_store, random_pairs):
    """Makes `Runs` of a random model and a corruption."""
    return lambda name, corruption="image": Runs(model_store.shared(name), random_pairs, corruption)
