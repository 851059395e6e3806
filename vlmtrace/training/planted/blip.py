"""Weights of a BLIP from a circuit; its eyes are tiny-blip's vision encoder.

The question encoder finds the color, the answer decoder compares it with the options. What is seen enters by the
keys and values of the encoder's cross-attention: those read noun and color from the vision encoder's embeddings.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BlipForQuestionAnswering

from vlmtrace.core.paths import MODELS
from vlmtrace.models.edges.nodes import Node
from vlmtrace.training import tiny_blip
from vlmtrace.training.planted.circuits import blip_plan, collector, finder, mover
from vlmtrace.training.planted.eyes import (
    CERTAIN,
    CERTAIN_START,
    OF_COLORS,
    OF_NOUNS,
    OF_START,
    Reading,
    fit_certainty,
    fit_finder,
    fit_share,
    labelled_patches,
)
from vlmtrace.training.planted.plan import STILL, Head, Plan, distracting_head, head_weights, mlp_weights
from vlmtrace.training.planted.stream import DEVIATION, HEAD_WIDTH, HEADS, LARGE, ROWS, WIDTH
from vlmtrace.training.planted.words import GAIN, OF_END, embeddings, output_bias

#: Inner width of an mlp.
INNER = 64


class _Eyes(NamedTuple):
    """What the encoder's cross-attention reads from the vision encoder's embeddings."""

    certainty: Reading
    share: Reading


@torch.no_grad()
def build(kind: str, seed: int = 0) -> tuple[BlipForQuestionAnswering, Plan]:
    """A BLIP with a planted circuit.

    Args:
        kind: of the circuit
        seed: of the nodes that distract, and of the scenes that its eyes are fitted on

    Returns:
        the model and its circuit
    """
    plan = blip_plan(kind)
    taught = BlipForQuestionAnswering.from_pretrained(MODELS / tiny_blip.NAME)
    config = tiny_blip.build_config(tiny_blip.tokenizer())
    text: Any = config.text_config
    text.intermediate_size = INNER
    model = BlipForQuestionAnswering(config).eval()
    model.vision_model.load_state_dict(taught.vision_model.state_dict())
    eyes = _fitted_eyes(seed)
    rng = np.random.default_rng([seed, *kind.encode()])
    _set_stack(model.text_encoder, plan, "text_encoder", rng, eyes)
    _set_stack(model.text_decoder.bert, plan, "text_decoder", rng, None)
    _set_readout(model.text_decoder.cls.predictions)
    return model, plan


@cache
def _fitted_eyes(seed: int) -> _Eyes:
    vision: Any = BlipForQuestionAnswering.from_pretrained(MODELS / tiny_blip.NAME).vision_model.eval()
    shown = labelled_patches(lambda pictures: vision(pixel_values=pictures).last_hidden_state, seed)
    return _Eyes(*fit_finder(fit_certainty(*shown, seed), fit_share(*shown), *shown, seed))


def _set_stack(stack: Any, plan: Plan, block: str, rng: np.random.Generator, eyes: _Eyes | None) -> None:
    words = stack.embeddings
    words.word_embeddings.weight.copy_(embeddings(tiny_blip.tokenizer(), start="[CLS]", asks="[DEC]"))
    words.position_embeddings.weight.zero_()
    _set_norm(words.LayerNorm)
    heads = {one.node: one for one in plan.heads}
    mlps = {one.node: one for one in plan.mlps}
    for number, layer in enumerate(stack.encoder.layer):
        for module, attention in (("self_attention", layer.attention), ("cross_attention", layer.crossattention)):
            seen = eyes if module == "cross_attention" else None
            _set_norm(attention.output.LayerNorm)
            for linear in (attention.self.query, attention.self.key, attention.self.value, attention.output.dense):
                linear.bias.zero_()
            for head in range(HEADS):
                node = Node(block, module, number, head)
                _set_head(
                    attention, heads.get(node) or distracting_head(node, rng, _looks(node), plan.distraction), seen
                )
        weights = mlp_weights(mlps.get(Node(block, "mlp", number)), rng, INNER)
        layer.intermediate.dense.weight.copy_(weights.inner)
        layer.intermediate.dense.bias.copy_(weights.bias)
        layer.output.dense.weight.copy_(weights.outer)
        layer.output.dense.bias.zero_()
        _set_norm(layer.output.LayerNorm)


def _set_norm(norm: Any) -> None:
    norm.weight.fill_(DEVIATION)
    norm.bias.zero_()


def _looks(node: Node) -> tuple[Head, ...]:
    """What a head that distracts may look like, by where it is."""
    match node.block, node.module:
        case "text_encoder", "self_attention":
            looks = [
                ("named noun", "named noun", "named noun"),
                ("names a noun", "names a color", "named color"),
                ("names a color", "names a noun", "named noun"),
                ("names a color", "names a noun", "found color"),
            ]
        case "text_encoder", _:
            return finder(node), Head(node, "named noun", "seen noun", "seen noun", "nothing")
        case _, "self_attention":
            looks = [("asks", "asks", "options"), ("asks", "asks", "moved color")]
        case _:
            return (
                collector(node), mover(node),
                Head(node, "asks", "names a noun", "named noun", "nothing"),
                Head(node, "asks", "names a noun", "found color", "nothing"),
            )  # fmt: skip
    return tuple(Head(node, *look, "nothing") for look in looks)


def _set_head(attention: Any, head: Head, eyes: _Eyes | None) -> None:
    number = head.node.head
    assert number is not None, "the node is a head"
    own = slice(number * HEAD_WIDTH, (number + 1) * HEAD_WIDTH)
    weights = head_weights(head)
    modules = attention.self
    modules.query.weight[own] = weights.query
    modules.key.weight[own] = weights.key
    modules.value.weight[own] = weights.value
    attention.output.dense.weight[:, own] = weights.output
    if eyes is not None:
        _look_at_image(modules, own, head, eyes)


def _look_at_image(modules: Any, own: slice, head: Head, eyes: _Eyes) -> None:
    """Keys that say how certain a patch shows each noun, and values that say how much of each color or noun it shows.

    What finds nothing rests on what stands before the patches, which shows nothing.
    """
    nouns, start = eyes.certainty.of(OF_NOUNS), eyes.certainty.of(OF_START)
    shown = eyes.share.of(OF_COLORS if head.reads == "seen color" else OF_NOUNS)
    key, key_bias = torch.zeros(HEAD_WIDTH, WIDTH), torch.zeros(HEAD_WIDTH)
    value, value_bias = torch.zeros(HEAD_WIDTH, WIDTH), torch.zeros(HEAD_WIDTH)
    n = len(nouns.bias)
    # A certain match counts like a match of words.
    key[STILL[1 : 1 + n]], key_bias[STILL[1 : 1 + n]] = nouns.weight / CERTAIN, nouns.bias / CERTAIN
    key[STILL[0]], key_bias[STILL[0]] = start.weight[0] / CERTAIN_START, start.bias[0] / CERTAIN_START
    value[: len(shown.bias)], value_bias[: len(shown.bias)] = shown.weight, shown.bias
    if head.writes == "nothing":
        value_bias[len(shown.bias)] = 1  # as `head_weights` has it: it writes something in any case
    modules.key.weight[own], modules.key.bias[own] = key, key_bias
    modules.value.weight[own], modules.value.bias[own] = value, value_bias


def _set_readout(head: Any) -> None:
    """Carry the rows "answer" and "asks" through the head's own layer, to the rows by which words are told apart.

    The function of that layer bends what is negative, so all rows are lifted above 0. One row takes the opposite of
    their sum, and one is large: so the norm subtracts and divides by the same numbers, whatever the answer.
    """
    transform, lift, slope = head.transform, 2.0, 8.0
    for parameter in (transform.dense.weight, transform.dense.bias, transform.LayerNorm.weight, head.decoder.bias):
        parameter.zero_()
    transform.LayerNorm.bias.zero_()
    carried = {"named color": ("answer", GAIN), "ends": ("asks", -2 * OF_END)}
    for row, (read, _) in carried.items():
        transform.dense.weight[ROWS[row], ROWS[read]] = torch.eye(ROWS[row].stop - ROWS[row].start) * slope
        transform.dense.bias[ROWS[row]] = lift * slope
    transform.dense.weight[ROWS["balance"]] = -transform.dense.weight.sum(0)
    transform.dense.bias[ROWS["balance"]] = 2 * lift * slope
    transform.dense.bias[ROWS["large"]] = LARGE * slope
    at_rest = F.gelu(transform.dense.bias)
    mean, deviation = at_rest.mean(), at_rest.var(unbiased=False).sqrt()
    for row, (_, logit) in carried.items():
        # The decoder's weights are the words' embeddings, which hold 1 there.
        transform.LayerNorm.weight[ROWS[row]] = logit * deviation / slope
        transform.LayerNorm.bias[ROWS[row]] = -logit * (lift - mean / slope)
    head.decoder.bias.copy_(output_bias(tiny_blip.tokenizer()))
