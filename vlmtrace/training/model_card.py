"""What goes beside the weights: the processor, and a model card with freshly measured accuracies."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import transformers

from vlmtrace.core.files import write_atomically
from vlmtrace.training.score import score, score_open, score_text, summary
from vlmtrace.training.trainable import TrainableModel

if TYPE_CHECKING:
    from vlmtrace.training.recipe import Recipe


#: Pairs of each task of the test split that the card's numbers are measured on, and their seed.
CARD_PAIRS, CARD_SEED = 840, 1000


def save_with_card(trainable: TrainableModel, model: Any, folder: Path, recipe: Recipe, minutes: float) -> None:
    """Write weights, processor and README.md, with the model's accuracy on the test split."""
    model.save_pretrained(folder)
    trainable.processor().save_pretrained(folder)
    scores = score(trainable, model, CARD_PAIRS, CARD_SEED, split="test")
    opened = score_open(trainable, model, CARD_PAIRS // 2, CARD_SEED)
    on_sentences = score_text(trainable, model, CARD_PAIRS // 2, CARD_SEED)
    with write_atomically(folder / "README.md") as temporary:
        temporary.write_text(_card(trainable, model, recipe, minutes, scores, opened, on_sentences))


def _card(
    trainable: TrainableModel,
    model: Any,
    recipe: Recipe,
    minutes: float,
    scores: pd.DataFrame,
    opened: pd.DataFrame,
    on_sentences: float | None,
) -> str:
    n_words = len(trainable.processor().tokenizer)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    shown = asdict(recipe) | {"start": "given weights" if recipe.start else "nothing"}
    settings = ", ".join(f"{name} {value}" for name, value in shown.items())
    settings = textwrap.fill(f"Recipe: {settings}; transformers {transformers.__version__}.", 116)
    mixture = ", ".join(f"{name} {share:.0%}" for name, share in trainable.MIXTURE.items())
    sentences = ""
    if on_sentences is not None:
        sentences = f"\nWith sentences in place of the image, {on_sentences:.1%} of questions are answered right.\n"
    command = f"{trainable.NAME} --steps {recipe.steps} --seed {recipe.seed} --learning-rate {recipe.learning_rate:g}"
    if recipe.start:
        command, beginning = f"{command} --start BEFORE", ", from the weights in BEFORE, which were trained before"
    elif on_sentences is None:
        beginning = ", from random weights"
    else:
        beginning = ", from random weights and tiny-blip's vision encoder"
    by_task = summary(scores, ["task"])
    by_category = summary(scores, ["task", "category"])
    seen = scores.seen_combination.map({True: "seen", False: "held out"})
    by_seen = summary(scores.assign(seen_combination=seen), ["task", "seen_combination"]).sort_index(ascending=False)
    return f"""---
library_name: transformers
pipeline_tag: visual-question-answering
license: mit
language: en
---

# {trainable.NAME}

A `{trainable.CLASS}` of {millions:.1f} million parameters that answers questions about the rendered world of
vlmtrace. It exists so that activation patching of a VLM can be tried on a laptop, on pictures whose objects,
distractors and single changed attribute are known.

| block | layers | heads | width |
| --- | --- | --- | --- |
{trainable.BLOCKS}

The tokenizer is a lower-case WordPiece over {n_words} entries. All verbs, four of the six
textures and a few nouns split into two tokens; words that it does not know are spelled in letters.

## Training

    python -m vlmtrace.training {command}

took {minutes:.0f} minutes on two CPU cores{beginning}. Every step draws {recipe.n_pairs} new minimal pairs
(both images are in the batch and are asked the same question), with {recipe.n_questions} questions about each image;
no scene is used twice. What changes in the pairs:
{mixture}. About one choice question in seven offers two wrong
options and is answered "neither", so that the model has to use the options.
{trainable.ALONG}
The loss is the cross entropy of the answer's tokens. The kept weights are an exponential
moving average.

{settings}

The same seed gives the same scenes in the same order and about the same accuracy, but not the same bits on another
machine.

## Accuracy

Measured on {CARD_PAIRS} minimal pairs of each task from the test split (seed {CARD_SEED}). *clean* and *corrupt*: the
right answer is generated, word for word, for the clean and for the corrupt image (chance is 50 %). *both*: for both
images of a pair. *text*: with both options of the question replaced, the correct answer is no longer generated;
*neither*: "neither" is, which is then the true answer.

{_table(by_task)}

{_table(by_category)}

{trainable.UNSEEN}: about one in seven of noun ×
color, shape and texture, emotion × hat, subject × verb, and verb × object.

{_table(by_seen)}

Open questions have no options. They were trained along, at a small share.

{_table(opened.groupby("kind", sort=False)["right"].agg(["mean", "size"]), {"mean": "right", "size": "questions"})}
{sentences}
## Limits

It knows these drawings and these words, and nothing else: no photographs, no other question forms.
{trainable.LIMITS}
"""


_TITLES = {
    "clean_right": "clean",
    "corrupt_right": "corrupt",
    "both_right": "both",
    "text_changed": "text",
    "says_neither": "neither",
}


def _table(frame: pd.DataFrame, titles: dict[str, str] | None = None) -> str:
    """A table in Markdown: shares in percent, counts as they are."""
    frame = frame.rename(columns=titles or _TITLES).reset_index()
    frame.columns = [str(column).replace("_", " ") for column in frame.columns]
    lines = [list(frame.columns), ["---"] * frame.shape[1]]
    for row in frame.itertuples(index=False):
        lines.append([f"{value:.1%}" if isinstance(value, float) else str(value) for value in row])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
