"""The contract of edges and of circuits made of them: notebook 10."""

from __future__ import annotations

from vlmtrace.core.schema.columns import Column, Table
from vlmtrace.core.schema.effect_tables import (
    CORRUPTION,
    DIRECTION,
    PATCHED,
    SAMPLE,
    TASK,
    TOKEN,
    TOKEN_ROLE,
    UNIT_OF_PAIR,
)

_SENDER = Column("sender", "text", "the node whose output is read: `image`, `prompt`, `block.mlp.layer` or "
                 "`block.module.layer.head`")  # fmt: skip
_RECEIVER = Column("receiver", "text", "what reads it: `output`, `block.mlp.layer`, or an input of a head, "
                   "`block.module.layer.head.query`, `….key` or `….value`")  # fmt: skip
_NO_LAYER = "image, prompt or output"
_TOGETHER = "all positions are patched together"


def _optional_task() -> Column:
    return Column(TASK.name, TASK.kind, TASK.meaning, optional=True)


def _node(side: str) -> tuple[Column, ...]:
    return (
        Column(f"{side}_block", "text", f"of the {side}: its stack of layers, or `input` or `output`"),
        Column(f"{side}_module", "text", f"of the {side}: mlp or the attention, or its name where it is in no stack"),
        Column(f"{side}_layer", "integer", f"of the {side}: index in its block, from 0", missing=_NO_LAYER, least=0),
        Column(f"{side}_head", "integer", f"of the {side}: index in its layer, from 0", missing=f"mlp, {_NO_LAYER}",
               least=0),
    )  # fmt: skip


def _estimated(column: Column) -> Column:
    """A column that estimates leave open."""
    missing = "; ".join(filter(None, [column.missing, "an estimate" if column.name.startswith("p_") else ""]))
    return Column(column.name, column.kind, column.meaning, column.unit, column.optional, missing, column.values)


EDGE_PATCHING = Table(
    "edge_patching",
    "One row per pair, corruption and edge (and position): one input of one node reads the clean output of one earlier "
    "node, all else is as in the corrupt run.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION, _SENDER, _RECEIVER, *_node("sender"), *_node("receiver"),
        Column("receiver_input", "text", "by which the receiver reads: query, key or value of a head, else input",
               values=("query", "key", "value", "input")),
        Column("position", "integer", "position of the sender's output that is patched, from 0", missing=_TOGETHER,
               least=0),
        Column(TOKEN.name, TOKEN.kind, TOKEN.meaning, missing=_TOGETHER),
        Column(TOKEN_ROLE.name, TOKEN_ROLE.kind, TOKEN_ROLE.meaning, missing=_TOGETHER),
        *map(_estimated, PATCHED), DIRECTION, _optional_task(),
    ),
    notebook="10_edge_circuits",
    key=("task", "corruption", "sample_id", "direction", "sender", "receiver", "position"),
)  # fmt: skip

EDGE_CIRCUIT = Table(
    "edge_circuit",
    "One row per edge of a circuit (of each task and corruption, if given).",
    (
        _SENDER,
        _RECEIVER,
        Column("score", "number", "by which the edge was chosen: its mean effect, or by how much ACDC's distance grew "
               "without it", "logits, or share of LD_clean − LD_corrupt", missing="the circuit was not chosen by score",
               optional=True),
        Column("share", "number", "of what all edges do, on the pairs it was found on; the same in all rows",
               "share of LD_clean − LD_corrupt", optional=True),
        Column("share_verify", "number", "that on pairs to verify on", "share of LD_clean − LD_corrupt", optional=True,
               missing="none were given"),
        Column("n_circuits", "integer", "how many circuits each pair was run with to find it", "circuits",
               optional=True, least=0),
        _optional_task(),
        Column(CORRUPTION.name, CORRUPTION.kind, CORRUPTION.meaning, optional=True, values=CORRUPTION.values),
    ),
    notebook="10_edge_circuits",
    key=("task", "corruption", "sender", "receiver"),
)  # fmt: skip

_NONE = Column("logit_diff_none", "number", "LD of this pair without any edge: of the corrupt run", "logits")
_ALL = Column("logit_diff_all", "number", "LD of this pair with all edges: of the clean run", "logits")

EDGE_FAITHFULNESS = Table(
    "edge_faithfulness",
    "One row per pair to verify on, corruption, rule, order, draw and size: the model run with a circuit of edges.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION,
        Column("rule", "text", "greedy: grown from the output; best: the best edges wherever they are",
               values=("greedy", "best")),
        Column("order", "text", "ranked: by the scores; random: by the same scores, dealt out anew",
               values=("ranked", "random")),
        Column("draw", "integer", "which random circuit, from 0; 0 for ranked", least=0),
        Column("size", "number", "edges to choose, of all edges of the model", "share of the edges", least=0, most=1),
        Column("k", "integer", "edges chosen", "edges", least=0),
        Column("n_edges", "integer", "those of them on a way from an input to the output", "edges", least=0),
        Column("logit_diff", "number", "LD of this run", "logits"),
        _NONE, _ALL,
        Column("patching_effect", "number", "0: the corrupt answer, 1: the clean one", "share of LD_clean − LD_corrupt",
               missing="clean and corrupt run do not differ"),
        _optional_task(),
    ),
    notebook="10_edge_circuits",
    key=("task", "corruption", "sample_id", "rule", "order", "draw", "size"),
)  # fmt: skip

EDGE_SUBSETS = Table(
    "edge_subsets",
    "One row per pair to verify on, corruption and subset K of a circuit's edges: the circuit and the model run "
    "without K.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION,
        Column("removed", "text", "K: `nothing`, `the circuit`, one edge as `sender → receiver`, or `half 1`, …"),
        Column("n_removed", "integer", "edges of K", "edges", least=0),
        Column("n_edges", "integer", "edges of the circuit", "edges", least=1),
        Column("logit_diff_circuit", "number", "LD of the circuit without K", "logits"),
        Column("logit_diff_model", "number", "LD of the model without K", "logits"),
        _NONE, _ALL, _optional_task(),
        Column("circuit", "text", "name of the circuit", optional=True),
    ),
    key=("task", "circuit", "corruption", "sample_id", "removed"),
)  # fmt: skip

EDGE_TABLES = (EDGE_PATCHING, EDGE_CIRCUIT, EDGE_FAITHFULNESS, EDGE_SUBSETS)
