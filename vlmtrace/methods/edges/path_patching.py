"""Path patching: what would the corrupt run have answered, had one node read the clean output of one earlier node?

The numbers are exact: see `vlmtrace.models.edges.sweep`, and `vlmtrace.models.edges.reference` for the plain way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from vlmtrace.core.arguments import NonEmpty, Positive, checked
from vlmtrace.core.errors import one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.inputs.batching import Positions, choose_positions, one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.edges.listing import chosen_edges, edge_table
from vlmtrace.methods.patching.direction import DIRECTIONS, in_direction
from vlmtrace.methods.patching.metrics import concat_in_order, patching_effect
from vlmtrace.methods.patching.run_sweep import memory_bytes, memory_for_states
from vlmtrace.models import VLM, Readout
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.nodes import IMAGE, INPUT, THE_OUTPUT, Edge, Node
from vlmtrace.models.edges.stacks import stacks_of
from vlmtrace.models.edges.sweep import sweep_edges

#: What may be asked for as `positions` beside those of `patch_heads`: all of a sender's positions at once.
TOGETHER = "together"

#: Position, token and role of what is sent; missing where all positions are.
_Place = tuple[int | None, str | None, str | None]


@checked
def patch_edges(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    senders: NonEmpty[str] | None = None,
    receivers: NonEmpty[str] | None = None,
    positions: Positions = TOGETHER,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    direction: str = "denoising",
) -> pd.DataFrame:
    """Patch single edges: one node reads the clean output of one earlier node, and all else is as in the corrupt run.

    Path patching (Wang et al. 2022, https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al. 2023,
    https://arxiv.org/abs/2304.05969). What the sender writes reaches the receiver along the residual stream, through
    the norms on its way; the nodes between give what they give in the corrupt run. What the receiver then gives is
    computed, and all above it.

    Args:
        model: the model to patch
        pairs: a pairs table
        corruption: "image" or "text"
        senders: names of nodes as `edges` lists them ("image", "text_encoder.mlp.2"), or their beginnings up to a dot
            ("text_encoder"); None: all
        receivers: the same of what reads them ("output", "text_encoder.self_attention.2.1.query"); None: all
        positions: of the sender's output: "together", all at once; or one after the other, as in `patch_heads`
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`
        direction: as in `patch_modules`

    Returns:
        the edge_patching table, one row per pair and edge (and position): sample_id, corruption, the columns of
        `edges`, position, token and token_role (missing where all positions are patched together), and p_correct,
        p_diff, logit_diff, patching_effect, direction and contrast_token as in `patch_modules`

    Raises:
        VlmtraceError: a name is unknown, the model's edges are not known, the table breaks the contract, or the runs of
            a pair cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.patch_edges(model, pairs, receivers=["output"])
        >>> effects.groupby("sender", observed=True)["patching_effect"].mean().nlargest(1).round(1)
        sender
        text_decoder.cross_attention.3.4    0.1
        Name: patching_effect, dtype: float64
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    one_of(direction, DIRECTIONS, "direction")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = memory_bytes(model, memory_gb)
    wanted = chosen_edges(model, senders, receivers)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"patching {len(wanted)} edges of {len(pairs)} pairs, {corruption} corruption") as advance:
        for row, runs in one_by_one(model, pairs, corruption, contrast):
            pair = pairs.iloc[[row]]
            runs = in_direction(runs, direction)
            plan = plan_of(model, pair, runs, wanted, positions)
            if plan.edges:
                readout = edge_readout(model, runs, plan.senders, plan.edges, memory_for_states(memory, runs))
                tables.append(effects_of_pair(pair, runs, corruption, plan.rows, readout))
            advance(1)
    return concat_in_order(pairs, tables, positions).assign(direction=direction)


def edge_readout(
    model: VLM, runs: PairRuns, senders: Sequence[Sender], edges: Sequence[tuple[int, Edge]], memory: int
) -> Readout:
    """Answer edges of one pair, whatever the number of its answers' tokens.

    Args:
        model: any whose edges are known
        runs: of one pair; `clean` is sent, `corrupt` reads
        senders: whose output is sent
        edges: each with the number of its sender
        memory: bytes that states may take

    Returns:
        Readout (edge,)
    """
    wanted = [(number, edge.receiver) for number, edge in edges]
    only_read = all(receiver.node == THE_OUTPUT for _, receiver in wanted)
    if runs.whole is None:
        stacks = stacks_of(model, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids, only_read)
        return sweep_edges(stacks, senders, wanted, runs.corrupt_readout, memory)
    both = []
    for side, base in zip(runs.whole, (runs.corrupt_readout.correct, runs.corrupt_readout.incorrect), strict=True):
        stacks = stacks_of(model, side.clean, side.corrupt, side.inputs, side.ids, only_read)
        own = Readout(base, torch.full_like(base, torch.nan), torch.zeros_like(base))
        both.append(sweep_edges(stacks, senders, wanted, own, memory))
    return Readout.of_two(*both)


class Plan:
    """What is sent in one pair.

    Attributes:
        senders: whose output is sent, at which position
        edges: each with the number of its sender
        rows: the edges and positions as rows of the table
    """

    def __init__(self) -> None:
        """Plan nothing yet."""
        self.senders: list[Sender] = []
        self.edges: list[tuple[int, Edge]] = []
        self.rows = pd.DataFrame()


def plan_of(model: VLM, pair: pd.DataFrame, runs: PairRuns, wanted: Sequence[Edge], positions: Positions) -> Plan:
    """Say what is sent in one pair.

    Args:
        model: any whose edges are known
        pair: its row of the pairs table
        runs: its runs
        wanted: the edges
        positions: as in `patch_edges`
    """
    plan, places = Plan(), []
    numbers: dict[Sender, int] = {}
    tables: dict[Node, list[_Place]] = {}
    for edge in wanted:
        if positions == TOGETHER:
            at: list[_Place] = [(None, None, None)]
        else:
            at = tables.get(edge.sender) or _positions_of(model, pair, runs, edge.sender, positions)
            tables[edge.sender] = at
        for position, token, role in at:
            sender = Sender(edge.sender, None if position is None else int(position))
            plan.edges.append((numbers.setdefault(sender, len(numbers)), edge))
            places.append((position, token, role))
    plan.senders = list(numbers)
    if plan.edges:
        columns = [list(column) for column in zip(*places, strict=True)]
        plan.rows = edge_table([edge for _, edge in plan.edges]).assign(
            position=pd.array(columns[0], dtype="Int64"), token=columns[1], token_role=columns[2]
        )
    return plan


def _positions_of(model: VLM, pair: pd.DataFrame, runs: PairRuns, sender: Node, positions: Positions) -> list[_Place]:
    """Position, token and role of each row that a sender's output has and that is asked for."""
    block = sender.block
    if block == INPUT:
        block = model.image_block if sender == IMAGE else model.head_block.name
    table = token_table(model, pair.iloc[0].to_dict(), block, runs.clean_inputs)
    if sender.block == INPUT and block == model.head_block.name:
        # One sequence holds the image's rows and the prompt's.
        is_image = model.image_positions(runs.clean_inputs, block)
        table = table[is_image if sender == IMAGE else ~is_image]
    chosen = choose_positions(table, positions, block)[["position", "token", "token_role"]]
    return list(chosen.itertuples(index=False, name=None))


def effects_of_pair(
    pair: pd.DataFrame, runs: PairRuns, corruption: str, rows: pd.DataFrame, readout: Readout
) -> pd.DataFrame:
    """The rows of the edge_patching table for one pair, without its direction.

    Args:
        pair: its row of the pairs table
        runs: its runs
        corruption: of the corrupt run
        rows: the edges and positions
        readout: (edge,)
    """
    logit_diff, p_correct = (
        value.cpu().numpy().astype(np.float64) for value in (readout.logit_diff, readout.p_correct)
    )
    clean, corrupt = (side.logit_diff.item() for side in (runs.clean_readout, runs.corrupt_readout))
    units = {UNIT: pair[UNIT].iloc[0]} if UNIT in pair else {}
    front = pd.DataFrame({"sample_id": pair["sample_id"].iloc[0], **units, "corruption": corruption}, index=rows.index)
    return pd.concat([front, rows], axis=1).assign(
        p_correct=p_correct,
        p_diff=p_correct - runs.corrupt_readout.p_correct.item(),
        logit_diff=logit_diff - corrupt,
        patching_effect=patching_effect(logit_diff, clean, corrupt),
        contrast_token=runs.contrasts[0],
    )
