"""What patching found, in sentences that follow the tables."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import count, number
from vlmtrace.display.sentences import mean_in_words, mean_of, picked_in_words, role_in_words, with_interval
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.patching.directions import compare_directions, direction_sums

#: The column of selected pairs that says which of them choose a site, and which measure it.
_USE = "split_use"

_SITE = ["block", "module", "layer", "token_role"]

#: Mean effects below this size are not told as findings; that of `head_table`.
_LEAST = 0.02


@checked
def describe_sites(module_patching: pd.DataFrame, pairs: pd.DataFrame | None = None) -> str:
    """Say of every module where patching it does most, and how much.

    A site is a layer and a token role. The one with the largest mean effect on the discover pairs is chosen, and its
    effect on the verify pairs is told, since the largest of many numbers is too large on the pairs that chose it.

    Args:
        module_patching: from `patch_modules`, of one task; blocks of which the sentences are to speak
        pairs: the selected pairs, with the column split_use; None, or without pairs of both uses: the same pairs
            choose and measure, and the sentence says so

    Returns:
        sentences, one a line; effects are means over units, with 95 % intervals where other pairs chose the site

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(module_patching, ("sample_id", "corruption", *_SITE, "patching_effect"), "module_patching")
    effects = module_patching.dropna(subset="patching_effect")
    if effects.empty:
        return "No pair has an effect: its clean and corrupt runs do not differ."
    said = []
    for (corruption, block), mine in effects.groupby(["corruption", "block"], sort=False, observed=True):
        chosen, measured, how = _halves(mine, pairs)
        said.append(f"{readable(block)[0].upper()}{readable(block)[1:]}, {corruption} corruption ({how}):")
        said += [f"- {line}" for line in _site_lines(chosen, measured)]
    return "\n".join(said)


def _halves(effects: pd.DataFrame, pairs: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Rows that choose a site, rows that measure it, and how that is said."""
    if pairs is not None and {_USE, "sample_id"} <= set(pairs):
        use = effects["sample_id"].map(pairs.drop_duplicates("sample_id").set_index("sample_id")[_USE])
        chosen, measured = effects[use == "discover"], effects[use == "verify"]
        if len(chosen) and len(measured):
            numbers = [count(part["sample_id"].nunique(), "pair") for part in (chosen, measured)]
            return chosen, measured, f"chosen on {numbers[0]}, measured on {numbers[1]}"
    n = count(effects["sample_id"].nunique(), "pair")
    return effects, effects, f"chosen and measured on the same {n}, so the numbers may be too large"


def _site_lines(chosen: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    by_pair = chosen.groupby([*_SITE, "sample_id"], sort=False, observed=True)["patching_effect"].mean()
    means = by_pair.groupby(_SITE, sort=False, observed=True).mean()
    for module, of_module in means.groupby("module", sort=False, observed=True):
        site = dict(zip(_SITE, of_module.abs().idxmax(), strict=True))
        rows = measured[(measured[_SITE] == pd.Series(site)).all(axis=1)]
        name = "residual stream" if module == "residual" else readable(module)
        where = f"most at {role_in_words(site['token_role'])} in layer {site['layer']}"
        if of_module.abs().max() < _LEAST:
            yield f"{name}: no mean effect reaches {_LEAST:g} in size, in any layer."
        elif rows.empty:
            yield f"{name}: {where}, a token that no other pair has."
        elif measured is chosen:
            yield f"{name}: {where}, {picked_in_words(mean_of(rows, 'patching_effect')[0])}."
        else:
            yield f"{name}: {where}, {mean_in_words(rows, 'patching_effect')}."


@checked
def describe_regions(regions: pd.DataFrame) -> str:
    """Say what each region of the image restores in the first and in the last layer.

    Args:
        regions: from `patch_regions`; layers of one block

    Returns:
        sentences, one a line; effects are means over units with 95 % intervals

    Raises:
        VlmtraceError: a column is missing
    """
    columns = ("sample_id", "corruption", "block", "layer", "token_role", "patching_effect")
    check_columns(regions, columns, "regions")
    effects = regions.dropna(subset="patching_effect")
    if effects.empty:
        return "No pair has an effect: its clean and corrupt runs do not differ, or no region has a token."
    said = []
    for (corruption, block), mine in effects.groupby(["corruption", "block"], sort=False, observed=True):
        first, last = mine["layer"].min(), mine["layer"].max()
        n = count(mine["sample_id"].nunique(), "pair")
        said.append(f"{corruption.capitalize()} corruption, {readable(block)}, {n}, layer {first} and layer {last}:")
        for region, rows in mine.groupby("token_role", sort=False, observed=True):
            ends = [mean_in_words(rows[rows["layer"] == layer], "patching_effect") for layer in (first, last)]
            said.append(f"- {region}: {ends[0]}; {ends[1]}.")
    return "\n".join(said)


@checked
def describe_directions(whole_heads: pd.DataFrame) -> str:
    """Say what single heads do alone and what is lost without them, summed over each block, and which head differs.

    Args:
        whole_heads: from `patch_whole_heads`, in both directions

    Returns:
        sentences, one a line; effects are means over units, and sums have 95 % intervals

    Raises:
        VlmtraceError: a column or a direction is missing, or no pair has a contrast
    """
    sums, differences = direction_sums(whole_heads), compare_directions(whole_heads)
    said = []
    for corruption, mine in sums.groupby("corruption", sort=False):
        # Blocks that the corruption does not reach have effects of 0, which say nothing.
        reached = mine[(mine[["denoising", "noising"]].abs() >= _LEAST).any(axis=1)]
        for row in reached.to_dict("records"):
            ends = [with_interval(row[way], row[f"{way}_low"], row[f"{way}_high"]) for way in ("denoising", "noising")]
            heads = f"{count(row['n_heads'], 'head')} of the {readable(row['block'])}"
            said.append(
                f"{corruption.capitalize()} corruption, {heads}: what they restore one by one sums to {ends[0]}; what "
                f"is lost without each, to {ends[1]}."
            )
        if reached.empty:
            said.append(f"{corruption.capitalize()} corruption: no block's heads sum to {_LEAST:g}.")
            continue
        of_heads = differences[differences["corruption"] == corruption]
        most = of_heads.iloc[0]
        name = f"{head_name(most['module'], most['layer'], most['head'])} of the {readable(most['block'])}"
        said.append(
            f"Of {len(of_heads)} heads, {name} restores the most beyond what is lost without it: "
            f"{number(most['denoising'])} against {number(most['noising'])}, a difference of "
            f"{picked_in_words(most['difference'])}."
        )
    return "\n".join(said)
