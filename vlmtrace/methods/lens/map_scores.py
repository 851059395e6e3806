"""Maps of the image that are said to explain an answer, and measures that compare them.

A map gives every image token a number: how much it matters to the predicted token. Five ways to get one (`MAPS`):

- `lens`: contributions of positions, summed over the heads that raise the answer most (Yu and Ananiadou 2024,
  https://arxiv.org/abs/2411.10950)
- `attention`: attention from the answer's position, averaged over all heads and layers
- `rollout`: attention followed through the layers, half of each step staying in place (Abnar and Zuidema 2020,
  https://arxiv.org/abs/2005.00928)
- `gradient`: gradient of the answer's log-probability × the image token, summed over its width
- `random`: the baseline

Two ways to test it. *Pointing*: is the map high where the object is? Area under the ROC curve, against the mask.
*Deletion and insertion* (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421): how does the answer's probability
fall as the top tokens are replaced by the mean image token, and how does it come back as only the top ones are kept?
Low area under deletion and high area under insertion are good. Pointing asks what a human would call right, the other
two ask the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Natural, NonEmpty, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image, open_mask
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT
from vlmtrace.core.types import Array
from vlmtrace.inputs.image_regions import coverage
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.methods.lens.contributions import head_contributions, position_contributions, top_heads
from vlmtrace.methods.lens.decomposition import BLOCK, Lens, token_text
from vlmtrace.methods.lens.questions import check_questions, lens_of
from vlmtrace.models import VLM

MAPS = ("lens", "attention", "rollout", "gradient", "random")

#: Measures, and whether more of one is better.
MEASURES = {"auc": True, "deletion": False, "insertion": True}

#: Heads whose positions are summed for the map of the lens.
TOP = 10


# Maps -------------------------------------------------------------------------------------------------------------


@checked
def image_maps(
    lens: Lens, methods: NonEmpty[str] = MAPS, top: Count = TOP, seed: Seed = 0, token: Natural | None = None
) -> dict[str, Array]:
    """Maps of the image tokens for the token that the model predicts, or for another one.

    Args:
        lens: one run
        methods: of `MAPS`
        top: how many heads the map of the lens is summed over
        seed: of the random map
        token: id of the token; None: the one that the model predicts
    Returns:
        by method, (image token,)
    """
    lens.model.check_tokens([] if token is None else [token])
    at_image = lens.image_positions
    found = {}
    for method in methods:
        match one_of(method, MAPS, "map"):
            case "lens":
                strongest = top_heads(head_contributions(lens, token), top)
                found[method] = position_contributions(lens, strongest, token).sum(0)[at_image]
            case "attention":
                found[method] = lens.weights.mean((0, 1))[lens.at].cpu().numpy()[at_image]
            case "rollout":
                found[method] = rollout(lens.weights.mean(1))[lens.at].cpu().numpy()[at_image]
            case "gradient":
                found[method] = gradient_times_input(lens, token)
            case _:
                found[method] = np.random.default_rng(seed).permutation(int(at_image.sum())).astype(float)
    return found


def rollout(weights: Tensor) -> Tensor:
    """Attention rollout, ∏ (A_l + 1) / 2 over layers, the last on the left (Abnar and Zuidema 2020).

    Args:
        weights: (layer, query, key), means over heads
    Returns:
        (query, key), rows sum to 1
    """
    eye = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    flow = eye
    for layer in weights:
        flow = (layer + eye) / 2 @ flow
    return flow


def gradient_times_input(lens: Lens, token: int | None = None) -> Array:
    """Gradient of a token's log-probability at each image token, times the image token.

    Where later layers receive image features too (Qwen3-VL), the gradient is that at the tokens that enter the first
    layer.

    Args:
        lens: one run
        token: id of the token; None: the one that the model predicts
    Returns:
        (image token,), summed over the token's width
    """
    with torch.no_grad():
        image = lens.model.image_embeddings(lens.inputs)
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        logits = lens.model.answer_logits(lens.inputs, image=image)[0]
        (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[lens.token if token is None else token], image)
    return (gradient * image).detach().sum(-1)[0].float().cpu().numpy()


# Tests ------------------------------------------------------------------------------------------------------------


def roc_auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve: how often a positive has a higher score than a negative, ties counting half.

    Args:
        scores: (n,)
        positive: (n,), bool
    Returns:
        0 … 1; missing where all are positive, or none

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    # Mann and Whitney: from the ranks of the positives, less what they would have among themselves.
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def object_tokens(mask: Image.Image, boxes: Array) -> Array:
    """Which image tokens show an object: those that it covers by half, or the one that it covers most.

    Args:
        mask: the object in white
        boxes: (image token, 4): top, left, bottom, right in fractions of the image
    Returns:
        (image token,), bool
    """
    covered = coverage(mask, boxes)
    return covered >= min(0.5, covered.max()) if covered.any() else np.zeros(len(boxes), dtype=bool)


@torch.no_grad()
def replacement_curves(
    lens: Lens, maps: dict[str, Array], mean: Tensor, steps: int = 16, at_once: int = 64
) -> dict[str, dict[str, Array]]:
    """Probability of the predicted token as image tokens are replaced by the mean token, in a map's order.

    Args:
        lens: one run
        maps: by name, (image token); ties keep the order of positions
        mean: (width,), see `mean_image_token`
        steps: the curve has steps + 1 points, evenly spaced from none to all of the tokens
        at_once: runs in a batch
    Returns:
        by map, "deletion", where the top share of tokens is replaced, and "insertion", where only that share is kept;
        (steps + 1,) each
    Raises:
        VlmtraceError: the model's later layers receive image features again
    """
    model = lens.model
    if model.injects_image_features_later:
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that replacing image tokens does not remove "
            "them: compare its maps by pointing alone."
        )
    image = model.image_embeddings(lens.inputs)
    n = image.shape[1]
    sizes = step_sizes(n, steps)
    replaced = []
    for values in maps.values():
        rank = np.empty(n, dtype=int)
        rank[np.argsort(-np.asarray(values), kind="stable")] = np.arange(n)
        top = rank < sizes[:, None]
        replaced += [top, ~top]
    # All maps agree on replacing nothing, and on replacing everything.
    unlike, which_of = np.unique(np.concatenate(replaced), axis=0, return_inverse=True)
    which = torch.as_tensor(unlike, device=image.device)
    p = []
    for part in which.split(at_once):
        images = torch.where(part[..., None], mean.to(image.dtype), image)
        inputs = {name: torch.cat([value] * len(part)) for name, value in lens.inputs.items()}
        p.append(model.answer_logits(inputs, image=images).softmax(-1)[:, lens.token])
    curves = torch.cat(p).cpu().numpy()[which_of].reshape(len(maps), 2, len(sizes))
    return {name: {"deletion": both[0], "insertion": both[1]} for name, both in zip(maps, curves, strict=True)}


def step_sizes(n: int, steps: int) -> Array:
    """How many of n tokens are replaced at each point of a curve: (min(steps, n) + 1,)."""
    return np.linspace(0, n, min(steps, n) + 1).round().astype(int)


@checked
def score_maps(
    model: VLM,
    questions: pd.DataFrame,
    methods: NonEmpty[str] = MAPS,
    prefix: str = "",
    top: Count = TOP,
    steps: Count = 16,
    seed: Seed = 0,
    mean: Tensor | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test maps of the image against the object's mask (pointing) and against the model (deletion and insertion).

    Pointing is the area under the ROC curve of the map against the mask. Deletion and insertion follow Petsiuk et al.
    2018 (https://arxiv.org/abs/1806.07421): the answer's probability as the map's top tokens are replaced by the mean
    image token, or as only they are kept.

    Args:
        model: a decoder-only model
        questions: sample_id, image, prompt and, for pointing, object_mask; for the category and the right answer, if
            known, `category` and `answer`
        methods: the maps that are compared, of "lens", "attention", "rollout", "gradient", "random"
        prefix: the beginning of an answer, put behind every prompt
        top: how many heads the map of the lens is summed over
        steps: a curve has steps + 1 points
        seed: of the random map
        mean: (width,), the mean image token; None: over the images of `questions`
    Returns:
        scores, one row per question and method: sample_id, category, token (predicted), p_token, is_correct, method,
        auc, deletion, insertion (areas under the curves of p against the share of tokens), missing where a test is
        impossible; and curves, one row per point: sample_id, method, kind ("deletion", "insertion"), share (of the
        tokens), p (of the predicted token)

    Raises:
        VlmtraceError: a column is missing, a mask cannot be read, or the model is not decoder-only

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-llava")
        >>> questions = vt.load_questions("rendered_open", n=2)
        >>> scores, curves = vt.score_maps(model, questions, methods=["lens", "random"], steps=4)
        >>> scores.groupby("method")[["auc", "deletion", "insertion"]].mean().shape
        (2, 3)
        >>> len(curves)  # 2 questions × 2 maps × 2 kinds × 5 points
        40
    """
    check_questions(questions)
    methods = list(methods)
    replaces = not model.injects_image_features_later
    if mean is None and replaces:
        mean = mean_image_token(model, questions.rename(columns={"image": "clean_image", "prompt": "clean_prompt"}))
    scores, curves = [], []
    with counter(len(questions), f"maps of {len(questions)} questions") as advance:
        for number, row in enumerate(questions.to_dict("records")):
            lens = lens_of(model, row, prefix)
            maps = image_maps(lens, methods, top, seed + number)
            positive = _object(lens, row)
            said = {"token": token_text(model, lens.token), "p_token": float(lens.logits.softmax(-1)[lens.token])}
            right = isinstance(row.get("answer"), str) and model.answer_token(row["answer"]) == lens.token
            unit = {UNIT: row[UNIT]} if UNIT in row else {}
            base = {"sample_id": row["sample_id"], "category": row.get("category", ""), **unit, **said}
            base |= {"is_correct": right}
            run = replacement_curves(lens, maps, mean, steps) if mean is not None and replaces else {}
            share = step_sizes(int(lens.image_positions.sum()), steps) / lens.image_positions.sum()
            for method in methods:
                found = run.get(method, {})
                areas = {kind: float(stats.area_under_curve(p, share)) for kind, p in found.items()}
                auc = float("nan") if positive is None else roc_auc(maps[method][positive[0]], positive[1])
                scores.append({**base, "method": method, "auc": auc, "deletion": np.nan, "insertion": np.nan, **areas})
                for kind, p in found.items():
                    point = {"sample_id": row["sample_id"], "method": method, "kind": kind}
                    curves.append(pd.DataFrame({**point, "share": share, "p": p}))
            advance(1)
    columns = ["sample_id", "method", "kind", "share", "p"]
    return pd.DataFrame(scores), pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=columns)


def _object(lens: Lens, row: dict[str, Any]) -> tuple[Array, Array] | None:
    """Which image tokens have a place in the image, and which of those show the object; None: there is no mask."""
    if not isinstance(row.get("object_mask"), (str, Path)):
        return None
    boxes = lens.model.image_cells(row["image"], lens.inputs, BLOCK)
    placed = ~np.isnan(boxes).any(axis=1)
    return placed, tokens_on_object(row, boxes[placed])


def tokens_on_object(row: Mapping[str, Any], boxes: Array) -> Array:
    """Which image tokens show the object of a question (see `object_tokens`).

    Args:
        row: of a questions table, with object_mask
        boxes: (image token, 4): top, left, bottom, right in fractions of the image
    Returns:
        (image token,), bool
    Raises:
        VlmtraceError: the mask cannot be read, or is not of its upright image's size
    """
    size = open_image(row["image"]).size
    return object_tokens(open_mask(row["object_mask"], size, f"question {row['sample_id']!r}"), boxes)
