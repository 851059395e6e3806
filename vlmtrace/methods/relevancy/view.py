"""Relevancy: what in image and prompt each token of the answer came from, by attention and its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.example import Example
from vlmtrace.display.in_code import preamble
from vlmtrace.display.panels import Picture, image_panel, masks_of, outline_masks
from vlmtrace.display.scripts import script
from vlmtrace.display.style import ATTENTION, new_figure, paper_style
from vlmtrace.display.view import View
from vlmtrace.inputs.image_regions import on_image
from vlmtrace.inputs.pictures import given_images
from vlmtrace.methods.relevancy.deletion import DRAWS, OTHER_IMAGE, deletion_curve, half_way, has_other_image
from vlmtrace.methods.relevancy.propagation import Relevancy, relevancy

#: The ways from the image to the answer, by the name of their rows in `Relevancy.table`.
WAYS = {"image": "the language side", "vision": "the vision encoder", "joined": "both"}


class RelevancyCanvas(BrowserCanvas):
    """Answer tokens, the image, the deletion curve, the prompt, image against text."""

    _esm = script(Path(__file__).with_suffix(".js"))

    curve = traitlets.Dict().tag(sync=True)

    step = traitlets.Int(0).tag(sync=True)
    way = traitlets.Unicode("image").tag(sync=True)
    words = traitlets.Bool(True).tag(sync=True)


class RelevancyView(View):
    """Relevance of patches and of prompt tokens for each token of the answer (`propagation`).

    Attributes:
        canvas: step (the answer's token), way (one of `WAYS`), words (whether sub-tokens are joined)
        found: all maps; None before the view is shown
        curve: the answer as the most relevant image tokens are replaced, see `deletion_curve`; None: there is none
    """

    title, name, order = "Relevancy", "relevancy", 20
    note = (
        "How much each patch and word counted for a token of the answer: attention, weighted by how the token's "
        "logit moves with it, followed through the layers (Chefer et al. 2021). It is no effect: the curve beside the "
        "image tests it, by replacing the image's tokens."
    )

    def build(self) -> list[Any]:
        """Make the canvas of answer tokens, image, curve, prompt, and image against text."""
        self.canvas = RelevancyCanvas()
        self.found: Relevancy | None = None
        self.curve: pd.DataFrame | None = None
        return [self.canvas]

    def load(self) -> None:
        """Compute relevancy of the example and send all maps."""
        example = self.example
        self.found = self.curve = None  # until this example's are computed
        self.found = found = example.keep(
            "relevancy", lambda: relevancy(example.model, given_images(example.pair), example.question)
        )
        maps, boxes = self._maps()
        text = found.tokens[~found.tokens["is_image"]]
        way = self.canvas.way if self.canvas.way in maps else "image"
        state = {
            "example": f"{id(example)}", "answer": found.answer["token"].tolist(),
            "ways": {name: WAYS[name] for name in maps}, "refused": found.refused,
            "maps": {name: values.tolist() for name, values in maps.items()},
            "boxes": {name: places.round(6).tolist() for name, places in boxes.items()},
            "tokens": text["token"].tolist(),
            "prompt": found.prompt[:, text["position"]].tolist(),
            "wordOf": text["word_index"].tolist(), "wordNames": text["word"].tolist(),
            "shares": found.shares().to_dict("records"),
        }  # fmt: skip
        with self.canvas.hold_sync():
            self.canvas.picture = png(example.image)
            self.canvas.step = min(self.canvas.step, len(found.answer) - 1)
            self.canvas.way = way
            self.canvas.curve = {}
            self.canvas.state = _without_nan(state)
        # The maps are drawn while the curve is computed.
        self.canvas.curve = self._curve()

    def _curve(self) -> dict[str, Any]:
        """The deletion curve as the browser draws it, or why there is none."""
        example, found = self.example, self.computed(self.found)
        self.curve = None
        ids = _options(example)
        key = ("deletion curve", ids)
        try:
            self.curve = example.keep(
                key, lambda: deletion_curve(example.model, example.pair, found.image[0], options=ids)
            )
        except VlmtraceError as error:
            return {"refused": str(error)}
        names = example.model.tokenizer.convert_ids_to_tokens(list(ids)) if ids else ["the answer", "the next one"]
        return {
            "points": self.curve.drop(columns="replaced_by").to_dict("records"), "half": half_way(self.curve),
            "halfRandom": half_way(self.curve, "random_mean"), "draws": DRAWS, "options": names,
            "by": self._replaced_by(self.curve),
        }  # fmt: skip

    def _replaced_by(self, curve: pd.DataFrame) -> str:
        """What took the place of the image's tokens, as the sentence says it."""
        if curve["replaced_by"].iloc[0] == OTHER_IMAGE:
            return "those of the other image"
        if has_other_image(self.example.pair):
            return "their mean (the other image has another number of tokens)"
        return "their mean"

    def _maps(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(step, patch) and the patches' boxes, by way; what has no place in the image is left out."""
        found, example = self.computed(self.found), self.example
        maps, boxes = {}, {}
        for name in WAYS:
            values = getattr(found, name)
            if values is None:
                continue
            block = example.model.image_block if name == "image" else "vision_encoder"
            places = example.cells(block)
            placed = ~np.isnan(places).any(axis=1)
            if placed.any():
                maps[name], boxes[name] = values[:, placed], places[placed]
        if not maps:
            raise VlmtraceError(
                f"No image token of {example.model.name} stands for a place in the image: nothing to draw."
            )
        return maps, boxes

    @property
    def table(self) -> pd.DataFrame:
        """All relevance: one row per step and position, see `Relevancy.table`. The curve is `curve`."""
        return self.computed(self.found).table()

    def figure(self) -> Figure:
        """The image with the relevance of its patches for the chosen token, and that of the prompt's words."""
        maps, boxes = self._maps()
        way, step, found = self.canvas.way, self.canvas.step, self.computed(self.found)
        words = (
            found.words()
            if self.canvas.words
            else found.table().query("kind == 'prompt'").assign(word=lambda table: table["token"])
        )
        words = words[words["step"] == step]
        title = f"{self.example.question}  relevance for {found.answer['token'].iloc[step]!r} through {WAYS[way]}"
        masks = masks_of(pd.Series(self.example.pair))
        return _draw(self.example.image, on_image(maps[way][step], boxes[way]), words, self.curve, masks, title)

    def code(self) -> str:
        """Lines that compute the same relevancy."""
        return preamble(self.example, "from vlmtrace.methods.relevancy import deletion_curve, relevancy") + (
            f'found = relevancy(model, {self.example.images_in_code}, pair["clean_prompt"])\n'
            "table = found.table()\n"
            f"print(table[(table['step'] == {self.canvas.step}) & (table['kind'] == {self.canvas.way!r})])\n"
            "found.shares()\n"
            f"curve = deletion_curve(model, pair, found.image[0], options={_options(self.example)})\n"
            "curve\n"
        )


def _options(example: Example) -> tuple[int, int] | None:
    """Ids of the first tokens of the two answers; None where the example has but one, or both begin alike."""
    if not example.corruptions:
        return None
    try:
        correct, incorrect = map(int, example.runs(example.corruption_to_patch()).answer_ids[0].tolist())
    except VlmtraceError:
        return None
    return None if correct == incorrect else (correct, incorrect)


@paper_style
def _draw(
    image: Picture,
    grid: np.ndarray,
    words: pd.DataFrame,
    curve: pd.DataFrame | None,
    masks: dict[str, Picture],
    title: str,
) -> Figure:
    figure = new_figure(height=3.2)
    left, middle, right = figure.subplots(1, 3)
    size = image_panel(left, image, gray=True)
    shown = left.imshow(
        grid, cmap=ATTENTION, vmin=0, vmax=float(grid.max()) or 1, extent=(0, size[0], size[1], 0), zorder=1
    )
    outline_masks(left, masks, size)
    figure.colorbar(shown, ax=left, location="bottom", aspect=40).set_label("relevance of a patch (logits)")
    if curve is None:
        middle.set_axis_off()
    else:
        share = 100 * curve["share"]
        middle.fill_between(share, curve["random_low"], curve["random_high"], color="0.85", linewidth=0)
        middle.plot(share, curve["random_mean"], color="0.5", label="in random order")
        middle.plot(share, curve["logit_diff"], color="black", marker="o", markersize=3, label="most relevant first")
        middle.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        middle.set(xlabel="image tokens replaced (%)", ylabel="LD of the answer (logits)")
        middle.legend()
    right.barh(range(len(words)), words["relevance"], color="0.4")
    right.set(yticks=range(len(words)), yticklabels=words["word"], xlabel="relevance of a word of the prompt")
    right.invert_yaxis()
    figure.suptitle(title)
    return figure


def _without_nan(value: Any) -> Any:
    """The same with None for what is missing, which the browser knows."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
