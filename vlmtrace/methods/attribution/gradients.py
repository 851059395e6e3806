"""Attribution patching: a first-order estimate of what every patch would do, from one gradient.

A patch moves an activation from its corrupt value z to its clean value z'. To first order the logit difference then
moves by ∇LD(z)·(z' − z), with the gradient taken in the corrupt run: two forward passes and one backward pass give the
estimate for every site at once. With `steps` > 1 the gradient is averaged along the straight line from the corrupt to
the clean input embeddings (integrated gradients), which helps where a softmax or a norm saturates.

Shapes: B pairs of a batch, S positions of a block, D its width, N patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import HEAD, validate_pairs
from vlmtrace.core.stored import StoredTable, batches_of
from vlmtrace.core.stored_rows import plain_text
from vlmtrace.inputs.batching import Plan, Positions, batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, WholeRuns
from vlmtrace.methods.patching.metrics import concat_in_order, effect_table
from vlmtrace.methods.patching.plans import head_plan, module_plan, patches_of_batch
from vlmtrace.models import VLM, Patches, Readout, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import AnswerIds, WholeAnswer, positions_read


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
        VlmtraceError: there are no more than `top` heads

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
    means = pd.concat({name: mean_head_effects(table, by) for name, table in tables.items()}, axis=1).dropna()
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
            sites = [Site(block, module, layer) for block in plan for module, layer, _ in plan[block]]
            gradients = site_gradients(model, runs, list(dict.fromkeys(sites)), steps)
            for patches in patches_of_batch(plan, roles, len(batch), model.device):
                change = first_order(model, runs, gradients, patches)
                logit_diff = change + runs.corrupt_readout.logit_diff.cpu().numpy()[:, None]
                unknown = np.full_like(logit_diff, np.nan)
                tables.append(effect_table(batch, runs, corruption, patches, roles[patches.block], logit_diff, unknown))
            advance(len(batch))
    return concat_in_order(pairs, tables, positions)


def site_gradients(model: VLM, runs: PairRuns, sites: Sequence[Site], steps: int = 1) -> dict[Site, Tensor]:
    """Gradient of each pair's logit difference with respect to the activation at every site.

    Args:
        model: the model to trace
        runs: clean and corrupt runs of a batch of pairs
        sites: where the gradient is wanted
        steps: how many gradients are averaged, see `attribute_modules`

    Returns:
        by site, (pair, position, width): at the corrupt run (steps = 1) or averaged on the way to the clean one
    """
    # α = 0 is the corrupt run; with more steps the midpoints of equal intervals (midpoint rule).
    alphas = [0.0] if steps == 1 else [(i + 0.5) / steps for i in range(steps)]
    total: dict[Site, Tensor] = {}
    for alpha in alphas:
        for entries, together in _sites_by_entries(model, sites):
            for site, gradient in _gradients_at(model, runs, together, alpha, entries).items():
                total[site] = total.get(site, torch.zeros_like(gradient)) + gradient / len(alphas)
    return total


def _sites_by_entries(model: VLM, sites: Sequence[Site]) -> list[tuple[tuple[str, ...], list[Site]]]:
    """Sites that one backward pass can serve, each with the blocks whose input is set on the way to the clean run.

    Where image tokens stand in the text sequence, setting the language model's input would cut it off from the vision
    encoder: for sites of the vision encoder only the encoder's own input is set, and the rest follows from it.
    """
    if not model.has_visual_tokens:
        return [(model.entry_blocks, list(sites))]
    found = []
    for i, block in enumerate(model.entry_blocks):
        own = [site for site in sites if site.block == block]
        if own:
            found.append((model.entry_blocks[: i + 1], own))
    return found


def _gradients_at(
    model: VLM, runs: PairRuns, sites: Sequence[Site], alpha: float, entries: Sequence[str]
) -> dict[Site, Tensor]:
    """Gradients of the logit difference part of the way from the corrupt to the clean run."""
    if runs.whole is None:
        return _gradients_of_run(model, runs, runs.answer_ids, sites, alpha, entries)
    correct, contrast = (_gradients_of_run(model, one, one.ids, sites, alpha, entries) for one in runs.whole)
    # Either run goes on with an answer: what both have in common are the positions of the prompt.
    lengths = {site: runs.clean[site].shape[1] for site in sites}
    return {site: correct[site][:, :n] - contrast[site][:, :n] for site, n in lengths.items()}


def _gradients_of_run(
    model: VLM,
    runs: PairRuns | WholeRuns,
    answer_ids: AnswerIds,
    sites: Sequence[Site],
    alpha: float,
    entries: Sequence[str],
) -> dict[Site, Tensor]:
    probes: dict[Site, Tensor] = {}

    def probe(site: Site) -> Callable[[Tensor], Tensor]:
        def add_zero(value: Tensor) -> Tensor:
            # Adding a zero that requires a gradient reads the gradient at this very activation, whatever comes before.
            probes[site] = torch.zeros_like(value, requires_grad=True)
            return value + probes[site]

        return add_zero

    def start(block: str) -> Callable[[Tensor], Tensor]:
        return lambda _value: torch.lerp(runs.corrupt.layer_inputs[block], runs.clean.layer_inputs[block], alpha)

    points = [(model.entry_point(block), start(block)) for block in entries]
    points += [(model.hook_point(site), probe(site)) for site in sites]
    with torch.enable_grad(), attach_hooks(points, len(runs.inputs["input_ids"])):
        logits = model.last_logits(runs.inputs, positions_read(answer_ids))
        readout = Readout.of_last(logits, answer_ids)
        total = (readout.correct if isinstance(answer_ids, WholeAnswer) else readout.logit_diff).sum()
        # Pairs of a batch do not touch each other, so the gradient of the sum is each pair's own.
        found = torch.autograd.grad(total, list(probes.values()), allow_unused=True)
    gradients = zip(probes.items(), found, strict=True)
    return {site: torch.zeros_like(zero) if g is None else g for (site, zero), g in gradients}


def first_order(model: VLM, runs: PairRuns, gradients: dict[Site, Tensor], patches: Patches) -> np.ndarray:
    """What each patch does to LD, to first order: ∇LD·(clean − corrupt).

    Args:
        model: the model to trace
        runs: clean and corrupt runs of a batch of pairs
        gradients: of `site_gradients`
        patches: of one block, at single positions that all pairs share

    Returns:
        (pair, patch), in logits
    """
    block = model.blocks[patches.block]
    products: dict[Site, Tensor] = {}
    change = torch.empty(patches.positions.shape)  # (B, N)
    for i, (module, layer, head) in enumerate(zip(patches.modules, patches.layers, patches.heads, strict=True)):
        site = Site(patches.block, module, layer)
        if site not in products:
            step = runs.clean[site] - runs.corrupt[site]  # (B, S, D)
            by_column = gradients[site].float() * step.float()  # (B, S, D)
            # A layer without heads has modules that are patched whole.
            products[site] = by_column.unflatten(-1, (max(1, block.heads_at(layer)), -1)).sum(-1).cpu()  # (B, S, head)
        position = int(patches.positions[0, i])
        chosen = products[site][:, position]  # (B, head)
        change[:, i] = chosen.sum(-1) if head is None else chosen[:, head]
    return change.numpy()
