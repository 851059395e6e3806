"""Positions of a block by name: regions of an image, parts of the prompt, token roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmtrace.core.errors import one_of
from vlmtrace.core.types import Array
from vlmtrace.inputs.image_regions import IMAGE_REGIONS, image_regions
from vlmtrace.inputs.pictures import given_images, n_images, prompt_of
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.image_shares import image_role


def _of_prompt(model: VLM, pair: Mapping[str, Any], block: str, inputs: Inputs) -> Array:
    """Where words of the prompt or its template stand; nowhere in a vision encoder or an answer decoder."""
    images = given_images(pair) if "clean_image" in pair else None
    text = prompt_of(model, str(pair["clean_prompt"]), images)
    several = [images] if isinstance(images, list) else []
    return np.array([token.role is None for token in model.tokens(block, text, inputs, *several)])


def named_positions(
    model: VLM, pair: Mapping[str, Any], block: str, inputs: Inputs, names: Sequence[str]
) -> dict[str, Array]:
    """Positions of a block by name: regions of an image, "options", "question", "text", "all", or token roles.

    Args:
        model: tells tokens and image positions
        pair: a row of a pairs table
        block: whose positions
        inputs: the pair's inputs (batch 1)
        names: those that are wanted; "options" are both, "question" is the prompt without its template, special tokens
            and the last position, "text" is all that shows no image, and of several images "image 2 object" is a region
            of one. "object", a region and the role of a word, is the region in a block that shows the image

    Returns:
        by name, bool (position of the block); a name that nothing in this pair's prompt or image has is left out

    Raises:
        VlmtraceError: no position of the block could have that name
    """
    roles = token_table(model, pair, block, inputs)["token_role"].to_numpy()
    found = {str(role): roles == role for role in dict.fromkeys(roles)}
    of_prompt = _of_prompt(model, pair, block, inputs)
    if of_prompt.any():
        found["options"] = np.isin(roles, ["correct", "incorrect"])
        found["question"] = of_prompt & (roles != "template")
    found["all"] = np.ones(len(roles), dtype=bool)
    at_image = model.image_positions(inputs, block, given_images(pair) if "clean_image" in pair else None)
    found["text"] = ~at_image
    regions: tuple[str, ...] = ()
    if at_image.any():
        count = n_images(pair)
        own = [image_role(i) for i in range(count)] if count > 1 else []
        inner = [region for region in IMAGE_REGIONS if region != "image"]
        regions = (*IMAGE_REGIONS, *own, *(f"{image} {region}" for image in own for region in inner))
        # "object" is also the role of a word: where the block shows the image, the name is the region's alone.
        found = {name: chosen for name, chosen in found.items() if name not in regions}
        for name, chosen in image_regions(model, pair, inputs, block).items():
            found[name] = np.zeros(len(roles), dtype=bool)
            found[name][at_image] = chosen
    for name in names:
        if name not in regions:
            one_of(name, [*found, *regions], f"position of {block}")
    return {name: found[name] for name in names if name in found and found[name].any()}
