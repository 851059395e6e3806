"""How figures, widgets and the report say the names of columns, modules, heads and tokens."""

from __future__ import annotations

#: What a corruption is called where people choose it.
CORRUPTION = {"image": "the other image", "text": "the other question"}


def readable(name: object) -> str:
    """A column's, module's or task's name in words.

    Args:
        name: as tables have it

    Returns:
        as prose has it

    Example:
        >>> readable("cross_attention"), readable("vision_encoder")
        ('cross-attention', 'vision encoder')
    """
    return str(name).replace("_attention", "-attention").replace("_", " ")


def order_label(correct_first: bool) -> str:
    """Which of the two options the prompt names first.

    Args:
        correct_first: whether it is the correct one

    Returns:
        the words
    """
    return "correct option first" if correct_first else "incorrect option first"


def head_name(module: str, layer: int, head: int) -> str:
    """A head as figures name it.

    Args:
        module: e.g. "cross_attention"
        layer: counted from 0
        head: counted from 0

    Returns:
        module, layer and head

    Example:
        >>> head_name("cross_attention", 2, 5)
        'cross-attention 2.5'
    """
    return f"{readable(module)} {layer}.{head}"


def token_label(position: int, token: str, token_role: str) -> str:
    """A token as a list of choices names it; the role is added where it says more than the token.

    Args:
        position: counted from 0
        token: the vocabulary's entry
        token_role: what it is in the prompt

    Returns:
        position, token and role

    Example:
        >>> token_label(4, "red", "correct"), token_label(1, "is", "is")
        ('4: red (correct)', '1: is')
    """
    return f"{position}: {token}" + ("" if token_role == token else f" ({token_role})")
