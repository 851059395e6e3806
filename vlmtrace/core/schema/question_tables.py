"""The contract of what is found on open questions: notebooks 07 (causal tracing) and 08 (visual lens)."""

from __future__ import annotations

from vlmtrace.core.schema.columns import Column, Table
from vlmtrace.core.schema.effect_tables import BLOCK, LAYER, MODULE, POSITION, TOKEN, TOKEN_ROLE
from vlmtrace.core.schema.pair_tables import UNIT

SAMPLE = Column("sample_id", "text", "name of the question, unique in the table of questions")
CATEGORY = Column("category", "text", "what kind of thing is asked: color, count, location, yes/no, …")
UNIT_OF_QUESTION = Column(UNIT, "text", "the unit that the question belongs to", optional=True)
STEP = Column("step", "integer", "index of the answer's token, from 0")
ANSWER_TOKEN = Column("answer_token", "text", "the token of the model's own clean answer at this step")

_ONE_DRAW, _ONE_QUESTION = "there is one draw only", "there is one question only"


def _interval(of: str, unit: str, missing: str, low: str = "ci_low", high: str = "ci_high") -> tuple[Column, Column]:
    return (
        Column(low, "number", f"lower end of its 95 % interval over {of}", unit, missing=missing),
        Column(high, "number", "upper end of that interval", unit, missing=missing),
    )


NOISE_CURVE = Table(
    "noise_curve",
    "One row per question, step of the answer and level of noise: how sure the model still is of its clean answer.",
    (
        SAMPLE, CATEGORY, UNIT_OF_QUESTION,
        Column("level", "number", "standard deviation of the noise", "standard deviations of the image embeddings"),
        STEP, ANSWER_TOKEN,
        Column("p_answer", "number", "probability of that token, mean over draws of noise", "probability"),
        *_interval("draws of noise (Student's t)", "probability", _ONE_DRAW),
        Column("still_answers", "number", "share of draws in which that token is the most likely one", "share"),
    ),
    "07_causal_tracing",
)  # fmt: skip

CAUSAL_TRACING = Table(
    "causal_tracing",
    "One row per question, step of the answer, module, layer and position: a clean state restored in runs whose image "
    "is hidden by noise.",
    (
        SAMPLE, CATEGORY, UNIT_OF_QUESTION,
        Column("corruption", "text", "noise"),
        BLOCK, MODULE,
        Column("layer", "integer", "the middle layer of the window, from 0"),
        Column("window", "integer", "how many layers are restored", "layers"),
        POSITION, TOKEN, TOKEN_ROLE, STEP, ANSWER_TOKEN,
        Column("p_clean", "number", "probability of that token in the clean run", "probability"),
        Column("p_corrupt", "number", "its probability under noise, mean over draws", "probability"),
        Column("p_answer", "number", "its probability with the state restored, mean over draws", "probability"),
        Column("indirect_effect", "number", "p_answer − p_corrupt", "probability"),
        *_interval("draws of noise (Student's t)", "probability", _ONE_DRAW),
        Column("normalized_effect", "number", "indirect_effect / (p_clean − p_corrupt)", "share",
               missing="that gap is below 0.01"),
        Column("still_answers", "number", "share of draws in which noise alone leaves the clean answer on top",
               "share"),
    ),
    "07_causal_tracing",
)  # fmt: skip

LENS_CONTRIBUTIONS = Table(
    "lens_contributions",
    "One row per question and head, and one per question, layer and module: what each adds to the model's own answer.",
    (
        SAMPLE, UNIT_OF_QUESTION,
        Column("module", "text", "self_attention or mlp"),
        LAYER,
        Column("head", "integer", "index of the head in its layer, from 0", missing="the row is of a whole module"),
        Column("token", "text", "the token that the model predicts"),
        Column("p_token", "number", "its probability", "probability"),
        Column("log_p_increase", "number", "increase of its log-probability, read through the unembedding, the final "
               "norm's scale frozen", "nats"),
        Column("log_p_increase_renormed", "number", "the same with the final norm computed anew with and without the "
               "output", "nats", optional=True),
        Column("log_p_loss_renormed", "number", "its log-probability less that without the output in the final stream, "
               "the norm computed anew", "nats", optional=True),
    ),
    "08_visual_lens",
)  # fmt: skip

_NO_TEST = "the test is impossible: no mask, or a mask of everything or nothing"

MAP_SCORES = Table(
    "map_scores",
    "One row per question and method: how well a map of the image explains the model's answer.",
    (
        SAMPLE, CATEGORY, UNIT_OF_QUESTION,
        Column("token", "text", "the token that the model predicts"),
        Column("p_token", "number", "its probability", "probability"),
        Column("is_correct", "boolean", "whether it is the right answer; false where that is not known"),
        Column("method", "text", "the map: lens, attention, rollout, gradient or random"),
        Column("auc", "number", "area under the ROC curve of the map against the object's mask", "share",
               missing=_NO_TEST),
        Column("deletion", "number", "area under p of the token as the map's top tokens are replaced: low is good",
               "probability", missing="image tokens cannot be replaced in this model"),
        Column("insertion", "number", "area under p of the token as only those are kept: high is good",
               "probability", missing="image tokens cannot be replaced in this model"),
    ),
    "08_visual_lens",
)  # fmt: skip

MAP_CURVES = Table(
    "map_curves",
    "One row per question, method, kind and share of replaced image tokens: the curves behind map_scores.",
    (
        SAMPLE,
        Column("method", "text", "the map: lens, attention, rollout, gradient or random"),
        Column("kind", "text", "deletion: the map's top tokens are replaced; insertion: only they are kept"),
        Column("share", "number", "share of the image's tokens that are replaced or kept", "share"),
        Column("p", "number", "probability of the token that the model predicts on the whole image", "probability"),
    ),
    "08_visual_lens",
)  # fmt: skip

_ITSELF = "the row is that of the lens itself"
_NO_CEILING = "halves are compared, or do not agree at all, or there is one question only"

MAPS = Table(
    "maps",
    "One row per measure and method: map_scores averaged, and compared with the visual lens question by question.",
    (
        Column("measure", "text", "auc, deletion or insertion"),
        Column("method", "text", "the map: lens, attention, rollout, gradient or random"),
        Column("n", "integer", "questions averaged", "questions"),
        Column("mean", "number", "mean over questions", "as the measure"),
        *_interval("questions (bootstrap-t)", "as the measure", _ONE_QUESTION, "low", "high"),
        Column("difference", "number", "mean difference to the visual lens on the same questions", "as the measure"),
        *_interval("questions (bootstrap-t)", "as the measure", _ONE_QUESTION, "difference_low", "difference_high"),
        Column("p_value", "number", "of the test that this difference is 0", "probability", missing=_ITSELF),
        Column("q_value", "number", "that p-value, corrected for all rows of the table (Benjamini–Hochberg)",
               "probability", missing=_ITSELF),
        Column("verdict", "text", "better or worse where q_value is below 0.05, else no difference seen; empty for the "
               "lens itself"),
    ),
    "08_visual_lens",
    unless="no measure can be taken: there are no masks, and image tokens cannot be replaced in this model",
)  # fmt: skip

PATCH_WORDS = Table(
    "patch_words",
    "One row per question, reading, layer and place: at how many image tokens the right word can be read.",
    (
        SAMPLE,
        Column("through", "text", "how a state is read: unembedding (as output) or embedding (as input)"),
        Column("layer", "integer", "what enters this layer; where is_output: what leaves the last layer"),
        Column("place", "text", "object, elsewhere in the image, or answer: the position that predicts it"),
        Column("share", "number", "share of the place's tokens at which the right word is among the first five",
               "share", missing="the place has no token"),
        Column("is_output", "boolean", "whether layer is what leaves the last one; without the column the largest is",
               optional=True),
    ),
    "08_visual_lens",
)  # fmt: skip

HEAD_AGREEMENT = Table(
    "head_agreement",
    "One row per comparison: whether the same heads carry the answer from the image and from sentences.",
    (
        Column("compared", "text", "`visual, textual`, or one of them in two halves of the questions"),
        Column("spearman", "number", "rank correlation of the heads' mean contributions; of halves by Spearman–Brown, "
               "for means over all questions, from random splits", "correlation"),
        *_interval("questions (jackknife)", "correlation", "halves are compared, or there is one question only",
                   "low", "high"),
        Column("ceiling", "number", "correlation to expect of the same heads: geometric mean of the halves' two values",
               "correlation", missing=_NO_CEILING),
        Column("corrected", "number", "spearman / ceiling", "correlation", missing=_NO_CEILING),
        Column("k", "integer", "how many of the strongest heads are compared", "heads"),
        Column("shared", "number", "how many of them are among the strongest of both; of halves the mean over splits",
               "heads"),
        Column("shared_by_chance", "number", "how many random sets of k heads would share", "heads"),
        Column("n_questions", "integer", "questions that are answered rightly both ways", "questions"),
        Column("n_heads", "integer", "heads of the model", "heads"),
    ),
    "08_visual_lens",
)  # fmt: skip

LENS_KNOCKOUTS = Table(
    "lens_knockouts",
    "One row per kind of run and set of heads, and one for their difference: what is lost when heads give their mean "
    "output at the answer's position.",
    (
        Column("run", "text", "visual: from the image; textual: from sentences"),
        Column("heads", "text", "chosen: strong in both kinds of run; random: as many others; or chosen − random"),
        Column("n", "integer", "questions averaged", "questions"),
        Column("log_odds_change", "number", "mean change of the log-odds of the model's answer", "nats"),
        *_interval("questions (bootstrap-t)", "nats", _ONE_QUESTION, "low", "high"),
        Column("p_before", "number", "mean probability of the answer before", "probability",
               missing="the row is a difference"),
        Column("p", "number", "mean probability of the answer after", "probability",
               missing="the row is a difference"),
        Column("p_value", "number", "of the test that the difference is 0", "probability",
               missing="the row is no difference"),
        Column("q_value", "number", "that p-value, corrected for both kinds of run (Benjamini–Hochberg)", "probability",
               missing="the row is no difference"),
    ),
    "08_visual_lens",
)  # fmt: skip

QUESTION_TABLES = (
    CAUSAL_TRACING, NOISE_CURVE, LENS_CONTRIBUTIONS, MAP_SCORES, MAP_CURVES, MAPS, PATCH_WORDS, HEAD_AGREEMENT,
    LENS_KNOCKOUTS,
)  # fmt: skip
