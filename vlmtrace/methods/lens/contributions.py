"""Direct logit attribution of heads, modules and source positions (Yu and Ananiadou 2024, https://arxiv.org/abs/2411.10950).

At the position that predicts the answer, a layer adds to the residual stream x what its heads write. With o_lj the
output of head j of layer l, which is a sum over source positions p,

    o_lj = Σ_p o_ljp,     o_ljp = attention weight (t ← p) · value of p, through the head's output projection,

the contribution of a part o to the token b is log p(b | x + o) − log p(b | x), in nats: x is what enters the layer, and
p reads a vector through the final norm, its scale frozen, and the unembedding (see `decomposition`). Without the frozen
scale every early part would look enormous, since the stream grows from layer to layer. The outputs of heads add up to
what attention adds; their contributions, being differences of log-probabilities, need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT
from vlmtrace.core.types import Array
from vlmtrace.methods.lens.decomposition import Lens, token_text
from vlmtrace.methods.lens.questions import check_questions, lens_of
from vlmtrace.methods.lens.renormed import renormed_contributions, renormed_modules
from vlmtrace.models import VLM


class Head(NamedTuple):
    """One head of the language model, layers and heads counted from 0."""

    layer: int
    head: int


@torch.no_grad()
def head_contributions(lens: Lens, token: int | None = None) -> Array:
    """Contribution of every head to a token: log p(b | x + o_lj) − log p(b | x).

    Args:
        lens: one run
        token: id of b; None: the token that the model predicts
    Returns:
        (layer, head), in nats
    """
    token = lens.token if token is None else token
    found = []
    for layer in range(len(lens.heads)):
        entering = lens.hidden[layer, lens.at]
        found.append(lens.log_p(entering + lens.head_outputs(layer), token) - lens.log_p(entering, token))
    return torch.stack(found).cpu().numpy()


@torch.no_grad()
def module_contributions(lens: Lens, token: int | None = None) -> Array:
    """Contribution of whole attention and feed-forward modules to a token.

    Attention is added to what enters the layer, the feed-forward to the sum of both. So the two contributions add up to
    the layer's whole step, and all steps to log p(b | final stream) − log p(b | embedding).

    Args:
        lens: one run
        token: id of b; None: the token that the model predicts
    Returns:
        (layer, 2): attention, feed-forward; in nats
    """
    token = lens.token if token is None else token
    stream = lens.hidden[:-1, lens.at]  # (L, D)
    middle = stream + lens.attention[:, lens.at]  # (L, D)
    steps = [lens.log_p(part, token) for part in (stream, middle, middle + lens.mlp[:, lens.at])]
    return torch.stack([steps[1] - steps[0], steps[2] - steps[1]], dim=1).cpu().numpy()


@torch.no_grad()
def position_contributions(lens: Lens, heads: Sequence[tuple[int, int]], token: int | None = None) -> Array:
    """Contribution of each source position through chosen heads: log p(b | x + o_ljp) − log p(b | x).

    Args:
        lens: one run
        heads: (layer, head) of each
        token: id of b; None: the token that the model predicts
    Returns:
        (chosen head, position), in nats
    Raises:
        VlmtraceError: the positions do not add up to a head, so that attention is more than weights times values
    """
    token = lens.token if token is None else token
    found = []
    for layer, head in heads:
        parts, whole = lens.position_outputs(layer, head), lens.head_outputs(layer)[head]
        off = (parts.sum(0) - whole).norm() / whole.norm().clamp_min(1e-12)
        if off > (1e-3 if lens.model.dtype == torch.float32 else 5e-2):
            raise VlmtraceError(
                f"Weights times values of head {layer}.{head} of {lens.model.name} do not add up to its output (off by "
                f"{off:.1%}): its attention does something else too, so use another model."
            )
        entering = lens.hidden[layer, lens.at]
        found.append(lens.log_p(entering + parts, token) - lens.log_p(entering, token))
    return torch.stack(found).cpu().numpy()


def top_heads(contributions: Array, k: int) -> list[Head]:
    """The k heads that raise the token most, the strongest first.

    Args:
        contributions: (layer, head)
        k: how many
    """
    order = np.argsort(-contributions, axis=None, kind="stable")[:k]
    layers, heads = np.unravel_index(order, contributions.shape)
    return [Head(int(layer), int(head)) for layer, head in zip(layers, heads, strict=True)]


# Many questions ---------------------------------------------------------------------------------------------------


@checked
def lens_contributions(
    model: VLM,
    questions: pd.DataFrame,
    prefix: str = "",
    text_only: str | None = None,
    renormed: bool = False,
    *,
    told: str | None = None,
) -> pd.DataFrame:
    """How much every head and module raises the log-probability of the model's own answer, question by question.

    The contributions of Yu and Ananiadou 2024 (https://arxiv.org/abs/2411.10950) at the position that predicts the
    answer's first token: log p(token | stream + output) − log p(token | stream). They say what a head writes directly,
    not whether the model needs it.

    Args:
        model: a decoder-only model
        questions: a questions table (see `load_questions`): sample_id, image, prompt
        prefix: the beginning of an answer, put behind every prompt
        text_only: the column of sentences that are read instead of the image; None: the image is shown
        renormed: also with the final norm computed anew for every vector, in two more columns (see `renormed`)
        told: the former name of `text_only`, still understood
    Returns:
        one row per question, layer and head or module: sample_id, unit (if questions have it), module
        ("self_attention", "mlp"), layer, head (missing for a whole module), token (the predicted word), p_token (its
        probability), log_p_increase (nats); with `renormed`: log_p_increase_renormed, and log_p_loss_renormed: what is
        lost if the output is taken out of the final stream (nats)

    Raises:
        VlmtraceError: a column is missing, or the model is not decoder-only

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-llava")
        >>> questions = vt.load_questions("rendered_open", n=1)
        >>> table = vt.lens_contributions(model, questions)
        >>> table.shape  # 4 layers × (8 heads + 2 modules)
        (40, 8)
        >>> strongest = table.dropna(subset=["head"]).nlargest(1, "log_p_increase").iloc[0]
        >>> print(f"head {strongest['layer']}.{strongest['head']}: {strongest['log_p_increase']:+.1f} nats")
        head 0.5: +1.8 nats
    """
    text_only = text_only or told
    check_questions(questions, *([text_only] if text_only else []))
    tables = []
    with counter(len(questions), f"lens on {len(questions)} questions") as advance:
        for row in questions.to_dict("records"):
            lens = lens_of(model, row, prefix, text_only)
            heads, modules = head_contributions(lens), module_contributions(lens)
            layer, head = (index.ravel() for index in np.indices(heads.shape))
            wide = np.arange(len(modules)).repeat(2)
            table = pd.DataFrame(
                {
                    "sample_id": row["sample_id"],
                    **({UNIT: row[UNIT]} if UNIT in row else {}),
                    "module": [*["self_attention"] * heads.size, *["self_attention", "mlp"] * len(modules)],
                    "layer": np.concatenate([layer, wide]),
                    "head": pd.array([*head, *[pd.NA] * len(wide)], dtype="Int64"),
                    "token": token_text(model, lens.token),
                    "p_token": float(lens.logits.softmax(-1)[lens.token]),
                    "log_p_increase": np.concatenate([heads.ravel(), modules.ravel()]),
                }
            )
            if renormed:
                of_heads, of_modules = renormed_contributions(lens), renormed_modules(lens)
                for i, name in enumerate(("log_p_increase_renormed", "log_p_loss_renormed")):
                    table[name] = np.concatenate([of_heads[i].ravel(), of_modules[i].ravel()])
            tables.append(table)
            advance(1)
    return pd.concat(tables, ignore_index=True)


def head_means(contributions: pd.DataFrame) -> pd.DataFrame:
    """Mean contribution of each head over questions.

    Args:
        contributions: from `lens_contributions`
    Returns:
        layer × head, in nats
    """
    heads = contributions[contributions["head"].notna()]
    return heads.groupby(["layer", "head"])["log_p_increase"].mean().unstack("head")
