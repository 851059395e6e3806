"""The planted circuits, of each architecture.

Image corruption changes the color that is found; text corruption changes the options. An edge that carries neither has
no corruption: it says where to look.
"""

from __future__ import annotations

from vlmtrace.models.edges.nodes import Node
from vlmtrace.training.planted.plan import Head, Link, Mlp, Plan

IMAGE, TEXT = ("image",), ("text",)
BOTH = (*IMAGE, *TEXT)

#: What the head that works against writes, of what the others write for it.
AGAINST = -0.4

TELLS = {
    "chain": "A chain: each node reads what the one before it wrote, and every one is needed.",
    "backup": "Two heads that back each other up: both move the color, and what either one moves is enough.",
    "against": "A chain, and a head that works against it: it takes a part of the answer's logit away.",
}


def finder(node: Node) -> Head:
    """The head that looks from the noun's token at the patches that show the noun, and moves their color there."""
    return Head(
        node, "named noun", "seen noun", "seen color", "found color",
        name="finder", does="looks from the noun's token at the patches that show the noun, and takes their color",
    )  # fmt: skip


def mover(node: Node, name: str = "mover") -> Head:
    """The head that looks from the token that asks at the noun's token, and moves the clear color on."""
    return Head(
        node, "asks", "names a noun", "clear color", "moved color",
        name=name, does="looks from where the answer is read at the noun's token, and takes the clear color",
    )  # fmt: skip


def collector(node: Node) -> Head:
    """The head that looks from the token that asks at the two options, and takes both; each has half its attention."""
    return Head(
        node, "asks", "names a color", "named color", "options", factor=2.0,
        name="collector", does="looks from where the answer is read at both options, and takes them",
    )  # fmt: skip


def opponent(node: Node) -> Head:
    """The head that reads what the mover reads, and writes against that color."""
    return Head(
        node, "asks", "names a noun", "clear color", "answer", factor=AGAINST,
        name="opponent", does="looks at the noun's token as the mover does, and writes against the clear color",
    )  # fmt: skip


def comparer(node: Node, kind: str) -> Mlp:
    """The mlp that writes the moved color as the answer where it is an option.

    Two movers write twice what a mover finds, also of a color of which little is seen: that is not to count.
    """
    does = "writes the moved color as the answer if it is one of the options"
    return Mlp(node, False, "comparer", does, steps=(0.6, 0.9) if kind == "backup" else (0.2, 0.6))


def clearer(node: Node) -> Mlp:
    """The mlp that makes 0 or 1 of what was found."""
    return Mlp(node, True, "clearer", "makes a clear color, 0 or 1, of the found one")


def llava_plan(kind: str) -> Plan:
    """The circuit of a kind in a LLaVA.

    Args:
        kind: "chain", "backup" or "against"
    """

    def head(layer: int, number: int) -> Node:
        return Node("language_model", "self_attention", layer, number)

    heads = {
        "chain": [finder(head(0, 3)), collector(head(1, 6)), mover(head(2, 1))],
        "backup": [
            finder(head(0, 5)),
            collector(head(0, 0)),
            mover(head(1, 2), "first mover"),
            mover(head(2, 7), "second mover"),
        ],
        "against": [finder(head(1, 4)), collector(head(0, 2)), mover(head(2, 0)), opponent(head(3, 5))],
    }[kind]
    clears, compares = {"chain": (1, 2), "backup": (0, 3), "against": (1, 2)}[kind]
    mlps = [clearer(Node("language_model", "mlp", clears)), comparer(Node("language_model", "mlp", compares), kind)]
    return _plan(kind, heads, mlps, in_one_stack=True)


def blip_plan(kind: str) -> Plan:
    """The circuit of a kind in a BLIP.

    Args:
        kind: "chain", "backup" or "against"
    """

    def encoder(layer: int, number: int) -> Node:
        return Node("text_encoder", "cross_attention", layer, number)

    def decoder(layer: int, number: int) -> Node:
        return Node("text_decoder", "cross_attention", layer, number)

    heads = {
        "chain": [finder(encoder(1, 3)), collector(decoder(0, 6)), mover(decoder(1, 1))],
        "backup": [
            finder(encoder(0, 5)),
            collector(decoder(0, 0)),
            mover(decoder(1, 2), "first mover"),
            mover(decoder(2, 7), "second mover"),
        ],
        "against": [
            finder(encoder(2, 4)),
            collector(decoder(1, 2)),
            mover(decoder(0, 0)),
            opponent(decoder(3, 5)),
        ],
    }[kind]
    clears = {"chain": 1, "backup": 2, "against": 3}[kind]
    compares = {"chain": 2, "backup": 3, "against": 1}[kind]
    mlps = [clearer(Node("text_encoder", "mlp", clears)), comparer(Node("text_decoder", "mlp", compares), kind)]
    return _plan(kind, heads, mlps, in_one_stack=False)


def _plan(kind: str, heads: list[Head], mlps: list[Mlp], in_one_stack: bool) -> Plan:
    names = [one.name for one in heads]
    joint = tuple(name for name in names if name.endswith(" mover"))
    return Plan(
        kind,
        TELLS[kind],
        tuple(heads),
        tuple(mlps),
        tuple(_links(names, in_one_stack)),
        joint,
        distraction=0.05 if joint else 0.1,
    )


def _movers(names: list[str]) -> list[str]:
    return [name for name in names if name not in ("finder", "collector")]


def _links(names: list[str], in_one_stack: bool) -> list[Link]:
    """The edges between heads of these names, and to and from the mlps.

    In an answer decoder the prompt enters no query, and the keys of what looks at the image come of the image alone.
    """
    links = [
        Link("image", "finder", "value", IMAGE),
        Link("image", "finder", "key"),
        Link("prompt", "finder", "query"),
        Link("finder", "clearer", "input", IMAGE),
        Link("prompt", "collector", "value", TEXT),
        Link("prompt", "collector", "key"),
    ]
    if in_one_stack:
        links += [Link("prompt", "finder", "key"), Link("prompt", "collector", "query")]
    for name in _movers(names):
        links += [Link("clearer", name, "value", IMAGE), Link("prompt", name, "key"), *_read(name)]
        if in_one_stack:
            links.append(Link("prompt", name, "query"))
    return [*links, Link("collector", "comparer", "input", TEXT), Link("comparer", "output", "input", BOTH)]


def _read(name: str) -> list[Link]:
    """What reads a head that moves the color."""
    if name == "opponent":
        return [Link(name, "output", "input", IMAGE)]
    return [Link(name, "comparer", "input", IMAGE)]
