"""Noise on image embeddings: a corruption that needs no second image.

The vision encoder's output (in decoder-only models, the projected image tokens) is disturbed before the language side
reads it. Additive noise is Gaussian, its standard deviation a multiple of the embeddings' own:

    corrupt = clean + level · scale · z,    z ~ N(0, 1)        (Meng et al. 2022, there with level 3)

(https://arxiv.org/abs/2202.05262.) The published code for BLIP (Palit et al. 2023, https://arxiv.org/abs/2308.14179)
multiplies instead: corrupt = clean · (1 + level · z), with level 5.

Draws belong to a question: the same seed and sample_id give the same z, whatever else is in the table, at whatever
level and site. So everything that is compared is compared under the same noise.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, Natural, NonEmpty, NotNegative, Seed, Share, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import UNIT, check_columns, validate_questions
from vlmtrace.core.stats import t_interval
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.inputs.encodable import encode_questions
from vlmtrace.models import VLM
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.vlm import repeat_inputs

NOISES = ("additive", "multiplicative")


@checked
@dataclass(frozen=True)
class Noise:
    """Noise on image embeddings: how much, how often, and from which seed.

    Attributes:
        scale: the standard deviation that `level` is a multiple of, see `noise_scale`
        level: standard deviations of additive noise; of multiplicative noise, the factor's own standard deviation
        draws: how many times noise is drawn for each question
        seed: of all draws
        kind: "additive" or "multiplicative"

    Raises:
        VlmtraceError: an unknown kind, no draws, or a negative level
    """

    scale: NotNegative
    level: NotNegative = 3.0
    draws: Count = 10
    seed: Seed = 0
    kind: str = "additive"

    def __post_init__(self) -> None:
        """Check the settings."""
        one_of(self.kind, NOISES, "noise")

    @checked
    def unit(self, sample_id: str, image: Tensor, site: Natural = 0) -> Tensor:
        """Unit noise z for a question's image embeddings, the same on every device.

        Args:
            sample_id: the question's; another one gives other draws
            image: (1, position, width), the embeddings
            site: another number gives other draws
        Returns:
            (draw, position, width)
        """
        generator = np.random.default_rng([self.seed, zlib.crc32(sample_id.encode()), site])
        drawn = generator.standard_normal((self.draws, *image.shape[1:]), dtype=np.float32)
        return torch.from_numpy(drawn).to(image.device, image.dtype)

    @checked
    def disturb(self, image: Tensor, unit: Tensor) -> Tensor:
        """Corrupt image embeddings.

        Args:
            image: (1, position, width), clean
            unit: (draw, position, width), z
        Returns:
            (draw, position, width)
        """
        if self.kind == "multiplicative":
            return image * (1 + self.level * unit)
        return image + self.level * self.scale * unit


@checked
@torch.no_grad()
def noise_scale(model: VLM, questions: pd.DataFrame, batch: Count = 32) -> float:
    """The standard deviation of the image embeddings' entries: the unit in which a noise level is given.

    Args:
        model: whose image embeddings
        questions: a questions table, the reference set; each image counts once
        batch: images that are encoded together
    Returns:
        the standard deviation over all images, positions and dimensions
    Raises:
        VlmtraceError: a broken table, or a model whose later layers receive image features again

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> round(vt.noise_scale(model, vt.load_questions("rendered_open", n=2)), 2)
        1.13
    """
    refuse_images_twice(model)
    questions = validate_questions(questions).drop_duplicates("image").reset_index(drop=True)
    n, total, squares = 0, 0.0, 0.0
    batches = equal_length_batches(model, questions["prompt"], batch, questions["image"])
    for rows in progress(batches, f"image embeddings of {len(questions)} images"):
        some = questions.iloc[rows]
        inputs = encode_questions(model, some)
        kept = model.image_embeddings(inputs).double()
        n, total, squares = n + kept.numel(), total + float(kept.sum()), squares + float(kept.square().sum())
    return float(np.sqrt(squares / n - (total / n) ** 2))


def refuse_images_twice(model: VLM) -> None:
    """Refuse models whose later layers receive image features again: noise on the image tokens hides no image there.

    Raises:
        VlmtraceError: the model is one of those
    """
    if model.injects_image_features_later:
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that noise on the image tokens does not "
            "hide the image: trace another model, or patch with pairs of images."
        )


@checked
@torch.no_grad()
def noise_curve(
    model: VLM,
    questions: pd.DataFrame,
    levels: NonEmpty[NotNegative] = (0, 0.5, 1, 2, 3, 4, 6),
    scale: NotNegative | None = None,
    draws: Count = 10,
    seed: Seed = 0,
    noise: str = "additive",
) -> pd.DataFrame:
    """Probability of the model's own clean answer as noise on the image embeddings grows; choose a level from it.

    Args:
        model: the model that is traced
        questions: a questions table
        levels: standard deviations of the noise, in units of `scale`
        scale: the standard deviation that a level is a multiple of; None: that of `questions` (see `noise_scale`)
        draws: of noise, for each question
        seed: of the noise; the same seed and sample_id give the same draws
        noise: "additive", or "multiplicative" as in the published code for BLIP
    Returns:
        one row per question, step (token of the answer, from 0) and level: sample_id, category, unit (if the questions
        have it), level, step, answer_token, p_answer (mean over draws), ci_low, ci_high (95 % t-interval over draws),
        still_answers (share of draws in which that token is still the most likely one)

    Raises:
        VlmtraceError: an unknown kind of noise, a broken table, or a model whose later layers receive image features
            again

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> questions = vt.load_questions("rendered_open", n=2)
        >>> curve = vt.noise_curve(model, questions, levels=(0, 1, 3), draws=2)
        >>> curve.groupby("level")["p_answer"].mean().round(2).to_dict()
        {0.0: 0.84, 1.0: 0.84, 3.0: 0.14}
    """
    refuse_images_twice(model)
    questions = validate_questions(questions)
    scale = noise_scale(model, questions) if scale is None else scale
    rows = []
    for question in progress(questions.to_dict("records"), f"noise levels for {len(questions)} questions"):
        inputs = encode_questions(model, question)
        image = model.image_embeddings(inputs)
        with named_rows(model, inputs, [f"question {question['sample_id']!r}"]):
            answer = model.answer_tokens(inputs, image=image)
        unit = Noise(scale, draws=draws, seed=seed).unit(question["sample_id"], image)
        for step, token in enumerate(answer):
            extended = repeat_inputs(model.extend(inputs, answer[:step]), draws)
            for level in levels:
                corrupt = Noise(scale, level, draws, seed, noise).disturb(image, unit)
                logits = model.answer_logits(extended, image=corrupt)
                p = logits.softmax(-1)[:, token].double().cpu().numpy()
                low, high = t_interval(p[:, None])
                rows.append(
                    {
                        "sample_id": question["sample_id"],
                        "category": question["category"],
                        **({UNIT: question[UNIT]} if UNIT in question else {}),
                        "level": float(level),
                        "step": step,
                        "answer_token": model.tokenizer.convert_ids_to_tokens(token),
                        "p_answer": p.mean(),
                        "ci_low": low[0],
                        "ci_high": high[0],
                        "still_answers": float((logits.argmax(-1) == token).double().mean()),
                    }
                )
    return pd.DataFrame(rows)


@checked
def choose_level(curve: pd.DataFrame, share: Share = 0.9) -> float:
    """Choose the weakest noise that takes away nearly all of the answer's probability that noise can take.

    A model may know an answer without looking, so what is left at the strongest noise is not 0, but its prior. The
    level is that of the answers' first tokens: behind a token that is given, the next may need no image. Questions of
    one unit (about one image) count once.

    Args:
        curve: from `noise_curve`, with level 0 and levels at which p(answer) no longer falls
        share: of the fall from level 0 to the lowest mean p(answer)

    Returns:
        one of the curve's levels
    Raises:
        VlmtraceError: a column or level 0 is missing

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> curve = pd.DataFrame({"level": [0, 1, 2, 3, 4], "p_answer": [0.9, 0.7, 0.22, 0.2, 0.2]})
        >>> vt.choose_level(curve)
        2.0
    """
    check_columns(curve, ["level", "p_answer"], "noise_curve")
    means = first_token_means(curve, ["level"], ["p_answer"]).groupby("level")["p_answer"].mean()
    if 0 not in means.index:
        raise VlmtraceError("The noise_curve table has no level 0, the clean run: add 0 to its levels.")
    fallen = means[0] - means
    return float(means.index[fallen >= share * fallen.max()][0])


def first_token_means(curve: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """What noise leaves of the answers' first tokens, one row per unit.

    Args:
        curve: from `noise_curve`; without the column step, all of it is of first tokens
        keys: within which questions of a unit are averaged
        values: columns that are averaged

    Returns:
        keys and values; rows in the order of the curve
    """
    first = curve[curve["step"] == 0] if "step" in curve else curve
    if UNIT not in first:
        return first[[*keys, *values]]
    return first.groupby([*keys, UNIT], sort=False, observed=True)[values].mean().reset_index()
