"""What the lens shows, in sentences that follow the tables."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import count, number, percent
from vlmtrace.display.sentences import amount, listed, mean_of, picked_in_words, with_interval
from vlmtrace.display.wording import readable
from vlmtrace.methods.lens.depths import output_layer

#: Measures of `map_table` as sentences say them, and whether more is better.
_MEASURES = {"auc": ("Pointing", True), "deletion": ("Deletion", False), "insertion": ("Insertion", True)}

#: Places of `word_layers` as sentences say them.
_PLACES = {
    "object": "the object's image tokens",
    "elsewhere": "the other image tokens",
    "answer": "the positions that predict the answer",
}

#: How many of the strongest heads are added up.
_FEW = 3


@checked
def describe_contributions(contributions: pd.DataFrame) -> str:
    """Say which module of which layer adds most to the answer, which heads do, and how much few of them hold.

    Args:
        contributions: from `lens_contributions`

    Returns:
        sentences, one a line; contributions are in nats, means over units

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(contributions, ("sample_id", "module", "layer", "head", "log_p_increase"), "lens_contributions")
    of_heads = contributions[contributions["head"].notna()]
    whole = contributions[contributions["head"].isna()]
    if whole.empty or of_heads.empty:
        return "No contribution was measured."
    means = whole.groupby(["module", "layer"], observed=True)["log_p_increase"].mean()
    module, layer = means.idxmax()
    rows = whole[(whole["module"] == module) & (whole["layer"] == layer)]
    heads = of_heads.groupby(["layer", "head"], observed=True)["log_p_increase"].mean().sort_values(ascending=False)
    first = of_heads[(of_heads["layer"] == heads.index[0][0]) & (of_heads["head"] == heads.index[0][1])]
    positive = heads[heads > 0]
    said = [
        f"The module that adds most is the {readable(module)} of layer {layer}: {_most(rows)}.",
        f"The head that adds most is {heads.index[0][0]}.{heads.index[0][1]}: {_most(first)}.",
    ]
    if len(positive) > _FEW:
        share = positive.iloc[:_FEW].sum() / positive.sum()
        names = listed([f"{layer}.{head}" for layer, head in positive.index[:_FEW]])
        said.append(
            f"Heads {names} hold {percent(share)} of all positive contributions of {amount(len(heads), 'head')}; if "
            f"all {len(positive)} positive ones were equal, {_FEW} would hold {percent(_FEW / len(positive))}."
        )
    return "\n".join(said)


@checked
def describe_maps(maps: pd.DataFrame) -> str:
    """Say which map is best by each measure, and which differ surely from the map of the lens.

    Args:
        maps: from `map_table`

    Returns:
        one sentence per measure

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(maps, ("measure", "method", "n", "mean", "verdict"), "maps")
    said = []
    for measure, rows in maps.groupby("measure", sort=False):
        known = rows.dropna(subset="mean")
        if known.empty:
            said.append(f"{_MEASURES[str(measure)][0]}: no map could be scored.")
            continue
        name, more = _MEASURES[str(measure)]
        best = known.loc[known["mean"].idxmax() if more else known["mean"].idxmin()]
        unlike = {word: list(known.loc[known["verdict"] == word, "method"]) for word in ("better", "worse")}
        sure = [f"surely {word} than lens: {listed(names, 6)}" for word, names in unlike.items() if names]
        direction = f"{'higher' if more else 'lower'} is better, {count(int(best['n']), 'question')}"
        score = picked_in_words(best["mean"], on="questions")
        unlike_lens = "; ".join(sure) or "no map differs surely from lens"
        said.append(f"{name} ({direction}): best is {best['method']} with {score}; {unlike_lens}.")
    return "\n".join(said) or "No map was scored."


@checked
def describe_words(patch_words: pd.DataFrame) -> str:
    """Say in which layer the right word is read most often, at the object's tokens and elsewhere.

    Args:
        patch_words: from `word_layers`

    Returns:
        one sentence per way to read and place

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(patch_words, ("sample_id", "through", "layer", "place", "share"), "patch_words")
    said, out = [], output_layer(patch_words)
    for (through, place), rows in patch_words.dropna(subset="share").groupby(["through", "place"], sort=False):
        by_layer = rows.groupby("layer")["share"].mean()
        most, first = by_layer.idxmax(), by_layer.index.min()
        begin = f"Read through the {through}, the right word is among the first at {percent(by_layer[first])} of "
        begin += f"{_PLACES.get(str(place), str(place))} at {_depth(first, out)}"
        later = f", and at most at {percent(by_layer[most])}, at {_depth(most, out)}"
        said.append(f"{begin}{', and nowhere at more' if most == first else later}.")
    return "\n".join(said) or "No word was read."


@checked
def describe_shared_heads(lost: pd.DataFrame, head_agreement: pd.DataFrame) -> str:
    """Say whether the same heads answer from images and from sentences, and whether the answer needs them.

    Args:
        lost: from `ablation_table`
        head_agreement: from `agreement`

    Returns:
        sentences, one a line; losses are in log-odds, means over questions with 95 % intervals

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(head_agreement, ("compared", "spearman", "ceiling", "k", "shared", "shared_by_chance"), "agreement")
    check_columns(lost, ("run", "heads", "log_odds_change", "low", "high", "p_before", "p"), "lost")
    said = []
    for row in head_agreement[head_agreement["compared"] == "visual, textual"].to_dict("records"):
        said.append(
            f"From images and from sentences, mean contributions of heads have rank correlation "
            f"{number(row['spearman'])} ({number(row['ceiling'])} is to be expected where the same heads do the same, "
            f"since means are noisy); {row['shared']:.0f} of the {row['k']} strongest heads are the same "
            f"({number(row['shared_by_chance'], 1)} by chance)."
        )
    for run, rows in lost.groupby("run", sort=False):
        by_set = rows.set_index("heads")
        if not {"chosen", "chosen − random"} <= set(by_set.index):
            continue
        chosen, more = by_set.loc["chosen"], by_set.loc["chosen − random"]
        said.append(
            f"In the {run} run, without these heads the answer's log-odds change by "
            f"{with_interval(chosen['log_odds_change'], chosen['low'], chosen['high'], 1)}, against random heads by "
            f"{with_interval(more['log_odds_change'], more['low'], more['high'], 1)}; its probability goes from "
            f"{number(chosen['p_before'])} to {number(chosen['p'])}."
        )
    return "\n".join(said) or "No head was ablated."


def _depth(layer: int, out: int | None) -> str:
    return "the output of the last layer" if layer == out else f"the input of layer {layer}"


def _most(rows: pd.DataFrame) -> str:
    """What the largest of many contributions is."""
    mean, *_ = mean_of(rows, "log_p_increase")
    return picked_in_words(mean, unit="nats", on="questions")
