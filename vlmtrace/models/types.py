"""What models are described by and what their runs leave behind: plain records, no behavior of a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A stack of layers, e.g. the question encoder.

    Attributes:
        modules: what can be patched here, for whole activations
        head_modules: the modules whose activation is a concatenation of heads, and can be patched by head
        attention_modules: the modules whose attention weights can be read
    """

    name: str
    n_layers: int
    n_heads: int
    modules: tuple[str, ...]
    head_modules: tuple[str, ...] = ()
    attention_modules: tuple[str, ...] = ()


class Site(NamedTuple):
    """Where an activation lives: block, module, layer (see the vocabulary in the README)."""

    block: str
    module: str
    layer: int


class Token(NamedTuple):
    """What stands at one position of a block.

    Attributes:
        text: as the tokenizer writes it; "row,column" for an image patch
        span: first and last-plus-one character in the prompt, (0, 0) where it comes from elsewhere
        role: known to the family ("[CLS]", "image", "last", …), None where the prompt's words decide
    """

    text: str
    span: tuple[int, int] = (0, 0)
    role: str | None = None


class Call(NamedTuple):
    """What a layer was called with: the residual stream (batch, position, width), and everything else by name."""

    hidden: Tensor
    options: dict[str, Any]


@dataclass
class Trace:
    """What one run left behind.

    Attributes:
        logits: (batch, vocabulary), float32, at the first answer position
        activations: by site, (batch, position, width)
        layer_inputs: by block, what enters layer 0: (batch, position, width)
        calls: what each layer of a language model was called with (decoder-only models)
        image: (batch, image position, width), what was put in the place of the image embeddings; None: nothing
    """

    logits: Tensor
    activations: dict[Site, Tensor] = field(default_factory=dict)
    layer_inputs: dict[str, Tensor] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    image: Tensor | None = None

    def __getitem__(self, site: tuple[str, str, int]) -> Tensor:
        return self.activations[Site(*site)]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        kept = [self.logits, *self.activations.values(), *self.layer_inputs.values()]
        return sum(tensor.nbytes for tensor in kept)

    def layer_input(self, block: str, layer: int) -> Tensor:
        """The residual stream that enters a layer: (batch, position, width)."""
        return self.layer_inputs[block] if layer == 0 else self[block, "residual", layer - 1]


@dataclass(frozen=True)
class Patches:
    """The patches of one sweep over one block, the same for every pair of a group but for the positions.

    Attributes:
        modules, layers, heads: one entry a patch; head is None where the whole activation is patched
        positions: (pair, patch), the position patched; the first one where there are several
        position_masks: (pair, patch, length of the block) bool, all positions that a patch sets at once; None: one each
        windows: how many layers a patch sets at once, from its own upward; None: one each
    """

    block: str
    modules: list[str]
    layers: list[int]
    heads: list[int | None]
    positions: Tensor
    position_masks: Tensor | None = None
    windows: list[int] | None = None

    def __len__(self) -> int:
        return len(self.layers)

    def window(self, patch: int) -> range:
        """The layers that a patch sets."""
        first = self.layers[patch]
        return range(first, first + (1 if self.windows is None else self.windows[patch]))

    def subset(self, chosen: Sequence[int]) -> Patches:
        return Patches(
            self.block,
            [self.modules[i] for i in chosen],
            [self.layers[i] for i in chosen],
            [self.heads[i] for i in chosen],
            self.positions[:, list(chosen)],
            None if self.position_masks is None else self.position_masks[:, list(chosen)],
            None if self.windows is None else [self.windows[i] for i in chosen],
        )

    def of_pair(self, pair: int) -> Patches:
        """The same patches of one pair of the group."""
        one = slice(pair, pair + 1)
        position_masks = None if self.position_masks is None else self.position_masks[one]
        return Patches(
            self.block, self.modules, self.layers, self.heads, self.positions[one], position_masks, self.windows
        )


@dataclass(frozen=True)
class Readout:
    """All that the metrics need from the first answer position; every tensor is float32 of the same shape."""

    correct: Tensor
    incorrect: Tensor
    log_normalizer: Tensor

    @classmethod
    def of(cls, logits: Tensor, answer_ids: Tensor) -> Readout:
        """Read logits (pair, …, vocabulary) with answer_ids (pair, 2): correct, incorrect."""
        logits = logits.float()
        index = answer_ids.view(len(answer_ids), *[1] * (logits.ndim - 2), 2).expand(*logits.shape[:-1], 2)
        chosen = logits.gather(-1, index)
        return cls(chosen[..., 0], chosen[..., 1], logits.logsumexp(-1))

    @classmethod
    def cat(cls, parts: Sequence[Readout], dim: int) -> Readout:
        columns = [[part.correct, part.incorrect, part.log_normalizer] for part in parts]
        return cls(*(torch.cat(list(column), dim) for column in zip(*columns, strict=True)))

    @property
    def logit_diff(self) -> Tensor:
        return self.correct - self.incorrect

    @property
    def p_correct(self) -> Tensor:
        return (self.correct - self.log_normalizer).exp()

    @property
    def p_incorrect(self) -> Tensor:
        return (self.incorrect - self.log_normalizer).exp()


Inputs = dict[str, Tensor]
