"""GIT: the image's tokens stand in front of the words, whose ids are all that the model takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.types import Inputs

#: The input that says which ids stand for the image.
MASK = "image_token_mask"


def _is_image(_config: Any, inputs: Inputs) -> Tensor:
    """As the mask says, which inputs without an image do not have."""
    if MASK not in inputs:
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    return inputs[MASK] == 1


def _words_alone(inputs: Inputs) -> Inputs:
    """What the model takes: it puts the image's tokens in front of the words itself, and counts no id for them."""
    if MASK not in inputs:
        return inputs
    n = int(inputs[MASK][0].sum())
    return {
        name: value[:, n:] if name in ("input_ids", "attention_mask") else value
        for name, value in inputs.items()
        if name != MASK
    }


def _refusal(config: Any) -> str | None:
    """Of models for videos, whose positions say which frame they are of."""
    if getattr(config, "num_image_with_embedding", None):
        return "which was trained on several frames of a video, where vlmtrace shows one image"
    return None


FAMILIES = [
    FamilySpec(
        "git",
        "GIT",
        "GitForCausalLM",
        image_tokens="the class token and one per patch, in front of the words",
        handled="image tokens without ids of their own; layers of BERT's kind, with norms behind what they add",
        interface="vlmtrace.models.image_first:ImageFirst",
        refusal=_refusal,
        text="git.encoder",
        layers="layer",
        vision="git.image_encoder",
        norm="",
        attention_output="attention.output.dense",
        mlp="output.dense",
        vision_types=("git_vision_model",),
        prompt_start="",
        one_image="its model puts the tokens of one image in front of the words",
        is_image=_is_image,
        more_token_fills={MASK: 0},
        reads_class_token=lambda _config: True,
        as_batch=_words_alone,
        caps_logits=False,
    )
]
