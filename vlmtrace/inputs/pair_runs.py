"""The clean and the corrupt run of pairs, aligned position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs, token_mismatch
from vlmtrace.models import VLM, Inputs, Readout, Trace


@dataclass(frozen=True)
class PairRuns:
    """Clean and corrupt run of a batch of pairs whose inputs have equal shapes.

    Attributes:
        clean_inputs: of the clean run
        inputs: of the corrupt run, into which is patched
        clean: what the clean run left behind
        corrupt: what the corrupt run left behind
        answer_ids: (pair, 2), first tokens of the correct and of the incorrect answer
        clean_readout: probabilities and logit difference of the clean run
        corrupt_readout: those of the corrupt run
    """

    clean_inputs: Inputs
    inputs: Inputs
    clean: Trace
    corrupt: Trace
    answer_ids: torch.Tensor
    clean_readout: Readout
    corrupt_readout: Readout


def encode_pair(model: VLM, pairs: pd.DataFrame, row: int, corruption: str) -> tuple[Inputs, Inputs]:
    """Clean and corrupt inputs of one pair.

    Args:
        model: its processor makes the inputs
        pairs: a pairs table
        row: number of the pair in it
        corruption: "image" or "text"

    Returns:
        clean and corrupt inputs, of batch 1 and of equal shapes

    Raises:
        VlmtraceError: the two differ in shape
    """
    one = pairs.iloc[[row]]
    name = one["sample_id"].iloc[0]
    problem = token_mismatch(model, one.iloc[0])
    if problem:
        raise VlmtraceError(f"Pair {name!r}: {problem}")
    clean, corrupt = (run_inputs(model, one, run) for run in ("clean", corruption))
    for key in clean:
        if clean[key].shape != corrupt[key].shape:
            raise VlmtraceError(
                f"Pair {name!r}: clean and corrupt {key} differ in shape, {tuple(clean[key].shape)} and "
                f"{tuple(corrupt[key].shape)}: bring both images to the same size."
            )
    return clean, corrupt


def run_pairs(model: VLM, pairs: pd.DataFrame, encoded: Sequence[tuple[Inputs, Inputs]]) -> PairRuns:
    """Run a batch of pairs clean and corrupt, and keep what every layer gives.

    Args:
        model: the model
        pairs: the batch's rows of a pairs table
        encoded: from `encode_pair`, one per row, all of equal shapes

    Returns:
        both runs

    Raises:
        VlmtraceError: an answer does not start with a known token, or both answers of a pair start with the same one
    """
    clean_inputs, inputs = (
        {key: torch.cat([side[key] for side in sides]) for key in sides[0]} for sides in zip(*encoded, strict=True)
    )
    ids = model.answer_ids(list(pairs["correct_answer"]), list(pairs["incorrect_answer"]))
    clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    return PairRuns(
        clean_inputs,
        inputs,
        clean,
        corrupt,
        ids,
        Readout.of(clean.logits, ids),
        Readout.of(corrupt.logits, ids),
    )
