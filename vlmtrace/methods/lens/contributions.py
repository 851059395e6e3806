"""The visual lens: which heads raise the answer's probability, and from which positions (Yu and Ananiadou 2024).

One run of a decoder-only model on one question is enough, without a corrupt one. At a position t, a layer adds to the
stream x what its heads give. With o_lj the part of head j of layer l, which is a sum over source positions p,

    o_lj = Σ_p o_ljp,     o_ljp = attention weight (t ← p) · value of p, through the head's output projection,

the contribution of a part o to the token b is log p(b | x + o) − log p(b | x): x is what enters the layer at t, and p
reads a vector through the final norm and the unembedding. The final norm's scale is held fixed, at that of the run's
own final residual stream at t, since the stream grows from layer to layer and a norm computed anew would make every
early part look enormous. Parts add up exactly to what attention adds; their contributions, being differences of
log-probabilities, need not.

Where a norm stands between the attention and the residual stream (Gemma 2 and 3), its scale is held fixed too, and a
head's part is what comes out behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.core.types import Array
from vlmtrace.methods.lens.frozen_norm import FrozenNorm
from vlmtrace.models import VLM, HookPoint, Inputs, Site
from vlmtrace.models.hooks import hooks

BLOCK = "language_model"

#: Numbers held at a time while vectors are read through the unembedding.
READ_AT_ONCE = 2**25

#: Columns that a table of questions needs (see `load_questions`).
QUESTION = ("sample_id", "image", "prompt")


class Head(NamedTuple):
    """One head of the language model."""

    layer: int
    head: int


@dataclass(frozen=True)
class Lens:
    """One run on one question, kept in parts. T positions, L layers, D the stream's width; all float32.

    Attributes:
        inputs: the run's inputs (batch 1)
        at: the position that is asked about, where the answer's first token (or the next one) is predicted
        hidden: (L + 1, T, D): what enters each layer, and last what leaves the last one
        attention, mlp: (L, T, D): what attention and feed-forward add to the stream
        heads: (L, T, H, width of a head): the heads' outputs, before the output projection
        keys, values: (L, T, K, width of a head): before rotation; K < H where heads share them
        weights: (L, H, T, T): attention, rows are queries
        final: the final norm, frozen at each position's final residual stream
        logits: (vocabulary,) the run's own, at `at`
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
        """o_lj for every head of a layer at `at`: (H, D); with `attention_bias` they add up to `attention`."""
        return self._written(layer, self.heads[layer, self.at], range(self.heads.shape[2]))

    def position_outputs(self, layer: int, head: int) -> Tensor:
        """o_ljp for every source position of a head at `at`: (T, D); they add up to the head's output."""
        value = self.values[layer, :, head // (self.heads.shape[2] // self.values.shape[2])]
        weighted = self.weights[layer, head, self.at, :, None] * value
        return self._written(layer, weighted, [head] * len(weighted))

    def value_outputs(self, layer: int, head: int) -> Tensor:
        """What a head would write if it attended to one position alone: (T, D)."""
        value = self.values[layer, :, head // (self.heads.shape[2] // self.values.shape[2])]
        return self._written(layer, value, [head] * len(value))

    def attention_bias(self, layer: int) -> Tensor:
        """What attention adds at `at` whatever the heads give: the output projection's bias (0 in most families)."""
        bias = _projection(self.model, layer).bias
        if bias is None:
            return torch.zeros_like(self.attention[layer, self.at])
        return self._behind(layer, bias.float())

    def _written(self, layer: int, parts: Tensor, heads: Sequence[int]) -> Tensor:
        """Parts of single heads (n, width of a head) through each head's slice of the output projection: (n, D)."""
        size = self.heads.shape[-1]
        weight = _projection(self.model, layer).weight.float().unflatten(1, (-1, size))
        if len(set(heads)) == 1:
            return self._behind(layer, parts.float() @ weight[:, heads[0]].T)
        return self._behind(layer, torch.einsum("ne,dne->nd", parts.float(), weight[:, list(heads)]))

    def _behind(self, layer: int, raw: Tensor) -> Tensor:
        """What the attention's output projection gives, behind the norm that may follow, its scale held fixed."""
        norm = _norms_behind(self.model, layer)
        if norm is None:
            return raw
        whole = functional.linear(self.heads[layer, self.at].flatten(), _projection(self.model, layer).weight.float())
        return FrozenNorm.of(norm[0], whole).linear(raw)

    # Reading --------------------------------------------------------

    def read(self, vectors: Tensor, positions: int | Tensor | None = None) -> Tensor:
        """Logits (n, vocabulary) of vectors (n, D) through the final norm, its scale held fixed, and the unembedding.

        Args:
            positions: whose scale is used, one for all or one for each vector; None: that of `at`
        """
        norm = self.final[self.at if positions is None else positions]
        return self.model.unembed(norm(vectors))

    def log_p(self, vectors: Tensor, token: int, positions: int | Tensor | None = None) -> Tensor:
        """log p(token | vector): (…) of vectors (…, D)."""
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
        """The token that the model itself predicts at `at`."""
        return int(self.logits.argmax())

    @property
    def image_positions(self) -> Array:
        """(T,) bool: where image tokens stand."""
        return self.model.is_image(self.inputs)[0].cpu().numpy()


@torch.no_grad()
def open_lens(model: VLM, inputs: Inputs, at: int = -1) -> Lens:
    """Run a model once and keep what the lens reads.

    Args:
        inputs: of one question (see `question_inputs`, `VLM.encode`, `VLM.encode_text`)
        at: the position asked about; negative numbers count from the end
    Raises:
        VlmtraceError: the model is not decoder-only, there are several questions, or what the model adds to the stream
            in a layer is not what this module takes it for
    """
    if not model.has_visual_tokens:
        raise VlmtraceError(
            f"{model.name} does not read image tokens in its text sequence, and the lens is made for models that do: "
            "use a decoder-only one, e.g. tiny-llava."
        )
    length = inputs["input_ids"].shape[1]
    if len(inputs["input_ids"]) != 1:
        raise VlmtraceError("The lens looks at one question at a time: pass the inputs of one.")
    kept: dict[str, list[Tensor]] = {
        name: [] for name in ("hidden", "out", "attention", "mlp", "heads", "keys", "values")
    }

    def keep(name: str) -> Any:
        return lambda value: kept[name].append(value[0].detach().float())

    points = []
    for i in range(model.blocks[BLOCK].n_layers):
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
    with hooks(points, n_pairs=1):
        weights = model.attention(inputs, BLOCK, "self_attention")[:, 0]
    stream, out, added, mlp = (torch.stack(kept[name]) for name in ("hidden", "out", "attention", "mlp"))
    off = (stream + added + mlp - out).abs().amax() / out.abs().amax()
    if off > (1e-3 if model.dtype == torch.float32 else 5e-2):
        raise VlmtraceError(
            f"A layer of {model.name} adds more to the stream than its attention and its feed-forward (off by "
            f"{off:.1%}), so it cannot be taken apart: use another model."
        )
    n_heads = model.blocks[BLOCK].n_heads
    heads = torch.stack(kept["heads"]).unflatten(-1, (n_heads, -1))
    keys, values = (torch.stack(kept[name]).unflatten(-1, (-1, heads.shape[-1])) for name in ("keys", "values"))
    hidden = torch.cat([stream, out[-1:]])
    final = FrozenNorm.of(model.final_norm, hidden[-1])
    at = range(length)[at]
    logits = model.unembed(final[at](hidden[-1, at]))
    return Lens(model, inputs, at, hidden, added, mlp, heads, keys, values, weights, final, logits)


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


# Contributions ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def head_contributions(lens: Lens, token: int | None = None) -> Array:
    """log p(b | x + o_lj) − log p(b | x): (layer, head), in nats.

    Args:
        token: b; None: what the model predicts
    """
    token = lens.token if token is None else token
    found = []
    for layer in range(len(lens.heads)):
        entering = lens.hidden[layer, lens.at]
        found.append(lens.log_p(entering + lens.head_outputs(layer), token) - lens.log_p(entering, token))
    return torch.stack(found).cpu().numpy()


@torch.no_grad()
def module_contributions(lens: Lens, token: int | None = None) -> Array:
    """The same for all that attention adds, and for what the feed-forward adds then: (layer, 2), in nats.

    Attention is measured on what enters the layer, the feed-forward on that with the attention's part. So the two add
    up to the whole step of the layer, and all steps to log p(b | final stream) − log p(b | embedding).
    """
    token = lens.token if token is None else token
    stream = lens.hidden[:-1, lens.at]
    middle = stream + lens.attention[:, lens.at]
    steps = [lens.log_p(part, token) for part in (stream, middle, middle + lens.mlp[:, lens.at])]
    return torch.stack([steps[1] - steps[0], steps[2] - steps[1]], dim=1).cpu().numpy()


@torch.no_grad()
def position_contributions(lens: Lens, heads: Sequence[tuple[int, int]], token: int | None = None) -> Array:
    """log p(b | x + o_ljp) − log p(b | x) for chosen heads and every source position: (chosen head, position), in nats.

    Args:
        heads: (layer, head) of each
    Raises:
        VlmtraceError: the positions do not add up to a head, so that attention is not what the lens takes it for
    """
    token = lens.token if token is None else token
    found = []
    for layer, head in heads:
        parts, whole = lens.position_outputs(layer, head), lens.head_outputs(layer)[head]
        off = (parts.sum(0) - whole).norm() / whole.norm().clamp_min(1e-12)
        if off > (1e-3 if lens.model.dtype == torch.float32 else 5e-2):
            raise VlmtraceError(
                f"Weights times values of head {layer}.{head} of {lens.model.name} do not add up to its output (off by "
                f"{off:.1%}): its attention does something else too, so use another model."
            )
        entering = lens.hidden[layer, lens.at]
        found.append(lens.log_p(entering + parts, token) - lens.log_p(entering, token))
    return torch.stack(found).cpu().numpy()


def top_heads(contributions: Array, k: int) -> list[Head]:
    """The k heads of (layer, head) contributions that raise the token most, the strongest first."""
    order = np.argsort(-contributions, axis=None, kind="stable")[:k]
    layers, heads = np.unravel_index(order, contributions.shape)
    return [Head(int(layer), int(head)) for layer, head in zip(layers, heads, strict=True)]


# Many questions ---------------------------------------------------------------------------------------------------


def question_inputs(model: VLM, image: Any, prompt: str, prefix: str = "") -> Inputs:
    """Inputs of a question about an image, with the beginning of an answer ("The color of the circle is")."""
    text = model.prompt_text(prompt)
    return _with_prefix(model, model.encode([image], [text]), text, prefix)


def text_only_inputs(model: VLM, sentences: str, prompt: str, prefix: str = "") -> Inputs:
    """The same question, about what some sentences tell: they stand in front of it, and there is no image."""
    text = model.text_only_prompt(f"{sentences} {prompt}")
    return _with_prefix(model, model.encode_text(text), text, prefix)


def _with_prefix(model: VLM, inputs: Inputs, text: str, prefix: str) -> Inputs:
    if not prefix.strip():
        return inputs
    longer = text if text[-1:].isspace() else f"{text} "
    ids, more = (model.tokenizer(part, add_special_tokens=False).input_ids for part in (text, longer + prefix.strip()))
    same = next((i for i, (a, b) in enumerate(zip(ids, more, strict=False)) if a != b), len(ids))
    return model.extend(inputs, more[same:])


def lens_contributions(model: VLM, questions: pd.DataFrame, prefix: str = "", told: str | None = None) -> pd.DataFrame:
    """What every head and module adds to the answer that the model gives, question by question.

    Args:
        questions: sample_id, image, prompt (see `load_questions`)
        prefix: the beginning of an answer, put behind every prompt
        told: a column of sentences that are read instead of the image; None: the image is shown
    Returns:
        one row a question, layer and part: sample_id, module ("self_attention", "mlp"), layer, head (missing for a
            whole
        module), token (the predicted word), p_token (its probability), log_p_increase (nats)
    Raises:
        VlmtraceError: a column is missing, or the model is not decoder-only
    """
    check_questions(questions, *([told] if told else []))
    tables = []
    with counter(len(questions), f"lens on {len(questions)} questions") as advance:
        for row in questions.to_dict("records"):
            lens = lens_of(model, row, prefix, told)
            heads, modules = head_contributions(lens), module_contributions(lens)
            layer, head = (index.ravel() for index in np.indices(heads.shape))
            wide = np.arange(len(modules)).repeat(2)
            table = pd.DataFrame(
                {
                    "sample_id": row["sample_id"],
                    "module": [*["self_attention"] * heads.size, *["self_attention", "mlp"] * len(modules)],
                    "layer": np.concatenate([layer, wide]),
                    "head": pd.array([*head, *[pd.NA] * len(wide)], dtype="Int64"),
                    "token": word(model, lens.token),
                    "p_token": float(lens.logits.softmax(-1)[lens.token]),
                    "log_p_increase": np.concatenate([heads.ravel(), modules.ravel()]),
                }
            )
            tables.append(table)
            advance(1)
    return pd.concat(tables, ignore_index=True)


def lens_of(model: VLM, question: Any, prefix: str = "", told: str | None = None) -> Lens:
    """The lens on one row of a table of questions."""
    if told is None:
        return open_lens(model, question_inputs(model, question["image"], question["prompt"], prefix))
    if not model.has_visual_tokens:
        return open_lens(model, {})  # says why not
    return open_lens(model, text_only_inputs(model, question[told], question["prompt"], prefix))


def head_means(contributions: pd.DataFrame) -> pd.DataFrame:
    """Mean over questions of each head's contribution: layer × head."""
    heads = contributions[contributions["head"].notna()]
    return heads.groupby(["layer", "head"])["log_p_increase"].mean().unstack("head")


def word(model: VLM, token: int) -> str:
    """A token as it is read; those that would be invisible are named as the tokenizer writes them."""
    return model.tokenizer.decode([token]).strip() or str(model.tokenizer.convert_ids_to_tokens(token))


def check_questions(questions: pd.DataFrame, *more: str) -> None:
    """Raise a sentence that says which columns a table of questions lacks."""
    missing = [column for column in (*QUESTION, *more) if column not in questions]
    if missing or questions.empty:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "has no row"
        raise VlmtraceError(f"The table of questions {lacks}: make it with load_questions.")
