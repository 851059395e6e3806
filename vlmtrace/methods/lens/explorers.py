"""Explorers of the visual lens: one question at a time, its patches and the words in them (notebook 08)."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.display.choices import chosen_row, remember_last, row_options
from vlmtrace.display.figure_explorer import FigureExplorer, dropdown, slider
from vlmtrace.display.panels import outline_legend
from vlmtrace.display.style import PAGE_WIDTH
from vlmtrace.inputs.image_regions import on_image
from vlmtrace.methods.lens.contributions import head_contributions, position_contributions, top_heads
from vlmtrace.methods.lens.decomposition import BLOCK, Lens, token_text
from vlmtrace.methods.lens.figures import draw_maps
from vlmtrace.methods.lens.map_scores import TOP
from vlmtrace.methods.lens.questions import check_questions, lens_of
from vlmtrace.methods.lens.word_figures import draw_patch, draw_words
from vlmtrace.methods.lens.words import QUANTITIES, THROUGH, decode_to_words, image_boxes, stream_vectors
from vlmtrace.models import VLM

LensOf = Callable[[pd.Series], Lens]

#: How a quantity to read is called among the controls.
QUANTITY_NAMES = {
    "input": "what enters the layer",
    "key": "what the head's key sees of it",
    "value": "what the head's value sees of it",
    "output": "what the head would write from there",
}


@checked
def patch_explorer(model: VLM, questions: pd.DataFrame, prefix: str = "") -> FigureExplorer:
    """Which patches raise the answer's probability, and through which head? Choose the question and the head.

    Args:
        model: a decoder-only model
        questions: sample_id, image, prompt, and object_mask if known
        prefix: the beginning of an answer, put behind every prompt

    Returns:
        the explorer; as the last line of a notebook's cell it is displayed

    Raises:
        VlmtraceError: a column is missing, or the model is not decoder-only.
    """
    shown, lens_at = _prepared(model, questions, prefix)

    def heads(settings: dict[str, Any]) -> list[tuple[str, Any]]:
        contributions = head_contributions(lens_at(chosen_row(shown, settings["sample_id"])))
        strongest = top_heads(contributions, contributions.size)
        names = [
            (f"{head.layer}.{head.head} (+{contributions[head]:.2f} nats)".replace("+-", "−"), head)
            for head in strongest
        ]
        return [(f"the {min(TOP, len(strongest))} strongest together", None), *names]

    controls = {
        "sample_id": dropdown("question", row_options(shown, "prompt")),
        "head": dropdown("head", heads({"sample_id": shown["sample_id"].iloc[0]})),
    }
    draw = functools.partial(draw_patches, questions=shown, lens_at=lens_at)
    return FigureExplorer(draw, controls, follow={"head": heads})


def draw_patches(
    figure: Figure,
    *,
    questions: pd.DataFrame,
    lens_at: LensOf,
    sample_id: str | None = None,
    head: tuple[int, int] | None = None,
) -> None:
    """Draw the image, the important patches through a head, and that head's attention.

    Args:
        figure: an empty figure
        questions: as of `patch_explorer`
        lens_at: from a row of the questions to its lens
        sample_id: default: the first question
        head: (layer, head); None: the strongest heads together, and the attention averaged over all

    Raises:
        VlmtraceError: there is no such question, or no image token stands for a place in the image.
    """
    question = chosen_row(questions, sample_id)
    lens = lens_at(question)
    at_image = lens.image_positions
    chosen = top_heads(head_contributions(lens), TOP) if head is None else [head]
    parts = position_contributions(lens, chosen).sum(0)
    weights = lens.weights.mean((0, 1)) if head is None else lens.weights[head[0], head[1]]
    attention = weights[lens.at].cpu().numpy()
    boxes = lens.model.image_cells(question["image"], lens.inputs, BLOCK)
    maps = {"important patches": parts, "attention": attention}
    nats = f"{parts[at_image].sum():+.2f} nats from the image, {parts[~at_image].sum():+.2f} from words"
    notes = {"important patches": nats, "attention": f"{attention[at_image].sum():.0%} of it on the image"}
    figure.set_size_inches(PAGE_WIDTH, 3.3)
    mask = _mask(question)
    pictures = {name: on_image(values[at_image], boxes) for name, values in maps.items()}
    draw_maps(figure, question["image"], pictures, mask, notes)
    outline_legend(figure, ["clean_object_mask"] if mask else [])
    which = f"the {len(chosen)} strongest heads" if head is None else f"head {head[0]}.{head[1]}"
    figure.suptitle(f"{_asked(question, lens)}\n{which}")


@checked
def word_explorer(model: VLM, questions: pd.DataFrame, prefix: str = "") -> FigureExplorer:
    """Which words are in the patches? Choose the question, what is read, the layer and the head.

    Args:
        model: a decoder-only model
        questions: sample_id, image, prompt, and object_mask and answer if known
        prefix: the beginning of an answer, put behind every prompt

    Returns:
        the explorer; as the last line of a notebook's cell it is displayed

    Raises:
        VlmtraceError: a column is missing, or the model is not decoder-only.
    """
    shown, lens_at = _prepared(model, questions, prefix)
    block = model.blocks[BLOCK]

    def patches(settings: dict[str, Any]) -> list[tuple[str, Any]]:
        question = chosen_row(shown, settings["sample_id"])
        boxes = image_boxes(lens_at(question), question["image"])
        names = [
            (f"{number}: {box.top:.0%} from the top, {box.left:.0%} from the left", int(box.position))
            for number, box in enumerate(boxes.itertuples())
        ]
        return [("all of them, in one layer", None), *names]

    controls = {
        "sample_id": dropdown("question", row_options(shown, "prompt")),
        "patch": dropdown("patch", patches({"sample_id": shown["sample_id"].iloc[0]})),
        "quantity": dropdown("read", [(name, quantity) for quantity, name in QUANTITY_NAMES.items()]),
        "through": dropdown("through", [(f"the {way}", way) for way in THROUGH], preferred="embedding"),
        "layer": slider("layer", block.n_layers),
        "head": slider("head", block.n_heads),
    }
    draw = functools.partial(draw_patch_words, questions=shown, lens_at=lens_at)
    return FigureExplorer(draw, controls, follow={"patch": patches})


def draw_patch_words(
    figure: Figure,
    *,
    questions: pd.DataFrame,
    lens_at: LensOf,
    sample_id: str | None = None,
    patch: int | None = None,
    quantity: str = "input",
    through: str = "embedding",
    layer: int = 0,
    head: int = 0,
) -> None:
    """Draw the image with the four best words of each image token; or the words of one token in all layers.

    Args:
        figure: an empty figure
        questions: as of `word_explorer`
        lens_at: from a row of the questions to its lens
        sample_id: default: the first question
        patch: the position of an image token; None: all of them, in one layer
        quantity: what is read, one of `words.QUANTITIES`
        through: by which matrix, one of `words.THROUGH`
        layer: of what is read; not used where `patch` is given
        head: of the layer; not used for "input"

    Raises:
        VlmtraceError: there is no such question, quantity, layer or head.
    """
    question = chosen_row(questions, sample_id)
    lens = lens_at(question)
    boxes = image_boxes(lens, question["image"])
    if boxes.empty:
        raise VlmtraceError("No image token stands for a place in the image, so no word can be written on it.")
    answer = question.get("answer") if isinstance(question.get("answer"), str) else None
    one_of(quantity, QUANTITIES, "quantity to read")
    figure.set_size_inches(PAGE_WIDTH, 4.7)
    if patch is None:
        score = ""
        words = decode_to_words(lens, stream_vectors(lens, quantity, layer, head), boxes["position"], 4, through)
        draw_words(figure, question["image"], boxes, words, answer, _mask(question))
        where = f"layer {layer}" if quantity == "input" else f"head {layer}.{head}"
    else:
        at = boxes[boxes["position"] == patch]
        if at.empty:
            raise VlmtraceError(f"There is no image token at position {patch}: choose one of the list.")
        box = at.iloc[0]
        layers = len(lens.heads) + (quantity == "input")
        names = [f"layer {number}" if number < len(lens.heads) else "out" for number in range(layers)]
        readings = {
            name: decode_to_words(lens, stream_vectors(lens, quantity, number, head), [patch], 5, through)
            for number, name in enumerate(names)
        }
        figure.set_size_inches(PAGE_WIDTH, max(3.2, 1.2 + 0.36 * layers))
        draw_patch(figure, question["image"], box, readings, answer)
        score = " (cosine)" if through == "embedding" else " (probability)"
        where = "all layers" if quantity == "input" else f"head {head} of all layers"
    figure.suptitle(f"{_asked(question, lens)}\n{where}: {QUANTITY_NAMES[quantity]}, read through the {through}{score}")


# What they share ----------------------------------------------------------------------------------------------------


def _prepared(model: VLM, questions: pd.DataFrame, prefix: str) -> tuple[pd.DataFrame, LensOf]:
    check_questions(questions)
    lens_at = remember_last(functools.partial(lens_of, model, prefix=prefix))
    lens_at(questions.iloc[0])
    return questions, lens_at


def _mask(question: pd.Series) -> str | None:
    return question["object_mask"] if isinstance(question.get("object_mask"), str) else None


def _asked(question: pd.Series, lens: Lens) -> str:
    said = f"{token_text(lens.model, lens.token)} (p = {float(np.exp(_log_p(lens))):.2f})"
    return textwrap.fill(f"{question['prompt']} {said}", 90)


def _log_p(lens: Lens) -> float:
    return float(lens.logits.log_softmax(-1)[lens.token])
