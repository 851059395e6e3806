"""What an address says of the view of edges; nothing of it may be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.example import Example
from vlmtrace.methods.edges.intervention import check_edges, word_of
from vlmtrace.methods.edges.opened import placed_boxes, tokens_of
from vlmtrace.methods.edges.pair_edges import check_patches, every_edge
from vlmtrace.models.edges.nodes import PROMPT

#: An address that names more edges or patches than this is no address of ours.
MOST_CHOSEN = 200


def in_address(n: int, edges: Sequence[tuple[str, str]], patches: Sequence[int]) -> dict[str, str]:
    """How many edges are drawn, which are patched, and which patches of the image are, as `from_address` reads them.

    Args:
        n: how many are drawn
        edges: (sender, receiver)
        patches: of the image
    """
    edges_said = ",".join(">".join(edge) for edge in edges)
    return {"n": str(n), "edges": edges_said, "patches": ",".join(map(str, patches))}


def from_address(
    example: Example, settings: Mapping[str, str], corruption: str
) -> tuple[int, list[tuple[str, str]], list[int]]:
    """How many edges are drawn, which are patched, and which patches of the image are.

    Args:
        example: whose model has the edges, and whose image the patches
        settings: n; edges: "sender>receiver", joined by commas; patches: numbers, joined by commas
        corruption: whose run is patched

    Returns:
        n, edges, patches

    Raises:
        VlmtraceError: a value means nothing here
    """
    n = _number(settings.get("n", "30"))
    edges = [part.split(">") for part in settings.get("edges", "").split(",") if part]
    patches = [_number(part) for part in settings.get("patches", "").split(",") if part]
    if not 1 <= n <= MOST_CHOSEN or len(edges) > MOST_CHOSEN or len(patches) > MOST_CHOSEN:
        raise VlmtraceError(f"The address asks for more than is drawn: from 1 to {MOST_CHOSEN} edges or patches.")
    known = {(edge.sender.label, edge.receiver.label) for edge in every_edge(example)} if edges else set()
    for edge in edges:
        if len(edge) != 2:
            raise VlmtraceError(f"{'>'.join(edge)[:80]!r} names no edge: two nodes, joined by >.")
        sender, position = word_of(edge[0])
        check_edges(example.model, known, [(sender, edge[1])])
        if position is not None:
            words = tokens_of(example, PROMPT)["position"].tolist()
            if position not in words:
                raise VlmtraceError(f"The prompt has no word at position {position}: choose {words[0]} to {words[-1]}.")
    check_patches(corruption, patches)
    n_patches = len(placed_boxes(example)[1])
    wrong = [patch for patch in patches if patch >= n_patches]
    if wrong:
        raise VlmtraceError(f"There is no patch {wrong[0]}: choose among 0 to {n_patches - 1}.")
    return n, [(edge[0], edge[1]) for edge in edges], patches


def _number(text: str) -> int:
    # isdecimal alone takes digits of other scripts, too.
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise VlmtraceError(f"{text[:40]!r} is no number.")
    return int(text)
