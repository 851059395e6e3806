"""The training loop, shared by a few single-threaded processes.

Each process renders its own share of the batch and computes its gradients; the gradients are averaged. On two cores
this is about twice as fast as one process with two threads, since the operations are small.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlmtrace.training.data import PairStream, TextStream
from vlmtrace.training.losses import answer_loss, is_generated
from vlmtrace.training.model_card import save_with_card
from vlmtrace.training.recipe import TRAINABLE, Recipe
from vlmtrace.training.score import encode_texts, score, score_text, summary
from vlmtrace.training.trainable import AnswersWithoutImage, TrainableModel

log = logging.getLogger(__name__)


def train(name: str, recipe: Recipe, out: Path) -> None:
    """Train a bundled model and save its averaged weights, its processor and its card.

    Args:
        name: of the model, see `TRAINABLE`
        recipe: the settings
        out: the folder to write
    """
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(
            _process, (name, recipe, out, f"file://{meeting}/processes"), nprocs=recipe.processes, join=True
        )


def _process(rank: int, name: str, recipe: Recipe, out: Path, meeting: str) -> None:
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=recipe.processes)
    try:
        _train(rank, TRAINABLE[name], recipe, out)
    finally:
        dist.destroy_process_group()


def _train(rank: int, trainable: TrainableModel, recipe: Recipe, out: Path) -> None:
    torch.manual_seed(recipe.seed)
    model = trainable.load(recipe.start) if recipe.start else trainable.build(recipe.seed)
    heads = trainable.patch_label_heads(model)
    averaged = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(_groups(model, heads, recipe.weight_decay), betas=(0.9, 0.98), fused=True)
    trained = [p for p in (*model.parameters(), *heads.parameters()) if p.requires_grad]
    stream = PairStream(trainable, recipe.seed, rank, recipe.n_pairs // recipe.processes, recipe.n_questions)
    batches = iter(stream)
    texts = iter(TextStream(trainable, recipe.seed, rank, recipe.n_texts // recipe.processes))
    log.info("%s; %.2f million parameters", asdict(recipe), sum(p.numel() for p in model.parameters()) / 1e6)
    start = time.time()
    for step in range(1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss, right, patch_loss = _losses(trainable, model, heads, next(batches), next(texts))
        (loss + recipe.patch_weight * (1 - 0.9 * step / recipe.steps) * patch_loss).backward()
        _share_gradients(trained, recipe.processes)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average(list(averaged.parameters()), list(model.parameters()), step, recipe.ema)
        if rank:
            continue
        if step % 100 == 0:
            figures = (step, time.time() - start, loss.item(), right, patch_loss.item())
            log.info("step %d  %.0f s  loss %.3f  right %.3f  patches %.2f", *figures)
        if step % recipe.score_every == 0:
            scores = score(trainable, averaged, recipe.score_pairs, seed=0, split="validation")
            for by in (["task", "category"], ["task", "seen_combination"]):
                log.info("validation after %d steps\n%s", step, summary(scores, by).round(3).to_string())

            without_image = score_text(trainable, averaged, recipe.score_pairs, seed=1000)
            if without_image is not None:
                log.info("questions about sentences: %.3f", without_image)
            averaged.save_pretrained(out)  # what is learned so far is kept, should training be stopped

    if rank == 0:
        save_with_card(trainable, averaged, out, recipe, minutes=(time.time() - start) / 60)


def _losses(
    trainable: TrainableModel,
    model: nn.Module,
    heads: nn.Module,
    batch: dict[str, Tensor],
    texts: list[tuple[str, str, str]],
) -> tuple[Tensor, float, Tensor]:
    """Answer loss, share of answers that are right, and the mean of the patch heads' losses."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16()):
        embeds = trainable.embed_images(model, batch["pixels"])
        logits = trainable.answer_logits(model, embeds, batch["prompt"], batch["answer"])
        patch_loss = heads(embeds, batch["patches"]).mean()
        loss = answer_loss(logits, batch["answer"])
        if texts and isinstance(trainable, AnswersWithoutImage):
            prompt, answer = encode_texts(trainable, texts)
            # Weighted by their number, as if sentences were images with one question each.
            share = len(texts) / batch["answer"][..., 0].numel()
            loss = loss + share * answer_loss(trainable.text_logits(model, prompt, answer), answer)
    right = is_generated(logits, batch["answer"]).float().mean().item()
    return loss, right, patch_loss


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; where it does not, that is ten times slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _groups(model: nn.Module, heads: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices, but not biases, norms or embeddings."""
    decayed: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in [*model.named_parameters(), *heads.named_parameters()]:
        if not parameter.requires_grad:
            continue
        (rest if parameter.ndim < 2 or "embedding" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


class Scheduled(Protocol):
    """What the learning rate follows from: how many steps there are, and how many of them warm up."""

    @property
    def steps(self) -> int:
        """How many batches."""

    @property
    def warmup(self) -> int:
        """Steps until the highest learning rate."""


def schedule(step: int, recipe: Scheduled) -> float:
    """Share of the highest learning rate: linear warm-up, then a cosine to nearly nothing.

    Args:
        step: from 1
        recipe: whose steps and warm-up
    """
    if step < recipe.warmup:
        return step / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _share_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    """Average the gradients over the processes, in one message."""
    if processes == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    message /= processes
    for parameter, part in zip(parameters, message.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


@torch.no_grad()
def average(averaged: Sequence[Tensor], trained: Sequence[Tensor], step: int, ema: float) -> None:
    """Move averages of weights towards the weights of a step.

    Args:
        averaged: changed
        trained: in the same order
        step: from 1 on; the first ones move the averages further, so that the beginning is soon forgotten
        ema: what is kept of an average in a step, later on
    """
    torch._foreach_lerp_(list(averaged), list(trained), 1 - min(ema, step / (step + 10)))
