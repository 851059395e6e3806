"""The training loop: one process computes, others render."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmtrace.core.files import refusals_as_sentences, write_json
from vlmtrace.training.loop import average, has_bfloat16, schedule
from vlmtrace.training.smol.adapter import attach, save_trained
from vlmtrace.training.smol.assembled import digest_of_eyes
from vlmtrace.training.smol.checkpoint import resume, save_checkpoint
from vlmtrace.training.smol.forward import answer_logits
from vlmtrace.training.smol.own_text import own_texts
from vlmtrace.training.smol.perplexity import perplexity
from vlmtrace.training.smol.recipe import MIXTURE, NAME, Recipe
from vlmtrace.training.smol.score import score, summary, validation
from vlmtrace.training.smol.stream import Batch, Encoder, training_batches

log = logging.getLogger(__name__)

CHECKPOINT, TEXTS, RESULTS = "checkpoint.safetensors", "own_texts.json", "results.json"
#: Pairs of each task that the final numbers are measured on, their seed, and that of the pairs measured on the way.
FINAL_PAIRS, FINAL_SEED, VALIDATION_SEED = 840, 1000, 0


def train(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    out: Path,
    work: Path,
    device: torch.device,
    workers: int = 0,
    final_pairs: int = FINAL_PAIRS,
) -> list[dict[str, Any]]:
    """Train projector and adapter, and write them with the curve and the final numbers.

    A training that was killed goes on from its checkpoint in `work`, with the batches that it would have had. One that
    is at its end is there measured again: remove its files with `forget`, once what it wrote is in its place.

    Args:
        model: of `assemble`, in float32
        tokenizer: with the token for images
        recipe: the settings
        out: folder for adapter, projector and results.json
        work: folder for the checkpoint
        device: where to compute
        workers: processes that render
        final_pairs: of each task, for the final numbers

    Returns:
        the final numbers, rows of `summary`
    """
    encoder = Encoder(tokenizer)
    eyes = digest_of_eyes(model)
    before = perplexity(model, tokenizer)
    texts = own_texts(model, tokenizer, recipe.seed, work / TEXTS)
    drawn_from = hashlib.sha256(json.dumps([MIXTURE, texts], sort_keys=True).encode()).hexdigest()
    low = device.type == "cuda" or has_bfloat16()
    if low:
        model.model.language_model.to(torch.bfloat16)
        model.tie_weights()
    trained = attach(model, recipe)
    model.to(device)
    averaged = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = _optimizer(trained, recipe)
    progress = resume(work / CHECKPOINT, trained, averaged, optimizer, recipe, drawn_from)
    log.info("%s; %.2f million numbers", asdict(recipe), sum(p.numel() for p in trained.values()) / 1e6)
    if progress.step:
        log.info("goes on after step %d", progress.step)
    watched = list(validation(recipe.score_pairs, VALIDATION_SEED, "validation", encoder, workers))
    precision = torch.autocast(device.type, dtype=torch.bfloat16, enabled=low)
    began, before_this = time.monotonic(), progress.minutes
    saved = began
    for batch in training_batches(recipe, encoder, texts, progress.step + 1, workers):
        progress.step += 1
        with precision:
            losses = _losses(model, batch.to(device), encoder)
        _step(losses, trained, averaged, optimizer, recipe, progress.step)
        progress.minutes = before_this + (time.monotonic() - began) / 60
        if progress.step % 50 == 0 or progress.step == 1:
            figures = (progress.step, progress.minutes, *losses.tolist())
            log.info("step %d  %.1f min  loss %.4f  told %.4f  own text %.4f", *figures)
        if progress.step % recipe.score_every == 0:
            with exchanged(trained, averaged), precision:
                rows = summary(score(model, encoder, watched, device))
            progress.curve.append(
                {"step": progress.step, "minutes": progress.minutes, "loss": losses[0].item(), "validation": rows}
            )
            log.info("after %d steps %s", progress.step, json.dumps(_short(rows)))
        if time.monotonic() - saved > 60 * recipe.save_minutes:
            save_checkpoint(work / CHECKPOINT, trained, averaged, optimizer, progress, recipe, drawn_from)
            saved = time.monotonic()
    save_checkpoint(work / CHECKPOINT, trained, averaged, optimizer, progress, recipe, drawn_from)
    save_trained(averaged, recipe, out, eyes)
    with exchanged(trained, averaged), precision:
        asked = validation(final_pairs, FINAL_SEED, "test", encoder, workers)
        final = summary(score(model, encoder, asked, device))
        after = perplexity(model, tokenizer)
    log.info("final %s; perplexity %.2f, then %.2f", json.dumps(_short(final)), before, after)
    questions = 2 * recipe.n_pairs * recipe.n_questions * recipe.steps
    beginning = "given weights" if recipe.start else "nothing"
    write_json(
        {
            "recipe": asdict(recipe) | {"start": beginning},
            "trained": f"make train-{NAME} took {progress.minutes:.0f} minutes on {device_name(device)}, from "
            f"{beginning}: {recipe.steps} steps, {questions:,} questions about images.",
            "mixture": MIXTURE,
            "curve": progress.curve,
            "final": final,
            "perplexity": {"before": before, "after": after},
        },
        out / RESULTS,
    )
    return final


def forget(work: Path) -> None:
    """Remove what a training would go on from.

    Args:
        work: as of `train`
    """
    with refusals_as_sentences(work / CHECKPOINT):
        for name in (CHECKPOINT, TEXTS):
            (work / name).unlink(missing_ok=True)


def _optimizer(trained: Mapping[str, nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    projector = [value for name, value in trained.items() if name.startswith("projector.")]
    adapter = [value for name, value in trained.items() if name.startswith("adapter.")]
    groups = [
        {"params": projector, "highest": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        {"params": adapter, "highest": recipe.adapter_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _losses(model: Any, batch: Batch, encoder: Encoder) -> Tensor:
    """(3,) Cross entropy: of answers about images, of answers about sentences, and of the model's own texts."""
    each = F.cross_entropy(answer_logits(model, batch, encoder), batch.target, reduction="none")
    of_kind = F.one_hot(batch.kind, 3).float()  # (targets, 3)
    return each @ of_kind / of_kind.sum(0).clamp(min=1)


def _step(
    losses: Tensor,
    trained: Mapping[str, nn.Parameter],
    averaged: Mapping[str, Tensor],
    optimizer: torch.optim.AdamW,
    recipe: Recipe,
    step: int,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * schedule(step, recipe)
    optimizer.zero_grad(set_to_none=True)
    (losses[0] + recipe.told_weight * losses[1] + recipe.own_weight * losses[2]).backward()
    nn.utils.clip_grad_norm_(trained.values(), 1.0)
    optimizer.step()
    average(list(averaged.values()), list(trained.values()), step, recipe.ema)


@contextlib.contextmanager
def exchanged(trained: Mapping[str, nn.Parameter], averaged: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with the averaged weights, while this is entered.

    Args:
        trained: the model's
        averaged: by the same names
    """
    kept = {name: parameter.detach().clone() for name, parameter in trained.items()}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(averaged[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(kept[name])


def _short(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["group"]: f"{row['right']:.3f}/{row['both']:.3f} of {row['n']}" for row in rows}


def device_name(device: torch.device) -> str:
    """What computes, for the card: the GPU's name, or the number of cores.

    Args:
        device: where it is computed
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU cores"
