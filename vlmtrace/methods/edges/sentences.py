"""Which edges matter, and what circuits of them do, in sentences that follow the tables."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import count, number
from vlmtrace.display.sentences import listed, picked_in_words, with_interval
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.edges.circuits import edge_scores

#: Mean effects from this size on are counted.
_LEAST = 0.02

_INPUTS = ("query", "key", "value")

_PLURAL = {"query": "queries", "key": "keys", "value": "values"}


@checked
def describe_edges(edge_patching: pd.DataFrame) -> str:
    """Say how many edges do anything, which one does most, and by which inputs heads of each block read.

    Args:
        edge_patching: from `patch_edges`, under one corruption

    Returns:
        sentences, one a line; effects are means over units, and the largest has no interval on the pairs that pick it

    Raises:
        VlmtraceError: a column is missing, or the table holds several corruptions
    """
    check_columns(edge_patching, ("sample_id", "sender", "receiver", "patching_effect"), "edge_patching")
    known = edge_patching.dropna(subset="patching_effect")
    if known.empty:
        return "No pair has an effect: its clean and corrupt runs do not differ."
    scores = edge_scores(known, "patching_effect")
    sizes = scores.assign(size=scores["score"].abs()).sort_values("size", ascending=False, ignore_index=True)
    most = sizes.iloc[0]
    n = int((sizes["size"] >= _LEAST).sum())
    said = [f"Of {len(sizes):,} edges {n} {'has' if n == 1 else 'have'} a mean effect of {_LEAST:g} or more in size."]
    effect = picked_in_words(most["score"])
    said.append(f"The strongest leads from {_node(most['sender'])} to {_node(most['receiver'])}: {effect}.")
    by_input = sizes.assign(read=sizes["receiver"].astype(str).str.rpartition(".")[2])
    sums = by_input[by_input["read"].isin(_INPUTS)].groupby("read")["size"].sum().reindex(_INPUTS).dropna()
    if sums.sum() > 0:
        parts = [f"{number(value)} into {_PLURAL[str(name)]}" for name, value in sums.items()]
        said.append(f"The sizes of all effects sum to {listed(parts)} of heads.")
    return "\n".join(said)


@checked
def describe_edge_circuit(circuit: pd.DataFrame) -> str:
    """Read a circuit from its inputs to the output: who reads the image, and by what, who writes the answer.

    Args:
        circuit: from `find_edge_circuit`

    Returns:
        sentences, one a line

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(circuit, ("sender", "receiver", "score", "share"), "circuit")
    if circuit.empty:
        return "The circuit has no edge."
    edges = circuit.assign(sender=circuit["sender"].astype(str), receiver=circuit["receiver"].astype(str))
    edges["read"] = edges["receiver"].str.rpartition(".")[2]
    first = edges.iloc[0]
    ends = f"On the pairs that it was made on it restores {number(first['share'])}"
    if "share_verify" in edges and pd.notna(first["share_verify"]):
        change = first["share_verify"] - first["share"]
        word = "the same" if abs(change) < 0.005 else "less" if change < 0 else "more"
        ends += f", on new pairs {number(first['share_verify'])}: {word}"
    said = [f"The circuit has {count(len(edges), 'edge')}. {ends}."]
    of_image = edges[edges["sender"] == "image"]
    if len(of_image):
        by = [f"{n} by {_PLURAL[name]}" for name in _INPUTS if (n := int((of_image["read"] == name).sum()))]
        blocks = sorted({_block(name) for name in of_image["receiver"]})
        reads = f": {listed(by)}" if by else ""
        said.append(
            f"{count(len(of_image), 'edge').capitalize()} of it read the image, in the {listed(blocks)}{reads}."
        )
    else:
        said.append("None of its edges reads the image directly.")
    last = edges[edges["receiver"] == "output"].assign(size=lambda rows: rows["score"].abs())
    last = last.sort_values("size", ascending=False)
    names = _nodes(list(last["sender"]))
    said.append(
        f"{count(len(last), 'node').capitalize()} {'writes' if len(last) == 1 else 'write'} the answer: {names}."
    )
    against = int((edges["score"] < 0).sum())
    said.append(
        f"{count(against, 'edge').capitalize()} of the circuit {'works' if against == 1 else 'work'} against it."
    )
    return "\n".join(said)


@checked
def describe_edge_faithfulness(summary: pd.DataFrame) -> str:
    """Say how faithful the circuits of growing size are, beside random ones.

    Args:
        summary: from `edge_faithfulness_summary`

    Returns:
        one sentence per curve

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(summary, ("order", "n", "cpr", "cpr_low", "cpr_high", "cmd", "n_edges_80"), "summary")
    said = []
    for row in summary.to_dict("records"):
        what = "Random edges" if row["order"] == "random" else "Edges by score"
        if pd.isna(row["cpr"]):
            said.append(f"{what}, {count(int(row['n']), 'pair')}: not told, since all edges may restore nothing here.")
            continue
        enough = "no size that was tried reaches .8"
        if pd.notna(row["n_edges_80"]):
            enough = f"the smallest size that reaches .8 has {row['n_edges_80']:,.0f} edges"
        area = with_interval(row["cpr"], row["cpr_low"], row["cpr_high"])
        said.append(f"{what}, {count(int(row['n']), 'pair')}: CPR {area}, CMD {number(row['cmd'])}; {enough}.")
    return "\n".join(said) or "No circuit was run."


def _node(name: object) -> str:
    """A node, or the input of one, in words."""
    parts = str(name).split(".")
    if len(parts) < 3:
        return {"image": "the image", "prompt": "the prompt", "output": "the output"}.get(str(name), readable(name))
    block, module, layer, *rest = parts
    if rest and rest[0].isdigit():
        what = head_name(module, int(layer), int(rest[0]))
        rest = rest[1:]
    else:
        what = f"{readable(module)} {layer}"
    return f"{f'the {rest[0]} of ' if rest else ''}{what} of the {readable(block)}"


def _nodes(names: list[str], at_most: int = 4) -> str:
    """Nodes in words; the block is said once where it is the same."""
    said = [_node(name) for name in names]
    ends = {name.partition(" of the ")[2] for name in said}
    if len(said) < 2 or len(ends) > 1 or "" in ends:
        return listed(said, at_most)
    return f"{listed([name.partition(' of the ')[0] for name in said], at_most)} of the {ends.pop()}"


def _block(name: str) -> str:
    return readable(name.split(".")[0])
