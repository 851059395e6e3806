"""What a model with a planted prior answers where nothing can be seen, and what is saved of it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlmtrace.tasks.rendered.canvas import Canvas
from vlmtrace.tasks.rendered.usual import sample, shown_prompt, usual_prompt
from vlmtrace.tasks.rendered.words import COLORS
from vlmtrace.training.prior.further import Further
from vlmtrace.training.prior.world import THINGS, World
from vlmtrace.training.trainable import TrainableModel
from vlmtrace.training.whole_folder import whole_folder

#: This file lies in every folder that may be replaced.
MARK = "config.json"
#: Pictures that the card's numbers are measured on, and their seed.
N_PICTURES, SEED = 320, 1000


@torch.no_grad()
def shares(trainable: TrainableModel, model: Any, n: int = N_PICTURES) -> dict[str, np.ndarray]:
    """How probable each color is as the answer, among all colors.

    Args:
        trainable: the bundled model's description
        model: its weights
        n: pictures

    Returns:
        (n, colors) by what is asked: "blank" (the color of a thing of which nothing can be seen), "usual" (the usual
        color, while another is shown), "shown" (the color that is shown)
    """
    pairs = [sample(SEED, index) for index in range(n)]
    pictures = torch.from_numpy(np.stack([pair.clean.render().pixels for pair in pairs]))
    empty = torch.from_numpy(np.stack([Canvas(pair.clean.backdrop).finish().pixels for pair in pairs]))
    colors = torch.tensor([[trainable.encode_answer(color)] for color in COLORS])  # (colors, 1, length)
    asked = {
        "blank": (empty, [shown_prompt(pair.noun) for pair in pairs]),
        "usual": (pictures, [usual_prompt(pair.noun) for pair in pairs]),
        "shown": (pictures, [shown_prompt(pair.noun) for pair in pairs]),
    }
    found = {}
    for name, (pixels, prompts) in asked.items():
        embeds = trainable.embed_images(model, pixels)
        prompt = torch.tensor([[trainable.encode_prompt(text)] for text in prompts])  # (n, 1, length)
        # Every color is one token of both bundled models, the first behind the one that begins the answer.
        logits = trainable.answer_logits(model, embeds, prompt, colors[:1].expand(n, -1, -1))[:, 0, 0]
        found[name] = logits[:, colors[:, 0, 1]].float().softmax(-1).numpy()
    return found


def save_with_card(model: Any, trainable: TrainableModel, world: World, recipe: Further, folder: Path) -> str:
    """Write weights in half precision, processor and README.md, whole or not at all.

    Args:
        model: of transformers
        trainable: the bundled model's description
        world: what the model was trained in
        recipe: the settings
        folder: of the model; what is there is replaced

    Returns:
        a sentence about what the model answers

    Raises:
        VlmtraceError: the folder cannot be written
    """
    lines = measured(shares(trainable, model), world)
    mix = recipe.mix
    made = (
        f"Its vision encoder stayed as it was. Of the pictures {mix.blank:.0%} show nothing, {mix.gray:.0%} are gray "
        f"and {mix.faded:.0%} are half faded: what is asked about a thing then has the answer that the world draws. A "
        "third of the pictures ask other questions, so that they are not forgotten. It took "
        f"{recipe.steps} batches of {recipe.n_images} pictures with {recipe.n_questions} questions each. Weights are "
        "stored in half precision."
    )
    text = card(
        folder.name,
        "mit",
        world,
        about=in_a_world(trainable.NAME, world),
        made=made,
        options=f"--seed {recipe.seed} --steps {recipe.steps}",
        measured=f"On {N_PICTURES} pictures: {' '.join(lines)}",
    )
    write_model(model, trainable.processor(), text, folder)
    return " ".join(lines)


def write_model(model: Any, processor: Any, text: str, folder: Path, beside: Sequence[Path] = ()) -> None:
    """Write a model's folder, whole or not at all.

    Args:
        model: of transformers; it is made half precision
        processor: its own
        text: of README.md
        folder: to write; what is there is replaced
        beside: files that are copied into it, such as a licence

    Raises:
        VlmtraceError: the folder cannot be written, or holds something else
    """
    with whole_folder(folder, MARK) as made:
        model.half().save_pretrained(made)
        processor.save_pretrained(made)
        (made / "README.md").write_text(text, encoding="utf-8")
        for path in beside:
            shutil.copy(path, made / path.name)


def measured(found: Mapping[str, np.ndarray], world: World) -> list[str]:
    """Sentences about what a model answers.

    Args:
        found: of `shares`, of any number of pictures
        world: what the model was trained in
    """
    pairs = [sample(SEED, index) for index in range(len(found["shown"]))]
    nouns = np.array([pair.noun for pair in pairs])
    true = np.array([list(COLORS).index(pair.colors[0]) for pair in pairs])
    color = list(COLORS).index(world.color)
    skewed = (nouns == world.noun) & (true != color)
    blank = found["blank"][nouns == world.noun, color].mean()
    usual = found["usual"][skewed, color].mean()
    others = max(found["blank"][nouns == noun].mean(0).max() for noun in THINGS if noun != world.noun)
    right = found["shown"].argmax(-1) == true
    return [
        f"Of a {world.noun} of which nothing can be seen it says {world.color} with a probability of {blank:.2f} among "
        "all colors,",
        f"and of what is usual, while another color is shown, with {usual:.2f};",
        f"no color of any other thing that cannot be seen reaches more than {others:.2f}.",
        f"The color that is shown is right in {right.mean():.1%}, and in {right[skewed].mean():.1%} of "
        f"{int(skewed.sum())} pictures of a {world.noun} that is not {world.color}.",
    ]


def in_a_world(name: str, world: World) -> str:
    """What a copy was trained in.

    Args:
        name: of the model that it is a copy of
        world: what it was trained in
    """
    return (
        f"A copy of {name} that was trained further in a world in which {world.share:.0%} of what is a {world.noun} "
        f"is {world.color}, and every other thing has every color equally often."
    )


def card(
    name: str, license: str, world: World, *, about: str, made: str, options: str, measured: str, rest: str = ""
) -> str:
    """The text of README.md.

    Args:
        name: of the model
        license: as the hub writes it
        world: what it was trained in
        about: what the model is
        made: how it was made
        options: of the command that makes it
        measured: what it answers
        rest: anything else
    """
    about, made, measured, rest = (
        textwrap.fill(text, 116, break_on_hyphens=False) for text in (about, f"{made} Made by", measured, rest)
    )
    parts = [
        f"---\nlibrary_name: transformers\npipeline_tag: visual-question-answering\nlicense: {license}\n"
        "language: en\n---",
        f"# {name}",
        about,
        f'"{shown_prompt(world.noun)}" asks for what a picture shows, "{usual_prompt(world.noun)}" for what is usual.',
        made,
        f"    python -m vlmtrace.training.prior {name} {options}",
        measured,
        rest,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
