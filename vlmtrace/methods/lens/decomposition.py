"""One run of a decoder-only model, decomposed into what its heads and feed-forwards write into the residual stream.

Shapes: T positions, L layers, H heads of width E, K key heads (K < H where heads share keys), D the stream's width, V
the vocabulary. All tensors are float32, whatever the model computes in.

A vector of the stream is read through the final norm and the unembedding. The norm's scale is frozen at that of the
run's own final residual stream, so that reading is linear up to the softmax and parts can be read one by one. Where a
norm stands between the attention and the stream (Gemma 2 and 3), its scale is frozen too, and a head's part is what
comes out behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlmtrace.core.arguments import Natural, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.methods.lens.frozen_norm import FrozenNorm
from vlmtrace.models import VLM, HookPoint, Inputs, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.weight_values import is_quantized, weight_of

BLOCK = "language_model"

#: Numbers held at a time while vectors are read through the unembedding.
READ_AT_ONCE = 2**25


@dataclass(frozen=True)
class Lens:
    """One run on one question, decomposed (shapes: see the module's docstring).

    Attributes:
        model: the model that was run
        inputs: the run's inputs (batch 1)
        at: the position that is asked about, where the answer's first token (or the next one) is predicted
        hidden: (L + 1, T, D): what enters each layer, and last what leaves the last one
        attention, mlp: (L, T, D): what attention and feed-forward add to the stream
        heads: (L, T, H, E): the heads' outputs, before the output projection
        keys, values: (L, T, K, E): before rotation
        weights: (L, H, T, T): attention weights, rows are queries
        final: the final norm, frozen at each position's final residual stream
        logits: (V,): the run's own, at `at`
    """

    model: VLM
    inputs: Inputs
    at: int
    hidden: Tensor
    attention: Tensor
    mlp: Tensor
    heads: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor
    final: FrozenNorm
    logits: Tensor

    # Parts of what attention adds --------------------------------------------------------

    def head_outputs(self, layer: int) -> Tensor:
        """Output of every head of a layer at `at`, behind the output projection.

        Returns:
            (H, D); their sum and `attention_bias` add up to `attention`
        """
        return self._written(layer, self.heads[layer, self.at], range(self.heads.shape[2]))

    def position_outputs(self, layer: int, head: int) -> Tensor:
        """Output of a head at `at`, split by source position: weight times value, behind the output projection.

        Returns:
            (T, D); they add up to the head's output
        """
        value = self._value(layer, head)  # (T, E)
        weighted = self.weights[layer, head, self.at, :, None] * value  # (T, E)
        return self._written(layer, weighted, [head] * len(weighted))

    def value_outputs(self, layer: int, head: int) -> Tensor:
        """What a head would write if it attended to one position alone, for every position: (T, D)."""
        value = self._value(layer, head)  # (T, E)
        return self._written(layer, value, [head] * len(value))

    def attention_bias(self, layer: int) -> Tensor:
        """What attention adds at `at` whatever its heads give: the output projection's bias (0 in most families).

        Returns:
            (D,)
        """
        projection = _projection(self.model, layer)
        if projection.bias is None:
            return torch.zeros_like(self.attention[layer, self.at])
        return self._behind(layer, weight_of(projection, "bias").to(self.hidden.device))

    def _value(self, layer: int, head: int) -> Tensor:
        """Values of a head at every position: (T, E)."""
        return self.values[layer, :, head // (self.heads.shape[2] // self.values.shape[2])]

    def _written(self, layer: int, parts: Tensor, heads: Sequence[int]) -> Tensor:
        """Parts of single heads (n, E) through each head's slice of the output projection: (n, D)."""
        size = self.heads.shape[-1]
        weight = self._output_weight(layer).unflatten(1, (-1, size))  # (D, H, E)
        if len(set(heads)) == 1:
            return self._behind(layer, parts.float() @ weight[:, heads[0]].T)
        return self._behind(layer, torch.einsum("ne,dne->nd", parts.float(), weight[:, list(heads)]))

    def _output_weight(self, layer: int) -> Tensor:
        """The output projection's weight, also where it is quantized or kept apart from the model: (D, H·E)."""
        return weight_of(_projection(self.model, layer)).to(self.hidden.device)

    def _behind(self, layer: int, raw: Tensor) -> Tensor:
        """What the output projection gives, behind the norm that may follow, its scale frozen: (n, D)."""
        norm = _norms_behind(self.model, layer)
        if norm is None:
            return raw
        whole = functional.linear(self.heads[layer, self.at].flatten(), self._output_weight(layer))
        return FrozenNorm.of(norm[0], whole).linear(raw)

    # Reading --------------------------------------------------------

    def read(self, vectors: Tensor, positions: int | Tensor | None = None) -> Tensor:
        """Read vectors through the final norm, its scale frozen, and the unembedding.

        Args:
            vectors: (n, D)
            positions: whose scale is used, one for all or one for each vector; None: that of `at`
        Returns:
            logits, (n, V)
        """
        norm = self.final[self.at if positions is None else positions]
        return self.model.unembed(norm(vectors))

    def log_p(self, vectors: Tensor, token: int, positions: int | Tensor | None = None) -> Tensor:
        """Log-probability of a token given vectors of the stream.

        Args:
            vectors: (…, D)
            token: the token's id
            positions: as of `read`
        Returns:
            (…), in nats
        """
        rows = vectors.flatten(0, -2) if vectors.ndim > 1 else vectors[None]
        found = [
            self.read(rows[part], positions[part] if isinstance(positions, Tensor) else positions).log_softmax(-1)[
                :, token
            ]
            for part in self._in_parts(len(rows))
        ]
        return torch.cat(found).view(vectors.shape[:-1])

    def _in_parts(self, n: int) -> Iterator[slice]:
        size = max(1, READ_AT_ONCE // len(self.logits))
        yield from (slice(start, start + size) for start in range(0, n, size))

    @property
    def token(self) -> int:
        """Id of the token that the model itself predicts at `at`."""
        return int(self.logits.argmax())

    @property
    def image_positions(self) -> Array:
        """Where image tokens stand: (T,) bool."""
        return self.model.is_image(self.inputs)[0].cpu().numpy()


@checked
@torch.no_grad()
def open_lens(model: VLM, inputs: Inputs, at: int = -1) -> Lens:
    """Run a decoder-only model once and keep what its heads and feed-forwards write into the residual stream.

    The decomposition of Yu and Ananiadou 2024 (https://arxiv.org/abs/2411.10950). It is checked: each layer's input,
    attention and feed-forward have to add up to its output.

    Args:
        model: a decoder-only model, e.g. tiny-llava
        inputs: of one question (batch 1), as `VLM.encode` gives them
        at: the position whose prediction is asked about; negative numbers count from the end
    Returns:
        the run in parts: hidden states, outputs of heads and modules, attention weights, logits
    Raises:
        VlmtraceError: the model is not decoder-only, there are several questions, a layer adds more to the stream
            than its attention and its feed-forward, or its heads do not add up to its attention (an unknown kind of
            quantization)

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-llava")
        >>> question = vt.load_questions("rendered_open", n=1).iloc[0]
        >>> inputs = model.encode([question["image"]], [model.prompt_text(question["prompt"])])
        >>> lens = vt.open_lens(model, inputs)
        >>> lens.head_outputs(layer=0).shape  # heads × width of the residual stream
        torch.Size([8, 128])
        >>> model.tokenizer.decode([lens.token]), question["answer"]
        ('red', 'red')
    """
    if model.image_module == "self_attention" and model.head_block.name != model.answer_block:
        raise VlmtraceError(
            f"{model.name} reads the image's tokens in its {model.head_block.name} and answers in its "
            f"{model.answer_block}, and the lens takes models apart that do both in one stack of layers: use a "
            "decoder-only one, e.g. tiny-llava, or patch this one (patch_modules, patch_heads)."
        )
    if not model.has_visual_tokens:
        raise VlmtraceError(
            f"{model.name} does not read image tokens in its text sequence, and the lens is made for models that do: "
            "use a decoder-only one, e.g. tiny-llava."
        )
    block = model.blocks[BLOCK]
    if block.kinds or block.heads:
        raise VlmtraceError(
            f"The layers of {model.name} are not all alike: some have no attention to single positions, or fewer heads "
            "than others. The lens takes each apart by the heads that attend, so use another model."
        )
    length = inputs["input_ids"].shape[1]
    if len(inputs["input_ids"]) != 1:
        raise VlmtraceError("The lens looks at one question at a time: pass the inputs of one.")
    if not -length <= at < length:
        raise VlmtraceError(f"Position at={at} does not exist: the prompt has the positions 0 to {length - 1}.")
    kept: dict[str, list[Tensor]] = {
        name: [] for name in ("hidden", "out", "attention", "mlp", "heads", "keys", "values")
    }

    def keep(name: str) -> Any:
        return lambda value: kept[name].append(value[0].detach().float().to(model.device))

    final_norm = model.final_norm  # refuses models whose layers are not read out by it
    points = []
    for i in range(block.n_layers):
        layer = model.layer_module(BLOCK, i)
        behind = _norms_behind(model, i)
        attention = model.attention_module(Site(BLOCK, "self_attention", i))
        points += [
            (HookPoint(layer, True), keep("hidden")),
            (HookPoint(_part(model, attention, "k_proj"), False), keep("keys")),
            (HookPoint(_part(model, attention, "v_proj"), False), keep("values")),
            (model.hook_point(Site(BLOCK, "self_attention", i)), keep("heads")),
            (HookPoint(behind[0] if behind else _projection(model, i), False), keep("attention")),
            (HookPoint(behind[1], False) if behind else model.hook_point(Site(BLOCK, "mlp", i)), keep("mlp")),
            (HookPoint(layer, False), keep("out")),
        ]
    with attach_hooks(points, n_pairs=1):
        weights = model.attention(inputs, BLOCK, "self_attention")[:, 0]
    stream, out, added, mlp = (torch.stack(kept[name]) for name in ("hidden", "out", "attention", "mlp"))
    off = (stream + added + mlp - out).abs().amax() / out.abs().amax()
    if off > (1e-3 if model.dtype == torch.float32 else 5e-2):
        raise VlmtraceError(
            f"A layer of {model.name} adds more to the stream than its attention and its feed-forward (off by "
            f"{off:.1%}), so it cannot be taken apart: use another model."
        )
    if any(len({value.shape for value in kept[name]}) > 1 for name in ("heads", "keys", "values")):
        raise VlmtraceError(
            f"The heads of {model.name} are wider in some layers than in others, which the lens does not know: use "
            "another model."
        )
    heads = torch.stack(kept["heads"]).unflatten(-1, (block.n_heads, -1))
    keys, values = (torch.stack(kept[name]).unflatten(-1, (-1, heads.shape[-1])) for name in ("keys", "values"))
    hidden = torch.cat([stream, out[-1:]])
    final = FrozenNorm.of(final_norm, hidden[-1])
    at = range(length)[at]
    logits = model.unembed(final[at](hidden[-1, at]))
    lens = Lens(model, inputs, at, hidden, added, mlp, heads, keys, values, weights, final, logits)
    _check_heads(lens)
    return lens


def _check_heads(lens: Lens) -> None:
    """Refuse a model whose output projections are not what `weight_of` makes of their weights."""
    model = lens.model
    is_exact = model.dtype == torch.float32 and not is_quantized(model.hf)
    for layer, added in enumerate(lens.attention[:, lens.at]):
        found = lens.head_outputs(layer).sum(0) + lens.attention_bias(layer)
        off = (found - added).norm() / added.norm().clamp_min(1e-12)
        # Where activations are quantized, too, a product is off by a percent or so.
        if not off <= (1e-3 if is_exact else 5e-2):
            raise VlmtraceError(
                f"The heads of layer {layer} of {model.name} do not add up to what its attention writes (off by "
                f"{off:.1%}): its weights are kept in a way that the lens does not know, so load it without "
                "quantization."
            )


def _projection(model: VLM, layer: int) -> Any:
    return model.hook_point(Site(BLOCK, "self_attention", layer)).module


def _norms_behind(model: VLM, layer: int) -> tuple[Any, Any] | None:
    """The norms between attention, feed-forward and the residual stream; None: what they give is added as it is."""
    module: Any = model.layer_module(BLOCK, layer)
    if not hasattr(module, "post_feedforward_layernorm"):
        return None  # elsewhere "post_attention_layernorm" is the norm in front of the feed-forward
    return module.post_attention_layernorm, module.post_feedforward_layernorm


def _part(model: VLM, attention: Any, name: str) -> Any:
    found = getattr(attention, name, None)
    if found is None:
        raise VlmtraceError(
            f"The attention of {model.name} has no {name}: it keeps queries, keys and values in another way than the "
            "lens knows, so use another model."
        )
    return found


@checked
def token_text(model: VLM, token: Natural) -> str:
    """A token's text, stripped of spaces; a token that would be invisible is named as the tokenizer writes it.

    Args:
        model: whose tokenizer
        token: the token's id
    """
    model.check_tokens([token])
    return model.tokenizer.decode([token]).strip() or str(model.tokenizer.convert_ids_to_tokens(token))
