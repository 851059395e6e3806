"""BLIP's two text stacks, taken apart into nodes.

Layers are post-norm: what a node writes goes through the norms of all modules between it and the one that reads it.

Shapes: N states, T positions, M positions of what cross-attention looks at (the image, or the question), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.edges.layers import NodeLayers, Stream
from vlmtrace.models.products import linear, linear_gelu
from vlmtrace.models.sweep.blip import image_embeddings
from vlmtrace.models.sweep.blip_layers import AnswerLayers, QuestionLayers, TextLayers, decoded
from vlmtrace.models.sweep.layer_sweep import attend_shared, split_heads
from vlmtrace.models.types import AnswerIds, Trace, positions_read
from vlmtrace.models.vlm import VLM

#: The modules of each layer that look at something else than their own stream.
CROSS = "cross_attention"


class _TextNodes(NodeLayers):
    modules = ("self_attention", CROSS, "mlp")

    def __init__(self, model: VLM, base: Trace, layers: TextLayers, memory: Tensor, is_causal: bool):
        self.model, self.base, self.layers, self.memory = model, base, layers, memory
        self.block, self.is_causal = model.blocks[layers.block], is_causal
        self._projected: dict[tuple[str, int, str], Tensor] = {}

    def entering(self, layer: int) -> Tensor:
        """See `NodeLayers.entering`."""
        return self.base.layer_input(self.block.name, layer)

    def final(self) -> Tensor:
        """See `NodeLayers.final`."""
        return self.base[self.block.name, "residual", self.block.n_layers - 1]

    def output(self, module: str, layer: int) -> Tensor:
        """See `NodeLayers.output`."""
        return self.base[self.block.name, module, layer]

    def looked_at(self, module: str, layer: int = 0) -> Tensor | None:
        """The image or the question, of cross-attention."""
        return self.memory if module == CROSS else None

    def compute(self, module: str, layer: int, **given: Stream) -> Tensor:
        """See `NodeLayers.compute`."""
        if module == "mlp":
            own = self.layers.layers[layer]
            stream = self._before(module, layer, given["input"])
            inner = linear_gelu(own.intermediate.dense, own.intermediate.intermediate_act_fn, stream)
            return linear(own.output.dense, inner)
        query, key, value = (
            split_heads(self._projection(module, layer, name, given.get(name)), self.layers.heads)
            for name in ("query", "key", "value")
        )
        n = max(len(query), len(key), len(value))
        if module == CROSS and len(key) == len(value) == 1:
            # All states attend to the same: their rows are laid side by side.
            rows = query.transpose(0, 1).flatten(1, 2)[None]  # (1, H, N·T, E)
            return attend_shared(rows, key, value).unflatten(1, (n, -1))[0]
        query, key, value = (part.expand(n, -1, -1, -1) for part in (query, key, value))
        causal = self.is_causal and module != CROSS
        context = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return context.transpose(1, 2).flatten(2)

    def _projection(self, module: str, layer: int, name: str, given: Stream | None) -> Tensor:
        own = self.layers.layers[layer]
        project = getattr((own.crossattention if module == CROSS else own.attention).self, name)
        if given is not None:
            is_looked_at = module == CROSS and name != "query"
            return linear(project, given.entering if is_looked_at else self._before(module, layer, given))
        key = (module, layer, name)
        if key not in self._projected:
            is_looked_at = module == CROSS and name != "query"
            rows = self.memory if is_looked_at else self._before(module, layer, self.stream(module, layer))
            self._projected[key] = linear(project, rows)
        return self._projected[key]

    def _before(self, module: str, layer: int, stream: Stream) -> Tensor:
        """The residual stream before a module: (N, T, D)."""
        rows = stream.entering
        if module == "self_attention":
            return rows
        rows = self.layers.after_self_attention(layer, stream.outputs["self_attention"], rows)
        return rows if module == CROSS else self.layers.after_cross_attention(layer, stream.outputs[CROSS], rows)

    def leave(self, layer: int, entering: Tensor, outputs: dict[str, Tensor], embedded: Tensor | None = None) -> Tensor:
        """See `NodeLayers.leave`."""
        stream = self._before("mlp", layer, Stream(entering, outputs))
        return self.layers.layers[layer].output.LayerNorm(outputs["mlp"] + stream)

    def enter(self, module: str, layer: int, output: Tensor) -> Tensor:
        """See `NodeLayers.enter`."""
        outputs = {**self.stream("mlp", layer).outputs, module: output}
        entering = self.entering(layer)
        if module == "self_attention":
            outputs[CROSS] = self.compute(CROSS, layer, query=Stream(entering, outputs))
        if module == "mlp":
            return self.leave(layer, entering, outputs)
        return self.layers.feed_forward(layer, self._before("mlp", layer, Stream(entering, outputs)))

    def state_bytes(self) -> int:
        """See `NodeLayers.state_bytes`."""
        text: Any = self.model.hf.config.text_config
        stream = self.entering(0)
        layer = stream.shape[1] * (12 * text.hidden_size + 2 * text.intermediate_size)
        return (layer + 2 * text.vocab_size) * stream.element_size()


class QuestionNodes(_TextNodes):
    """The question encoder, whose cross-attention looks at the image."""

    def __init__(self, model: VLM, base: Trace, answer_ids: AnswerIds):
        """Take a run of one pair apart.

        Args:
            model: BLIP
            base: trace of the run, at all sites of both text stacks
            answer_ids: what is read out
        """
        image = image_embeddings(model, base)
        self.question, self.answer_ids = QuestionLayers(model, image), answer_ids
        super().__init__(model, base, self.question, image, is_causal=False)

    def advance(self, layer: int, states: Tensor, shared: Any) -> Tensor:
        """See `NodeLayers.advance`."""
        no_rows = torch.empty(1, 0, dtype=torch.long, device=states.device)
        return self.question.advance(layer, states[None], None, no_rows, self.entering(layer))[0]

    def logits(self, states: Tensor) -> Tensor:
        """See `NodeLayers.logits`."""
        layers, final = decoded(self.model, states[None], self.base.layer_inputs["text_decoder"])
        return layers.logits(final, positions_read(self.answer_ids))


class AnswerNodes(_TextNodes):
    """The answer decoder, whose cross-attention looks at the question's final states."""

    def __init__(self, model: VLM, base: Trace, answer_ids: AnswerIds):
        """Take a run of one pair apart; see `QuestionNodes`."""
        question = base["text_encoder", "residual", model.blocks["text_encoder"].n_layers - 1]
        self.answer, self.answer_ids = AnswerLayers(model, question), answer_ids
        super().__init__(model, base, self.answer, question, is_causal=True)

    def advance(self, layer: int, states: Tensor, shared: Any) -> Tensor:
        """See `NodeLayers.advance`."""
        return self.answer.advance(layer, states[None])[0]

    def logits(self, states: Tensor) -> Tensor:
        """See `NodeLayers.logits`."""
        return self.answer.logits(states[None], positions_read(self.answer_ids))
