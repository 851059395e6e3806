"""The pairs worth patching: those whose three runs do what a minimal pair asks of them, balanced."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import Count, Seed, Share, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES, UNIT, check_columns
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.inputs.units import with_units

#: Column of the selected table: heads are found on "discover" pairs and tested on "verify" pairs.
USE = "split_use"

#: Columns that must be true for a pair to be eligible, as far as the corruption was evaluated.
CRITERIA = ("is_correct", "image_is_flipped", "text_is_changed")

#: Selected pairs are balanced over the combinations of these columns.
STRATUM = ["category", "correct_first"]

#: Logits by which clean and corrupt logit difference must differ. Effects are shares of this gap: where it is close
#: to 0 they can be arbitrarily large, and a single such pair would dominate the mean.
MIN_GAP = 1.0


@checked
def eligible(evaluated: pd.DataFrame) -> pd.Series:
    """Say which pairs are right when clean, flip under the corrupt image, and lose the answer under the corrupt prompt.

    Under each corruption that was evaluated the clean logit difference must also exceed the corrupt one by `MIN_GAP`.

    Args:
        evaluated: from `evaluate`

    Returns:
        bool, one value per row of `evaluated`

    Raises:
        VlmtraceError: a column is missing, or is not of true and false
    """
    measured = [name for name in ("image", "text") if f"{name}_logit_diff" in evaluated]
    needed = (*STRATUM, "sample_id", "is_correct", *(["clean_logit_diff"] if measured else []))
    check_columns(evaluated, needed, "evaluated")
    for column in CRITERIA:
        fault = TABLES["evaluated"].column(column).fault(evaluated[column]) if column in evaluated else ""
        if fault:  # "False" as text would be true
            raise VlmtraceError(f"The column {column!r} of the evaluated table {fault}: correct it.")
    # What is missing was not asked for: a pair of images alone has no text corruption.
    present = [
        evaluated[column].map(lambda met: pd.isna(met) or bool(met)).astype(bool)
        for column in CRITERIA
        if column in evaluated
    ]
    # By corruption, the clean logit difference against the same answer as the corrupt one.
    clean = {"image": "clean_logit_diff", "text": "clean_text_logit_diff"}
    gaps = [
        (evaluated[column if column in evaluated else "clean_logit_diff"] - evaluated[f"{name}_logit_diff"] >= MIN_GAP)
        | evaluated[f"{name}_logit_diff"].isna()
        for name, column in clean.items()
        if f"{name}_logit_diff" in evaluated
    ]
    return pd.concat([*present, *gaps], axis=1).all(axis=1)


@checked
def select_samples(
    evaluated: pd.DataFrame, per_category: Count | None = None, seed: Seed = 0, verify_share: Share = 0.5
) -> pd.DataFrame:
    """Draw the pairs worth patching, without replacement, equally many from every category × option order.

    A pair is eligible if the clean answer is correct, each evaluated corruption changes it as a minimal pair promises,
    and clean and corrupt logit difference differ by at least one logit. Pairs of one unit (which share an image, or
    mirror each other) are all on the same side of the split: what was found on a pair is no test of its mirror image.

    Args:
        evaluated: from `evaluate`; without a column unit, units are computed by `vlmtrace.inputs.with_units`
        per_category: pairs wanted from each category, half of them with the correct option first; None: as many as
            the smallest category × order with any eligible pair offers, so that the selection is balanced
        seed: of the draw; the same seed gives the same pairs
        verify_share: share of each category × order, 0 to 1, that is kept back to test what is found on the rest

    Returns:
        the selected table: the drawn rows of `evaluated`, in its order, with the column split_use: "discover" (to find
        heads on) or "verify" (to test them on)

    Raises:
        VlmtraceError: a column is missing, no pair is eligible, or per_category is below 2

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=4))
        >>> selected = vt.select_samples(evaluated, per_category=2)
        >>> selected["split_use"].value_counts().to_dict()
        {'verify': 2, 'discover': 2}
    """
    if per_category is not None and per_category < 2:
        raise VlmtraceError(f"per_category={per_category} leaves no pair for each option order: ask for at least 2.")
    evaluated = with_units(evaluated).reset_index(drop=True)  # rows are drawn by their number, whatever their labels
    pool = evaluated[eligible(evaluated)]
    if evaluated.empty:
        raise VlmtraceError("The evaluated table has no rows: evaluate pairs that the model can take.")
    if pool.empty:
        met = {name: evaluated[name].dropna() for name in CRITERIA if name in evaluated}
        shares = ", ".join(f"{name} {known.mean():.0%}" for name, known in met.items() if len(known))
        raise VlmtraceError(
            f"No pair is left after selection ({len(evaluated)} evaluated; {shares}): use another model, another task, "
            "or more samples."
        )
    strata = pool.groupby(STRATUM, sort=True)
    wanted = int(strata.size().min()) if per_category is None else per_category // 2
    generator = np.random.default_rng(seed)
    chosen: dict[int, str] = {}
    sides: dict[str, str] = {}  # unit -> the side of the split that all its pairs are on
    carried = 0.0
    for _, stratum in strata:
        drawn = generator.permutation(stratum.index)[:wanted]
        n_verify = int(len(drawn) * verify_share)
        if len(drawn) == 1:
            # A single pair cannot be split: such strata take turns, or none would be left to verify on.
            carried += verify_share
            n_verify = int(carried)
            carried -= n_verify
        chosen |= _split(pool.loc[drawn, UNIT], n_verify, sides)
    selected = evaluated.loc[sorted(chosen)]
    selected = selected.assign(**{USE: [chosen[row] for row in selected.index]}).reset_index(drop=True)
    _warn_of_empty_side(selected, verify_share)
    return selected


def _split(units: pd.Series, n_verify: int, sides: dict[str, str]) -> dict[int, str]:
    """The side of each pair of a stratum: all pairs of a unit are on one; about `n_verify` pairs are kept to verify on.

    Args:
        units: of the stratum's pairs, in the order in which they were drawn
        n_verify: pairs to keep
        sides: by unit, what other strata have decided; those of new units are added
    """
    n_verify -= int((units.map(sides.get) == "verify").sum())
    for unit in units.drop_duplicates():
        if unit not in sides:
            size = int((units == unit).sum())
            # A unit that overshoots by more than it falls short would make the sides less equal than without it.
            sides[unit] = "verify" if n_verify > 0 and size <= 2 * n_verify else "discover"
            n_verify -= size if sides[unit] == "verify" else 0
    return units.map(sides).to_dict()


def _warn_of_empty_side(selected: pd.DataFrame, verify_share: float) -> None:
    """Say it if pairs hang together so much that all of them are on one side of the split."""
    if selected[USE].nunique() < 2 and 0 < verify_share < 1 and len(selected) > 1:
        warn(
            f"All {len(selected)} selected pairs are to {selected[USE].iloc[0]}: they form {selected[UNIT].nunique()} "
            "units (pairs that share an image belong together), too few to split. Use pairs with images of their own."
        )


@checked
def selection_table(evaluated: pd.DataFrame, selected: pd.DataFrame, per_category: Count | None = None) -> pd.DataFrame:
    """Count how many pairs there were, and how many were eligible, wanted and selected.

    Args:
        evaluated: from `evaluate`
        selected: from `select_samples`
        per_category: as it was given to `select_samples`

    Returns:
        columns category, correct_first, available, eligible, wanted, got, discover, verify and with_text (numbers of
        pairs; the last one counts those got that have text corruption, too, and is there where the table holds both
        prompts); one row per category × option order

    Raises:
        VlmtraceError: a column is missing

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=4))
        >>> counts = vt.selection_table(evaluated, vt.select_samples(evaluated))
        >>> counts[["available", "eligible", "got"]].sum().to_dict()
        {'available': 4, 'eligible': 4, 'got': 4}
    """
    if USE not in selected:
        raise VlmtraceError(f"The selected table has no column {USE!r}: make it with vt.select_samples.")
    check_columns(selected, STRATUM, "selected")
    flags = evaluated.assign(eligible=eligible(evaluated))
    table = flags.groupby(STRATUM, sort=True).agg(available=("sample_id", "size"), eligible=("eligible", "sum"))
    got = selected.groupby([*STRATUM, USE]).size().unstack(USE, fill_value=0)
    got = got.reindex(index=table.index, columns=["discover", "verify"], fill_value=0)
    offered = table["eligible"][table["eligible"] > 0]
    table["wanted"] = int(offered.min()) if per_category is None else per_category // 2
    table["got"] = got.sum(axis=1)
    table = table.join(got)
    if {"clean_prompt", "corrupt_prompt"} <= set(selected):
        with_text = selected[~images_alone(selected)].groupby(STRATUM).size()
        table["with_text"] = with_text.reindex(table.index, fill_value=0)
    return table.reset_index().astype({"eligible": int})
