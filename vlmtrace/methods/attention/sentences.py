"""Where heads look, in sentences that follow the table of functions."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import HEAD, check_columns
from vlmtrace.display.numbers import number
from vlmtrace.display.sentences import amount, heads_listed, picked_in_words
from vlmtrace.display.wording import head_name


@checked
def describe_functions(functions: pd.DataFrame, heads: pd.DataFrame | None = None) -> str:
    """Say which function each head has, which head looks at the object most, and what the heads do to the answer.

    Args:
        functions: from `head_functions`
        heads: from `circuits.head_table`; None: nothing is said of effects

    Returns:
        sentences, one a line

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(functions, (*HEAD, "region", "ratio", "function"), "functions")
    on_object = functions[functions["region"] == "object"]
    if on_object.empty:
        return "No head was scored."
    said = []
    for function, rows in on_object.groupby("function", sort=True):
        named = rows.sort_values("ratio", ascending=False)
        of = f"{len(rows)} of {amount(len(on_object), 'head')}"
        what = "No function" if function == "none" else f"{str(function)[0].upper()}{str(function)[1:]}"
        said.append(f"{what}: {of}." if function == "none" else f"{what}: {of}, {heads_listed(named)}.")
    most = on_object.loc[on_object["ratio"].idxmax()]
    said.append(
        f"The head that gives the object most is {head_name(most['module'], most['layer'], most['head'])}: "
        f"{picked_in_words(most['ratio'], 1, 'times what an even spread would')}."
    )
    if heads is not None:
        check_columns(heads, (*HEAD, "mean_effect"), "heads")
        effect = heads.groupby(HEAD)["mean_effect"].mean().rename("effect").reset_index()
        both = on_object.merge(effect, on=HEAD)
        ranks = both[["ratio", "effect"]].corr("spearman").iloc[0, 1] if len(both) > 2 else float("nan")
        if pd.notna(ranks):
            said.append(
                f"Over {len(both)} heads, looking at the object and mean effect have rank correlation {number(ranks)}."
            )
    return "\n".join(said)
