"""Do relevancy maps depend on what the model has learned? The same maps from a model whose weights are randomized."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from vlmtrace.core.arguments import Natural, Seed, checked
from vlmtrace.methods.relevancy.propagation import relevancy
from vlmtrace.models import VLM, randomized
from vlmtrace.models.several_images import Images


@checked
def relevancy_control(
    model: VLM,
    image: Images,
    prompt: str,
    seed: Seed = 0,
    top_layers: Natural | None = None,
) -> pd.DataFrame:
    """Compare the relevancy of an answer with that in a model whose weights are randomized.

    Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292): maps that agree show the image and the architecture, not
    what the model has learned.

    Args:
        model: the model that is asked
        image: a path or a picture, or a list of several
        prompt: the question as a pairs table holds it, before a chat template
        seed: of the weights
        top_layers: what is randomized, None: all weights (see `vlmtrace.models.randomized`)

    Returns:
        one row per step of the model's own answer and map: step, answer_token, kind ("image", "vision", "joined",
        "prompt"), spearman (rank correlation over positions); missing where a map is the same everywhere

    Raises:
        VlmtraceError: the image cannot be read, or there are not so many layers

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.relevancy import relevancy_control
        >>> model = vt.load_model("tiny-blip")
        >>> question = vt.load_questions("rendered_open", n=1).iloc[0]
        >>> control = relevancy_control(model, question["image"], question["prompt"])
        >>> control["kind"].tolist()
        ['image', 'vision', 'joined', 'prompt']
    """
    found = relevancy(model, image, prompt)
    ids = found.answer["token_id"].tolist()
    other = relevancy(randomized(model, seed, top_layers), image, prompt, answer=ids)
    rows = []
    for step, token in enumerate(found.answer["token"]):
        for kind in ("image", "vision", "joined", "prompt"):
            maps = [getattr(side, kind) for side in (found, other)]
            if maps[0] is None or maps[1] is None:
                continue
            first, second = (values[step][~np.isnan(values[step])] for values in maps)
            flat = np.ptp(first) == 0 or np.ptp(second) == 0
            agreement = float("nan") if flat else float(spearmanr(first, second).statistic)
            rows.append({"step": step, "answer_token": token, "kind": kind, "spearman": agreement})
    return pd.DataFrame(rows)
