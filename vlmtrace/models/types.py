"""What models are described by, and what their runs take and leave behind."""

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
        name: "vision_encoder", "text_encoder", "text_decoder" or "language_model"
        n_layers: how many layers it has
        n_heads: how many attention heads each layer has; where layers differ, the most that one has
        modules: what can be patched here, for whole activations
        head_modules: the modules whose activation is a concatenation of heads, and can be patched by head
        attention_modules: the modules whose attention weights can be read
        hooked_modules: attention modules that are in no sweep; their heads can be patched by hooks
        heads: how many heads each layer has, where layers differ, 0 without any attention; empty: `n_heads` each
        kinds: what each layer's "self_attention" is, where not all are attention to the block's own positions: see
            `vlmtrace.models.layer_kinds`; empty: all are
        lacking: of each layer, those of the modules that it does not have, where layers differ; empty: each has all
    """

    name: str
    n_layers: int
    n_heads: int
    modules: tuple[str, ...]
    head_modules: tuple[str, ...] = ()
    attention_modules: tuple[str, ...] = ()
    hooked_modules: tuple[str, ...] = ()
    heads: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    lacking: tuple[tuple[str, ...], ...] = ()

    def has(self, module: str, layer: int) -> bool:
        """Whether a layer has one of the block's modules.

        Args:
            module: of the block
            layer: counted from 0

        Example:
            >>> from vlmtrace.models import Block
            >>> block = Block("language_model", 2, 8, ("residual", "mlp"), lacking=((), ("mlp",)))
            >>> block.has("mlp", 0), block.has("mlp", 1)
            (True, False)
        """
        return not self.lacking or module not in self.lacking[layer]

    def layers_with(self, module: str) -> list[int]:
        """The layers that have a module.

        Args:
            module: of the block
        """
        return [layer for layer in range(self.n_layers) if self.has(module, layer)]

    def heads_at(self, layer: int) -> int:
        """How many heads a layer has.

        Args:
            layer: counted from 0

        Example:
            >>> from vlmtrace.models import Block
            >>> Block("language_model", 2, 8, ("self_attention",), heads=(8, 4)).heads_at(1)
            4
        """
        return self.heads[layer] if self.heads else self.n_heads

    def kind_at(self, layer: int) -> str:
        """What a layer's "self_attention" is: "attention", "cross_attention", "state", or "none" where it lacks one.

        Args:
            layer: counted from 0
        """
        return self.kinds[layer] if self.kinds else "attention"

    @property
    def every_head(self) -> list[tuple[int, int]]:
        """(layer, head) of every head, layer by layer."""
        return [(layer, head) for layer in range(self.n_layers) for head in range(self.heads_at(layer))]

    @property
    def modules_with_heads(self) -> tuple[str, ...]:
        """All modules whose heads can be patched, in a sweep or by hooks."""
        return (*self.head_modules, *self.hooked_modules)


class Site(NamedTuple):
    """Where an activation is.

    Attributes:
        block: the stack of layers
        module: "residual", "mlp", "self_attention" or "cross_attention"
        layer: counted from 0
    """

    block: str
    module: str
    layer: int


class Token(NamedTuple):
    """What stands at one position of a block.

    Attributes:
        text: as the tokenizer writes it, or the prompt's characters where it writes bytes; "row,column" for an image
            patch
        span: first and last-plus-one character in the prompt, (0, 0) where it comes from elsewhere
        role: known to the family ("[CLS]", "image", "last", …), None where the prompt's words decide
    """

    text: str
    span: tuple[int, int] = (0, 0)
    role: str | None = None


class Call(NamedTuple):
    """What a layer was called with.

    Attributes:
        hidden: the residual stream that enters it (batch, position, width)
        options: everything else, by name
        recorder: keeps the keys and values that its attention made, `key` and `value`; None: they were not kept
    """

    hidden: Tensor
    options: dict[str, Any]
    recorder: Any = None


@dataclass
class Trace:
    """What one run left behind.

    Attributes:
        logits: (batch, vocabulary), float32, at the first answer position
        activations: by site, (batch, position, width)
        layer_inputs: by block, what enters layer 0: (batch, position, width)
        calls: what each layer of a language model was called with (decoder-only models)
        image: (batch, image position, width), what was put in the place of the image embeddings; None: nothing was
    """

    logits: Tensor
    activations: dict[Site, Tensor] = field(default_factory=dict)
    layer_inputs: dict[str, Tensor] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    image: Tensor | None = None

    def __getitem__(self, site: tuple[str, str, int]) -> Tensor:
        """The activation (batch, position, width) of a site, given as (block, module, layer)."""
        return self.activations[Site(*site)]

    def rows(self, chosen: slice | list[int]) -> Trace:
        """What the runs of some pairs left behind; without `calls`, which are those of the whole batch."""
        return Trace(
            self.logits[chosen],
            {site: value[chosen] for site, value in self.activations.items()},
            {block: value[chosen] for block, value in self.layer_inputs.items()},
            image=None if self.image is None else self.image[chosen],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        kept = [self.logits, *self.activations.values(), *self.layer_inputs.values()]
        return sum(part.nbytes for part in (*kept, *(call.recorder for call in self.calls if call.recorder)))

    def layer_input(self, block: str, layer: int) -> Tensor:
        """The residual stream that enters a layer: (batch, position, width)."""
        return self.layer_inputs[block] if layer == 0 else self[block, "residual", layer - 1]


@dataclass(frozen=True)
class Patches:
    """The patches of one sweep over one block, the same for every pair of a batch but for the positions.

    Attributes:
        block: the swept block
        modules: of each patch
        layers: of each patch
        heads: of each patch; None where the whole activation is patched
        positions: (pair, patch), the position patched; the first one where there are several
        position_masks: (pair, patch, length of the block) bool, all positions that a patch sets at once; None: one each
        windows: how many layers each patch sets at once, from its own upward; None: one each
    """

    block: str
    modules: list[str]
    layers: list[int]
    heads: list[int | None]
    positions: Tensor
    position_masks: Tensor | None = None
    windows: list[int] | None = None

    def __len__(self) -> int:
        """The number of patches of each pair."""
        return len(self.layers)

    def window(self, patch: int) -> range:
        """The layers that a patch sets."""
        first = self.layers[patch]
        return range(first, first + (1 if self.windows is None else self.windows[patch]))

    def subset(self, chosen: Sequence[int]) -> Patches:
        """Some of the patches, by index."""
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
        """The same patches of one pair of the batch."""
        return self.of_pairs(slice(pair, pair + 1))

    def of_pairs(self, pairs: slice) -> Patches:
        """The same patches of some pairs of the batch."""
        position_masks = None if self.position_masks is None else self.position_masks[pairs]
        return Patches(
            self.block, self.modules, self.layers, self.heads, self.positions[pairs], position_masks, self.windows
        )


@dataclass(frozen=True)
class WholeAnswer:
    """An answer of several tokens, to be read out whole: the inputs end with all of its tokens but the last.

    Attributes:
        ids: (pair, token)
    """

    ids: Tensor

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.ids)

    def __getitem__(self, pairs: slice) -> WholeAnswer:
        """The answers of some pairs."""
        return WholeAnswer(self.ids[pairs])

    @property
    def n_positions(self) -> int:
        """How many last positions are read out: one for each token."""
        return self.ids.shape[1]


@dataclass(frozen=True)
class BothAnswers:
    """Two whole answers that a block of its own reads from the same states of the prompt.

    Attributes:
        correct: the correct answer
        contrast: the one that it is compared with
        starts: what enters layer 0 of the answer block with either answer given, (pair, token, width) each
    """

    correct: WholeAnswer
    contrast: WholeAnswer
    starts: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.correct)

    def __getitem__(self, pairs: slice) -> BothAnswers:
        """Both answers of some pairs."""
        return BothAnswers(self.correct[pairs], self.contrast[pairs], (self.starts[0][pairs], self.starts[1][pairs]))


@dataclass(frozen=True)
class JoinedAnswers:
    """Two whole answers behind one prompt in one sequence: of each all tokens but its last, one behind the other.

    Attributes:
        correct: the correct answer
        contrast: the one that it is compared with
    """

    correct: WholeAnswer
    contrast: WholeAnswer

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.correct)

    def __getitem__(self, pairs: slice) -> JoinedAnswers:
        """Both answers of some pairs."""
        return JoinedAnswers(self.correct[pairs], self.contrast[pairs])

    @property
    def n_positions(self) -> int:
        """How many last positions are read out: the prompt's last one, which predicts both first tokens, and others."""
        return self.correct.n_positions + self.contrast.n_positions - 1


#: What is read out of logits: the first tokens (pair, 2) of the correct answer and of its contrast, or a whole answer;
#: two of them at once, where the answer has a block of its own, or where they stand behind one prompt.
AnswerIds = Tensor | WholeAnswer | BothAnswers | JoinedAnswers


def positions_read(answer_ids: AnswerIds) -> int:
    """How many of the last positions a readout needs.

    Args:
        answer_ids: first tokens of two answers, a whole answer, or two of them
    """
    return answer_ids.n_positions if isinstance(answer_ids, WholeAnswer | JoinedAnswers) else 1


@dataclass(frozen=True)
class Readout:
    """All that the metrics need from the answer's positions; every tensor is float32 of the same shape.

    Attributes:
        correct: the logit of the correct answer's token; of an answer of several tokens, its log-probability
        incorrect: the same of the answer that it is compared with
        log_normalizer: log of the sum of exponentials of all logits; 0 where the others are log-probabilities
    """

    correct: Tensor
    incorrect: Tensor
    log_normalizer: Tensor

    @classmethod
    def of(cls, logits: Tensor, answer_ids: Tensor) -> Readout:
        """What metrics need of logits.

        Args:
            logits: (pair, …, vocabulary)
            answer_ids: (pair, 2): first tokens of the correct and the incorrect answer

        Returns:
            Readout of shape (pair, …)
        """
        logits = logits.float()
        index = answer_ids.view(len(answer_ids), *[1] * (logits.ndim - 2), 2).expand(*logits.shape[:-1], 2)
        chosen = logits.gather(-1, index)
        return cls(chosen[..., 0], chosen[..., 1], logits.logsumexp(-1))

    @classmethod
    def of_last(cls, logits: Tensor, answer_ids: AnswerIds) -> Readout:
        """What metrics need of the logits of the last positions.

        Args:
            logits: (pair, …, position, vocabulary), of as many positions as `positions_read` says
            answer_ids: first tokens of two answers, a whole answer, or two that stand behind one prompt

        Returns:
            Readout of shape (pair, …). Of a whole answer, `correct` is its log-probability, given the tokens before
            each, and `incorrect` is missing
        """
        assert not isinstance(answer_ids, BothAnswers), "two answers are read one by one"
        if isinstance(answer_ids, JoinedAnswers):
            n = answer_ids.correct.n_positions
            others = [0, *range(n, answer_ids.n_positions)]
            return cls.of_two(
                cls.of_last(logits[..., :n, :], answer_ids.correct),
                cls.of_last(logits[..., others, :], answer_ids.contrast),
            )
        if not isinstance(answer_ids, WholeAnswer):
            return cls.of(logits[..., -1, :], answer_ids)
        ids = answer_ids.ids.view(len(answer_ids), *[1] * (logits.ndim - 3), -1, 1).expand(*logits.shape[:-1], 1)
        of_token = logits.float().log_softmax(-1).gather(-1, ids)[..., 0]  # (pair, …, position)
        total = of_token.sum(-1)
        return cls(total, torch.full_like(total, torch.nan), torch.zeros_like(total))

    @classmethod
    def of_two(cls, correct: Readout, incorrect: Readout) -> Readout:
        """The readouts of two whole answers as one.

        Args:
            correct: from `of_last`, of the correct answer
            incorrect: of the answer that it is compared with
        """
        return cls(correct.correct, incorrect.correct, torch.zeros_like(correct.correct))

    @classmethod
    def cat(cls, readouts: Sequence[Readout], dim: int) -> Readout:
        """Several as one, joined along a dimension."""
        columns = [[one.correct, one.incorrect, one.log_normalizer] for one in readouts]
        return cls(*(torch.cat(list(column), dim) for column in zip(*columns, strict=True)))

    def rows(self, chosen: slice) -> Readout:
        """The readout of some pairs."""
        return Readout(self.correct[chosen], self.incorrect[chosen], self.log_normalizer[chosen])

    def column(self, chosen: int) -> Readout:
        """The readout of one patch in all pairs, (pair,), of one of shape (pair, patch)."""
        return Readout(self.correct[:, chosen], self.incorrect[:, chosen], self.log_normalizer[:, chosen])

    @property
    def logit_diff(self) -> Tensor:
        """Logit of the correct answer less that of the other, or the difference of their log-probabilities."""
        return self.correct - self.incorrect

    @property
    def p_correct(self) -> Tensor:
        """Probability of the correct answer: of its token, or of all of its tokens."""
        return (self.correct - self.log_normalizer).exp()

    @property
    def p_incorrect(self) -> Tensor:
        """Probability of the answer that it is compared with."""
        return (self.incorrect - self.log_normalizer).exp()


#: What a model's forward pass takes, by name, for a batch of pairs.
Inputs = dict[str, Tensor]
