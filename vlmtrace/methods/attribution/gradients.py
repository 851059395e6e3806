"""Attribution patching: a first-order estimate of what every patch would do, from one gradient.

A patch moves an activation from its corrupt value z to its clean value z'. To first order the logit difference then
moves by ∇LD(z)·(z' − z), with the gradient taken in the corrupt run: two forward passes and one backward pass give the
estimate for every site at once. With `steps` > 1 the gradient is averaged along the straight line from the corrupt to
the clean input embeddings (integrated gradients). That is the effect of moving all embeddings, not of patching one
head: it may rank heads worse than one gradient does (docs/methods/attribution.md).

Shapes: B pairs of a batch, S positions of a block, D its width, N patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import HEAD, validate_pairs
from vlmtrace.core.stored import StoredTable, batches_of, values_of
from vlmtrace.core.stored_rows import plain_text
from vlmtrace.inputs.batching import Plan, Positions, batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.patching.first_order import first_order, site_gradients
from vlmtrace.methods.patching.metrics import concat_in_order, effect_table
from vlmtrace.methods.patching.plans import head_plan, module_plan, patches_of_batch
from vlmtrace.models import VLM, Site


@checked
def attribute_modules(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: NonEmpty[str] | None = None,
    positions: Positions = "all",
    blocks: NonEmpty[str] | None = None,
    steps: Count = 1,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Estimate what `patch_modules` would find, from gradients.

    Attribution patching (Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; Syed,
    Rager and Conmy 2023, https://arxiv.org/abs/2310.10348).

    Args:
        model: the model to trace
        pairs: a pairs table
        corruption: "image" or "text"
        modules: e.g. ("residual", "mlp", "self_attention", "cross_attention"); None: all that a block offers
        positions: "all", "text" (all but image tokens), token roles ("correct", "image", "last", …) or indices
        blocks: e.g. ("vision_encoder", "text_encoder"); None: all
        steps: how many gradients are averaged between corrupt and clean embeddings, at one backward pass each
            (integrated gradients, Sundararajan, Taly and Yan 2017, https://arxiv.org/abs/1703.01365); 1: the corrupt
            run's gradient alone
        contrast: as in `patch_modules`

    Returns:
        the module_patching table (see `patch_modules`), one row per pair, layer, position and module: logit_diff and
        patching_effect are estimates; p_correct and p_diff are missing, since a first-order step of a probability can
        leave the range 0 to 1

    Raises:
        VlmtraceError: a name is unknown, steps is below 1, the table breaks the contract, or the runs of a pair cannot
            be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> estimates = vt.attribute_modules(model, pairs, blocks=["text_encoder"], modules=["cross_attention"])
        >>> at_option = estimates[estimates["token_role"] == "correct"]
        >>> at_option.groupby("layer")["patching_effect"].mean().round(1).abs().tolist()
        [0.0, 0.0, 0.1, 0.1]
    """
    plan = module_plan(model, modules, blocks)
    return _attribute(model, pairs, corruption, plan, positions, steps, contrast).drop(columns="head")


@checked
def attribute_heads(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: NonEmpty[str] | None = None,
    positions: Positions = "all",
    steps: Count = 1,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Estimate what `patch_heads` would find, from gradients. The method is that of `attribute_modules`.

    Args:
        model: the model to trace
        pairs: a pairs table
        corruption: "image" or "text"
        modules: attention modules, e.g. ("cross_attention",); None: all of the head block
        positions: "all", "text" (all but image tokens), token roles ("correct", "image", "last", …) or indices
        steps: as in `attribute_modules`
        contrast: as in `patch_modules`

    Returns:
        the head_patching table (see `patch_heads`), one row per pair, layer, position and head: logit_diff and
        patching_effect are estimates; p_correct and p_diff are missing

    Raises:
        VlmtraceError: a name is unknown, steps is below 1, the table breaks the contract, or the runs of a pair cannot
            be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> estimates = vt.attribute_heads(model, pairs, modules=["cross_attention"])
        >>> over_positions = estimates.groupby(["layer", "head"])["patching_effect"].sum()
        >>> len(over_positions), over_positions.nlargest(1).index.tolist()
        (32, [(3, 1)])
    """
    return _attribute(model, pairs, corruption, head_plan(model, modules), positions, steps, contrast)


@checked
def ranking_agreement(
    exact: pd.DataFrame | StoredTable,
    estimate: pd.DataFrame | StoredTable,
    by: NonEmpty[str] = HEAD,
    top: Count = 10,
) -> pd.DataFrame:
    """Say how well an estimate ranks heads, against the exact sweep of the same pairs.

    The effect of a head is its patching effect summed over positions, averaged over pairs, as in `circuits`.

    Args:
        exact: from `patch_heads`, under one corruption
        estimate: from `attribute_heads`, of the same pairs
        by: the columns that tell heads apart
        top: how many of the strongest heads (by magnitude) are compared

    Returns:
        one row: n_heads, the correlations pearson and spearman of the signed effects and spearman_magnitude of their
        absolute values (−1 to 1), top, overlap: the share of the exact top heads that are among the estimated ones,
        and overlap_by_chance: the share expected of a random ranking

    Raises:
        VlmtraceError: there are no more than `top` heads, a table holds several corruptions or directions, or the two
            are not of the same

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> exact = vt.patch_heads(model, pairs, modules=["cross_attention"])
        >>> estimate = vt.attribute_heads(model, pairs, modules=["cross_attention"])
        >>> vt.ranking_agreement(exact, estimate, top=5)[["n_heads", "overlap"]].iloc[0].tolist()
        [32.0, 0.8]
    """
    tables = {"exact": exact, "estimate": estimate}
    check_comparable(tables, [name for name in ("corruption", "direction", "method") if name not in by])
    means = pd.concat({name: mean_head_effects(table, by) for name, table in tables.items()}, axis=1).dropna()
    if means.empty:
        raise VlmtraceError(
            "The tables share no head that has an effect in both: pass effects of the same modules and pairs."
        )
    if len(means) <= top:
        raise VlmtraceError(f"top={top} of {len(means)} heads says nothing: choose fewer.")
    strongest = {name: set(means[name].abs().nlargest(top).index) for name in means}
    return pd.DataFrame(
        {
            "n_heads": [len(means)],
            "pearson": means["exact"].corr(means["estimate"]),
            "spearman": spearmanr(means["exact"], means["estimate"]).statistic,
            "spearman_magnitude": spearmanr(means["exact"].abs(), means["estimate"].abs()).statistic,
            "top": top,
            "overlap": len(strongest["exact"] & strongest["estimate"]) / top,
            "overlap_by_chance": top / len(means),
        }
    )


def check_comparable(tables: Mapping[str, pd.DataFrame | StoredTable], columns: Sequence[str]) -> None:
    """Refuse effects that would be added up, or compared, across corruptions, directions or methods.

    Args:
        tables: exact and estimated effects, by their names
        columns: corruption, direction or method, where a table has them; methods of the two may differ

    Raises:
        VlmtraceError: a table holds several values of a column, or the two tables different ones
    """
    for column in columns:
        found = {name: values_of(table, column) for name, table in tables.items() if column in table}
        for name, values in found.items():
            if len(values) > 1:
                raise VlmtraceError(
                    f"The {name} effects hold several values of {column}, which would be added up: choose one of "
                    f"{', '.join(map(str, values))}."
                )
        if column != "method" and len({str(value) for values in found.values() for value in values}) > 1:
            told = ", ".join(f"{name}: {values[0]}" for name, values in found.items())
            raise VlmtraceError(f"Effects of unlike {column} cannot be compared ({told}): pass effects of one.")


def mean_head_effects(table: pd.DataFrame | StoredTable, by: Sequence[str] = HEAD) -> pd.Series:
    """Average each head's patching effect, summed over positions, over pairs.

    Args:
        table: from `patch_heads` or `attribute_heads`
        by: the columns that tell heads apart

    Returns:
        the mean effects, indexed by `by`; missing where all effects of a head are
    """
    keys = list(by)
    columns = [*keys, "sample_id", "patching_effect"]
    if isinstance(table, StoredTable) and "corruption" in table and len(table.unique("corruption")) > 1:
        table = table.read(columns)  # batches hold a pair's rows together under one corruption only
    parts = []
    for batch in batches_of(table, columns):
        per_pair = batch.groupby([*keys, "sample_id"], observed=True)["patching_effect"].sum(min_count=1)
        sums = per_pair.groupby(keys, observed=True).agg(["sum", "count"])
        parts.append(plain_text(sums.reset_index()))
    total = pd.concat(parts, ignore_index=True).groupby(keys)[["sum", "count"]].sum()
    return (total["sum"] / total["count"]).rename("patching_effect")


def _attribute(
    model: VLM, pairs: pd.DataFrame, corruption: str, plan: Plan, positions: Positions, steps: int, contrast: str
) -> pd.DataFrame:
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"gradients of {len(pairs)} pairs, {corruption} corruption") as advance:
        for batch, runs, roles in batches_of_pairs(model, pairs, corruption, plan, positions, contrast):
            # A gradient of a block that has none of the positions would be computed for nothing.
            present = [block for block in plan if len(roles[block])]
            sites = [Site(block, module, layer) for block in present for module, layer, _ in plan[block]]
            gradients = site_gradients(model, runs, list(dict.fromkeys(sites)), steps) if sites else {}
            for patches in patches_of_batch(plan, roles, len(batch), model.device):
                change = first_order(model, runs, gradients, patches)
                logit_diff = change + runs.corrupt_readout.logit_diff.cpu().numpy()[:, None]
                unknown = np.full_like(logit_diff, np.nan)
                tables.append(effect_table(batch, runs, corruption, patches, roles[patches.block], logit_diff, unknown))
            advance(len(batch))
    return concat_in_order(pairs, tables, positions)
