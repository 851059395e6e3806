"""Do the heads that were found carry the answer together? Run the model on the best k heads alone, and without them.

Patching single heads says what each of them can restore. That k of them together carry the answer is another claim,
and it is tested here: on pairs that did not find the heads, beside as many heads of the same modules and layers drawn
at random. `vlmtrace.methods.circuits.curves` makes faithfulness of these runs, `verdicts` says what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import Count, Natural, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.circuits.circuit_run import circuit_readout
from vlmtrace.methods.circuits.sites import HeadSite, check_heads, every_head, random_order, ranked_heads
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.sweeps import fixed_heads, head_masks
from vlmtrace.models import VLM

#: How heads of a circuit get their output: "frozen" at what it is in the clean run, or "computed" anew.
RUNS = ("frozen", "computed")


@checked
def faithfulness_table(
    model: VLM,
    pairs: pd.DataFrame,
    ranking: pd.DataFrame | Sequence[HeadSite],
    corruption: str = "image",
    sizes: Sequence[Natural] | None = None,
    n_random: Natural = 10,
    seed: Seed = 0,
    run: str = "frozen",
    random_sizes: Sequence[Natural] | None = None,
) -> pd.DataFrame:
    """Run the model on its best k heads, and without them, for growing k.

    For sufficiency, the k heads ranked first are the circuit and all other heads get their corrupt output. For
    necessity, those k get their corrupt output and all others are the circuit. The control takes as many heads of the
    same modules and layers at random (`random_order`), so that a ranking cannot win by naming the right layer alone.
    Circuits and their faithfulness: Wang et al. 2022 (https://arxiv.org/abs/2211.00593).

    Two runs test two claims:

    - "frozen": every head's output is fixed at what it was in the clean or the corrupt run, at all positions; only what
      lies between the heads is computed anew, from the corrupt embeddings (necessity: from the clean ones). A late
      clean head brings along what earlier heads gave it in the clean run: the claim is that these heads pass the
      answer on.
    - "computed": the clean input, and all heads outside the circuit get their corrupt output; the circuit's heads
      compute theirs. The claim is that these heads build the answer without the others. This is the circuit of the
      literature (`run_circuits`).

    Args:
        model: the model to patch
        pairs: a pairs table, not of those that gave the ranking; rows that `select_samples` marked "discover" are
            refused
        ranking: from `rank_heads`, or (module, layer, head) in order
        corruption: "image" or "text"
        sizes: values of k; None: `circuit_sizes`, from none to all heads of the ranking
        n_random: how many random orders
        seed: of the random orders
        run: "frozen" or "computed"
        random_sizes: values of k for random orders; None: `sizes`

    Returns:
        the faithfulness table, one row per pair, direction, order, draw and k: sample_id, unit (if the pairs have it),
        corruption, run, direction ("sufficiency" or "necessity"), order ("ranked" or "random"), draw (which random
        order; 0 for ranked), k (heads in the circuit), logit_diff (LD of this run), logit_diff_none and logit_diff_all
        (LD of the same pair and run with no head of the head block in the circuit, and with all), patching_effect (0:
        the corrupt answer, 1: the clean one)

    Raises:
        VlmtraceError: a pair helped to find the heads, a head is unknown or ranked twice, or a size is out of range
    """
    plan = {"sizes": sizes, "n_random": n_random, "random_sizes": random_sizes}
    return faithfulness_tables(model, pairs, ranking, corruption, {run: plan}, seed)


@checked
def faithfulness_tables(
    model: VLM,
    pairs: pd.DataFrame,
    ranking: pd.DataFrame | Sequence[HeadSite],
    corruption: str,
    runs: Mapping[str, Mapping[str, Any]],
    seed: Seed = 0,
) -> pd.DataFrame:
    """Several tables of `faithfulness_table` in one: the clean and the corrupt run of each pair are made only once.

    Args:
        model: the model to patch
        pairs: as in `faithfulness_table`
        ranking: the same for all runs
        corruption: "image" or "text"
        runs: by run, "frozen" or "computed", its sizes, n_random and random_sizes, as in `faithfulness_table`
        seed: of the random orders, drawn anew for each run

    Returns:
        the faithfulness table, run by run

    Raises:
        VlmtraceError: as `faithfulness_table`
    """
    refuse_discover(pairs)
    ranked = ranked_heads(model, ranking)
    plans, sets = [], []
    for run, options in runs.items():
        plan = _plan(model, ranked, one_of(run, RUNS, "run"), seed=seed, **options)
        for direction in ("sufficiency", "necessity"):
            plans.append(plan.drop(columns="heads").assign(direction=direction))
            sets += list(plan["heads"])
    both = pd.concat(plans, ignore_index=True)
    ran = run_sets(model, pairs, sets, corruption, list(both["run"]), list(both["direction"]))
    table = ran.merge(both, left_on="set", right_index=True).assign(corruption=corruption)
    place = {key: index for index, key in enumerate(both[["run", "direction"]].itertuples(index=False, name=None))}
    keys = list(zip(table["run"], table["direction"], strict=True))
    table = table.iloc[np.argsort([place[key] for key in keys], kind="stable")].reset_index(drop=True)
    return table[[column for column in _COLUMNS if column in table]]


def _plan(
    model: VLM,
    ranked: list[HeadSite],
    run: str,
    seed: int,
    sizes: Sequence[int] | None = None,
    n_random: int = 10,
    random_sizes: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The sets of one run: order, draw, k and heads of each."""
    sizes = circuit_sizes(len(ranked)) if sizes is None else sorted(set(sizes))
    random_sizes = sizes if random_sizes is None else sorted(set(random_sizes))
    for chosen in (sizes, random_sizes):
        if not chosen or chosen[0] < 0 or chosen[-1] > len(ranked):
            raise VlmtraceError(
                f"Sizes of a circuit must lie between 0 and {len(ranked)}, the heads ranked, not {chosen}."
            )
    generator = np.random.default_rng(seed)
    orders = [("ranked", 0, ranked, sizes)]
    orders += [("random", draw, random_order(model, ranked, generator), random_sizes) for draw in range(n_random)]
    rows = [(run, order, draw, k, heads[:k]) for order, draw, heads, ks in orders for k in ks]
    return pd.DataFrame(rows, columns=["run", "order", "draw", "k", "heads"])


_COLUMNS = ["sample_id", UNIT, "corruption", "run", "direction", "order", "draw", "k", "logit_diff", "logit_diff_none"]
_COLUMNS += ["logit_diff_all", "patching_effect"]


def run_sets(
    model: VLM,
    pairs: pd.DataFrame,
    sets: Sequence[Sequence[HeadSite]],
    corruption: str,
    runs: Sequence[str],
    directions: Sequence[str],
) -> pd.DataFrame:
    """LD with only the heads of each set in the circuit, or with all others.

    Args:
        model: the model to patch
        pairs: a pairs table
        sets: of (module, layer, head); each distinct circuit is run once
        corruption: "image" or "text"
        runs: of each set; "frozen" or "computed"
        directions: of each set; "sufficiency": the set is the circuit; "necessity": all heads but the set are

    Returns:
        one row per pair and set: sample_id, unit (if the pairs have it), set (its index), logit_diff, logit_diff_none,
        logit_diff_all, patching_effect

    Raises:
        VlmtraceError: a head does not exist, or the table breaks the contract
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs)
    for heads in sets:
        check_heads(model, heads)
    everything = frozenset(every_head(model))
    circuits = [
        frozenset(heads) if direction == "sufficiency" else everything - frozenset(heads)
        for heads, direction in zip(sets, directions, strict=True)
    ]
    # Frozen necessity starts from clean embeddings, so it is no sufficiency of the complement.
    ways = [run if run == "computed" else f"frozen {way}" for run, way in zip(runs, directions, strict=True)]
    batches = {way: _distinct(everything, circuits, [its == way for its in ways]) for way in dict.fromkeys(ways)}
    masks = {way: head_masks(model, given) for way, (given, *_) in batches.items()}
    tables: dict[int, pd.DataFrame] = {}
    with counter(len(pairs), f"{sum(len(given) for given, *_ in batches.values())} circuits, {corruption}") as advance:
        for row, of_pair in one_by_one(model, pairs, corruption):
            columns = np.empty((3, len(sets)))  # LD of the circuit, of none, of all
            for way, (given, chosen, places) in batches.items():
                if way == "computed":
                    readout = circuit_readout(model, of_pair, given)
                else:
                    readout = fixed_heads(model, of_pair, masks[way], reverse=way == "frozen necessity")
                logit_diff = readout.logit_diff.flatten().cpu().numpy()  # (distinct circuit,)
                columns[0, chosen], columns[1, chosen], columns[2, chosen] = logit_diff[places], *logit_diff[:2]
            ends = (of_pair.clean_readout.logit_diff.item(), of_pair.corrupt_readout.logit_diff.item())
            tables[row] = pd.DataFrame(
                {
                    "sample_id": pairs["sample_id"].iloc[row],
                    **({UNIT: pairs[UNIT].iloc[row]} if UNIT in pairs else {}),
                    "set": range(len(sets)),
                    **dict(zip(("logit_diff", "logit_diff_none", "logit_diff_all"), columns, strict=True)),
                    "patching_effect": patching_effect(columns[0], *ends),
                }
            )
            advance(1)
    return pd.concat([tables[row] for row in sorted(tables)], ignore_index=True)


def _distinct(
    everything: frozenset[HeadSite], circuits: list[frozenset[HeadSite]], mine: list[bool]
) -> tuple[list[list[HeadSite]], list[int], list[int]]:
    """No head, all heads and each distinct circuit of mine; the numbers of mine, and the place of each among them."""
    chosen = [index for index, is_mine in enumerate(mine) if is_mine]
    distinct = list(dict.fromkeys([frozenset(), everything, *(circuits[index] for index in chosen)]))
    place = {heads: index for index, heads in enumerate(distinct)}
    return [sorted(heads) for heads in distinct], chosen, [place[circuits[index]] for index in chosen]


@checked
def circuit_sizes(n_heads: Natural) -> list[int]:
    """Sizes of a circuit from none to all heads, every one at first and then in steps of a third to a half.

    Args:
        n_heads: how many heads are ranked

    Returns:
        the sizes, ascending

    Example:
        >>> from vlmtrace.methods.circuits import circuit_sizes
        >>> circuit_sizes(64)
        [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    """
    powers = [2**i for i in range(n_heads.bit_length())]
    between = [power + power // 2 for power in powers[1:]]
    return sorted({0, *(size for size in powers + between if size < n_heads), n_heads})


@checked
def subset_table(
    model: VLM,
    pairs: pd.DataFrame,
    circuit: Sequence[HeadSite],
    corruption: str = "image",
    n_halves: Count = 2,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Take subsets of a circuit out of the circuit and out of the whole model, for completeness and minimality.

    The subsets K of a circuit C are the empty one, each single head, all heads but one, all of C, and random halves.
    For each, the computed run (see `faithfulness_table`) is made with the circuit C without K and with the model M
    without K. `circuit_verdicts` reads completeness and minimality (Wang et al. 2022,
    https://arxiv.org/abs/2211.00593) from them.

    Args:
        model: the model to run
        pairs: a pairs table, not of those that gave the circuit
        circuit: (module, layer, head) each
        corruption: "image" or "text"
        n_halves: random halves of the circuit
        seed: of the halves

    Returns:
        one row per pair and subset: sample_id, unit (if the pairs have it), corruption, removed (the heads of K, as
        "module layer.head", joined by ", "; empty for the empty set), k (heads of the circuit), logit_diff_circuit (LD
        of C without K), logit_diff_model (LD of M without K), logit_diff_none and logit_diff_all (LD without any head
        and with all)

    Raises:
        VlmtraceError: a pair helped to find the heads, or a head is unknown or named twice
    """
    refuse_discover(pairs)
    heads = sorted(ranked_heads(model, circuit))
    generator = np.random.default_rng(seed)
    subsets = [frozenset(), frozenset(heads), *(frozenset([head]) for head in heads)]
    subsets += [frozenset(heads) - {head} for head in heads]
    for _ in range(n_halves):
        subsets.append(frozenset(heads[i] for i in generator.permutation(len(heads))[: len(heads) // 2]))
    subsets = list(dict.fromkeys(subsets))
    sets = [set(whole) - removed for whole in (heads, every_head(model)) for removed in subsets]
    ran = run_sets(
        model, pairs, [sorted(one) for one in sets], corruption, ["computed"] * len(sets), ["sufficiency"] * len(sets)
    )
    inside = ran[ran["set"] < len(subsets)].rename(columns={"logit_diff": "logit_diff_circuit"})
    without = ran[ran["set"] >= len(subsets)].rename(columns={"logit_diff": "logit_diff_model"})
    without = without.assign(set=without["set"] - len(subsets))[["sample_id", "set", "logit_diff_model"]]
    table = inside.merge(without, on=["sample_id", "set"])
    names = [", ".join(f"{module} {layer}.{head}" for module, layer, head in sorted(removed)) for removed in subsets]
    table = table.assign(corruption=corruption, k=len(heads), removed=[names[index] for index in table["set"]])
    columns = ["sample_id", UNIT, "corruption", "removed", "k", "logit_diff_circuit", "logit_diff_model"]
    columns += ["logit_diff_none", "logit_diff_all"]
    return table[[column for column in columns if column in table]]


def refuse_discover(pairs: pd.DataFrame, what: str = "heads") -> None:
    """Raise a sentence if pairs helped to find what they are to test.

    Args:
        pairs: a pairs table
        what: they helped to find

    Raises:
        VlmtraceError: `select_samples` marked some of them "discover"
    """
    if USE in pairs and (found := pairs[USE] == "discover").any():
        raise VlmtraceError(
            f"{found.sum()} of the {len(pairs)} pairs helped to find the {what} and cannot test them: "
            f"pass only those with {USE} == 'verify'."
        )
