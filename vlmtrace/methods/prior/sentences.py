"""What an answer owes to the image and to the words, in sentences that follow the tables."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import HEAD, check_columns
from vlmtrace.display.numbers import count, number, percent, small
from vlmtrace.display.sentences import amount, listed, picked_in_words, with_interval
from vlmtrace.display.wording import head_name

#: The false discovery rate of `head_sides`, unless another is asked for.
ALPHA = 0.05


@checked
def describe_log_odds(means: pd.DataFrame) -> str:
    """Say what the image and the words bring of the log-odds, for each kind of question.

    Args:
        means: from `log_odds_means`; with a column model, models are told apart

    Returns:
        one sentence per model, category and way to take the image away, or whatever the means are grouped by, in logits
        with 95 % intervals

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(means, ("category", "part", "n", "mean", "ci_low", "ci_high"), "means")
    said = []
    for group, rows in _groups(means, "part", ("category",)):
        parts = rows.set_index("part")
        told = [
            f"the {part} {'bring' if part == 'words' else 'brings'} {_logits(parts.loc[part])}"
            for part in ("image", "words")
            if part in parts.index
        ]
        misleads = "image" in parts.index and parts.loc["image", "ci_high"] < 0
        said.append(
            f"{group} ({count(int(rows['n'].max()), 'pair')}): {'; '.join(told)}"
            f"{'. The picture itself misleads' if misleads else ''}."
        )
    return "\n".join(said) or "No question was asked."


@checked
def describe_sides(sides: pd.DataFrame) -> str:
    """Say how many heads carry the image, the words or both, and which carries words alone.

    Args:
        sides: from `head_sides`; with a column model, models are told apart

    Returns:
        sentences, one a line; what heads bring back is in logits, means over units

    Raises:
        VlmtraceError: a column is missing
    """
    columns = (*HEAD, "image", "words", "side")
    check_columns(sides, columns, "sides")
    said = []
    if sides.empty:
        return "No head was patched."
    groups = sides.groupby(_model(sides), sort=False) if _model(sides) else [(("",), sides)]
    for (model,), rows in groups:
        counts = [f"{(rows['side'] == side).sum()} {said_of}" for side, said_of in _SIDES.items()]
        begin = f"{model}: of" if model else "Of"
        said.append(f"{begin} {amount(len(rows), 'head')} {listed(counts)}.")
        words = rows[rows["side"] == "words"].sort_values("words", ascending=False)
        if len(words):
            most = words.iloc[0]
            name = head_name(most["module"], most["layer"], most["head"])
            said.append(
                f"Of those that carry the words alone, {name} brings back most: "
                f"{picked_in_words(most['words'], 1, 'logits')}; for the image, {number(most['image'], 1)} logits."
            )
        n = int(rows["n_units"].iloc[0]) if "n_units" in rows else None
        if n is not None and (smallest := stats.smallest_mean_p(n)) >= ALPHA:
            said.append(
                f"Of {amount(n, 'independent pair')} no p-value is below {smallest:.2g}, so that no head could be told "
                "to carry anything: patch more pairs."
            )
    return "\n".join(said)


@checked
def describe_damping(damping: pd.DataFrame) -> str:
    """Say whether damping heads repairs more answers than it spoils, beside random heads.

    Args:
        damping: from `damping_table`; with a column model, models are told apart

    Returns:
        one sentence per group and factor; whether damping helps or does harm is what the sign test tells: whether more
        units got better than worse

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(damping, ("heads", "factor", "n", "better", "worse", "repaired", "spoiled", "p_value"), "damping")
    said = []
    for group, rows in _groups(damping, "heads", ("factor",)):
        for row in rows[rows["heads"] == "chosen"].to_dict("records"):
            random = rows[rows["heads"] == "random"]
            beside = ""
            if len(random):
                beside = (
                    f"; as many random heads: {percent(random['repaired'].mean())} and "
                    f"{percent(random['spoiled'].mean())}"
                )
            better = "helps" if row["better"] > row["worse"] else "does harm"
            verdict = "may be chance" if not row["p_value"] < 0.05 else better
            factor = f"{group}, factor" if group else "Factor"
            said.append(
                f"{factor} {row['factor']:g}, {count(int(row['n']), 'question')}: {percent(row['repaired'])} repaired, "
                f"{percent(row['spoiled'])} spoiled (units better {row['better']:.0f}, worse {row['worse']:.0f}, p = "
                f"{small(row['p_value'])}: it {verdict}){beside}."
            )
    return "\n".join(said) or "No head was damped."


#: Sides of `head_sides` as sentences count them.
_SIDES = {"image": "carry the image alone", "words": "the words alone", "both": "both", "neither": "neither"}


def _logits(part: pd.Series) -> str:
    return with_interval(part["mean"], part["ci_low"], part["ci_high"], 1, "logits")


def _model(table: pd.DataFrame) -> list[str]:
    return ["model"] if "model" in table else []


def _groups(table: pd.DataFrame, first: str, always: tuple[str, ...]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The groups that a table was averaged by, and their names.

    Args:
        table: whose columns before `first` are those of the groups
        first: the first column that is none of them
        always: further columns that rows are told apart by; of category, the name is always said
    """
    by = list(dict.fromkeys([*_model(table), *table.columns[: list(table.columns).index(first)], *always]))
    said = [name for name in by if name in ("model", "category") or (name != "factor" and table[name].nunique() > 1)]
    for key, rows in table.groupby(by, sort=False, observed=True):
        values = dict(zip(by, key, strict=True))
        yield ", ".join(str(values[name]) for name in said), rows
