"""The contract of pairs, questions and what becomes of them: notebooks 01 to 03."""

from __future__ import annotations

from vlmtrace.core.schema.columns import Column, Table

#: When the columns of text corruption may be missing.
SAME_PROMPTS = "both prompts are the same: the pair has no text corruption"


def _p(
    run: str, words: str, optional: bool, against: str = "the incorrect one", missing: str = ""
) -> tuple[Column, ...]:
    """What one run says of the two options."""
    return (
        Column(f"{run}_p_correct", "number", f"probability of the correct answer, {words}",
               "probability", optional, missing),
        Column(f"{run}_p_incorrect", "number", f"probability of the incorrect answer, {words}",
               "probability", optional, missing),
        Column(f"{run}_logit_diff", "number", f"LD of the correct answer and {against}, {words}: difference of their "
               "logits, or of their log-probabilities where one has several tokens", "logits", optional, missing),
    )  # fmt: skip


#: Column of what is independent of all else in a table: splits, tests and intervals go by it.
UNIT = "unit"

_UNIT = Column(
    UNIT,
    "text",
    "the unit that the pair belongs to: pairs that share an image or mirror each other have the same, and count as one",
    optional=True,
)

_ROLES = (
    Column("noun", "text", "the prompt's word for the thing asked about", optional=True, missing="not known"),
    Column("subject", "text", "the prompt's word for who does it", optional=True, missing="it is an option"),
    Column("verb", "text", "the prompt's word for what is done", optional=True, missing="it is an option"),
    Column("object", "text", "the prompt's word for what it is done to", optional=True, missing="it is an option"),
)

_ONE_IMAGE = "the prompt asks about one image"

_SEVERAL = (
    Column("clean_images", "texts", "paths of all images of the clean run, in the prompt's order, where it asks about "
           "several; clean_image is the first that differs between the runs", optional=True, missing=_ONE_IMAGE),
    Column("corrupt_images", "texts", "paths of all images of the run with corrupt images, as many", optional=True,
           missing=_ONE_IMAGE),
    Column("clean_object_masks", "texts", "of several images, the path of each one's mask of the object asked about, "
           "empty where it has none", optional=True, missing=_ONE_IMAGE),
    Column("clean_distractor_masks", "texts", "of several images, the path of each one's mask of the distractor, empty "
           "where it has none", optional=True, missing=_ONE_IMAGE),
)  # fmt: skip

_PAIR = (
    Column("sample_id", "text", "name of the pair, unique in the task"),
    Column("task", "text", "the data set that gave the pair"),
    Column("category", "text", "what kind of thing is asked, such as color or verb"),
    Column("clean_image", "text", "path of the clean image, relative to the repository or absolute"),
    Column("corrupt_image", "text", "path of the corrupt image, which shows the incorrect answer"),
    Column("clean_prompt", "text", "the question, with both options"),
    Column("corrupt_prompt", "text", "the question with both options replaced by others of as many tokens; the "
           "clean prompt again: a pair of images alone, without text corruption"),
    Column("correct_answer", "text", "the option that the clean image shows"),
    Column("incorrect_answer", "text", "the other option"),
    Column("correct_first", "boolean", "whether the correct option stands first in the prompt; where options do not "
           "stand there, whether it is the first of both as one says them (yes or no) or in the alphabet"),
    _UNIT,
    Column("clean_object_mask", "text", "path of a PNG, white where the clean image shows the object asked about",
           optional=True, missing="the pair has no mask"),
    Column("clean_distractor_mask", "text", "path of a PNG, white where the clean image shows the distractor",
           optional=True, missing="the pair has no mask"),
    *_ROLES,
    Column("replaced_by", "any", "of facial expressions: whether the corrupt prompt offers emotions of the opposite "
           "valence or others", optional=True),
    Column("split", "any", "of the rendered world: train, validation or test", optional=True),
    Column("seen_combination", "any", "of the rendered world: true if both scenes show only combinations that occur in "
           "training", optional=True),
    Column("answer_prefix", "text", "the given beginning of the answer, behind which the model goes on", optional=True,
           missing="none is given"),
    *_SEVERAL,
)  # fmt: skip

_EVALUATED = (
    Column("clean_input", "text", "the exact text handed to the processor in the clean run"),
    Column("corrupt_input", "text", "the exact text handed to the processor with the corrupt prompt"),
    Column("correct_token_id", "integer", "id of the correct answer's first token"),
    Column("incorrect_token_id", "integer", "id of the incorrect answer's first token"),
    Column("correct_tokens", "text", "all tokens of the correct answer, as they are measured", optional=True),
    Column("incorrect_tokens", "text", "all tokens of the incorrect answer, as they are measured", optional=True),
    Column("generated_answer", "text", "what the model answers in the clean run"),
    *_p("clean", "clean run", optional=False),
    Column("is_correct", "boolean", "whether the clean answer is the correct one"),
    Column("image_generated_answer", "text", "what the model answers with the corrupt image", optional=True),
    *_p("image", "corrupt image", optional=True),
    Column("image_is_flipped", "boolean", "whether the corrupt image makes the model give the incorrect answer",
           optional=True),
    Column("text_generated_answer", "text", "what the model answers to the corrupt prompt", optional=True,
           missing=SAME_PROMPTS),
    *_p("text", "corrupt prompt", optional=True, against="the corrupt run's own answer", missing=SAME_PROMPTS),
    Column("clean_text_logit_diff", "number", "LD of the clean run, against the same answer as text_logit_diff",
           "logits", optional=True, missing=SAME_PROMPTS),
    Column("text_options_logit_diff", "number", "LD of the correct answer and the incorrect one, corrupt prompt (the "
           "published contrast)", "logits", optional=True, missing=SAME_PROMPTS),
    Column("text_contrast_token", "text", "the answer that the model gives to the corrupt prompt, as far as it is "
           "measured", optional=True, missing=SAME_PROMPTS),
    Column("text_contrast_token_id", "integer", "id of its first token", optional=True, missing=SAME_PROMPTS),
    Column("text_is_changed", "boolean", "whether the corrupt prompt makes the model give up the correct answer",
           optional=True, missing=SAME_PROMPTS),
)  # fmt: skip

PAIRS = Table(
    "pairs",
    "One row per minimal pair: two images and two prompts that differ in the one thing that is asked.",
    _PAIR,
    "01_preprocess",
    per_task=True,
    key=("sample_id",),
    needs_rows=True,
)

FILTERS = Table(
    "filters",
    "One row per filter that the raw data went through, in order: rows in = rows used + rows set aside.",
    (
        Column("step", "text", "what the filter asks for"),
        Column("unit", "text", "what a row is at this step: images, rows, questions, pairs or corrupt prompts"),
        Column("rows_in", "integer", "rows that came in", least=0),
        Column("rows_used", "integer", "rows that passed", least=0),
        Column("rows_set_aside", "integer", "rows that did not pass", least=0),
    ),
    "01_preprocess",
    per_task=True,
)

SET_ASIDE = Table(
    "set_aside",
    "One row per raw row that did not become a pair, per pair whose corrupt prompt cannot be used, and per image "
    "beside those of a table that no row names.",
    (
        Column("step", "text", "the filter that it did not pass"),
        Column("row", "text", "what the raw data call the row"),
        Column("reason", "text", "why it did not pass"),
    ),
    "01_preprocess",
    per_task=True,
)

EVALUATED = Table(
    "evaluated",
    "One row per pair: the pairs table, and what the model answers clean and under each corruption. The columns of a "
    "corruption are there if it was run.",
    (*_PAIR, *_EVALUATED),
    "02_evaluate",
    per_task=True,
    key=("sample_id",),
    needs_rows=True,
)

SELECTED = Table(
    "selected",
    "One row per pair worth patching: rows of `evaluated`, balanced over category and option order.",
    (
        *EVALUATED.columns,
        Column(
            "split_use",
            "text",
            "discover: heads are found on it; verify: their faithfulness is measured on it",
            values=("discover", "verify"),
        ),
    ),
    "03_select_samples",
    per_task=True,
    key=("sample_id",),
    needs_rows=True,
)

QUESTIONS = Table(
    "questions",
    "One row per question without options, with its image. `load_questions` and `one_question` make it; notebooks 07 "
    "and 08 read it.",
    (
        Column("sample_id", "text", "name of the question, unique in the table"),
        Column("task", "text", "the data set that gave the question", optional=True),
        Column("category", "text", "what kind of thing is asked: color, count, location, yes/no, …"),
        Column("image", "text", "path of the image, relative to the repository or absolute"),
        Column("prompt", "text", "the question"),
        Column("answer", "text", "the right answer", optional=True),
        _ROLES[0],
        Column("object_mask", "text", "path of a PNG, white where the image shows what is asked about",
               optional=True, missing="the question has no mask"),
        Column(UNIT, "text", "the unit that the question belongs to: questions about one image count as one",
               optional=True),
        Column("sentences", "text", "what the image shows, told in words", optional=True,
               missing="words cannot tell it"),
    ),
)  # fmt: skip

PAIR_TABLES = (PAIRS, FILTERS, SET_ASIDE, EVALUATED, SELECTED, QUESTIONS)
