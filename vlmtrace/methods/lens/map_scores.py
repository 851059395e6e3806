"""Maps of the image that are said to explain an answer, and what says which map is right.

A map gives every image token a number: how much it matters to the predicted token. Five ways to get one (`MAPS`):

- `lens`: contributions of positions, summed over the heads that raise the answer most (Yu and Ananiadou 2024)
- `attention`: attention from the answer's position, averaged over all heads and layers
- `rollout`: attention followed through the layers, half of each step staying in place (Abnar and Zuidema 2020)
- `gradient`: gradient of the answer's log-probability × the image token, summed over its width
- `random`: the baseline

Two ways to test it. *Pointing*: is the map high where the object is? Area under the ROC curve, against the mask.
*Deletion and insertion* (Petsiuk et al. 2018): how does the answer's probability fall as the top tokens are replaced by
the mean image token, and how does it come back as only the top ones are kept? Low area under deletion and high area
under insertion are good. Pointing asks what a human would call right, the other two ask the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import resolve
from vlmtrace.core.progress import counter
from vlmtrace.inputs.image_regions import coverage
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.methods.lens.contributions import (
    BLOCK,
    Array,
    Lens,
    check_questions,
    head_contributions,
    lens_of,
    position_contributions,
    top_heads,
    word,
)
from vlmtrace.models import VLM

MAPS = ("lens", "attention", "rollout", "gradient", "random")

#: Measures, and whether more of one is better.
MEASURES = {"auc": True, "deletion": False, "insertion": True}

#: Heads whose positions are summed for the map of the lens.
TOP = 10


# Maps -------------------------------------------------------------------------------------------------------------


def image_maps(lens: Lens, methods: Sequence[str] = MAPS, top: int = TOP, seed: int = 0) -> dict[str, Array]:
    """Each method's map for the token that the model predicts: (image token).

    Args:
        top: how many heads the map of the lens is summed over
        seed: of the random map
    """
    at_image = lens.image_positions
    found = {}
    for method in methods:
        match one_of(method, MAPS, "map"):
            case "lens":
                strongest = top_heads(head_contributions(lens), top)
                found[method] = position_contributions(lens, strongest).sum(0)[at_image]
            case "attention":
                found[method] = lens.weights.mean((0, 1))[lens.at].cpu().numpy()[at_image]
            case "rollout":
                found[method] = rollout(lens.weights.mean(1))[lens.at].cpu().numpy()[at_image]
            case "gradient":
                found[method] = gradient_times_input(lens)
            case _:
                found[method] = np.random.default_rng(seed).permutation(int(at_image.sum())).astype(float)
    return found


def rollout(weights: Tensor) -> Tensor:
    """Attention rollout: ∏ (A_l + 1) / 2 over layers, the last on the left.

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


def gradient_times_input(lens: Lens) -> Array:
    """Gradient of log p(predicted token) with respect to each image token × the token: (image token).

    Where later layers receive image features too (Qwen3-VL), this is of the tokens that enter the first layer.
    """
    with torch.no_grad():
        image = lens.model.image_embeddings(lens.inputs)
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        logits = lens.model.answer_logits(lens.inputs, image=image)[0]
        (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[lens.token], image)
    return (gradient * image).detach().sum(-1)[0].float().cpu().numpy()


# Tests ------------------------------------------------------------------------------------------------------------


def roc_auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve: how often a positive has the higher score than a negative, ties counting half.

    Returns:
        missing where all are positive, or none

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    # Mann and Whitney: from the ranks of the positives, less what they would have among themselves.
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def object_tokens(mask: Image.Image, boxes: Array) -> Array:
    """Which image tokens show an object: those it covers by half, or the one it covers most; bool (image token)."""
    covered = coverage(mask, boxes)
    return covered >= min(0.5, covered.max()) if covered.any() else np.zeros(len(boxes), dtype=bool)


@torch.no_grad()
def replacement_curves(
    lens: Lens, maps: dict[str, Array], mean: Tensor, steps: int = 16, at_once: int = 64
) -> dict[str, dict[str, Array]]:
    """p(predicted token) as image tokens are replaced by the mean one, in a map's order.

    Args:
        maps: by name, (image token); ties keep the order of positions
        mean: (width,), see `mean_image_token`
        steps: the curve has steps + 1 points, evenly spaced from none to all of the tokens
        at_once: runs in a batch
    Returns:
        by map: "deletion", where the top share of tokens is replaced, and "insertion", where only it is kept: (steps +
            1)
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
    """How many of n tokens a curve's points are at."""
    return np.linspace(0, n, min(steps, n) + 1).round().astype(int)


def score_maps(
    model: VLM,
    questions: pd.DataFrame,
    methods: Sequence[str] = MAPS,
    prefix: str = "",
    top: int = TOP,
    steps: int = 16,
    seed: int = 0,
    mean: Tensor | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put each method's map of each question to the tests.

    Args:
        questions: sample_id, image, prompt and, for pointing, object_mask; for the category and the right answer, if
            known, `category` and `answer`
        mean: the mean image token; None: over the images of `questions`
    Returns:
        scores: one row a question and method: sample_id, category, token (predicted), is_correct, p_token, method, auc,
            deletion, insertion (areas under the curves, p against the share of tokens); missing where a test is
            impossible
        curves: one row a point: sample_id, method, kind, share (of the tokens), p
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
            said = {"token": word(model, lens.token), "p_token": float(lens.logits.softmax(-1)[lens.token])}
            right = isinstance(row.get("answer"), str) and model.answer_token(row["answer"]) == lens.token
            base = {"sample_id": row["sample_id"], "category": row.get("category", ""), **said, "is_correct": right}
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
    """`object_tokens` of a question's object_mask.

    Raises:
        VlmtraceError: the mask cannot be read
    """
    path = row["object_mask"]
    try:
        with Image.open(resolve(path)) as mask:
            return object_tokens(mask, boxes)
    except (OSError, SyntaxError) as error:
        raise VlmtraceError(
            f"The mask {path} of question {row['sample_id']!r} cannot be read ({error}): correct object_mask or empty "
            "it."
        ) from error


def map_table(scores: pd.DataFrame, against: str = "lens", seed: int = 0) -> pd.DataFrame:
    """Means of all measures by method with 95 % bootstrap intervals over questions, and their differences, question by
    question, from one method.

    Returns:
        one row a measure and method: measure, method, n, mean, low, high, difference (method − `against`),
            difference_low,
        difference_high, verdict: "better" or "worse" than `against` where the difference's interval leaves out 0
    """
    rows = []
    for measure, more_is_better in MEASURES.items():
        wide = scores.pivot(index="sample_id", columns="method", values=measure).dropna()
        if wide.empty:
            continue
        for method in scores["method"].unique():
            low, high = (float(end[0]) for end in stats.bootstrap_mean(wide[method], seed=seed))
            row = {"measure": measure, "method": method, "n": len(wide), "mean": wide[method].mean(), "low": low}
            difference = wide[method] - wide[one_of(against, wide.columns, "method")]
            ends = [float(end[0]) for end in stats.bootstrap_mean(difference, seed=seed)]
            sign = np.sign(ends[0]) if ends[0] * ends[1] > 0 else 0.0
            verdict = {1.0: "better", -1.0: "worse"}.get(float(sign if more_is_better else -sign), "no difference seen")
            compared = {"difference": difference.mean(), "difference_low": ends[0], "difference_high": ends[1]}
            rows.append({**row, "high": high, **compared, "verdict": "" if method == against else verdict})
    return pd.DataFrame(rows)
