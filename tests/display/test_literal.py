"""Prompts, tokens, answers and names are data: every figure shows them as they are, in any script and of any length."""

import logging
import warnings

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from fixtures.every_figure import FIGURES
from matplotlib.figure import Figure
from matplotlib.text import Text

from vlmtrace import plots
from vlmtrace.display import literal as module
from vlmtrace.display.literal import BOX, literal, make_literal, shortened
from vlmtrace.display.style import new_figure, render_png, save_figure

TEXTS = {
    "formula": r"costs $5_{2}^{ or \frac $x",
    "one dollar": "a $ b",
    "backslashes": r"C:\new\table\u00e9 \alpha",
    "braces": "{0} {a} %s %(x)s",
    "underscore": "_private_name_",
    "control": "a\tb\x00c\x1b[31md\x7f",
    "lines": "one\ntwo\n\nthree",
    "separator": "one\u2028two",
    "emoji": "👍🏽 or 👩‍🚀?",
    "chinese": "这是红色还是蓝色？",
    "thai": "นี่คือสีแดงหรือสีน้ำเงิน",
    "arabic": "هل هو أحمر أم أزرق؟",
    "right to left": "\u202eabc\u202c",
    "long": "word " * 400,
    "long word": "W" * 5000,
    "blank": " ",
}


def with_text(data, *texts):
    """The tables with these texts in turn in the place of every prompt, answer, token, category and task."""
    names = ("clean_prompt", "corrupt_prompt", "correct_answer", "incorrect_answer", "token", "category", "task")

    def changed(table):
        if not isinstance(table, pd.DataFrame):
            return table
        new = {}
        for name in names:
            if name in ("category", "task") and name in table:
                # They stay as many as they were.
                kinds = enumerate(table[name].unique())
                own = {value: texts[i % len(texts)] + "'" * (i // len(texts)) for i, value in kinds}
                new[name] = table[name].map(own)
            elif name in table:
                new[name] = [texts[i % len(texts)] for i in range(len(table))]
        return table.assign(**new)

    return type(data)(**{name: changed(table) for name, table in vars(data).items()})


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def draw_without_a_warning(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw()
        assert render_png(figure, dpi=40)[:4] == b"\x89PNG"
    assert max(figure.get_size_inches()) <= 20, f"{figure.get_size_inches()} inches"
    return figure


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tables.every_table(tmp_path_factory.mktemp("pairs"))


#: Figures that choose a task by its name draw it by another here.
BY_TASK = ("accuracy of one task", "heads of one task", "many heads")


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in FIGURES if name not in BY_TASK])
def test_every_figure_shows_any_text(name, data):
    short = [text for text in TEXTS.values() if len(text) < 100]
    for texts in (short, [TEXTS["long"]], [TEXTS["long word"]]):
        draw_without_a_warning(lambda texts=texts: FIGURES[name](with_text(data, *texts)))


@pytest.mark.parametrize("kind", TEXTS)
def test_other_figures_show_any_text(kind, data):
    said = TEXTS[kind]
    row = dict(sample_id=said, category=said, block="text_encoder", module="mlp", token=said, token_role=said, step=0,
               answer_token=said, p_clean=0.9, p_corrupt=0.1, ci_low=0.0, ci_high=0.2)  # fmt: skip
    traced = pd.DataFrame(
        [row | dict(layer=i, position=j, indirect_effect=0.1 * i) for i in range(3) for j in range(2)]
    )
    boxes = pd.DataFrame({"position": [0, 1], "top": [0, 0], "left": [0, 0.5], "bottom": [1, 1], "right": [0.5, 1]})
    words = pd.DataFrame({"position": [0, 1], "rank": [0, 0], "word": [said, ""], "score": [0.1, 0.2]})
    image = data.pairs["clean_image"].iloc[0]
    noise = pd.DataFrame(
        [dict(sample_id=f"q{i}", category=said, level=level, p_answer=0.5, still_answers=0.5, ci_low=0.4, ci_high=0.6,
              step=0, answer_token=said) for i in range(3) for level in (0.0, 1.0)]
    )  # fmt: skip
    for draw in (
        lambda: plots.trace_map(traced, said),
        lambda: plots.average_trace(traced),
        lambda: plots.region_effects(tables.make_region_effects([said, "image"])),
        lambda: plots.word_grid(image, boxes, words, said),
        lambda: plots.patch_maps([image], [said], [{said: np.ones((2, 2))}], notes=[{said: said}]),
        lambda: plots.noise_curves(noise),
        lambda: plots.knockout_effects(
            tables.make_region_effects([said], modules=["self_attention"]),
            tables.make_region_effects([said, "image"], modules=["image_embeddings"], n_layers=1),
        ),
    ):
        draw_without_a_warning(draw)


def test_markup_is_shown_character_by_character(data):
    said = with_text(data, TEXTS["formula"])
    figure = plots.pair_gallery(said.pairs, 2)
    assert any(r"$5_{2}^{ or \frac $x" in text for text in texts_of(figure)), texts_of(figure)
    assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_letters_that_no_font_has_are_numbered_or_boxed(caplog):
    known = ("DejaVu Sans",)
    module._say_that_glyphs_are_missing.cache_clear()
    with caplog.at_level(logging.WARNING, "vlmtrace"):
        assert literal("is it 红?", known) == "is it [U+7EA2]?"
        assert literal("这是红色还是蓝色？", known) == BOX * 9
        assert literal("rouge é ß Ω ح", known) == "rouge é ß Ω ح"
    assert len(caplog.records) == 1, "the note is made once"
    assert "Install a font" in caplog.records[0].getMessage()


def test_control_characters_are_escaped_and_what_was_escaped_stays():
    once = literal("a\tb\x00c\ud83d\u2028")
    assert once == r"a\tb\x00c\ud83d\u2028" and literal(once) == once


def test_long_texts_are_cut_where_they_end():
    assert shortened("x" * 50, 20, 2) == "x" * 20 + "\n" + "x" * 18 + " …"
    assert shortened("short", 20, 2) == "short"
    long = shortened("word " * 400, 100, 6)
    assert len(long.split("\n")) == 6 and max(map(len, long.split("\n"))) <= 100 and long.endswith(" …")
    assert shortened(long, 100, 6) == long


def test_ticks_that_are_made_while_drawing_are_literal_too():
    figure = new_figure(height=2)
    axes = figure.subplots()
    axes.bar(["$x_{", "a\tb", "y" * 90], [1, 2, 3])
    figure.draw_without_rendering()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[:2] == ["$x_{", r"a\tb"] and len(labels[2].split("\n")[0]) <= 40, labels


def test_numbers_of_a_logarithmic_axis_stay_formulas():
    figure = new_figure(height=2)
    axes = figure.subplots()
    axes.plot([1, 1000], [1, 1000])
    axes.set_yscale("log")
    figure.draw_without_rendering()
    label = next(text for text in axes.get_yticklabels() if "10^{2}" in text.get_text())
    assert label.get_parse_math()


def test_figures_of_other_libraries_are_saved_literally(tmp_path):
    figure = Figure()
    figure.suptitle("costs $5_{ or $x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.text(0.1, 0.1, "红\t")
        assert len(save_figure(figure, tmp_path / "figure")) == 2
    make_literal(figure)
    assert figure.get_suptitle() == "costs $5_{ or $x"
