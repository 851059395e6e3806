"""Do maps depend on what the model has learned? The same maps from a model whose weights are randomized.

The control of Adebayo et al. 2018, "Sanity checks for saliency maps" (https://arxiv.org/abs/1810.03292). A map of the
image for the same token, of the trained and of the randomized model: where the two agree, the map shows the image, the
positions and the architecture, whatever the model has learned, and explains no answer.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from vlmtrace.core.arguments import Count, Natural, NonEmpty, Seed, checked
from vlmtrace.core.progress import counter
from vlmtrace.methods.lens.map_scores import MAPS, TOP, image_maps
from vlmtrace.methods.lens.questions import check_questions, lens_of
from vlmtrace.models import VLM, randomized


@checked
def randomization_control(
    model: VLM,
    questions: pd.DataFrame,
    methods: NonEmpty[str] = MAPS,
    top_layers: NonEmpty[Natural | None] = (None,),
    prefix: str = "",
    top: Count = TOP,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Compare each map with that of a model whose weights are randomized.

    The token that is explained is the trained model's in both. Time: a run of each map for the model, and one for each
    entry of `top_layers`, beside a copy of the model.

    Args:
        model: a decoder-only model
        questions: a questions table (see `load_questions`)
        methods: of `MAPS`
        top_layers: what is randomized, one control for each: None: all weights; k: the last k layers of the language
            model (cascading randomization). See `randomized`
        prefix: the beginning of an answer, put behind every prompt
        top: how many heads the map of the lens is summed over
        seed: of the weights; the random map has another one in both models
    Returns:
        one row per question, map and control: sample_id, method, randomized ("all weights", "last 2 layers"), spearman
        (rank correlation of both maps over image tokens), spearman_magnitude (of their absolute values); missing where
        a map is the same everywhere

    Raises:
        VlmtraceError: a column is missing, the model is not decoder-only, or it has not so many layers

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.lens import randomization_control
        >>> model = vt.load_model("tiny-llava")
        >>> control = randomization_control(model, vt.load_questions("rendered_open", n=2), methods=["lens", "rollout"])
        >>> control[["method", "randomized"]].drop_duplicates().values.tolist()
        [['lens', 'all weights'], ['rollout', 'all weights']]
    """
    check_questions(questions)
    records = questions.to_dict("records")
    trained = []
    for number, row in enumerate(records):
        lens = lens_of(model, row, prefix)
        trained.append((lens.token, image_maps(lens, methods, top, seed + number)))
    rows = []
    with counter(len(records) * len(top_layers), "maps of models with randomized weights") as advance:
        for layers in top_layers:
            twin = randomized(model, seed, layers)
            name = "all weights" if layers is None else f"last {layers} layers"
            for number, (row, (token, maps)) in enumerate(zip(records, trained, strict=True)):
                # The random map is drawn anew, too: beside it one sees what no relation looks like.
                other = image_maps(lens_of(twin, row, prefix), methods, top, seed + len(records) + number, token)
                for method, values in maps.items():
                    base = {"sample_id": row["sample_id"], "method": method, "randomized": name}
                    rows.append({**base, **_agreement(values, other[method])})
                advance(1)
    return pd.DataFrame(rows)


def _agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    found = {}
    for name, (a, b) in {"spearman": (first, second), "spearman_magnitude": (abs(first), abs(second))}.items():
        flat = np.ptp(a) == 0 or np.ptp(b) == 0
        found[name] = float("nan") if flat else float(spearmanr(a, b).statistic)
    return found


@checked
def randomization_table(control: pd.DataFrame) -> pd.DataFrame:
    """Mean agreement of each map with that of the randomized model, over questions.

    Args:
        control: from `randomization_control`
    Returns:
        one row per control and map: randomized, method, n (questions), spearman, lowest, highest (of single questions),
        spearman_magnitude
    """
    groups = control.groupby(["randomized", "method"], sort=False)
    return groups.agg(
        n=("spearman", "count"),
        spearman=("spearman", "mean"),
        lowest=("spearman", "min"),
        highest=("spearman", "max"),
        spearman_magnitude=("spearman_magnitude", "mean"),
    ).reset_index()
