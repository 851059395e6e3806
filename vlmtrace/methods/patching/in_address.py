"""Patches as an address says them: "language_model.self_attention.2.3", "text_encoder.mlp.1@4+5"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.example import Example
from vlmtrace.display.selection import selection
from vlmtrace.methods.patching.intervention import Patch

#: An address with more patches than this is no address of ours.
MOST_PATCHES = 60


def in_address(patches: Sequence[Patch]) -> str:
    """Patches as a short string: block.module.layer, then heads behind a dot and positions behind @, joined by +.

    Args:
        patches: with indices of positions

    Returns:
        patches in their order, joined by commas

    Example:
        >>> in_address([Patch("text_encoder", "mlp", 1, (4, 5)), Patch("text_encoder", "mlp", 2, None, (3,))])
        'text_encoder.mlp.1@4+5,text_encoder.mlp.2.3'
    """
    return ",".join(_one(patch) for patch in patches)


def from_address(example: Example, text: str) -> list[Patch]:
    """The patches that `in_address` wrote, each of them checked.

    Args:
        example: whose model and positions they are to be of
        text: from anywhere

    Raises:
        VlmtraceError: it names what the model or the prompt does not have
    """
    parts = [part for part in text.split(",") if part]
    if len(parts) > MOST_PATCHES:
        raise VlmtraceError(f"The address names {len(parts)} patches, more than {MOST_PATCHES}: choose them in Patch.")
    found: list[Patch] = []
    for part in parts:
        patch = _read(example, part)
        if patch not in found:
            found.append(patch)
    return found


def patches_of(example: Example, settings: Mapping[str, str], before: Sequence[Patch]) -> list[Patch]:
    """The patches that are chosen by what an address says.

    Args:
        example: as in `from_address`
        settings: patches: these; also: these in addition
        before: those that are chosen where the address does not say which

    Raises:
        VlmtraceError: a patch names what the model or the prompt does not have
    """
    found = from_address(example, settings["patches"]) if "patches" in settings else list(before)
    return [*found, *(patch for patch in from_address(example, settings.get("also", "")) if patch not in found)]


def check_positions(example: Example, block: str, positions: Iterable[int]) -> None:
    """Check that positions exist in a block.

    Args:
        example: whose prompt is meant
        block: e.g. "text_encoder"
        positions: indices

    Raises:
        VlmtraceError: one does not
    """
    length = len(example.tokens(block))
    wrong = [position for position in positions if not 0 <= position < length]
    if wrong:
        raise VlmtraceError(f"There is no position {wrong[0]} in {block}: choose among 0 to {length - 1}.")


def _one(patch: Patch) -> str:
    heads = "" if patch.heads is None else "." + "+".join(map(str, patch.heads))
    positions = "" if patch.indices is None else "@" + "+".join(map(str, patch.indices))
    return f"{patch.block}.{patch.module}.{patch.layer}{heads}{positions}"


def _read(example: Example, text: str) -> Patch:
    place, _, at = text.partition("@")
    first, *more = place.split("+")
    chosen = selection(example.model, first)
    if chosen.layer is None or (more and chosen.head is None):
        raise VlmtraceError(f"{text[:80]!r} is nothing that is patched: give a head or a module of a layer.")
    heads = None if chosen.head is None else (chosen.head, *_numbers(more, text))
    for head in heads or ():
        selection(example.model, f"{chosen.block}.{chosen.module}.{chosen.layer}.{head}")
    positions = _numbers(at.split("+"), text) if at else None
    check_positions(example, chosen.block, positions or ())
    return Patch(chosen.block, chosen.module, chosen.layer, positions, heads)


def _numbers(texts: Sequence[str], whole: str) -> tuple[int, ...]:
    # isdecimal alone takes digits of other scripts, too.
    if not all(text.isascii() and text.isdecimal() and len(text) < 6 for text in texts):
        raise VlmtraceError(f"{whole[:80]!r} names no patch: heads and positions are numbers, joined by +.")
    return tuple(map(int, texts))
