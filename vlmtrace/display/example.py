"""One image and one question, asked of one model: what views show of it is computed once and kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image
from vlmtrace.display.answers import Answer, answer_of, top_tokens
from vlmtrace.display.attention_record import AttentionRecord, answer_attention, image_attention
from vlmtrace.display.example_pair import as_frame, complete_pair, corruptions_of, images_in_code
from vlmtrace.display.seen import as_seen
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import image_regions
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.inputs.pictures import cells, given_images, picture_of
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import VLM, Inputs

T = TypeVar("T")


class Example:
    """One image and one question, asked of one model.

    Attributes:
        model: the model that is asked
        pair: the columns of a pairs table; images are paths or pictures, and what has no corrupt run has no
            corrupt_image and no corrupt_prompt
        name: the pair's sample_id, "own" where it has none

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.display import Example
        >>> example = Example(vt.load_model("tiny-blip"), vt.load_pairs("rendered_states", n=1).iloc[0])
        >>> example.attention().weights.shape  # layer, head, query, key
        (4, 8, 10, 65)
    """

    @checked
    def __init__(self, model: VLM, pair: Mapping[str, Any] | pd.Series):
        """Take a pair; nothing is computed yet.

        Args:
            model: the model that is asked
            pair: columns of a pairs table; at least clean_image (a path, a picture or its pixels) and clean_prompt
        Raises:
            VlmtraceError: there is no image or no question
        """
        self.model = model
        self.pair = complete_pair(pair)
        for column in ("clean_image", "clean_prompt"):
            given = self.pair.get(column)
            if given is None or (isinstance(given, str | list | tuple) and not given):
                raise VlmtraceError(f"The example {self.name!r} has no {column}: give an image and a question.")
        self._kept: dict[Any, Any] = {}

    @property
    def name(self) -> str:
        """The pair's sample_id."""
        return str(self.pair["sample_id"])

    @property
    def question(self) -> str:
        """The clean prompt, before a chat template."""
        return str(self.pair["clean_prompt"])

    @property
    def corruptions(self) -> list[str]:
        """The corruptions that this example has a corrupt run of: a second image or question that is not the first."""
        return self.keep("corruptions", lambda: corruptions_of(self.pair))

    @property
    def images_in_code(self) -> str:
        """How code names what the clean run sees: the image of `pair`, or the list of several."""
        return images_in_code(self.pair)

    def __repr__(self) -> str:
        """Name and question."""
        return f"<Example {self.name}: {self.question}>"

    @checked
    def keep(self, key: Any, compute: Callable[[], T]) -> T:
        """Compute something at the first call with a key, and give the same at later calls.

        Args:
            key: what is computed, with all settings that it depends on
            compute: called without arguments
        """
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    # Images --------------------------------------------------------

    @property
    def image(self) -> Image.Image:
        """The clean image; of several, the picture that shows them side by side."""
        return self.keep("image", lambda: open_image(picture_of(self.pair)))

    @property
    def other_image(self) -> Image.Image:
        """The image of the run with the corrupt image, as `image` shows the clean one; the clean one if it has none."""
        return self.keep("other image", lambda: open_image(picture_of(self.frame().iloc[0].to_dict(), "corrupt_image")))

    @checked
    def cells(self, block: str) -> np.ndarray:
        """Where the image positions of a block lie in `image`.

        Args:
            block: the vision encoder, or the block that holds image tokens

        Returns:
            (image position, 4): top, left, bottom, right in fractions of the picture, see `VLM.image_cells`
        """
        return self.keep(("cells", block), lambda: cells(self.model, self.pair, self.inputs(), block))

    @checked
    def image_positions(self, block: str) -> np.ndarray:
        """Which positions of a block are the rows of `cells`: (position,) bool."""
        return self.model.image_positions(self.inputs(), block, given_images(self.pair))

    @checked
    def seen(self, run: str = "clean") -> tuple[Image.Image, tuple[int, int]]:
        """The image exactly as the model receives it (tiles one below the other), and its rows and columns of patches.

        The processor's normalization is undone, its resizing, cropping and padding are not.

        Args:
            run: "clean", or a corruption
        """

        def compute() -> tuple[Image.Image, tuple[int, int]]:
            inputs = self.inputs(run)
            column = "corrupt_image" if run == "image" else "clean_image"
            picture = as_seen(self.model, given_images(self.pair, column), inputs)
            grids = self.model.patch_grids(given_images(self.pair), inputs)
            return picture, (sum(rows for rows, _ in grids), grids[0][1])

        return self.keep(("seen", run), compute)

    @property
    def regions(self) -> dict[str, np.ndarray]:
        """Which image positions belong to each region, as masks and the corrupt image tell (see `image_regions`)."""
        return self.keep("regions", lambda: image_regions(self.model, self.pair, self.inputs()))

    # Runs --------------------------------------------------------

    @checked
    def inputs(self, run: str = "clean") -> Inputs:
        """Model inputs of a run (batch 1).

        Args:
            run: "clean", or a corruption
        Raises:
            VlmtraceError: the example has no such run
        """
        one_of(run, ("clean", *self.corruptions), f"run of {self.name}")
        return self.keep(("inputs", run), lambda: run_inputs(self.model, self.frame(), run))

    def frame(self) -> pd.DataFrame:
        """The example as a pairs table of one row; what is not corrupted stays as in the clean run."""
        return as_frame(self.pair)

    @checked
    def answer(self, run: str = "clean") -> Answer:
        """What the model says in a run.

        Args:
            run: "clean", or a corruption
        """
        return self.keep(("answer", run), lambda: answer_of(self.model, self.inputs(run)))

    @checked
    def top(self, run: str = "clean", n: Count = 10) -> pd.DataFrame:
        """The most probable first tokens of the answer in a run.

        Args:
            run: "clean", or a corruption
            n: how many
        Returns:
            one row per token: rank (from 1), token, token_id, probability, logit
        """
        return top_tokens(self.model, self.answer(run).logits, n)

    @property
    def options(self) -> tuple[str, str]:
        """Correct and incorrect answer; where the example names none, what the model says clean and corrupt.

        Raises:
            VlmtraceError: the model gives the same answer in both runs
        """
        said = self.answer().text
        correct = str(self.pair.get("correct_answer") or said)
        if self.pair.get("incorrect_answer"):
            return correct, str(self.pair["incorrect_answer"])
        others = [self.answer(run).text for run in self.corruptions]
        other = next((text for text in others if text != said), None)
        if other is None:
            raise VlmtraceError(
                f"The model answers {said!r} in the clean and in the corrupt run of {self.name}, so that nothing is "
                "to be restored: choose a second image or question that gives another answer."
            )
        return correct, other

    @checked
    def runs(self, corruption: str) -> PairRuns:
        """Clean and corrupt run with all their activations.

        Args:
            corruption: "image" or "text"
        Raises:
            VlmtraceError: there is no such corrupt run, or the two runs cannot be aligned
        """
        if not self.corruptions:
            raise VlmtraceError(
                f"{self.name} has no corrupt run to patch: open a second image, or ask a second question, that is not "
                "the first."
            )
        one_of(corruption, self.corruptions, f"corruption of {self.name}")

        def compute() -> PairRuns:
            correct, incorrect = self.options
            frame = self.frame().assign(correct_answer=correct, incorrect_answer=incorrect)
            return run_pairs(self.model, frame, [encode_pair(self.model, frame, 0, corruption)], corruption)

        return self.keep(("runs", corruption), compute)

    @checked
    def corruption_to_patch(self, wanted: str = "") -> str:
        """The corruption whose run is patched: the wanted one, and another where the runs of that cannot be aligned.

        Args:
            wanted: "image" or "text"; "", or one that the example does not have: the first

        Returns:
            the wanted one, too, where no corrupt run can be patched: then `runs` says why
        """

        def fits(corruption: str) -> bool:
            try:
                self.runs(corruption)
            except VlmtraceError:
                return False
            return True

        order = sorted(self.corruptions, key=lambda corruption: corruption != wanted)
        for corruption in order:
            if self.keep(("can be patched", corruption), functools.partial(fits, corruption)):
                return corruption
        return next(iter(order), "image")

    # Tokens and attention --------------------------------------------------------

    @checked
    def tokens(self, block: str) -> pd.DataFrame:
        """The tokens of the clean run in a block.

        Args:
            block: e.g. "text_encoder"
        Returns:
            one row per position: position, token, token_role
        """
        return self.keep(("tokens", block), lambda: token_table(self.model, self.pair, block, self.inputs()))

    def attention(self) -> AttentionRecord:
        """Attention of the module that looks at the image, from the tokens of prompt and answer.

        Of a decoder-only model rows of image tokens are left out, so that what is kept grows with the image only once.
        Of BLIP the queries are the question's tokens: its answer decoder never sees the image.
        """
        return self.keep("attention", lambda: image_attention(self))

    def answer_attention(self) -> tuple[AttentionRecord, np.ndarray]:
        """Attention from each answer token to the prompt and to the image's patches.

        A row is the query at which the token is predicted. Decoder-only: rows of the attention itself. BLIP: the
        decoder's cross-attention to the question; to patches it leads through the question only, so the second array
        is the product of both attentions (mean over heads each), layer by layer: a path, not a weight.

        Returns:
            attention to the prompt, with weights (layer, head, answer token, prompt token); and to the patches,
            (layer, answer token, patch)
        """
        return self.keep("answer attention", lambda: answer_attention(self))
