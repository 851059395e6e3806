"""Sentences about causal tracing."""

import pandas as pd

from vlmtrace.methods.causal_tracing import describe_noise, describe_trace


def traced(questions="ab"):
    rows = [
        {"sample_id": name, "category": "color", "step": 0, "block": "text_decoder", "module": module, "layer": layer,
         "token_role": "last", "position": 0, "indirect_effect": effect}
        for name in questions
        for module, effects in (("residual", (0.1, 0.9)), ("mlp", (0.0, 0.01)))
        for layer, effect in enumerate(effects)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_strongest_site_of_each_module_is_named():
    assert describe_trace(traced()).splitlines() == [
        "Answer token 1, two questions:",
        "- residual stream of the text decoder: most at the last position in layer 1, 0.90 (picked on these "
        "questions).",
        "- mlp of the text decoder: no site restores 0.02.",
    ]


def test_questions_of_one_image_are_counted_as_they_are_averaged():
    together = traced().assign(unit="a")
    assert describe_trace(together).splitlines()[0] == "Answer token 1, two questions in one unit:"


def test_one_question_has_no_interval_and_no_site_is_a_sentence():
    assert "in layer 1, 0.90." in describe_trace(traced("a"))
    assert describe_trace(traced(), step=1) == "No site of answer token 2 was traced."


def test_noise_is_told_at_the_level_that_was_chosen():
    levels = {"sample_id": "a", "level": [0.0, 2.0, 4.0], "step": 0}
    curve = pd.DataFrame({**levels, "p_answer": [0.9, 0.5, 0.1], "still_answers": [1.0, 0.5, 0.25]})
    assert describe_noise(curve, 4) == (
        "Over one question, noise of level 4 lowers the answer's mean probability from 0.90 to 0.10; in 25 % of the "
        "draws it remains the most likely answer."
    )
    later = curve.assign(step=1, p_answer=1.0, still_answers=1.0)
    assert describe_noise(pd.concat([curve, later]), 4) == describe_noise(curve, 4)
    units = [curve.assign(sample_id=name, unit=name) for name in "ab"]
    units.append(units[1].assign(sample_id="c", p_answer=[0.9, 0.5, 0.5]))
    said = describe_noise(pd.concat(units), 4)
    assert said.startswith("Over three questions in two units,") and "from 0.90 to 0.20;" in said
    assert describe_noise(curve[:0], 4) == "No question was asked under noise."
