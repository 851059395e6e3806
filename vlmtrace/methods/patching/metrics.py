"""What a patch did, as a number, and the rows that say it.

LD = logit(correct) − logit(contrast) at the first answer position, or the difference of the log-probabilities of two
whole answers (see `vlmtrace.inputs.answers`). A logit difference is linear in the logits, so that effects of several
causes add up; a probability is not. Shapes: B pairs of a batch, N patches.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import UNIT
from vlmtrace.inputs.batching import Positions
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.models import Patches

#: Clean and corrupt logit differences closer than this have no contrast that an effect could be a share of.
SMALLEST_GAP = 1e-6


@checked
def patching_effect(patched: ArrayLike, clean: ArrayLike, corrupt: ArrayLike) -> NDArray[np.float64]:
    """Share of the clean-corrupt gap that a patch closes: (LD_patched − LD_corrupt) / (LD_clean − LD_corrupt).

    0: the patch did nothing; 1: it restored the clean answer in full; negative: it made things worse. This is the
    normalized logit difference that Zhang and Nanda 2024 (https://arxiv.org/abs/2309.16042) recommend.

    Args:
        patched: logit difference of the patched run, of any shape
        clean: of the clean run; broadcasts against `patched`
        corrupt: of the corrupt run; broadcasts against `patched`

    Returns:
        the shares, of the shape that the arguments broadcast to; missing (NaN) where clean and corrupt do not differ

    Example:
        >>> from vlmtrace.methods.patching import patching_effect
        >>> patching_effect([0.0, 1.0, 3.0], clean=2.0, corrupt=0.0).tolist()
        [0.0, 0.5, 1.5]
        >>> float(patching_effect(1.0, clean=2.0, corrupt=2.0))
        nan
    """
    patched, clean, corrupt = (np.asarray(value, dtype=np.float64) for value in (patched, clean, corrupt))
    gap = clean - corrupt
    usable = np.abs(gap) > SMALLEST_GAP
    with np.errstate(invalid="ignore"):
        return np.where(usable, (patched - corrupt) / np.where(usable, gap, 1.0), np.nan)[()]


def effect_table(
    pairs: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    patches: Patches,
    roles: pd.DataFrame,
    logit_diff: np.ndarray,
    p_correct: np.ndarray,
) -> pd.DataFrame:
    """Make the rows of a head_patching table (module_patching: drop head) for a batch and its patches of one block.

    Args:
        pairs: the pairs of the batch
        runs: their clean and corrupt runs
        corruption: of the corrupt runs
        patches: from `site_patches` or `region_patches`
        roles: the pairs' token tables at the patched positions, one pair after the other
        logit_diff: (pair, patch), LD of the patched runs
        p_correct: (pair, patch), probability of the correct answer in the patched runs

    Returns:
        one row per pair and patch, with the columns of head_patching
    """
    n_pairs, n_patches = logit_diff.shape
    corrupt_p = runs.corrupt_readout.p_correct.cpu().numpy()[:, None]  # (B, 1)
    clean_ld, corrupt_ld = (r.logit_diff.cpu().numpy()[:, None] for r in (runs.clean_readout, runs.corrupt_readout))

    def of_position(column: str) -> np.ndarray:
        by_pair = roles[column].to_numpy().reshape(n_pairs, -1)  # (B, patched positions)
        return np.tile(by_pair, (1, n_patches // by_pair.shape[1])).ravel()

    units = {UNIT: np.repeat(pairs[UNIT].to_numpy(), n_patches)} if UNIT in pairs else {}
    return pd.DataFrame(
        {
            "sample_id": np.repeat(pairs["sample_id"].to_numpy(), n_patches),
            **units,
            "corruption": corruption,
            "block": patches.block,
            "module": patches.modules * n_pairs,
            "layer": patches.layers * n_pairs,
            "head": patches.heads * n_pairs,
            "position": of_position("position"),
            "token": of_position("token"),
            "token_role": of_position("token_role"),
            "p_correct": p_correct.ravel(),
            "p_diff": (p_correct - corrupt_p).ravel(),
            "logit_diff": (logit_diff - corrupt_ld).ravel(),
            "patching_effect": patching_effect(logit_diff, clean_ld, corrupt_ld).ravel(),
            "contrast_token": np.repeat(np.array(runs.contrasts, dtype=object), n_patches),
        }
    )


def concat_in_order(pairs: pd.DataFrame, tables: list[pd.DataFrame], positions: Positions) -> pd.DataFrame:
    """Join tables of batches into one, in the order of the pairs.

    Args:
        pairs: a pairs table
        tables: each of some of the pairs, with the column sample_id
        positions: what was asked for, to say so where there is no table

    Returns:
        one table; rows of a pair keep their order

    Raises:
        VlmtraceError: no pair has any of the positions
    """
    if not tables:
        raise VlmtraceError(
            f"No position matches {positions!r}: choose 'all', 'text', token roles of the prompts, or indices."
        )
    order = {sample: i for i, sample in enumerate(pairs["sample_id"])}
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values("sample_id", key=lambda column: column.map(order), kind="stable", ignore_index=True)
