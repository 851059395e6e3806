"""Weights of a LLaVA from a circuit; its eyes are tiny-llava's vision tower.

The rotation by positions is too slow to be seen but in the first row of either half of a head, which nothing uses.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from vlmtrace.core.paths import MODELS
from vlmtrace.tasks.rendered.words import COLORS, NOUNS
from vlmtrace.training import tiny_llava
from vlmtrace.training.planted.circuits import collector, finder, llava_plan, mover
from vlmtrace.training.planted.eyes import fit_projector, labelled_patches
from vlmtrace.training.planted.plan import (
    Head,
    Mlp,
    Plan,
    balanced,
    distracting_head,
    head_weights,
    mlp_weights,
)
from vlmtrace.training.planted.stream import DEVIATION, HEAD_WIDTH, HEADS, LARGE, ROWS, WIDTH
from vlmtrace.training.planted.words import embeddings, output_rows

#: Inner width of an mlp, and what positions are rotated by; so slow that no position is told from another.
INNER, ROTATION = 64, 1e30

#: Added to the certainty of nouns, so that the most certain patch is looked at even where it is not very certain.
SURE = 1.0


@torch.no_grad()
def build(kind: str, seed: int = 0) -> tuple[LlavaForConditionalGeneration, Plan]:
    """A LLaVA with a planted circuit.

    Args:
        kind: of the circuit
        seed: of the nodes that distract, and of the scenes that its eyes are fitted on

    Returns:
        the model and its circuit
    """
    plan = llava_plan(kind)
    taught = LlavaForConditionalGeneration.from_pretrained(MODELS / tiny_llava.NAME)
    config = tiny_llava.build_config()
    text: Any = config.text_config
    text.intermediate_size = INNER
    text.rope_parameters = {"rope_type": "default", "rope_theta": ROTATION}
    model = LlavaForConditionalGeneration(config).eval()
    model.model.vision_tower.load_state_dict(taught.model.vision_tower.state_dict())
    _set_projector(model.model.multi_modal_projector, _fitted_eyes(seed))
    _set_language(model, plan, np.random.default_rng([seed, *kind.encode()]))
    return model, plan


class _Eyes(NamedTuple):
    """A projector from the vision tower's embeddings to certainty of nouns and shares of colors.

    Attributes:
        first: its first layer
        second: its second layer, a row for each word
    """

    first: nn.Linear
    second: nn.Linear


@cache
def _fitted_eyes(seed: int) -> _Eyes:
    tower: Any = LlavaForConditionalGeneration.from_pretrained(MODELS / tiny_llava.NAME).eval().model.vision_tower
    embeddings, shown = labelled_patches(lambda pictures: tower(pixel_values=pictures).last_hidden_state[:, 1:], seed)
    torch.manual_seed(seed)
    eyes = _Eyes(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, len(NOUNS) + len(COLORS)))
    scale = embeddings.std()
    fit_projector(nn.Sequential(eyes.first, nn.GELU(), eyes.second), embeddings / scale, shown, seed)
    eyes.first.weight.data /= scale
    return eyes


def _set_projector(projector: Any, eyes: _Eyes) -> None:
    """Write what the eyes tell into its rows."""
    n_nouns = len(NOUNS)
    written = torch.zeros(WIDTH, n_nouns + len(COLORS))
    written[ROWS["seen noun"], :n_nouns] = torch.eye(n_nouns)
    written[ROWS["seen color"], n_nouns:] = torch.eye(len(COLORS))
    written = balanced(written)
    told = torch.zeros(written.shape[1])
    told[:n_nouns] = SURE
    projector.linear_1.weight.copy_(eyes.first.weight)
    projector.linear_1.bias.copy_(eyes.first.bias)
    projector.linear_2.weight.copy_(written @ eyes.second.weight)
    projector.linear_2.bias.copy_(written @ (eyes.second.bias + told))
    projector.linear_2.bias[ROWS["large"]] = LARGE
    projector.linear_2.bias[ROWS["opposite"]] = -LARGE


def _set_language(model: LlavaForConditionalGeneration, plan: Plan, rng: np.random.Generator) -> None:
    language: Any = model.model.language_model
    language.embed_tokens.weight.copy_(embeddings(tiny_llava.tokenizer(), start="[CLS]", asks=":"))
    heads = {one.node: one for one in plan.heads}
    mlps = {one.node: one for one in plan.mlps}
    for number, layer in enumerate(language.layers):
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.fill_(DEVIATION)
        for head in range(HEADS):
            node = plan.heads[0].node._replace(layer=number, head=head)
            _set_head(
                layer.self_attn, head, heads.get(node) or distracting_head(node, rng, _looks(node), plan.distraction)
            )
        _set_mlp(layer.mlp, mlps.get(plan.mlps[0].node._replace(layer=number)), rng)
    language.norm.weight.fill_(DEVIATION)
    rows, bias = output_rows(tiny_llava.tokenizer())
    model.lm_head.weight.copy_(rows)
    model.lm_head.weight[:, ROWS["large"]] += bias[:, None] / LARGE


def _looks(node: Any) -> tuple[Head, ...]:
    return (
        finder(node), collector(node), mover(node),
        Head(node, "named noun", "named noun", "named noun", "nothing"),
        Head(node, "asks", "start", "seen color", "nothing"),
        Head(node, "asks", "names a noun", "named noun", "nothing"),
        Head(node, "asks", "names a noun", "found color", "nothing"),
    )  # fmt: skip


def _set_head(attention: Any, number: int, head: Head) -> None:
    own = slice(number * HEAD_WIDTH, (number + 1) * HEAD_WIDTH)
    weights = head_weights(head)
    attention.q_proj.weight[own] = weights.query
    attention.k_proj.weight[own] = weights.key
    attention.v_proj.weight[own] = weights.value
    attention.o_proj.weight[:, own] = weights.output


def _set_mlp(module: Any, mlp: Mlp | None, rng: np.random.Generator) -> None:
    weights = mlp_weights(mlp, rng, INNER)
    module.gate_proj.weight.copy_(weights.inner)
    module.up_proj.weight.zero_()
    _add_bias(module.gate_proj, weights.bias)
    _add_bias(module.up_proj, torch.ones(INNER))
    module.down_proj.weight.copy_(weights.outer)


def _add_bias(linear: nn.Linear, bias: Tensor) -> None:
    """What the large row, the same everywhere, makes a bias of."""
    linear.weight[:, ROWS["large"]] += bias[:, None] / LARGE
