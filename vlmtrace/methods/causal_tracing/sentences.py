"""What noise destroys and which states restore it, in sentences that follow the tables."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from vlmtrace.core.arguments import Natural, NotNegative, checked
from vlmtrace.core.schema import UNIT, check_columns
from vlmtrace.display.numbers import count, number, percent
from vlmtrace.display.sentences import picked_in_words, role_in_words
from vlmtrace.display.wording import readable
from vlmtrace.methods.causal_tracing.noise import first_token_means
from vlmtrace.methods.causal_tracing.summary import average_effects

#: Mean indirect effects below this size are not told as findings.
_LEAST = 0.02


@checked
def describe_noise(curve: pd.DataFrame, level: NotNegative) -> str:
    """Say what noise of one level leaves of the answer.

    Args:
        curve: from `noise_curve`
        level: in standard deviations; the nearest level of the curve is told

    Returns:
        one sentence

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(curve, ("sample_id", "level", "step", "p_answer", "still_answers"), "noise_curve")
    first = curve[curve["step"] == 0]
    if first.empty:
        return "No question was asked under noise."
    values = ["p_answer", "still_answers"]
    means = first_token_means(first, ["level"], values).groupby("level")[values].mean()
    nearest = min(means.index, key=lambda known: abs(known - level))
    without, left = means.loc[means.index.min()], means.loc[nearest]
    return (
        f"Over {questions_in_words(first)}, noise of level {nearest:g} lowers the answer's mean "
        f"probability from {number(without['p_answer'])} to {number(left['p_answer'])}; in "
        f"{percent(left['still_answers'])} of the draws it remains the most likely answer."
    )


@checked
def describe_trace(causal_tracing: pd.DataFrame, step: Natural = 0) -> str:
    """Say of every block and module which site restores most of the answer.

    The site is the one with the largest mean effect of all that were tried, on the questions that the mean is of.

    Args:
        causal_tracing: from `causal_trace`, of one question or of many
        step: which token of the answer, counted from 0

    Returns:
        sentences, one a line; effects are differences of probability, means over questions

    Raises:
        VlmtraceError: a column is missing
    """
    columns = ("step", "sample_id", "block", "module", "layer", "token_role", "indirect_effect")
    check_columns(causal_tracing, columns, "causal_tracing")
    means = average_effects(causal_tracing[causal_tracing["step"] == step])
    said = []
    for (block, module), rows in means.groupby(["block", "module"], sort=False, observed=True):
        most = rows.loc[rows["mean"].idxmax()]
        name = "residual stream" if module == "residual" else readable(module)
        if most["mean"] < _LEAST:
            said.append(f"- {name} of the {readable(block)}: no site restores {_LEAST:g}.")
            continue
        single = most["n"] == 1
        effect = number(most["mean"]) if single else picked_in_words(most["mean"], on="questions")
        said.append(
            f"- {name} of the {readable(block)}: most at {role_in_words(most['token_role'])} in layer {most['layer']}, "
            f"{effect}."
        )
    n = questions_in_words(causal_tracing)
    return (
        "\n".join([f"Answer token {step + 1}, {n}:", *said])
        if said
        else f"No site of answer token {step + 1} was traced."
    )


def questions_in_words(table: pd.DataFrame, write: Callable[[int, str], str] = count) -> str:
    """How many questions a table has, and of how many units (about one image) they are where these are fewer.

    Args:
        table: with the column sample_id, and unit if the questions have it
        write: makes words of a number and what is counted
    """
    n = table["sample_id"].nunique()
    units = table[UNIT].nunique() if UNIT in table else n
    return write(n, "question") + (f" in {write(units, 'unit')}" if units < n else "")
