"""How faithful circuits of edges are, by size, as MIB measures it.

With m(C) the mean LD of a run with circuit C (over pairs of a unit, then over units), faithfulness is

    f(C) = (m(C) − m(no edge)) / (m(all edges) − m(no edge)),

0 for the corrupt run and 1 for the clean one. MIB (Mueller et al. 2025, https://arxiv.org/abs/2504.13151) takes it at
sizes from .1 % of all edges to all of them, and reports two areas by trapezoids over these sizes: under f, and between
f and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Natural, NonEmpty, Positive, Probability, Seed, Share, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import UNIT
from vlmtrace.core.types import Array
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.circuits.curves import SUFFICIENT, Curve, curves_of, means_of, share_of_gap
from vlmtrace.methods.circuits.faithfulness import refuse_discover
from vlmtrace.methods.edges.circuit_runs import run_inside
from vlmtrace.methods.edges.circuits import refuse_more
from vlmtrace.methods.edges.graph import RULES, EdgeGraph
from vlmtrace.models import VLM

#: The sizes of MIB, as shares of all edges.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@checked
def edge_faithfulness(
    model: VLM,
    pairs: pd.DataFrame,
    scores: pd.DataFrame,
    corruption: str = "image",
    rule: str = "greedy",
    sizes: NonEmpty[Share] = SIZES,
    n_random: Natural = 3,
    seed: Seed = 0,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Run pairs with the circuits of growing size that scores choose, beside random circuits of equal size.

    Of each size as many edges are chosen as it is of all edges (rounded down, as MIB does), by the same rule for random
    circuits: their scores are the given ones, dealt out anew among the edges. What reaches one end only is taken away
    (see `choose_circuit`). Size 1 is the whole model.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pairs: a pairs table, not of those that gave the scores; rows that `select_samples` marked "discover" are
            refused
        scores: from `edge_scores`, or any table with sender, receiver and score
        corruption: "image" or "text"
        rule: "greedy", "best", "greedy-signed" or "best-signed", as in `choose_circuit`
        sizes: shares of all edges of the model
        n_random: how many random circuits of each size
        seed: of these
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`

    Returns:
        the edge_faithfulness table, one row per pair, order, draw and size: sample_id, unit (if the pairs have it),
        corruption, rule, order ("ranked" or "random"), draw (which random circuit, 0 for ranked), size (the share of
        all edges), k (edges chosen), n_edges (those of them on a way from an input to the output), logit_diff (LD of
        this run), logit_diff_none and logit_diff_all (LD of the corrupt and of the clean run), patching_effect

    Raises:
        VlmtraceError: a pair helped to find the circuit, a name is unknown, or too few edges have a score

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> scores = vt.edge_scores(vt.patch_edges(model, vt.load_pairs("rendered_states", n=2)))
        >>> pairs = vt.load_pairs("rendered_states", n=2, seed=1)
        >>> table = vt.edge_faithfulness(model, pairs, scores, sizes=[0.01, 0.1, 1], n_random=1)
        >>> table.groupby(["order", "size"], sort=False)["k"].first()["ranked"].tolist()
        [120, 1205, 12052]
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    refuse_discover(pairs, "circuit")
    graph = EdgeGraph(model)
    values = graph.scores_of(scores)
    one_of(rule, RULES, "rule")
    orders = [("ranked", 0, values)]
    generator, known = np.random.default_rng(seed), ~np.isnan(values)
    for draw in range(n_random):
        dealt = values.copy()
        dealt[known] = generator.permutation(values[known])
        orders.append(("random", draw, dealt))
    rows, inside = [], []
    for order, draw, given in orders:
        taken = graph.order(given, rule)
        for size in sorted(set(map(float, sizes))):
            k = int(size * len(graph))
            if size < 1:
                refuse_more(graph, taken, k)
            inside.append(graph.first(taken, k) if size < 1 else graph.whole)
            rows.append((rule, order, draw, size, k))
    plan = pd.DataFrame(rows, columns=["rule", "order", "draw", "size", "k"])
    ran = run_inside(graph, pairs, np.stack(inside), corruption, memory_gb, contrast, f"{len(plan)} circuits of edges")
    table = ran.merge(plan, left_on="circuit", right_index=True)
    columns = ["sample_id", UNIT, "corruption", "rule", "order", "draw", "size", "k", "n_edges", "logit_diff"]
    columns += ["logit_diff_none", "logit_diff_all", "patching_effect"]
    return table[[name for name in columns if name in table]].reset_index(drop=True)


@checked
def edge_faithfulness_means(
    table: pd.DataFrame, level: Probability = 0.95, n_boot: Count = 10_000, seed: Seed = 0
) -> pd.DataFrame:
    """Faithfulness of circuits of each size, with an interval over units.

    Args:
        table: from `edge_faithfulness`; a column task may have been added
        level: of the interval, 0 to 1
        n_boot: bootstrap resamples of units
        seed: of the bootstrap

    Returns:
        one row per curve and size: task (if given), corruption, rule, order, size, k, n_edges (of random circuits: mean
        over draws), n (pairs), n_units, faithfulness (of random circuits: mean over draws), ci_low, ci_high. The last
        three are missing where the mean LD with all edges may be that with none

    Raises:
        VlmtraceError: a column is missing, or an LD is

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> scores = vt.edge_scores(vt.patch_edges(model, vt.load_pairs("rendered_states", n=2)))
        >>> pairs = vt.load_pairs("rendered_states", n=2, seed=1)
        >>> table = vt.edge_faithfulness(model, pairs, scores, sizes=[0.01, 0.1, 1], n_random=0)
        >>> vt.edge_faithfulness_means(table)["faithfulness"].round(1).tolist()
        [0.1, 0.8, 1.0]
    """
    return means_of(_curves(table), level, n_boot, seed)


@checked
def edge_faithfulness_summary(
    table: pd.DataFrame,
    level: Probability = 0.95,
    n_boot: Count = 10_000,
    n_permutations: Count = 10_000,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Areas of the curves of faithfulness, as MIB defines them, and whether the scores beat random circuits.

    - `cpr`, the integrated circuit performance ratio: ∫ f(size) d size by trapezoids over the sizes run. Larger is
      better; edges that work against the answer, left out, may carry it beyond 1.
    - `cmd`, the integrated circuit-model distance: ∫ abs(1 − f(size)) d size. 0 is best. With sizes that begin at .1 %
      both add up to .999 where f stays at or below 1.
    - `size_80` is the smallest size run whose estimated f reaches .8, `n_edges_80` the edges of that circuit; missing
      where none does.
    - `advantage` is how much larger the area under f is than the mean one of random circuits; p_value of a two-sided
      test of the mean over units (`vlmtrace.core.stats.mean_test`). `n_beaten` of `n_random` random circuits have a
      smaller area.

    Sizes weigh by their width: between 20 % and all edges lies four fifths of the area. Whether a small circuit is
    enough, is in `edge_faithfulness_means`.

    Args:
        table: from `edge_faithfulness`; a column task may have been added
        level: of the intervals, 0 to 1
        n_boot: bootstrap resamples of units
        n_permutations: resamples of the test
        seed: of bootstrap and test

    Returns:
        one row per curve: task (if given), corruption, rule, order, n (pairs), n_units; cpr, cpr_low, cpr_high, cmd,
        size_80, n_edges_80; and, missing in rows "random" and without random circuits: advantage, advantage_low,
        advantage_high, p_value, n_beaten, n_random

    Raises:
        VlmtraceError: a column is missing, an LD is, or a curve has a single size

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> scores = vt.edge_scores(vt.patch_edges(model, vt.load_pairs("rendered_states", n=2)))
        >>> pairs = vt.load_pairs("rendered_states", n=2, seed=1)
        >>> table = vt.edge_faithfulness(model, pairs, scores, sizes=[0.01, 0.1, 1], n_random=1)
        >>> vt.edge_faithfulness_summary(table).set_index("order")["cpr"].round(1).to_dict()
        {'ranked': 0.8, 'random': 0.5}
    """
    curves = list(_curves(table))
    rows = []
    for curve in curves:
        if len(curve.sizes) < 2:
            raise VlmtraceError(f"An area needs at least two sizes, not {curve.sizes}: run more of them.")
        areas = np.trapezoid(curve.gain, curve.sizes, axis=-1)  # (draw, unit), in logits
        share = share_of_gap(curve.gain.mean(0), curve.gap, level, n_boot, seed)[0]
        row: dict[str, Any] = {**curve.group, "n": curve.n, "n_units": curve.n_units}
        row |= _interval("cpr", areas.mean(0), curve.gap, level, n_boot, seed)
        row["cmd"] = float(np.trapezoid(np.abs(1 - share), curve.sizes))
        enough = np.flatnonzero(share >= SUFFICIENT)
        if len(enough):
            row |= {"size_80": curve.sizes[enough[0]], "n_edges_80": curve.more["n_edges"][enough[0]]}
        partner = [other for other in curves if other.group == curve.group | {"order": "random"}]
        if curve.group["order"] == "ranked" and partner:
            gains = areas - np.trapezoid(partner[0].gain, partner[0].sizes, axis=-1)  # (draw, unit)
            row |= _interval("advantage", gains.mean(0), curve.gap, level, n_boot, seed)
            row["p_value"] = float(stats.mean_test(gains.mean(0), n_permutations, seed)[0])
            row |= {"n_beaten": int((gains.mean(1) > 0).sum()), "n_random": len(gains)}
        rows.append(row)
    columns = list(dict.fromkeys([*curves[0].group, "n", "n_units", *_SUMMARY]))
    return pd.DataFrame(rows).reindex(columns=columns).astype(_SUMMARY)


#: Columns of the summary after those that name a curve and count, and their types.
_SUMMARY = dict.fromkeys(["cpr", "cpr_low", "cpr_high", "cmd", "size_80", "n_edges_80"], "float64")
_SUMMARY |= dict.fromkeys(["advantage", "advantage_low", "advantage_high", "p_value"], "float64")
_SUMMARY |= {"n_beaten": "Int64", "n_random": "Int64"}


def _interval(name: str, by_unit: Array, gap: Array, level: float, n_boot: int, seed: int) -> dict[str, float]:
    values = share_of_gap(by_unit[:, None], gap, level, n_boot, seed)
    return dict(zip((name, f"{name}_low", f"{name}_high"), (float(value[0]) for value in values), strict=True))


def _curves(table: pd.DataFrame) -> Iterator[Curve]:
    names = ("corruption", "rule", "order")
    return curves_of(table, names, "size", ("k", "n_edges"), "edge_faithfulness", "edge_faithfulness")
