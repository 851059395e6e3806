"""Four ways to take the image away from a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.core.paths import RAW
from vlmtrace.core.schema import changed_place, validate_pairs
from vlmtrace.inputs.answers import Answers
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.inputs.pictures import images_of
from vlmtrace.inputs.saved_images import save_images
from vlmtrace.inputs.units import with_units
from vlmtrace.methods.prior.asking import Asked, ask, rejoined
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.layer_kinds import check_some_attend
from vlmtrace.models.vlm import inputs_of_pair


class Removal:
    """One way to take the image away, prepared for a table of pairs.

    Args:
        model: the model to run
        pairs: their clean images give the blank image its color, or the mean image token
        without: "blank", "mean", "cut" or "corrupt", see `vlmtrace.core.schema.prior_tables`

    Raises:
        VlmtraceError: the model has no image tokens that could be replaced or hidden
    """

    def __init__(self, model: VLM, pairs: pd.DataFrame, without: str):
        self.model, self.without = model, without
        _check_possible(model, without)
        self.color = _mean_color(pairs) if without == "blank" else (0, 0, 0)
        self.token: Tensor | None = mean_image_token(model, pairs) if without == "mean" else None

    def ask(self, pairs: pd.DataFrame, tokens: Sequence[Answers], spelled: bool = True) -> Asked:
        """Ask the clean prompts of a batch without the image.

        Args:
            pairs: rows of equal shape
            tokens: what is measured in each
            spelled: whether the answers are wanted
        """
        model = self.model
        if self.without == "cut":
            return self._ask_cut(pairs, tokens, spelled)
        if self.without == "corrupt":
            return ask(model, pairs, run_inputs(model, pairs, "image"), tokens, spelled=spelled)
        shown = with_blank_images(pairs, self.color) if self.without == "blank" else pairs
        inputs = run_inputs(model, shown, "clean")
        image = None
        if self.token is not None:
            with torch.no_grad():
                embedded = model.image_embeddings(inputs)  # (B, I, D)
            image = self.token.to(embedded.dtype).expand_as(embedded).contiguous()
        return ask(model, pairs, inputs, tokens, image, spelled)

    def _ask_cut(self, pairs: pd.DataFrame, tokens: Sequence[Answers], spelled: bool) -> Asked:
        """The same while no position attends to the image."""
        model, block = self.model, self.model.head_block
        layers = [layer for layer in check_some_attend(model.name, block) if block.has(model.image_module, layer)]
        # A mask is that of a whole batch, and answers of unlike lengths are read in parts of one.
        by_length: dict[tuple[int, int], list[int]] = {}
        for row, one in enumerate(tokens):
            by_length.setdefault(one.lengths, []).append(row)
        found = []
        for rows in by_length.values():
            part = pairs.iloc[rows]
            inputs = run_inputs(model, part, "clean")
            with cut(model, model.image_module, layers, unseen_image(model, part, inputs)):
                found.append(ask(model, part, inputs, [tokens[row] for row in rows], spelled=spelled))
        return rejoined(found, [row for rows in by_length.values() for row in rows])


def _check_possible(model: VLM, without: str) -> None:
    if without in ("mean", "cut") and model.draws_prompts:
        raise VlmtraceError(
            f"{model.name} reads its prompt in the image, so that without={without!r} would take the question away, "
            "too: use without='blank' or 'corrupt'."
        )
    if without == "mean" and model.injects_image_features_later:
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that replacing image tokens does not remove "
            "the image: use without='cut', 'blank' or 'corrupt'."
        )


def _mean_color(pairs: pd.DataFrame) -> tuple[int, int, int]:
    """The mean color of all clean images, each of which counts once."""
    paths = dict.fromkeys(image for pair in pairs.to_dict("records") for image in images_of(pair))
    means = [np.asarray(open_image(path).convert("RGB"), dtype=float).mean((0, 1)) for path in paths]
    red, green, blue = np.mean(means, axis=0).round().astype(int).tolist()
    return red, green, blue


@checked
def blank_images(pairs: pd.DataFrame, folder: str | Path | None = None) -> pd.DataFrame:
    """The same pairs with a blank image in the place of each clean image: what is answered from the words alone?

    Args:
        pairs: a pairs table
        folder: where the images are written; None: data/raw/blank

    Returns:
        the pairs table; its clean images have their sizes and one color, the mean of all clean images. Each pair has
        the unit that it had, though all show the same

    Raises:
        VlmtraceError: the table breaks the contract, or an image cannot be read

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> blank = vt.blank_images(vt.load_pairs("rendered_states", n=3))
        >>> vt.evaluate(model, blank)["generated_answer"].tolist()
        ['neither', 'white', 'neither']
    """
    pairs = with_units(validate_pairs(pairs))
    return save_images(with_blank_images(pairs, _mean_color(pairs)), folder or RAW / "blank")


def with_blank_images(pairs: pd.DataFrame, color: tuple[int, int, int]) -> pd.DataFrame:
    """The pairs with images of one color, in their sizes, in the place of the clean ones.

    Args:
        pairs: rows of a pairs table
        color: red, green and blue, 0 to 255
    """
    blank = [
        [Image.new("RGB", open_image(image).size, color) for image in images_of(pair)]
        for pair in pairs.to_dict("records")
    ]
    table = pairs.assign(clean_image=pd.Series([images[0] for images in blank], index=pairs.index, dtype=object))
    if "clean_images" in pairs:
        several = [images if len(images) > 1 else None for images in blank]
        table["clean_images"] = pd.Series(several, index=pairs.index, dtype=object)
        # All images differ between the runs now, and the columns of single images name the first that does.
        rows = pairs.to_dict("records")
        if "corrupt_image" in pairs:
            table["corrupt_image"] = [images_of(pair, "corrupt_image")[0] for pair in rows]
        of_another = np.array([changed_place(pair) > 0 for pair in rows])
        for name in (name for name in pairs if str(name).endswith("_mask")):
            table[name] = table[name].mask(of_another, None)
    return table


def unseen_image(model: VLM, pairs: pd.DataFrame, inputs: Inputs) -> Tensor:
    """Which keys no query may see so that nothing of the image reaches the words.

    Args:
        model: tells where image tokens stand
        pairs: rows of equal shape
        inputs: of their runs

    Returns:
        (pair, query, key) bool: every key of an attention across to the image; in one sequence the image's keys, for
        the queries of all other positions

    Raises:
        VlmtraceError: the model has no image tokens in the sequence of its question
    """
    block, across = model.head_block.name, model.image_module == "cross_attention"
    masks = []
    for i, pair in enumerate(pairs.to_dict("records")):
        one = inputs_of_pair(inputs, i, len(pairs))
        queries = named_positions(model, pair, block, one, ["all"])["all"]
        if across:
            keys = named_positions(model, pair, model.image_block, one, ["all"])["all"]
            masks.append(np.outer(queries, keys))
        else:
            found = named_positions(model, pair, block, one, ["image"])
            if "image" not in found:
                raise VlmtraceError(
                    f"No position of {block} of {model.name} is an image token that attention could be cut from: use "
                    "without='blank' or 'corrupt'."
                )
            image = found["image"]
            masks.append(np.outer(~image, image))
    return torch.as_tensor(np.stack(masks), device=model.device)
