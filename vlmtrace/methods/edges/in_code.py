"""The lines of Python that patch what is patched in the view of edges."""

from __future__ import annotations

from collections.abc import Sequence


def code_of(edges: Sequence[tuple[str, str]], corruption: str, image_tokens: Sequence[int]) -> list[str]:
    """Lines that follow those which load the model and name the pair.

    Args:
        edges: (sender, receiver) of those that are patched together
        corruption: the corrupt run
        image_tokens: those that are put in from the clean image; none: none

    Example:
        >>> code_of([("image", "output")], "image", [])[:3]
        ['edges = [', "    ('image', 'output'),", ']']
    """
    lines = [
        "edges = [",
        *(f"    {edge!r}," for edge in edges),
        "]",
        f"outcome = intervene_on_edges(model, pair, edges, corruption={corruption!r})",
        "print(outcome)",
        "outcome.table()",
    ]
    if image_tokens:
        lines += [
            "from vlmtrace.display import Example",
            "from vlmtrace.methods.edges import image_patch_effects",
            f"patched = image_patch_effects(Example(model, pair), [{list(image_tokens)}])",
            "print(patched.effects)",
        ]
    return lines
