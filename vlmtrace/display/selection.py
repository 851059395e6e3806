"""What is looked at within a model: a head, an mlp, a module of a layer, or a node of the input or the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models import VLM

#: Nodes that are in no stack of layers.
ENDS = ("image", "prompt", "output")

#: A name that is longer names nothing, wherever it comes from.
LONGEST = 200


class Selection(NamedTuple):
    """A place in a model that every view and the card at the side can show.

    Attributes:
        label: as `vt.edges` names nodes: "language_model.self_attention.2.3" (a head), "language_model.mlp.2" (an mlp),
            "image", "prompt", "output"; of what is no node, block, module and layer: "language_model.residual.2"
        positions: of the block's sequence; None: all of them

    Example:
        >>> from vlmtrace.display import Selection
        >>> chosen = Selection("language_model.self_attention.2.3", (4,))
        >>> chosen.kind, chosen.block, chosen.module, chosen.layer, chosen.head
        ('head', 'language_model', 'self_attention', 2, 3)
    """

    label: str
    positions: tuple[int, ...] | None = None

    @property
    def kind(self) -> str:
        """What it is: "head", "module" (of a layer, an mlp among them) or "node" (of the input or the output)."""
        return {1: "node", 3: "module", 4: "head"}[self.label.count(".") + 1]

    @property
    def block(self) -> str:
        """The stack of layers; "" of a node of the input or the output."""
        return self.label.split(".")[0] if "." in self.label else ""

    @property
    def module(self) -> str:
        """The module of the layer; of a node of the input or the output its name."""
        return self.label.split(".")[1] if "." in self.label else self.label

    @property
    def layer(self) -> int | None:
        """The layer, counted from 0; None of a node of the input or the output."""
        return int(self.label.split(".")[2]) if "." in self.label else None

    @property
    def head(self) -> int | None:
        """The head, counted from 0; None of what is no head."""
        return int(self.label.split(".")[3]) if self.kind == "head" else None

    @property
    def short(self) -> str:
        """What there is room for in a picture: "2.3" of a head, "mlp 2" of a module."""
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return self.label if self.layer is None else f"{self.module} {self.layer}"


def selection(model: VLM, label: str, positions: Sequence[int] | None = None) -> Selection:
    """A place of a model by its name, which may come from anywhere.

    Args:
        model: whose place
        label: see `Selection`; a head's input ("….query") is taken for the head
        positions: of the block's sequence; None: all of them
    Raises:
        VlmtraceError: the model has no such place
    """
    if label in ENDS:
        return Selection(label)
    parts = label.split(".") if len(label) <= LONGEST else []
    if len(parts) == 5 and parts[4] in ("query", "key", "value", "input"):
        parts = parts[:4]
    # isdecimal alone takes digits of other scripts, too.
    if len(parts) not in (3, 4) or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts[2:]):
        raise VlmtraceError(
            f"{label[:LONGEST]!r} names no place of {model.name}: give a head such as "
            "'text_encoder.cross_attention.2.1', a module such as 'text_encoder.mlp.2', 'image', 'prompt' or 'output'."
        )
    block = model.blocks[one_of(parts[0], model.blocks, f"block of {model.name}")]
    modules = block.modules if len(parts) == 3 else block.modules_with_heads
    module = one_of(parts[1], dict.fromkeys((*modules, *block.hooked_modules)), f"module of {block.name}")
    layer, *head = (int(part) for part in parts[2:])
    if layer >= block.n_layers or not block.has(module, layer) or (head and head[0] >= block.heads_at(layer)):
        raise VlmtraceError(
            f"{model.name} has no {'.'.join(parts)!r}: {block.name} has {block.n_layers} layers of at most "
            f"{block.n_heads} heads, counted from 0."
        )
    name = ".".join([block.name, module, str(layer), *map(str, head)])
    return Selection(name, None if positions is None else tuple(sorted({int(at) for at in positions})))
