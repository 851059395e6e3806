"""Is it a circuit? Completeness and minimality, transfer to other tasks, and what two circuits share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from vlmtrace.core import stats
from vlmtrace.core.arguments import Natural, NotNegative, Positive, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import UNIT, check_columns
from vlmtrace.core.types import Array
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.circuits.curves import LITTLE, SUFFICIENT, share_of_gap
from vlmtrace.methods.circuits.faithfulness import refuse_discover
from vlmtrace.methods.circuits.heads import MIN_EFFECT
from vlmtrace.methods.edges.circuit_runs import run_inside
from vlmtrace.methods.edges.graph import EdgeGraph
from vlmtrace.models import VLM

#: What is taken away, of rows that do not name one edge.
NOTHING, EVERYTHING = "nothing", "the circuit"


@checked
def edge_subsets(
    model: VLM,
    pairs: pd.DataFrame,
    circuit: pd.DataFrame,
    corruption: str = "image",
    n_halves: Natural = 2,
    seed: Seed = 0,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Take subsets of a circuit's edges out of the circuit and out of the whole model.

    The subsets K of a circuit C are the empty one, all of C, each single edge, and random halves. `edge_verdicts` reads
    sufficiency, necessity, completeness and minimality (Wang et al. 2022, https://arxiv.org/abs/2211.00593) from the
    runs. Each pair is run twice for every edge of the circuit.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pairs: a pairs table, not of those that gave the circuit
        circuit: with the columns sender and receiver
        corruption: "image" or "text"
        n_halves: random halves of the circuit
        seed: of the halves
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`

    Returns:
        one row per pair and subset: sample_id, unit (if the pairs have it), corruption, removed ("nothing", "the
        circuit", "sender → receiver" or "half 1", …), n_removed and n_edges (edges of K and of C), logit_diff_circuit
        (LD of C without K), logit_diff_model (LD of the model without K), logit_diff_none and logit_diff_all (LD
        without any edge and with all)

    Raises:
        VlmtraceError: a pair helped to find the circuit, the circuit has no edge, or one is unknown

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> circuit = vt.edges(model).query("receiver == 'output' or sender == 'image'")
        >>> subsets = vt.edge_subsets(model, pairs, circuit.tail(3), n_halves=0)
        >>> subsets["removed"].drop_duplicates().str.count("→").tolist()
        [0, 0, 1, 1, 1]
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    refuse_discover(pairs, "circuit")
    graph = EdgeGraph(model)
    numbers = graph.numbers_of(circuit)
    if not len(numbers):
        raise VlmtraceError("The circuit has no edge, so nothing can be taken out of it: choose more edges.")
    generator = np.random.default_rng(seed)
    names, subsets = [NOTHING, EVERYTHING], [numbers[:0], numbers]
    for number in numbers:
        edge = graph.edges[number]
        names.append(f"{edge.sender.label} → {edge.receiver.label}")
        subsets.append(np.array([number]))
    for i in range(n_halves):
        names.append(f"half {i + 1}")
        subsets.append(generator.permutation(numbers)[: len(numbers) // 2])
    whole = np.ones(len(graph), dtype=bool)
    inside = np.stack([_without(base, one) for base in (graph.inside(circuit), whole) for one in subsets])
    ran = run_inside(graph, pairs, inside, corruption, memory_gb, contrast, f"{len(subsets)} subsets of a circuit")
    n = len(subsets)
    of_circuit = ran[ran["circuit"] < n].rename(columns={"logit_diff": "logit_diff_circuit"})
    of_model = ran[ran["circuit"] >= n].rename(columns={"logit_diff": "logit_diff_model"})
    of_model = of_model.assign(circuit=of_model["circuit"] - n)[["sample_id", "circuit", "logit_diff_model"]]
    table = of_circuit.merge(of_model, on=["sample_id", "circuit"])
    table["removed"] = np.array(names, dtype=object)[table["circuit"]]
    table["n_removed"] = np.array([len(one) for one in subsets])[table["circuit"]]
    table["n_edges"] = len(numbers)
    columns = ["sample_id", UNIT, "corruption", "removed", "n_removed", "n_edges", "logit_diff_circuit"]
    columns += ["logit_diff_model", "logit_diff_none", "logit_diff_all"]
    return table[[name for name in columns if name in table]]


def _without(inside: Array, removed: Array) -> Array:
    left = inside.copy()
    left[removed] = False
    return left


@checked
def edge_verdicts(subsets: pd.DataFrame, min_effect: NotNegative = MIN_EFFECT, seed: Seed = 0) -> pd.DataFrame:
    """Say what a circuit of edges does, by the rules of `circuit_verdicts` for heads.

    With f the faithfulness of a run (0 without any edge, 1 with all), C the circuit and M the model:

    - *sufficient*: f(C). "yes" if the lower end of its 95 % interval is .8 or more, "partly" if that is above .2.
    - *necessary*: f(M∖C), what is left without the circuit. "yes" if the upper end is .2 or less, "partly" if that is
      below .8.
    - *complete*: `incompleteness` is the largest abs(f(C∖K) − f(M∖K)) over the subsets run; "yes" if it is .2 or less.
    - *minimal*: `n_redundant` counts edges without which f(C) changes by less than `min_effect`; "yes" if there are
      none. An edge that another one backs up counts as redundant.

    Args:
        subsets: from `edge_subsets`; columns task and circuit may have been added
        min_effect: smallest change of f that counts for minimality
        seed: of the bootstrap

    Returns:
        one row per task and circuit (if given) and corruption: n_edges, n (pairs), n_units; sufficiency,
        sufficiency_low, sufficiency_high, sufficient; left, left_low, left_high, necessary; incompleteness, complete;
        n_redundant, minimal

    Raises:
        VlmtraceError: a column is missing, or the runs in which nothing is taken away, or all of the circuit

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> circuit = vt.edges(model).query("receiver == 'output'")
        >>> verdicts = vt.edge_verdicts(vt.edge_subsets(model, pairs, circuit.tail(3), n_halves=0))
        >>> verdicts[["sufficient", "minimal"]].iloc[0].tolist()
        ['no', 'no']
    """
    ends = ["logit_diff_none", "logit_diff_all"]
    needed = ["sample_id", "corruption", "removed", "n_removed", "n_edges", "logit_diff_circuit", "logit_diff_model"]
    check_columns(subsets, [*needed, *ends], "edge_subsets")
    keys = [key for key in ("task", "circuit", "corruption") if key in subsets]
    rows = []
    for group, of_circuit in subsets.groupby(keys, sort=False, observed=True):
        _refuse_without_ends(of_circuit, ", ".join(map(str, group)))
        row: dict[str, Any] = dict(zip(keys, map(str, group), strict=True))
        row["n_edges"] = int(of_circuit["n_edges"].iloc[0])
        shares = {}
        for removed, runs in of_circuit.groupby("removed", sort=False, observed=True):
            gain, gap = _gains(runs, ["logit_diff_circuit", "logit_diff_model"])
            shares[removed] = gain.mean(0) / gap.mean() if gap.mean() > 0 else np.full(2, np.nan)
            if removed in (NOTHING, EVERYTHING):
                name, column = ("sufficiency", 0) if removed == NOTHING else ("left", 1)
                values = share_of_gap(gain[:, [column]], gap, seed=seed)
                row |= {"n": len(runs), "n_units": len(gap)}
                row |= {f"{name}{end}": float(v[0]) for end, v in zip(("", "_low", "_high"), values, strict=True)}
        differences = [abs(inside - without) for inside, without in shares.values()]
        whole = shares[NOTHING][0]
        single = [removed for removed in shares if "→" in removed]
        redundant = sum(not abs(whole - shares[removed][0]) >= min_effect for removed in single)
        incompleteness = max(differences)
        rows.append(
            {
                **row,
                "sufficient": _word(row["sufficiency_low"]),
                "necessary": _word(1 - row["left_high"]),
                "incompleteness": incompleteness,
                "complete": "yes" if incompleteness <= LITTLE else "no",
                "n_redundant": redundant,
                "minimal": "no" if redundant else "yes",
            }
        )
    if not rows:
        raise VlmtraceError("The edge_subsets table has no rows: run edge_subsets.")
    columns = [*keys, "n_edges", "n", "n_units", "sufficiency", "sufficiency_low", "sufficiency_high", "sufficient"]
    columns += ["left", "left_low", "left_high", "necessary", "incompleteness", "complete", "n_redundant", "minimal"]
    return pd.DataFrame(rows)[columns]


def _refuse_without_ends(subsets: pd.DataFrame, group: str) -> None:
    for removed in (NOTHING, EVERYTHING):
        if not (subsets["removed"] == removed).any():
            raise VlmtraceError(
                f"The edge_subsets table has no run of {group} in which {removed} is taken away: pass all rows that "
                "edge_subsets gives."
            )


def _word(sure: float) -> str:
    """In words, a share that is reached for sure; a missing one is no evidence."""
    if not sure > LITTLE:
        return "no"
    return "yes" if sure >= SUFFICIENT else "partly"


def _gains(runs: pd.DataFrame, columns: list[str]) -> tuple[Array, Array]:
    """By unit, LD less that of no edge (unit, column), and that of all edges less that of none (unit,)."""
    units = runs[UNIT].to_numpy() if UNIT in runs else None
    none = runs["logit_diff_none"].to_numpy()
    gain = stats.unit_means(runs[columns].to_numpy() - none[:, None], units)
    return gain, stats.unit_means(runs["logit_diff_all"].to_numpy() - none, units)[:, 0]


@checked
def edge_transfer(
    model: VLM,
    circuits: Mapping[str, pd.DataFrame],
    pairs: Mapping[str, pd.DataFrame],
    corruption: str = "image",
    memory_gb: Positive | None = None,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Run the circuit of each task on the pairs of every task.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        circuits: by name, each with the columns sender and receiver
        pairs: by task, pairs tables of those to verify on
        corruption: "image" or "text"
        memory_gb: as in `patch_modules`
        seed: of the bootstrap

    Returns:
        one row per circuit and task: circuit, task, corruption, n_edges, n (pairs), n_units, faithfulness (0 for the
        corrupt run, 1 for the clean one), ci_low, ci_high (95 % interval over units); all three missing where the mean
        LD of the clean run may be that of the corrupt one

    Raises:
        VlmtraceError: there is no circuit or task, an edge is unknown, or a pair helped to find a circuit

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> tasks = {name: vt.load_pairs(name, n=2) for name in ("rendered_states", "rendered_svo")}
        >>> vt.edge_transfer(model, {"all": vt.edges(model)}, tasks)["faithfulness"].round(3).tolist()
        [1.0, 1.0]
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    if not circuits or not pairs:
        raise VlmtraceError("Transfer needs at least one circuit and one task: name them, as in {'mine': circuit}.")
    graph = EdgeGraph(model)
    inside = np.stack([graph.inside(circuit) for circuit in circuits.values()])
    rows = []
    for task, table in pairs.items():
        refuse_discover(table, "circuit")
        ran = run_inside(graph, table, inside, corruption, memory_gb, what=f"{len(circuits)} circuits on {task}")
        for i, name in enumerate(circuits):
            runs = ran[ran["circuit"] == i]
            gain, gap = _gains(runs, ["logit_diff"])
            share, low, high = (float(value[0]) for value in share_of_gap(gain, gap, seed=seed))
            row = {"circuit": name, "task": task, "corruption": corruption, "n_edges": int(inside[i].sum())}
            row |= {"n": len(runs), "n_units": len(gap), "faithfulness": share, "ci_low": low, "ci_high": high}
            rows.append(row)
    place = {name: i for i, name in enumerate(circuits)}
    return pd.DataFrame(rows).sort_values("circuit", key=lambda c: c.map(place), kind="stable", ignore_index=True)


@checked
def edge_overlap(model: VLM, circuits: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Count the edges that circuits share, beside how many they would by chance.

    By chance, each circuit is as many edges, drawn from all of the model: what they share is then hypergeometric.
    Circuits that are connected share more than that even where they have nothing to do with each other, as few edges
    lead into the output; random circuits of `edge_faithfulness` say how much more.

    Args:
        model: whose edges they are
        circuits: by name, at least two, each with the columns sender and receiver

    Returns:
        one row per pair of circuits: circuit, other (their names), n_edges, n_other, n_all (edges of the model), shared
        (edges in both), jaccard (shared over those in either; missing if both are empty), expected (shared by chance),
        p_value (that chance gives as many or more)

    Raises:
        VlmtraceError: there are fewer than two circuits, or an edge is unknown

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> every = vt.edges(model)
        >>> both = {"odd": every[1::2], "thirds": every[::3]}
        >>> vt.edge_overlap(model, both)[["shared", "expected"]].round().iloc[0].tolist()
        [2009.0, 2009.0]
    """
    if len(circuits) < 2:
        raise VlmtraceError("Overlap needs two circuits or more: name them, as in {'mine': circuit, 'yours': other}.")
    graph = EdgeGraph(model)
    inside = {name: graph.inside(circuit) for name, circuit in circuits.items()}
    return pd.DataFrame(list(_overlaps(inside, len(graph))))


def _overlaps(inside: dict[str, Array], n_all: int) -> Iterator[dict[str, Any]]:
    for (name, mine), (other, theirs) in itertools.combinations(inside.items(), 2):
        n_mine, n_theirs, shared = (int(one.sum()) for one in (mine, theirs, mine & theirs))
        either = n_mine + n_theirs - shared
        yield {
            "circuit": name,
            "other": other,
            "n_edges": n_mine,
            "n_other": n_theirs,
            "n_all": n_all,
            "shared": shared,
            "jaccard": shared / either if either else np.nan,
            "expected": n_mine * n_theirs / n_all,
            "p_value": float(hypergeom.sf(shared - 1, n_all, n_mine, n_theirs)),
        }
