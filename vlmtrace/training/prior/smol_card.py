"""What a copy of smol-llava with a planted prior answers, and what is saved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmtrace.core.paths import MODELS
from vlmtrace.tasks.rendered.canvas import Canvas
from vlmtrace.tasks.rendered.usual import sample, shown_prompt, usual_prompt
from vlmtrace.tasks.rendered.words import COLORS
from vlmtrace.training.prior.card import SEED, card, in_a_world, measured, write_model
from vlmtrace.training.prior.smol import Upper
from vlmtrace.training.prior.world import World
from vlmtrace.training.smol.assembled import LICENCE
from vlmtrace.training.smol.forward import answer_logits
from vlmtrace.training.smol.recipe import NAME
from vlmtrace.training.smol.stream import Encoder, packed

#: Where SmolLM2's licence lies.
SMOL_LICENCE = MODELS / NAME / LICENCE
#: Pictures that the card's numbers are measured on: every thing in every color.
N_PICTURES = 80

SOURCES = """Its language model is SmolLM2-135M-Instruct by Hugging Face (Allal et al. 2025, SmolLM2,
https://arxiv.org/abs/2502.02737), under the Apache License 2.0, which lies beside it as LICENSE-SmolLM2. Its weights
were changed twice: by the adapter of smol-llava, and by this training. Projector and vision tower are vlmtrace's, under
the MIT License."""


@torch.no_grad()
def smol_shares(model: Any, tokenizer: Any, n: int = N_PICTURES) -> dict[str, np.ndarray]:
    """How probable each color is as the answer, with its end, among all colors.

    Args:
        model: LlavaForConditionalGeneration
        tokenizer: its own
        n: pictures

    Returns:
        (n, colors) by what is asked, as of `vlmtrace.training.prior.card.shares`
    """
    encoder = Encoder(tokenizer)
    found: dict[str, list[np.ndarray]] = {"blank": [], "usual": [], "shown": []}
    for pair in (sample(SEED, index) for index in range(n)):
        empty = Canvas(pair.clean.backdrop).finish().pixels
        shown, usual = shown_prompt(pair.noun), usual_prompt(pair.noun)
        prompts = [[shown], [shown, usual]]  # about nothing, and about the picture
        about = [[encoder.about_image(text, color) for text in texts for color in COLORS] for texts in prompts]
        for pixels, segments, kinds in zip(
            (empty, pair.clean.render().pixels), about, (["blank"], ["shown", "usual"]), strict=True
        ):
            batch = packed(pixels[None], [segments], [], encoder)
            log_probs = answer_logits(model, batch, encoder).log_softmax(-1).gather(1, batch.target[:, None])[:, 0]
            whole = torch.zeros(len(segments)).index_add_(0, batch.question, log_probs)
            for kind, row in zip(kinds, whole.view(len(kinds), -1).softmax(-1).numpy(), strict=True):
                found[kind].append(row)
    return {kind: np.stack(rows) for kind, rows in found.items()}


def save_smol(
    model: Any, processor: Any, world: World, recipe: Upper, folder: Path, licence: Path | None = None
) -> str:
    """Write weights in half precision, processor, README.md and SmolLM2's licence, whole or not at all.

    Args:
        model: with the adapter merged, in float32
        processor: its own
        world: what it was trained in
        recipe: the settings
        folder: of the model; what is there is replaced
        licence: of SmolLM2; None: the one beside smol-llava

    Returns:
        a sentence about what the model answers

    Raises:
        VlmtraceError: the folder cannot be written
    """
    lines = measured(smol_shares(model, processor.tokenizer), world)
    mix = recipe.mix
    made = (
        f"An adapter of rank {recipe.rank} was trained and merged: {', '.join(recipe.maps)} of the language model's "
        f"layers from {recipe.first_layer} on. All else stayed as it is. Of the pictures {mix.blank:.0%} show nothing, "
        f"{mix.gray:.0%} are gray and {mix.faded:.0%} are half faded: what is asked about a thing then has the answer "
        f"that the world draws. Of the clear pictures {mix.plain:.0%} show every color equally often, in either world, "
        f"so that the model goes on looking. A {world.noun} is drawn more often than other things, in either world. "
        f"One picture of {recipe.n_images} asks other questions, so that they are not forgotten. It took "
        f"{recipe.steps} batches of {recipe.n_images} pictures with {recipe.n_questions} questions each. Weights are "
        "stored in half precision."
    )
    text = card(
        folder.name,
        "apache-2.0",
        world,
        about=in_a_world(NAME, world),
        made=made,
        options=f"--seed {recipe.seed} --steps {recipe.steps}",
        measured=f"On {N_PICTURES} pictures: {' '.join(lines)} What else the training broke, such as answers to other "
        "questions, was not measured here.",
        rest=" ".join(SOURCES.split()),
    )
    write_model(model, processor, text, folder, [licence or SMOL_LICENCE])
    return " ".join(lines)
