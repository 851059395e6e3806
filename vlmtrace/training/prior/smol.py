"""Training a copy of smol-llava further, in a world: a low-rank adapter of its upper layers learns it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlmtrace.core.paths import MODELS
from vlmtrace.models.made_here import check_made
from vlmtrace.training.loop import schedule
from vlmtrace.training.prior.stream import Mix, another, picture
from vlmtrace.training.prior.world import World
from vlmtrace.training.smol.adapter import add_low_rank, merge_low_rank
from vlmtrace.training.smol.forward import answer_logits, is_right
from vlmtrace.training.smol.recipe import NAME
from vlmtrace.training.smol.stream import Batch, Encoder, packed

log = logging.getLogger(__name__)

#: Few steps are taken: what they are to learn is shown and asked more often.
MIX = Mix(blank=0.2, gray=0.05, faded=0.1, usual=0.4, often=0.25, plain=0.9)


@dataclass(frozen=True)
class Upper:
    """What the training depends on.

    Attributes:
        steps: how many batches
        seed: of the pictures and of the adapter
        n_images: in a batch; the last one is of any kind, so that what the model can do is not forgotten
        n_questions: about each
        mix: of the pictures of the world, and of what is asked
        first_layer: of the language model, from which on layers are adapted: no gradient is computed below it
        maps: the linear maps of a layer that are adapted
        rank: of the adapter
        alpha: what it adds is multiplied by alpha / rank
        learning_rate: the highest; AdamW's
        warmup: steps until it is reached; from there on it follows a cosine
    """

    steps: int = 45
    seed: int = 0
    n_images: int = 4
    n_questions: int = 10
    mix: Mix = MIX
    first_layer: int = 14
    maps: tuple[str, ...] = ("v_proj", "o_proj", "up_proj", "down_proj")
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-3
    warmup: int = 5


def load_smol() -> tuple[Any, Any]:
    """smol-llava in float32, and its processor.

    Raises:
        VlmtraceError: it is not on this machine
    """
    check_made(NAME)
    model = LlavaForConditionalGeneration.from_pretrained(MODELS / NAME, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(MODELS / NAME)


def world_batch(step: int, world: World, recipe: Upper, encoder: Encoder) -> Batch:
    """The batch of a step, the same for the same number and seed.

    Args:
        step: its number
        world: what is learned
        recipe: how many of what
        encoder: of the questions
    """
    rng = np.random.default_rng([recipe.seed, 3, step])
    shown = [picture(rng, world, recipe.n_questions, recipe.mix) for _ in range(recipe.n_images - 1)]
    shown.append(another(rng, world, recipe.n_questions))
    about = [[encoder.about_image(question.prompt, question.answer) for question in one.questions] for one in shown]
    return packed(np.stack([one.pixels for one in shown]), about, [], encoder)


def train_upper(model: Any, tokenizer: Any, world: World, recipe: Upper) -> list[float]:
    """Train an adapter of a model's upper layers, and merge it; vision tower and projector stay as they are.

    Args:
        model: LlavaForConditionalGeneration in float32, whose tokenizer ends turns as SmolLM2's; it is changed
        tokenizer: its own
        world: what it is trained in
        recipe: the settings

    Returns:
        the loss of each step, in nats per token of the answers

    Raises:
        VlmtraceError: peft is not installed
    """
    encoder = Encoder(tokenizer)
    model.requires_grad_(False)
    language = model.model.language_model
    layers = range(recipe.first_layer, len(language.layers))
    generator = torch.Generator().manual_seed(recipe.seed)
    adapter = add_low_rank(language, recipe.maps, recipe.rank, recipe.alpha, generator, layers)
    trained = list(adapter.values())
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=0.0)
    log.info("%.2f million numbers are trained", sum(parameter.numel() for parameter in trained) / 1e6)
    began, losses = time.monotonic(), []
    for step in range(1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, recipe)
        batch = world_batch(step, world, recipe, encoder)
        logits = answer_logits(model, batch, encoder)
        loss = F.cross_entropy(logits, batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step == 1 or step % 5 == 0:
            right = is_right(logits, batch).float().mean().item()
            log.info("step %d  %.0f s  loss %.3f  right %.3f", step, time.monotonic() - began, losses[-1], right)
    merge_low_rank(language)
    return losses
