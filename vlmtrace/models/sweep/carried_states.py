"""What layers that carry a state from position to position have in it when a position comes.

Linear attention and short convolutions have no keys and values of single positions: all that they know of the positions
before is a state of fixed size. The states of a sweep differ from the corrupt run from one position on, so such a layer
starts each of them with the state that the corrupt run had there.

Shapes: P pairs, S states (patches) per pair.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CarriedStates:
    """Stands where a layer with a state expects a cache: it gives what the layer left there, and keeps what comes.

    Attributes:
        convolution: by number, the last inputs of a convolution: (P or P·S, channel, kernel size)
        recurrent: by number, the state of linear attention: (P or P·S, …)
    """

    def __init__(self) -> None:
        """Know of no position yet."""
        self.convolution: dict[int, Tensor] = {}
        self.recurrent: dict[int, Tensor] = {}

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Called by the layer: the last inputs of its convolution; None: there was no position yet."""
        return self.convolution.get(state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Called by the layer: its state; None: there was no position yet."""
        return self.recurrent.get(state_idx)

    def update_conv_state(
        self, new: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_options: Any
    ) -> Tensor:
        """Called by the layer with its convolution's inputs (…, position); it goes on with those before them, too."""
        size = conv_kernel_size or new.shape[-1]
        before = self.convolution.get(state_idx)
        if before is None:
            # A convolution sees zeros before the first position.
            before = new.new_zeros(*new.shape[:-1], size)
        whole = torch.cat([before, new], dim=-1)
        self.convolution[state_idx] = whole[..., -size:]
        return whole

    def update_recurrent_state(self, new: Tensor, layer_idx: int, state_idx: int = 0, **_options: Any) -> Tensor:
        """Called by the layer with its state behind the last position."""
        self.recurrent[state_idx] = new
        return new

    def is_recording_past(self, layer_idx: int) -> bool:
        """Called by the layer. Were this false, a single position would change the inputs that are kept in place."""
        return True

    def repeated(self, n_states: int) -> CarriedStates:
        """The same for each of n states of a pair: (P, …) becomes (P·S, …)."""
        found = CarriedStates()
        for kept, copies in ((self.convolution, found.convolution), (self.recurrent, found.recurrent)):
            copies |= {i: value.repeat_interleave(n_states, dim=0) for i, value in kept.items()}
        return found
