"""How figures, widgets and the report say the names of columns, modules, heads and tokens."""

from __future__ import annotations


def readable(name: object) -> str:
    """A column's, module's or task's name in words.

    >>> readable("cross_attention"), readable("vision_encoder")
    ('cross-attention', 'vision encoder')
    """
    return str(name).replace("_attention", "-attention").replace("_", " ")


def order_label(correct_first: bool) -> str:
    """Which of the two options the prompt names first."""
    return "correct option first" if correct_first else "incorrect option first"


def head_name(module: str, layer: int, head: int) -> str:
    """A head as figures name it: module, then layer and head counted from 0.

    >>> head_name("cross_attention", 2, 5)
    'cross-attention 2.5'
    """
    return f"{readable(module)} {layer}.{head}"


def token_label(position: int, token: str, token_role: str) -> str:
    """A token as a list of choices names it; the role is added where it says more than the token.

    >>> token_label(4, "red", "correct"), token_label(1, "is", "is")
    ('4: red (correct)', '1: is')
    """
    return f"{position}: {token}" + ("" if token_role == token else f" ({token_role})")
