"""What single patches of the image do: their image tokens from the clean image, all others from the corrupt one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.display.example import Example
from vlmtrace.inputs.batch_runs import WholeRuns
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.models import VLM, Readout
from vlmtrace.models.types import WholeAnswer
from vlmtrace.models.vlm import repeat_inputs

#: Forward passes in a batch.
AT_ONCE = 64


class PatchesOutcome(NamedTuple):
    """What some image tokens of the clean image do in the corrupt run.

    Attributes:
        effects: (set,), see `patching_effect`
        answers: (set,), the most probable first answer token of each
    """

    effects: Array
    answers: list[str]


@checked
@torch.no_grad()
def image_patch_effects(example: Example, sets: Sequence[Sequence[int]]) -> PatchesOutcome:
    """Put image tokens of the clean image into the run with the corrupt one.

    A token is taken as the language side is given it: behind the vision encoder, which has mixed it with its neighbors.
    All paths from the image are open; an edge from "image" is but one of them.

    Args:
        example: with a second image
        sets: of image positions (rows of `Example.cells` of the block that holds the image tokens); all of a set are
            put in together

    Returns:
        effects and answers; the effect of all tokens together is 1

    Raises:
        VlmtraceError: there is no second image, its tokens are others, or later layers see the image again

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.display import Example
        >>> from vlmtrace.methods.edges import image_patch_effects
        >>> example = Example(vt.load_model("tiny-blip"), vt.load_pairs("rendered_states", n=1).iloc[0])
        >>> image_patch_effects(example, [[], range(65)]).effects.round(3).tolist()
        [0.0, 1.0]
    """
    model = example.model
    if model.injects_image_features_later:
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that image tokens are not all that it sees."
        )
    runs = example.runs("image")
    clean, corrupt = model.image_embeddings(example.inputs()), model.image_embeddings(example.inputs("image"))
    if clean.shape != corrupt.shape:
        raise VlmtraceError("Clean and corrupt image have different numbers of tokens: no patch stands for another.")
    n = clean.shape[1]
    chosen = np.zeros((len(sets), n), dtype=bool)
    for row, positions in zip(chosen, sets, strict=True):
        wrong = [position for position in positions if not 0 <= position < n]
        if wrong:
            raise VlmtraceError(f"There is no image position {wrong[0]}: choose among 0 to {n - 1}.")
        row[list(positions)] = True
    first: list[int] = []
    differences = []
    for part in torch.as_tensor(chosen, device=clean.device).split(AT_ONCE):
        images = torch.where(part[..., None], clean, corrupt)
        logits = model.answer_logits(repeat_inputs(example.inputs("image"), len(part)), image=images)
        if runs.whole is None:
            readout = Readout.of(logits, runs.answer_ids.expand(len(part), -1))
        else:
            readout = Readout.of_two(*(_read(model, side, images) for side in runs.whole))
        # Of all tokens' logits one is kept: there may be thousands of patches, and a hundred thousand tokens.
        first += logits.argmax(-1).tolist()
        differences.append(readout.logit_diff.flatten())
    found = torch.cat(differences).cpu().numpy()
    ends = (float(readout.logit_diff) for readout in (runs.clean_readout, runs.corrupt_readout))
    answers = model.tokenizer.convert_ids_to_tokens(first)
    return PatchesOutcome(np.atleast_1d(patching_effect(found, *ends)), answers)


def _read(model: VLM, side: WholeRuns, images: torch.Tensor) -> Readout:
    """One answer of several tokens, given the image embeddings (set, position, width)."""
    ids = WholeAnswer(side.ids.ids.expand(len(images), -1))
    return Readout.of_last(model.last_logits(repeat_inputs(side.inputs, len(images)), ids.n_positions, images), ids)
