"""Estimates of what edges and the inputs of nodes do, from gradients: two forward passes and few backward ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, NonEmpty, Positive, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batching import Positions, one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.edges.listing import chosen_edges
from vlmtrace.methods.edges.path_patching import TOGETHER, Plan, edge_readout, effects_of_pair, plan_of
from vlmtrace.methods.patching.direction import DIRECTIONS, in_direction
from vlmtrace.methods.patching.metrics import concat_in_order
from vlmtrace.methods.patching.run_sweep import memory_bytes, memory_for_states
from vlmtrace.models import VLM, Readout
from vlmtrace.models.edges.attribution import attribute_edges as first_order
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.gradient_runs import GradientRuns, gradient_runs
from vlmtrace.models.edges.nodes import EVERYTHING, THE_OUTPUT, Edge, Node, Receiver
from vlmtrace.models.edges.stacks import Stack, stacks_of
from vlmtrace.models.types import AnswerIds

#: What may be asked for as `method` of `attribute_edges`.
EDGE_METHODS = ("EAP", "EAP-IG-inputs", "EAP-IG-activations", "clean-corrupted", "computed-receivers")

#: What may be asked for as `method` of `attribute_nodes`.
NODE_METHODS = ("AtP", "QK-fix", "AtP*", "exact")

#: What is sent, and what reads it.
_Sent = tuple[Sender, Receiver]

#: Estimates (edge,) of some edges, given the two runs of one pair taken apart, what is read out, and bytes for states.
_Estimate = Callable[[Sequence[Stack], AnswerIds, int], Tensor]


@checked
def attribute_edges(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    method: str = "EAP",
    steps: Count = 5,
    senders: NonEmpty[str] | None = None,
    receivers: NonEmpty[str] | None = None,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    direction: str = "denoising",
    positions: Positions = TOGETHER,
) -> pd.DataFrame:
    """Estimate what `patch_edges` would find, from gradients.

    To first order an edge moves the logit difference by what its sender writes, clean less corrupt, as it stands before
    the receiver, times the gradient with respect to that input of the receiver. The methods differ in where the
    gradient is taken:

    - "EAP": in the corrupt run (edge attribution patching: Syed, Rager and Conmy 2023,
      https://arxiv.org/abs/2310.10348)
    - "EAP-IG-inputs": averaged along the straight line between the embeddings of image and prompt of both runs (Hanna,
      Pezzelle and Belinkov 2024, https://arxiv.org/abs/2403.17806)
    - "EAP-IG-activations": averaged along the line between what the sender's module (all heads of its layer, or the
      mlp) gives in both runs, all else corrupt (integrated gradients of activations: Marks et al. 2024,
      https://arxiv.org/abs/2403.19647; as a method for edges in Mueller et al. 2025, https://arxiv.org/abs/2504.13151)
    - "clean-corrupted": averaged over the clean and the corrupt run alone
    - "computed-receivers": in the corrupt run, with respect to what the receiver gives; what it gives with the edge
      patched is computed. So a softmax that saturates is no error of the estimate (the correction of Kramár et al.
      2024, https://arxiv.org/abs/2403.00745, for edges)

    Args:
        model: the model to trace
        pairs: a pairs table
        corruption: "image" or "text"
        method: one of those above
        steps: of the two with "IG": how many gradients are averaged, at the midpoints of equal parts of the line
        senders: as in `patch_edges`
        receivers: as in `patch_edges`
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`
        direction: as in `patch_modules`; for "noising", read clean for corrupt above and the other way round
        positions: as in `patch_edges`. Where gradients are taken, is the same for all

    Returns:
        the edge_patching table (see `patch_edges`); logit_diff and patching_effect are estimates. p_correct and p_diff
        are missing, since a first-order step of a probability can leave the range 0 to 1

    Raises:
        VlmtraceError: a name is unknown, steps is below 1, the model's edges are not known, the table breaks the
            contract, or the runs of a pair cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> estimates = vt.attribute_edges(model, pairs, receivers=["output"])
        >>> estimates.groupby("sender", observed=True)["patching_effect"].mean().nlargest(1).round(1)
        sender
        text_decoder.cross_attention.3.0    0.1
        Name: patching_effect, dtype: float64
    """
    one_of(method, EDGE_METHODS, "method")
    wanted = chosen_edges(model, senders, receivers)

    def of_pair(runs: PairRuns, plan: Plan, memory: int) -> Readout:
        sent = [(plan.senders[number], edge.receiver) for number, edge in plan.edges]

        def estimate(stacks: Sequence[Stack], answer_ids: AnswerIds, memory: int) -> Tensor:
            return _estimated(stacks, answer_ids, sent, method, steps, memory)

        return _as_readout(runs, _of_answers(model, runs, estimate, memory))

    what = f"{method} of {len(wanted)} edges"
    return _tables(model, pairs, corruption, contrast, direction, memory_gb, wanted, of_pair, what, positions)


@checked
def attribute_nodes(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    method: str = "AtP*",
    receivers: NonEmpty[str] | None = None,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    direction: str = "denoising",
) -> pd.DataFrame:
    """Estimate what patching one input of a node would do: a head's queries, its keys, its values, what enters an mlp.

    As an edge from all earlier nodes at once: the input is the clean run's, all else is as in the corrupt run, and what
    stands above is computed, or estimated. The methods:

    - "AtP": the gradient in the corrupt run times the difference of the input (attribution patching: Nanda 2023,
      https://www.neelnanda.io/mechanistic-interpretability/attribution-patching)
    - "QK-fix": what the node then gives is computed, so that no softmax of queries and keys is taken for straight
    - "AtP*": the same, and the mean of the estimates' magnitudes over gradients that leave out one layer each, so that
      a node whose paths cancel out is not overlooked (GradDrop). A magnitude: it says how much, not in which direction
    - "exact": as `patch_edges` computes

    The two corrections are those of Kramár et al. 2024, https://arxiv.org/abs/2403.00745; there a node is a head's
    query or key at one position, here at all positions.

    Args:
        model: the model to trace
        pairs: a pairs table
        corruption: "image" or "text"
        method: one of those above
        receivers: the inputs, as `edges` names them, or beginnings of names, as in `patch_edges`; None: all
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`
        direction: as in `patch_modules`

    Returns:
        the edge_patching table (see `patch_edges`), one row per pair and input, with sender "everything"; p_correct and
        p_diff are missing where effects are estimated

    Raises:
        VlmtraceError: a name is unknown, the model's edges are not known, the table breaks the contract, or the runs of
            a pair cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> nodes = vt.attribute_nodes(model, pairs, receivers=["text_decoder"])
        >>> nodes.groupby("receiver", observed=True)["patching_effect"].mean().idxmax()
        'text_decoder.cross_attention.3.7.value'
    """
    one_of(method, NODE_METHODS, "method")
    found = dict.fromkeys(edge.receiver for edge in chosen_edges(model, None, receivers))
    wanted = [Edge(EVERYTHING, receiver) for receiver in found if receiver.node != THE_OUTPUT]
    if not wanted:
        raise VlmtraceError("The output is no node that gives anything: choose inputs of heads or mlps as receivers.")

    def estimate(stacks: Sequence[Stack], answer_ids: AnswerIds, memory: int) -> Tensor:
        own = [(0, edge.receiver) for edge in wanted]
        if method != "AtP*":
            runs = [gradient_runs(stacks, answer_ids, [0.0])]
            return first_order(stacks, [Sender(EVERYTHING)], own, runs, memory, method == "QK-fix")
        layers = [(stack.wiring.block, i) for stack in stacks for i in range(stack.layers.block.n_layers)]
        total = torch.zeros(len(wanted))
        for layer in layers:
            runs = [gradient_runs(stacks, answer_ids, [0.0], dropped=layer)]
            total += first_order(stacks, [Sender(EVERYTHING)], own, runs, memory, True).abs()
        return total / max(1, len(layers) - 1)  # in its own layer's turn a node has no gradient

    def of_pair(runs: PairRuns, plan: Plan, memory: int) -> Readout:
        if method == "exact":
            return edge_readout(model, runs, plan.senders, plan.edges, memory)
        return _as_readout(runs, _of_answers(model, runs, estimate, memory))

    what = f"{method} of {len(wanted)} inputs of nodes"
    return _tables(model, pairs, corruption, contrast, direction, memory_gb, wanted, of_pair, what)


def _tables(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str,
    contrast: str,
    direction: str,
    memory_gb: float | None,
    wanted: Sequence[Edge],
    of_pair: Callable[[PairRuns, Plan, int], Readout],
    what: str,
    positions: Positions = TOGETHER,
) -> pd.DataFrame:
    """The edge_patching table of all pairs, given the readout (edge,) of what is sent in each."""
    one_of(corruption, CORRUPTIONS, "corruption")
    one_of(direction, DIRECTIONS, "direction")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = memory_bytes(model, memory_gb)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"{what} of {len(pairs)} pairs, {corruption} corruption") as advance:
        for row, runs in one_by_one(model, pairs, corruption, contrast):
            pair, runs = pairs.iloc[[row]], in_direction(runs, direction)
            plan = plan_of(model, pair, runs, wanted, positions)
            if plan.edges:
                readout = of_pair(runs, plan, memory_for_states(memory, runs))
                tables.append(effects_of_pair(pair, runs, corruption, plan.rows, readout))
            advance(1)
    return concat_in_order(pairs, tables, positions).assign(direction=direction)


def _of_answers(model: VLM, runs: PairRuns, estimate: _Estimate, memory: int) -> Tensor:
    """What estimates (edge,) say of the logit difference, whatever the number of the answers' tokens."""
    if runs.whole is None:
        return estimate(
            stacks_of(model, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids), runs.answer_ids, memory
        )
    correct, other = (
        estimate(stacks_of(model, side.clean, side.corrupt, side.inputs, side.ids), side.ids, memory)
        for side in runs.whole
    )
    return correct - other


def _as_readout(runs: PairRuns, change: Tensor) -> Readout:
    """A readout (edge,) whose logit difference is the corrupt run's with a change (edge,), and of no probability."""
    base = runs.corrupt_readout.logit_diff.double().cpu()
    # In float64: the changes may be far smaller than what they change.
    return Readout(base + change.double(), torch.zeros_like(change), torch.full_like(change, np.nan))


def _estimated(
    stacks: Sequence[Stack], answer_ids: AnswerIds, edges: Sequence[_Sent], method: str, steps: int, memory: int
) -> Tensor:
    ways = {"EAP": [0.0], "computed-receivers": [0.0], "clean-corrupted": [0.0, 1.0]}
    shares = ways.get(method) or [(i + 0.5) / steps for i in range(steps)]
    if method != "EAP-IG-activations":
        return _averaged(stacks, answer_ids, shares, None, edges, memory, method == "computed-receivers")
    found = torch.zeros(len(edges))
    by_module: dict[Node, list[int]] = {}
    for i, ((sender, _), _) in enumerate(edges):
        by_module.setdefault(sender if sender.head is None else sender._replace(head=0), []).append(i)
    for module, mine in by_module.items():
        found[mine] = _averaged(stacks, answer_ids, shares, module, [edges[i] for i in mine], memory, False)
    return found


def _averaged(
    stacks: Sequence[Stack],
    answer_ids: AnswerIds,
    shares: Sequence[float],
    moved: Node | None,
    edges: Sequence[_Sent],
    memory: int,
    computes_receivers: bool,
) -> Tensor:
    """Estimates (edge,), averaged over runs at some shares of the way; no more runs are kept than fit into memory."""
    one = sum(stack.layers.state_bytes() * stack.layers.block.n_layers for stack in stacks)
    size = max(1, memory // one)
    found = torch.zeros(len(edges))
    for begin in range(0, len(shares), size):
        some = shares[begin : begin + size]
        runs = [gradient_runs(stacks, answer_ids, some, moved)]
        found += len(some) / len(shares) * _first_order(stacks, edges, runs, memory, computes_receivers)
        del runs  # before those that follow are made
    return found


def _first_order(
    stacks: Sequence[Stack], edges: Sequence[_Sent], runs: Sequence[GradientRuns], memory: int, computes_receivers: bool
) -> Tensor:
    numbers = {sender: i for i, sender in enumerate(dict.fromkeys(sender for sender, _ in edges))}
    wanted = [(numbers[sender], receiver) for sender, receiver in edges]
    return first_order(stacks, list(numbers), wanted, runs, memory, computes_receivers)
