"""What the clean and the corrupt run of a batch of pairs left behind, whole or of some of its pairs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from vlmtrace.inputs.answers import Answers, first_ids
from vlmtrace.models import VLM, Inputs, Readout, Trace
from vlmtrace.models.types import BothAnswers, WholeAnswer
from vlmtrace.models.vlm import inputs_of_pair, repeat_inputs


@dataclass(frozen=True)
class WholeRuns:
    """Clean and corrupt run of a batch of pairs with one answer given, all of its tokens but the last.

    Attributes:
        ids: of the answer
        clean_inputs: of the clean run
        inputs: of the corrupt run
        clean: what the clean run left behind
        corrupt: what the corrupt run left behind
    """

    ids: WholeAnswer
    clean_inputs: Inputs
    inputs: Inputs
    clean: Trace
    corrupt: Trace


@dataclass(frozen=True)
class PairRuns:
    """Clean and corrupt run of a batch of pairs whose inputs have equal shapes.

    Attributes:
        clean_inputs: of the clean run
        inputs: of the corrupt run, into which is patched
        clean: what the clean run left behind
        corrupt: what the corrupt run left behind
        answers: the tokens that are measured, by pair; their numbers are equal in all pairs
        contrasts: the answers that correct ones are compared with, as text, by pair
        clean_readout: log-odds and probability of the clean run
        corrupt_readout: those of the corrupt run
        whole: where an answer has several tokens, the runs with the correct answer given, and with its contrast given;
            None: both have one
    """

    clean_inputs: Inputs
    inputs: Inputs
    clean: Trace
    corrupt: Trace
    answers: list[Answers]
    contrasts: list[str]
    clean_readout: Readout
    corrupt_readout: Readout
    whole: tuple[WholeRuns, WholeRuns] | None = None

    @property
    def answer_ids(self) -> torch.Tensor:
        """First tokens (pair, 2) of the correct answer and of its contrast."""
        return first_ids(self.answers, self.clean.logits.device)


def runs_of_one(runs: PairRuns, row: int) -> PairRuns:
    """The runs of one pair of a batch, without the `calls` of their traces.

    Args:
        runs: of a batch of pairs
        row: number of the pair in it
    """
    n, one = len(runs.answers), slice(row, row + 1)

    def part(side: WholeRuns) -> WholeRuns:
        clean_inputs, inputs = (inputs_of_pair(given, row, n) for given in (side.clean_inputs, side.inputs))
        return WholeRuns(side.ids[one], clean_inputs, inputs, side.clean.rows(one), side.corrupt.rows(one))

    return PairRuns(
        inputs_of_pair(runs.clean_inputs, row, n),
        inputs_of_pair(runs.inputs, row, n),
        runs.clean.rows(one),
        runs.corrupt.rows(one),
        runs.answers[one],
        runs.contrasts[one],
        runs.clean_readout.rows(one),
        runs.corrupt_readout.rows(one),
        None if runs.whole is None else (part(runs.whole[0]), part(runs.whole[1])),
    )


def repeated_runs(runs: PairRuns, n: int) -> PairRuns:
    """The runs n times over, for `read_again`: inputs and answers of all pairs, and then those of all pairs again.

    Args:
        runs: of a batch of pairs
        n: how many times
    """

    def part(side: WholeRuns) -> WholeRuns:
        ids = WholeAnswer(side.ids.ids.repeat(n, 1))
        inputs = repeat_inputs(side.clean_inputs, n), repeat_inputs(side.inputs, n)
        return dataclasses.replace(side, ids=ids, clean_inputs=inputs[0], inputs=inputs[1])

    return dataclasses.replace(
        runs,
        clean_inputs=repeat_inputs(runs.clean_inputs, n),
        inputs=repeat_inputs(runs.inputs, n),
        answers=runs.answers * n,
        contrasts=runs.contrasts * n,
        whole=None if runs.whole is None else (part(runs.whole[0]), part(runs.whole[1])),
    )


def both_answers(model: VLM, runs: PairRuns) -> BothAnswers | None:
    """Both answers as a block of their own reads them from one and the same states of the prompt.

    Args:
        model: that ran
        runs: of a batch of pairs

    Returns:
        both answers; None where both have one token, or where the model has no such block
    """
    if runs.whole is None or not model.answers_apart:
        return None
    correct, contrast = runs.whole
    # What enters the block are the answer's tokens alone: it is the same in the clean and in the corrupt run.
    starts = [side.corrupt.layer_inputs[model.answer_block] for side in runs.whole]
    return BothAnswers(correct.ids, contrast.ids, (starts[0], starts[1]))
