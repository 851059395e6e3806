"""Does the answer need what a map of the image calls relevant? Its logit difference as image tokens are replaced.

A share of relevance is no share of the answer: the relevance of the image may be small beside that of the words while
another image gives another answer. So the image's tokens are replaced, the most relevant first, and the answer is read;
beside it the same for tokens in random order (deletion, Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421). A token
is replaced by the one at its place in the other image of the pair, so that at the end the other image is seen; where
there is no other image, or it has another number of tokens, by the mean of the image's own tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.inputs.pictures import given_images
from vlmtrace.inputs.pictures import prompt_of as question_of
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.vlm import repeat_inputs

#: Points of a curve behind the first, and orders that are drawn at random.
STEPS, DRAWS = 10, 12

#: Forward passes in a batch.
AT_ONCE = 64

#: What tokens are replaced by, as the column replaced_by of a curve says it.
OTHER_IMAGE, MEAN = "other image", "mean"


@checked
@torch.no_grad()
def deletion_curve(
    model: VLM,
    pair: Mapping[str, Any] | pd.Series,
    relevance: Array,
    options: tuple[int, int] | None = None,
    steps: Count = STEPS,
    n_draws: Count = DRAWS,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Logit difference of the answer as image tokens are replaced: in the order of a map, and in random orders.

    Args:
        model: the model that is asked
        pair: clean_image and clean_prompt; corrupt_image, if it has one of as many tokens, gives what tokens are
            replaced by; else it is their mean
        relevance: (image token,), e.g. a row of `Relevancy.image`; ties keep the order of positions
        options: ids of the two first answer tokens whose logits are compared; None: the model's answer and the next
            most probable
        steps: the curve has at most so many points behind the first, from one token to all of them, closer together
            where few are replaced
        n_draws: random orders
        seed: of the random orders

    Returns:
        one row per point: n_replaced, share (of all image tokens, 0 to 1), logit_diff (in the map's order), and
        random_mean, random_low, random_high (mean over random orders, and between which 95 % of them lie), in logits;
        replaced_by ("other image" or "mean"; the same in all rows)

    Raises:
        VlmtraceError: relevance has another length than the image has tokens, or later layers see the image again

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.relevancy import deletion_curve, relevancy
        >>> model = vt.load_model("tiny-blip")
        >>> pair = vt.load_pairs("rendered_states", n=1).iloc[0]
        >>> found = relevancy(model, pair["clean_image"], pair["clean_prompt"])
        >>> curve = deletion_curve(model, pair, found.image[0], steps=4, n_draws=3)
        >>> curve["n_replaced"].tolist()
        [0, 1, 4, 16, 65]
    """
    if model.injects_image_features_later:
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that replacing image tokens does not remove "
            "them: there is no deletion curve."
        )
    images = given_images(pair)
    inputs = model.encode([images], [question_of(model, pair["clean_prompt"], images)])
    tokens = model.image_embeddings(inputs)  # (1, n, width)
    n = tokens.shape[1]
    if np.shape(relevance) != (n,):
        raise VlmtraceError(
            f"relevance has the shape {np.shape(relevance)}, and the image of {model.name} {n} tokens: give one number "
            "for each, e.g. a row of Relevancy.image."
        )
    other, replaced_by = _replacement(model, pair, tokens)
    if options is None:
        first, second = model.answer_logits(inputs)[0].topk(2).indices.tolist()
        options = (first, second)
    sizes = np.unique([0, n, *np.geomspace(1, n, steps).round().astype(int)])
    rng = np.random.default_rng(seed)
    orders = [np.argsort(-np.asarray(relevance), kind="stable"), *(rng.permutation(n) for _ in range(n_draws))]
    ranks = np.argsort(orders, axis=1)  # (order, n): when each token is replaced
    found = _differences(model, inputs, tokens, other, ranks[:, None] < sizes[:, None], options)
    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "n_replaced": sizes, "share": sizes / n, "logit_diff": found[0], "random_mean": found[1:].mean(axis=0),
            "random_low": low, "random_high": high, "replaced_by": replaced_by,
        }
    )  # fmt: skip


def half_way(curve: pd.DataFrame, column: str = "logit_diff") -> tuple[int, int] | None:
    """Between how many tokens half of what all of them do is done: a curve has few points, and no number between them.

    Args:
        curve: from `deletion_curve`
        column: "logit_diff" or "random_mean"

    Returns:
        n_replaced of the first point that lies half way or beyond, behind that of the point before it, which does not;
        None: nothing happens even where all are replaced
    """
    values = curve[column].to_numpy()
    gap = values[-1] - values[0]
    if abs(gap) < 1e-6:
        return None
    first, counts = ((values - values[0]) / gap >= 0.5).argmax(), curve["n_replaced"].to_numpy()
    return int(counts[first - 1]), int(counts[first])


def _replacement(model: VLM, pair: Mapping[str, Any] | pd.Series, tokens: Tensor) -> tuple[Tensor, str]:
    """What tokens (1, n, width) are replaced by, those of the other image or their mean, and its name."""
    if has_other_image(pair):
        images = given_images(pair, "corrupt_image")
        inputs = model.encode([images], [question_of(model, pair["clean_prompt"], images)])
        other = model.image_embeddings(inputs)
        if other.shape == tokens.shape:
            return other, OTHER_IMAGE
    return tokens.mean(dim=1, keepdim=True).expand_as(tokens), MEAN


def has_other_image(pair: Mapping[str, Any] | pd.Series) -> bool:
    """Whether a pair names a second image.

    Args:
        pair: columns of a pairs table
    """
    given = pair.get("corrupt_image")
    return given is not None and not (isinstance(given, float) and np.isnan(given))


def _differences(
    model: VLM, inputs: Inputs, tokens: Tensor, other: Tensor, replaced: Array, options: tuple[int, int]
) -> Array:
    """Logit differences (order, point) with the tokens of `replaced` (order, point, n) replaced."""
    # All orders agree on replacing nothing, and on replacing everything.
    unlike, which = np.unique(replaced.reshape(-1, replaced.shape[-1]), axis=0, return_inverse=True)
    parts = []
    for part in torch.as_tensor(unlike, device=tokens.device).split(AT_ONCE):
        images = torch.where(part[..., None], other, tokens)
        logits = model.answer_logits(repeat_inputs(inputs, len(part)), image=images)
        parts.append(logits[:, options[0]] - logits[:, options[1]])
    return torch.cat(parts).float().cpu().numpy()[which.ravel()].reshape(replaced.shape[:2])
