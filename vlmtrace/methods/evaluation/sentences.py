"""What the model answers and which pairs are kept, in sentences that follow the tables."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import interval, number, percent
from vlmtrace.display.sentences import amount, listed
from vlmtrace.methods.evaluation.answers import accuracy_table

#: Measures of `accuracy_table` as sentences say them.
_MEASURES = {
    "clean": "right on the clean image",
    "image_flipped": "the other option on the corrupt image",
    "both_sides": "right on both images",
    "text_changed": "another answer to the corrupt prompt",
}

#: The gap, in logits, below which effects divide by next to nothing; see `select_samples`.
_GAP = 1.0

_RUNS = {
    "image": ("clean_logit_diff", "image_logit_diff"),
    "text": ("clean_text_logit_diff", "text_logit_diff"),
}


@checked
def describe_answers(evaluated: pd.DataFrame) -> str:
    """Say how often the model answers as it should, of which kind of question it answers least, and in which order.

    Args:
        evaluated: from `evaluate`

    Returns:
        sentences, one a line; shares with Wilson's 95 % intervals, but for those of the kinds of question that are
        answered least and most often, which were picked on these pairs

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(evaluated, ("task", "category", "correct_first", "is_correct"), "evaluated")
    if evaluated.empty:
        return "No pair was evaluated."
    overall = accuracy_table(evaluated.assign(all="all"), by=("all",)).set_index("measure")
    said = [
        f"{text[0].upper()}{text[1:]}: {_share(overall.loc[name])} of {amount(int(overall.loc[name, 'n']), 'pair')}."
        for name, text in _MEASURES.items()
        if name in overall.index
    ]
    measure = "both_sides" if "both_sides" in overall.index else "clean"
    kinds = accuracy_table(evaluated, by=("category",))
    kinds = kinds[kinds["measure"] == measure].sort_values("accuracy", kind="stable")
    if len(kinds) > 1:
        low, high = kinds.iloc[0], kinds.iloc[-1]
        least = f"{_MEASURES[measure].capitalize()}: least often for {low['category']}, {percent(low['accuracy'])}"
        most = f"most often for {high['category']}, {percent(high['accuracy'])} (picked on these pairs"
        most += f"{'' if low['ci_high'] < high['ci_low'] else '; their intervals overlap'})"
        as_often = low["accuracy"] == high["accuracy"]
        said.append("No kind of question is answered less often than another." if as_often else f"{least}, {most}.")
    orders = accuracy_table(evaluated, by=("correct_first",))
    orders = orders[orders["measure"] == measure].set_index("correct_first")
    if len(orders) == 2:
        first, second = orders.loc[True], orders.loc[False]
        low, high = sorted((first, second), key=lambda row: row["accuracy"])
        said.append(
            f"With the correct option first {_share(first)}, with the incorrect one first {_share(second)}"
            f"{_apart(low, high)}."
        )
    return "\n".join(said)


@checked
def describe_gaps(evaluated: pd.DataFrame) -> str:
    """Say how large the gap between clean and corrupt runs is, of which every patching effect is a share.

    Args:
        evaluated: from `evaluate`

    Returns:
        one sentence per corruption that was evaluated

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(evaluated, ("sample_id",), "evaluated")
    said = []
    for corruption, (clean, corrupt) in _RUNS.items():
        if not {clean, corrupt} <= set(evaluated):
            continue
        runs = evaluated[[clean, corrupt]].dropna().astype(float)
        if runs.empty:
            said.append(f"{corruption.capitalize()} corruption: no pair has both runs.")
            continue
        gap = runs[clean] - runs[corrupt]
        said.append(
            f"{corruption.capitalize()} corruption: the logit difference falls by {number(gap.median(), 1)} in the "
            f"median pair (from {number(runs[clean].median(), 1)} to {number(runs[corrupt].median(), 1)}); in "
            f"{(gap < _GAP).sum()} of {amount(len(gap), 'pair')} by less than {_GAP:g}."
        )
    return "\n".join(said) or "No corruption was evaluated."


@checked
def describe_selection(counts: pd.DataFrame) -> str:
    """Say how many pairs were kept, what limits their number, and where pairs are lacking.

    Args:
        counts: from `selection_table`

    Returns:
        sentences, one a line

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(
        counts, ("category", "correct_first", "available", "eligible", "wanted", "got", "with_text"), "counts"
    )
    if counts.empty:
        return "There was no pair to select from."
    sums = counts[["available", "eligible", "wanted", "got", "with_text"]].sum()
    said = [
        f"{sums['eligible']} of {amount(int(sums['available']), 'pair')} are answered as the rule requires "
        f"({percent(sums['eligible'] / max(1, sums['available']))}); {sums['got']} are kept of {sums['wanted']} "
        f"wanted, {sums['with_text']} of them with text corruption."
    ]
    fewest = counts.loc[counts["eligible"].idxmin()]
    order = "correct" if fewest["correct_first"] else "incorrect"
    said.append(
        f"Fewest are eligible for {fewest['category']} with the {order} option first: {fewest['eligible']} of "
        f"{fewest['available']}."
    )
    short = counts[counts["got"] < counts["wanted"]]
    if len(short):
        names = [f"{row.category} ({row.got} of {row.wanted})" for row in short.itertuples()]
        said.append(f"Too few pairs: {listed(names, at_most=6)}.")
    else:
        said.append("No kind of question has too few pairs.")
    return "\n".join(said)


def _share(row: pd.Series) -> str:
    low, high = (100 * row[name] for name in ("ci_low", "ci_high"))
    return f"{percent(row['accuracy'])} {interval(low, high, 0)}"


def _apart(low: pd.Series, high: pd.Series) -> str:
    """Whether the intervals of two shares, the lower one first, overlap."""
    return "" if low["ci_high"] < high["ci_low"] else " (the intervals overlap)"
