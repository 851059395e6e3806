"""Training a copy of a bundled model further, in a world."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS, relative
from vlmtrace.training.loop import average, has_bfloat16, schedule
from vlmtrace.training.losses import answer_loss, is_generated
from vlmtrace.training.prior.stream import PLAIN, Mix, batches
from vlmtrace.training.prior.world import World
from vlmtrace.training.trainable import TrainableModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Further:
    """What the training depends on.

    Attributes:
        steps: how many batches
        seed: of the pictures
        n_images: in a batch
        n_questions: about each
        learning_rate: the highest; AdamW's
        warmup: steps until it is reached; from there on it follows a cosine
        ema: decay of the averaged weights, which are the ones that are kept
        mix: of the pictures of the world, and of what is asked
    """

    steps: int = 400
    seed: int = 0
    n_images: int = 24
    n_questions: int = 6
    learning_rate: float = 4e-4
    warmup: int = 20
    ema: float = 0.97
    mix: Mix = PLAIN


def train_further(trainable: TrainableModel, world: World, recipe: Further) -> Any:
    """Train the language half of a copy of a bundled model; its eyes stay as they are.

    Args:
        trainable: the bundled model's description
        world: what it is trained in
        recipe: the settings

    Returns:
        the transformers model with averaged weights

    Raises:
        VlmtraceError: the bundled model is not there
    """
    start = MODELS / trainable.NAME
    if not (start / "config.json").is_file():
        raise VlmtraceError(f"{trainable.NAME} is not in {relative(MODELS)}: restore it (git checkout), or train it.")
    torch.manual_seed(recipe.seed)
    model = trainable.load(str(start))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision" not in name)
    averaged = copy.deepcopy(model).eval()
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    kept = dict(averaged.named_parameters())
    averages = [kept[name] for name, _ in trained]
    optimizer = torch.optim.AdamW([parameter for _, parameter in trained], betas=(0.9, 0.98), weight_decay=0.0)
    stream = batches(trainable, world, recipe.seed, recipe.n_images, recipe.n_questions, recipe.mix)
    began = time.monotonic()
    for step in range(1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, recipe)
        batch = next(stream)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16()):
            with torch.no_grad():
                embeds = trainable.embed_images(model, batch["pixels"])
            logits = trainable.answer_logits(model, embeds, batch["prompt"], batch["answer"])
            loss = answer_loss(logits, batch["answer"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in trained], 1.0)
        optimizer.step()
        average(averages, [parameter for _, parameter in trained], step, recipe.ema)
        if step % 25 == 0:
            right = is_generated(logits, batch["answer"]).float().mean().item()
            figures = (step, time.monotonic() - began, loss.item(), right)
            log.info("step %d  %.0f s  loss %.3f  right %.3f", *figures)
    return averaged
