"""What edges need of a stack of layers: its modules one by one, each given what enters it, for many states at once.

Shapes: N states, T positions of the stack (from the first one that is run again), M positions of what
cross-attention looks at, D width of the residual stream, O width of a module's output (heads' outputs are one
concatenation, before the output projection).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vlmtrace.models.types import AnswerIds, Block, Readout


@dataclass(frozen=True)
class Stream:
    """The residual stream as it stands before some module of a layer.

    Attributes:
        entering: what enters the layer, (N, T, D); of the keys and values of cross-attention what is looked at, (N, M,
            D)
        outputs: of the layer's modules that come before, (N, T, O) by name
    """

    entering: Tensor
    outputs: dict[str, Tensor] = field(default_factory=dict)


class NodeLayers(ABC):
    """A stack of layers in one run of one pair, taken apart into nodes.

    Attributes:
        block: the stack
        modules: a layer's modules that are nodes or consist of them, in the order in which they are computed
        answer_ids: what is read out
    """

    block: Block
    modules: tuple[str, ...]
    answer_ids: AnswerIds

    @abstractmethod
    def entering(self, layer: int) -> Tensor:
        """What enters a layer in the run: (1, T, D)."""

    @abstractmethod
    def final(self) -> Tensor:
        """What leaves the last layer in the run: (1, T, D)."""

    @abstractmethod
    def output(self, module: str, layer: int) -> Tensor:
        """What a module gives in the run: (1, T, O)."""

    @abstractmethod
    def looked_at(self, module: str, layer: int = 0) -> Tensor | None:
        """What a module's keys and values are made of in the run, where that is not the stack's own stream there.

        Args:
            module: which
            layer: of which layer; does not matter where all layers look at the same

        Returns:
            (1, M, D); None: they are made of the stream before the module
        """

    def before(self, module: str) -> tuple[str, ...]:
        """The modules of a layer whose outputs enter another one of it."""
        return self.modules[: self.modules.index(module)]

    def stream(self, module: str, layer: int) -> Stream:
        """The run's own stream before a module."""
        return Stream(self.entering(layer), {name: self.output(name, layer) for name in self.before(module)})

    @abstractmethod
    def compute(self, module: str, layer: int, **given: Stream) -> Tensor:
        """What a module gives when some of its inputs are others than in the run.

        Args:
            module: which
            layer: of which layer
            **given: by input ("query", "key", "value"; "input"); those that are left out are the run's, one at least
                is not

        Returns:
            (N, T, O)
        """

    def embedded(self, layer: int) -> Tensor | None:
        """What a layer is given of the input's embeddings beside the stream in the run, (1, T, P); None: nothing."""
        return None

    @abstractmethod
    def leave(self, layer: int, entering: Tensor, outputs: dict[str, Tensor], embedded: Tensor | None = None) -> Tensor:
        """The stream behind a layer whose modules all give what they are told: the way past its nodes.

        Args:
            layer: which
            entering: (N, T, D)
            outputs: of every module, (N or 1, T, O)
            embedded: what the layer is given of the input's embeddings beside the stream, (N, T, P); None: the run's

        Returns:
            (N, T, D)
        """

    @abstractmethod
    def enter(self, module: str, layer: int, output: Tensor) -> Tensor:
        """What leaves a layer of the run when one module gives something else, which the later ones read.

        Args:
            module: which
            layer: of which layer
            output: (N, T, O)

        Returns:
            (N, T, D), for `advance` of the layer above
        """

    def climb(self) -> Any:
        """What layers give each other beside the stream, for states that go up together; None: nothing."""
        return None

    @abstractmethod
    def advance(self, layer: int, states: Tensor, shared: Any) -> Tensor:
        """A whole layer for changed states, everything in it computed.

        Args:
            layer: which
            states: (N, T, D); those that were there in the layer below come first
            shared: of this way up, from `climb`

        Returns:
            (N, T, D)
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Logits (1, N, U, vocabulary) of states (N, T, D) that have left the last layer.

        They are those at the U positions that are read out: where an answer begins, and behind each of its tokens but
        the last.
        """

    def read(self, states: Tensor) -> Readout:
        """Readout (1, N) of states (N, T, D) that have left the last layer."""
        return Readout.of_last(self.logits(states), self.answer_ids)

    @abstractmethod
    def state_bytes(self) -> int:
        """What one state occupies at the peak of a layer."""
