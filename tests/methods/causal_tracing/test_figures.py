"""Figures of causal tracing show what the tables say."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.causal_tracing.figures import two_seeds
from vlmtrace.methods.causal_tracing.noise import choose_level
from vlmtrace.methods.causal_tracing.summary import average_effects


def traced(n_questions=3, steps=1, modules=("residual", "mlp")) -> pd.DataFrame:
    """Effects that grow with the layer; each question a tenth above the one before."""
    rows = [
        dict(
            sample_id=f"q{question}", category="color", block=block, module=module, layer=layer, position=position,
            token=role, token_role=role, step=step, answer_token="red", p_clean=0.9, p_corrupt=0.1,
            indirect_effect=0.1 * layer + 0.1 * question + 0.01 * position,
            ci_low=0.1 * layer, ci_high=0.1 * layer + 0.2,
        )
        for question in range(n_questions)
        for step in range(steps)
        for block, roles in (("text_encoder", ("what", "noun", "?")), ("text_decoder", ("last",)))
        for module in modules
        for layer in range(4)
        for position, role in enumerate(roles)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def shown(axes) -> np.ndarray:
    """The numbers of a heat map, the lowest layer first."""
    return np.asarray(axes.collections[0].get_array()).reshape(4, -1)


def test_one_question_is_shown_cell_by_cell():
    figure = plots.trace_map(traced(), "q1")
    maps = [axes for axes in figure.axes if axes.collections and axes.get_label() != "<colorbar>"]
    assert [axes.get_title() for axes in maps] == ["text encoder", "text decoder", "", ""]
    expected = [[0.1 * layer + 0.1 + 0.01 * position for position in range(3)] for layer in range(4)]
    np.testing.assert_allclose(shown(maps[0]), expected)
    assert [label.get_text() for label in maps[2].get_xticklabels()] == ["what", "noun", "?"]
    assert "q1" in figure.get_suptitle() and "red" in figure.get_suptitle()


def test_several_questions_are_not_mixed_up_in_a_map_of_one():
    with pytest.raises(VlmtraceError, match="several values of sample_id"):
        plots.trace_map(traced())


def test_the_average_is_over_questions():
    figure = plots.average_trace(traced())
    maps = [axes for axes in figure.axes if axes.collections and axes.get_label() != "<colorbar>"]
    np.testing.assert_allclose(shown(maps[1])[:, 0], [0.1 * layer + 0.1 for layer in range(4)])
    bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert "n = 3" in bar.get_xlabel() and "indirect effect" in bar.get_xlabel()


def test_the_average_is_that_of_the_table_where_questions_share_an_image():
    table = traced(modules=["residual"]).assign(unit=lambda rows: rows["sample_id"].replace("q1", "q0"))
    figure = plots.average_trace(table)
    last = next(axes for axes in figure.axes if axes.get_title() == "text decoder")
    found = average_effects(table).query("block == 'text_decoder'")
    np.testing.assert_allclose(shown(last)[:, 0], found["mean"])
    np.testing.assert_allclose(found["mean"], [0.1 * layer + (0.05 + 0.2) / 2 for layer in range(4)])
    bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert "n = 3 questions in 2 units" in bar.get_xlabel()


def test_a_step_that_was_not_traced_is_named():
    with pytest.raises(VlmtraceError, match="step"):
        plots.average_trace(traced(), step=1)


def test_differences_stand_at_their_role():
    table = pd.DataFrame(
        [
            (0, "text_encoder", "residual", "noun", 0.3, 0.1, 0.5, 9, "later"),
            (0, "text_encoder", "residual", "?", 0.1, 0.05, 0.15, 8, "no difference seen"),
        ],
        columns=["step", "block", "module", "token_role", "difference", "ci_low", "ci_high", "n", "verdict"],
    )
    (axes,) = plots.upper_against_lower(table).axes
    points = {
        float(line.get_xdata()[0]): line.get_markerfacecolor() for line in axes.lines if len(line.get_xdata()) == 1
    }
    assert set(points) == {0.3, 0.1} and points[0.1] == "white" != points[0.3], "only corrected differences are filled"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["noun (n = 9)", "? (n = 8)"]


def test_two_seeds_are_set_against_each_other():
    first = traced(1)
    second = first.assign(indirect_effect=first["indirect_effect"] + 0.3)
    figure = plots.pairing_scatter({"same": (first, first), "apart": (first, second.iloc[::-1])})
    assert [axes.get_title().splitlines()[1] for axes in figure.axes] == [
        "0.000 apart (root mean square)",
        "0.300 apart (root mean square)",
    ]
    with pytest.raises(VlmtraceError, match="list other sites"):
        plots.pairing_scatter({"broken": (first, second.iloc[1:])})


def test_seeds_that_cannot_be_compared_are_sentences():
    one = traced(1)
    for first, second, sentence in (
        (one, one.drop(columns="indirect_effect"), "has no column 'indirect_effect'"),
        (one[:0], one, "no row"),
        (one, pd.concat([one, one]), "A site stands twice"),
    ):
        with pytest.raises(VlmtraceError, match=sentence):
            two_seeds(first, second)
    with pytest.raises(VlmtraceError, match="no map to draw"):
        plots.pairing_scatter({})


def curve(values: dict[float, float]) -> pd.DataFrame:
    rows = [
        dict(sample_id=f"q{i}", category="color", level=level, p_answer=p + 0.01 * i, still_answers=p)
        for i in range(2)
        for level, p in values.items()
    ]
    return pd.DataFrame(rows)


def test_curves_and_the_chosen_level():
    table = curve({0: 0.9, 1: 0.8, 2: 0.25, 3: 0.21, 6: 0.2})
    assert choose_level(table) == 2, "0.65 of 0.7 is more than nine tenths of what noise can take"
    assert choose_level(table, share=0.99) == 6
    with pytest.raises(VlmtraceError, match="no level 0"):
        choose_level(table[table["level"] > 0])
    figure = plots.noise_curves(table, level=2)
    line = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 5)
    np.testing.assert_allclose(line.get_ydata(), [0.905, 0.805, 0.255, 0.215, 0.205])
    assert "chosen (2)" in [text.get_text() for text in figure.legends[0].get_texts()]


def line_of(figure, n: int) -> np.ndarray:
    """The curve of p(answer), of n levels."""
    return next(line for line in figure.axes[0].lines if len(line.get_xdata()) == n).get_ydata()


def test_later_tokens_of_an_answer_are_no_further_questions():
    """Behind the first token, the second needs no image: noise takes nothing of it."""
    first, levels = curve({0: 0.9, 1: 0.5, 2: 0.1}), [0.9, 0.9, 0.9]
    both = pd.concat([first.assign(step=0), curve(dict(zip((0, 1, 2), levels, strict=True))).assign(step=1)])
    assert choose_level(both, share=0.6) == choose_level(first, share=0.6) == 2
    figure = plots.noise_curves(both)
    np.testing.assert_allclose(line_of(figure, 3), [0.905, 0.505, 0.105])
    title = "First token of the clean answer under noise (mean over n = 2 questions, 95 % intervals)"
    assert figure.get_suptitle() == title
    assert plots.noise_curves(first).get_suptitle().startswith("Clean answer under noise")


def test_questions_about_one_image_are_one_point_of_the_curve():
    table = pd.concat(
        [curve({0: 0.9, 1: 0.5, 2: 0.1}), curve({0: 0.9, 1: 0.1, 2: 0.1}).replace({"q0": "q2", "q1": "q3"})]
    )
    table["unit"] = table["sample_id"].replace({"q3": "q2"})
    figure = plots.noise_curves(table)
    np.testing.assert_allclose(line_of(figure, 3), [0.905, (0.5 + 0.51 + 0.105) / 3, 0.105])
    assert "n = 4 questions in 3 units" in figure.get_suptitle()
    assert choose_level(table, share=0.7) == 2 and choose_level(table.drop(columns="unit"), share=0.7) == 1
