"""The pairs worth patching: those whose three runs do what a minimal pair asks of them, balanced."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns

#: Column of the selected table: heads are found on "discover" pairs and proven on "verify" pairs.
USE = "split_use"

#: Columns that must be true for a pair to be eligible, as far as the corruption was evaluated.
CRITERIA = ("is_correct", "image_is_flipped", "text_is_changed")

STRATUM = ["category", "correct_first"]

#: Logits by which clean and corrupt logit difference must differ. Effects are shares of this gap: where it is next to
#: nothing, they are next to anything, and a single such pair would drown a mean over all others.
MIN_GAP = 1.0


def eligible(evaluated: pd.DataFrame) -> pd.Series:
    """Which pairs are right when clean, flip under the corrupt image, and lose the answer under the corrupt prompt.

    Under each corruption the clean logit difference must also exceed the corrupt one by `MIN_GAP`.
    """
    check_columns(evaluated, (*STRATUM, "sample_id", "is_correct"), "evaluated")
    present = [column for column in CRITERIA if column in evaluated.columns]
    corrupt = [name for name in evaluated.columns if name.endswith("_logit_diff") and name != "clean_logit_diff"]
    gaps = [evaluated["clean_logit_diff"] - evaluated[name] >= MIN_GAP for name in corrupt]
    return pd.concat([evaluated[present], *gaps], axis=1).all(axis=1)


def select_samples(
    evaluated: pd.DataFrame, per_category: int | None = None, seed: int = 0, verify_share: float = 0.5
) -> pd.DataFrame:
    """Draw eligible pairs without replacement, equally many from every category × option order.

    Args:
        evaluated: what `evaluate` returned
        per_category: pairs wanted from each category, half of them with the correct option first; None: as many as
            the scarcest category × order that has any offers, so that the selection is balanced
        verify_share: share of each cell that is kept back to verify what was found on the rest
    Returns:
        the drawn rows, in the order of `evaluated`, with the column split_use: "discover" or "verify"
    Raises:
        VlmtraceError: no pair is eligible, or per_category is below 2
    """
    if per_category is not None and per_category < 2:
        raise VlmtraceError(f"per_category={per_category} leaves no pair for each option order: ask for at least 2.")
    pool = evaluated[eligible(evaluated)]
    if pool.empty:
        shares = ", ".join(f"{name} {evaluated[name].mean():.0%}" for name in CRITERIA if name in evaluated)
        raise VlmtraceError(
            f"No pair is left after selection ({len(evaluated)} evaluated; {shares}): use another model, another task, "
            "or more samples."
        )
    cells = pool.groupby(STRATUM, sort=True)
    wanted = int(cells.size().min()) if per_category is None else per_category // 2
    generator = np.random.default_rng(seed)
    chosen: dict[int, str] = {}
    carried = 0.0
    for _, cell in cells:
        drawn = generator.permutation(cell.index)[:wanted]
        n_verify = int(len(drawn) * verify_share)
        if len(drawn) == 1:
            # A single pair cannot be split: such cells take turns, or none would be left to verify on.
            carried += verify_share
            n_verify = int(carried)
            carried -= n_verify
        chosen |= {row: "verify" if i < n_verify else "discover" for i, row in enumerate(drawn)}
    selected = evaluated.loc[sorted(chosen)]
    return selected.assign(**{USE: [chosen[row] for row in selected.index]}).reset_index(drop=True)


def selection_table(evaluated: pd.DataFrame, selected: pd.DataFrame, per_category: int | None = None) -> pd.DataFrame:
    """How many pairs there were, how many were eligible, wanted and got, for each category × option order.

    Returns:
        columns category, correct_first, available, eligible, wanted, got, discover, verify
    """
    flags = evaluated.assign(eligible=eligible(evaluated))
    table = flags.groupby(STRATUM, sort=True).agg(available=("sample_id", "size"), eligible=("eligible", "sum"))
    got = selected.groupby([*STRATUM, USE]).size().unstack(USE, fill_value=0)
    got = got.reindex(index=table.index, columns=["discover", "verify"], fill_value=0)
    offered = table["eligible"][table["eligible"] > 0]
    table["wanted"] = int(offered.min()) if per_category is None else per_category // 2
    table["got"] = got.sum(axis=1)
    return table.join(got).reset_index().astype({"eligible": int})
