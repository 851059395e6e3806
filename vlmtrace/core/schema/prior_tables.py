"""The contract of what an answer owes to the image and to the words: notebooks 11 and 15."""

from __future__ import annotations

from vlmtrace.core.schema.columns import Column, Table
from vlmtrace.core.schema.effect_tables import BLOCK, HEAD, HEAD_INDEX, LAYER, MODULE, SAMPLE, TASK, UNIT_OF_PAIR

#: Ways to take the image away.
WITHOUT = ("blank", "mean", "cut", "corrupt")

_SAME_WORDS = "both prompts of the pair are the same"
_ONE_UNIT = "there is one unit only"
_CATEGORY = Column("category", "text", "what kind of question it is, as in `pairs`")
_OPTIONAL_TASK = Column(TASK.name, TASK.kind, TASK.meaning, optional=True)
_MODEL = Column("model", "text", "the model that was asked, where a table holds several", optional=True)


def _log_odds(name: str, run: str, missing: str = "") -> Column:
    return Column(name, "number", f"LD of the correct and the incorrect answer, {run}", "logits", missing=missing)


LOG_ODDS_PARTS = Table(
    "log_odds_parts",
    "One row per pair and way to take the image away: what the image and what the words bring to the log-odds of the "
    "correct answer. log_odds = rest + image + words, where words are not missing; else rest + image.",
    (
        SAMPLE, UNIT_OF_PAIR, _OPTIONAL_TASK, _CATEGORY,
        Column("without", "text", "how the image is taken away: blank (an image of one color), mean (every image token "
               "is the mean one), cut (no attention to the image), corrupt (the pair's other image)", values=WITHOUT),
        _log_odds("log_odds", "clean image, clean prompt"),
        _log_odds("log_odds_no_image", "image taken away, clean prompt"),
        _log_odds("log_odds_other_words", "clean image, corrupt prompt", _SAME_WORDS),
        _log_odds("log_odds_neither", "image taken away, corrupt prompt", _SAME_WORDS),
        Column("image", "number", "part of the image: its Shapley value; where the words are the same, log_odds less "
               "log_odds_no_image", "logits"),
        Column("words", "number", "part of the words: their Shapley value", "logits", missing=_SAME_WORDS),
        Column("rest", "number", "what is left without both: log_odds_neither; where the words are the same, "
               "log_odds_no_image", "logits"),
        Column("interaction", "number", "how much more both bring together than one by one", "logits",
               missing=_SAME_WORDS),
        Column("answer", "text", "what the model answers, clean image, clean prompt"),
        Column("answer_no_image", "text", "what it answers when the image is taken away, clean prompt"),
        Column("is_correct", "boolean", "whether `answer` is the correct option"),
        Column("is_correct_no_image", "boolean", "whether `answer_no_image` is"),
        _MODEL,
    ),
    notebook="11_language_prior",
    key=("model", "task", "sample_id", "without"),
)  # fmt: skip


def _mean(name: str, what: str) -> tuple[Column, ...]:
    return (
        Column(name, "number", f"mean over units of {what}", "logits"),
        Column(f"{name}_low", "number", "lower end of its 95 % interval", "logits", missing=_ONE_UNIT),
        Column(f"{name}_high", "number", "upper end of it", "logits", missing=_ONE_UNIT),
        Column(f"{name}_q_value", "number", "of a two-sided test that it is 0, corrected for the false discovery rate "
               "over all heads", "probability", least=0, most=1),
    )  # fmt: skip


HEAD_SIDES = Table(
    "head_sides",
    "One row per head: what it carries of the image and of the words, from patches into runs in which one of both "
    "speaks for the other answer.",
    (
        BLOCK, MODULE, LAYER, HEAD_INDEX,
        Column("n", "integer", "pairs averaged", "pairs", least=0),
        Column("n_units", "integer", "independent units that these pairs belong to", "units", least=0),
        *_mean("image", "what the head brings back of the log-odds that the other image takes"),
        *_mean("words", "what the head brings back of the log-odds that the other words take"),
        Column("difference", "number", "words less image: large for a head that carries the words alone", "logits"),
        Column("side", "text", "what it carries: image, words, both or neither; of what it carries the mean is above 0 "
               "and the q-value below alpha",
               values=("image", "words", "both", "neither")),
        _MODEL,
    ),
    notebook="11_language_prior",
    key=("model", *HEAD),
)  # fmt: skip

DAMPED = Table(
    "damped",
    "One row per pair, set of heads, draw and factor: the clean run while the output of these heads is multiplied by "
    "the factor, beside the run as it is.",
    (
        SAMPLE, UNIT_OF_PAIR, _OPTIONAL_TASK, _CATEGORY,
        Column("heads", "text", "chosen: those that were given; random: as many others of the same kind",
               values=("chosen", "random")),
        Column("draw", "integer", "which random set, from 0; 0 for chosen", least=0),
        Column("factor", "number", "by which the heads' output is multiplied: 0 takes them away, 1 changes nothing",
               "factor"),
        Column("log_odds", "number", "LD of the correct and the incorrect answer while heads are damped", "logits"),
        Column("log_odds_before", "number", "LD of the run as it is", "logits"),
        Column("answer", "text", "what the model answers while heads are damped"),
        Column("answer_before", "text", "what it answers as it is"),
        Column("is_correct", "boolean", "whether `answer` is the correct option"),
        Column("was_correct", "boolean", "whether `answer_before` is"),
        _MODEL,
    ),
    notebook="11_language_prior",
    key=("model", "task", "sample_id", "heads", "draw", "factor"),
)  # fmt: skip

_LD = "LD of the correct and the incorrect answer"
_IS_CORRECT = Column("is_correct", "boolean", "whether `answer` is the correct option")
_IS_INCORRECT = Column("is_incorrect", "boolean", "whether `answer` is the incorrect option")
_STUDY = "15_planted_prior"

OPTION_SCORES = Table(
    "option_scores",
    "One row per pair and option: how probable the option is as the answer to the clean question about the clean "
    "image.",
    (
        SAMPLE, UNIT_OF_PAIR, _OPTIONAL_TASK, _CATEGORY,
        Column("noun", "text", "the thing that is asked about", optional=True),
        Column("option", "text", "the answer that is scored"),
        Column("log_prob", "number", "its log-probability, of all of its tokens", "nats"),
        Column("share", "number", "its probability among the options", "probability", least=0, most=1),
        Column("is_shown", "boolean", "whether it is the correct answer"),
        _MODEL,
    ),
    notebook=_STUDY,
    key=("model", "task", "category", "sample_id", "option"),
)  # fmt: skip

EARLY_ANSWERS = Table(
    "early_answers",
    "One row per pair and layer: what the clean run answers if the layers behind it are left out.",
    (
        SAMPLE, UNIT_OF_PAIR, _OPTIONAL_TASK, _CATEGORY, BLOCK,
        Column("layer", "integer", "the last layer that is kept", least=0),
        Column("log_odds", "number", f"{_LD}, decoded behind this layer", "logits"),
        Column("answer", "text", "what is answered"),
        _IS_CORRECT, _IS_INCORRECT, _MODEL,
    ),
    notebook=_STUDY,
    key=("model", "task", "category", "sample_id", "block", "layer"),
)  # fmt: skip

STEERED = Table(
    "steered",
    "One row per pair, layer, direction, draw and factor: the clean run while the direction, multiplied by the factor, "
    "is added behind the layer, beside the run as it is.",
    (
        SAMPLE, UNIT_OF_PAIR, _OPTIONAL_TASK, _CATEGORY, BLOCK,
        Column("layer", "integer", "behind which is added", least=0),
        Column("direction", "text", "difference: the mean difference of clean and corrupt runs of other units; random: "
               "a random one of the same length", values=("difference", "random")),
        Column("draw", "integer", "which random direction, from 0; 0 for difference", least=0),
        Column("factor", "number", "by which the direction is multiplied: 0 changes nothing", "factor"),
        Column("log_odds", "number", f"{_LD} of the steered run", "logits"),
        Column("log_odds_before", "number", f"{_LD} of the run as it is", "logits"),
        Column("answer", "text", "what the steered model answers"),
        Column("answer_before", "text", "what it answers as it is"),
        _IS_CORRECT,
        Column("was_correct", "boolean", "whether `answer_before` is the correct option"),
        _IS_INCORRECT,
        Column("was_incorrect", "boolean", "whether `answer_before` is the incorrect option"),
        _MODEL,
    ),
    notebook=_STUDY,
    key=("model", "task", "category", "sample_id", "block", "layer", "direction", "draw", "factor"),
)  # fmt: skip

PRIOR_TABLES = (LOG_ODDS_PARTS, HEAD_SIDES, DAMPED, OPTION_SCORES, EARLY_ANSWERS, STEERED)
