"""The clean and the corrupt run of pairs."""

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
    """Clean and corrupt run of a group of pairs of equal length."""

    clean_inputs: Inputs
    inputs: Inputs
    clean: Trace
    corrupt: Trace
    answer_ids: torch.Tensor
    clean_readout: Readout
    corrupt_readout: Readout


def encode_pair(model: VLM, pairs: pd.DataFrame, row: int, corruption: str) -> tuple[Inputs, Inputs]:
    """Clean and corrupt inputs of one pair (batch 1), aligned position by position.

    Raises:
        VlmtraceError: the two runs do not have the same shape
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
