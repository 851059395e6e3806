"""Questions for what is shown and for what is usual: the picture tells the one, and nothing in it the other."""

import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import validate_pairs
from vlmtrace.tasks.rendered import usual
from vlmtrace.tasks.rendered.words import COLORS, NOUNS, is_held_out


def test_every_thing_has_every_color_as_often():
    pairs = [usual.sample(0, index) for index in range(720)]
    assert len({(pair.noun, *pair.colors) for pair in pairs}) == len(NOUNS) * len(COLORS) * (len(COLORS) - 1)
    few = {(pair.noun, pair.colors[0]) for pair in pairs[:80]}
    assert len(few) == 80, "the first 80 pairs do not have every noun in every color"


def test_pairs_differ_in_the_color_of_one_thing():
    for index in range(12):
        pair = usual.sample(3, index)
        assert pair.clean.things[1:] == pair.corrupt.things[1:] and pair.clean.backdrop == pair.corrupt.backdrop
        assert pair.corrupt == pair.clean.with_value("color", pair.colors[1])
        assert (pair.clean.things[0].noun, pair.clean.things[0].color) == (pair.noun, pair.colors[0])
        changed = (pair.clean.render().pixels != pair.corrupt.render().pixels).any(-1)
        shown = pair.clean.render().parts == 1
        # Texture, outline and shadow stand in the thing's own pixels; smoothing reaches one beyond.
        assert changed.any() and (changed & shown).sum() > 0.9 * changed.sum(), index


def test_training_pairs_show_training_combinations():
    for index in range(90):
        pair = usual.sample(0, index, "train")
        assert pair.seen_combination and not any(is_held_out(pair.noun, color) for color in pair.colors), index


def test_the_table_is_one_of_pairs():
    pairs = validate_pairs(vt.load_pairs("rendered_usual", n=9, seed=2))
    first = pairs.iloc[0]
    assert (first["clean_prompt"], first["corrupt_prompt"]) == ("What color is this circle?", "What color is a circle?")
    again = vt.load_pairs("rendered_usual", n=9, seed=2)
    assert again.equals(pairs[again.columns])
    for name in ("tiny-blip", "tiny-llava"):
        usable, left_out = vt.check_pairs(vt.load_model(name), pairs)
        assert len(usable) == 9, left_out
    with pytest.raises(VlmtraceError, match="split"):
        usual.sample(0, 0, "tests")


def test_a_study_needs_every_thing_in_every_color():
    usual.check_study(80, 1, 3, 1, 1, 1)
    with pytest.raises(VlmtraceError, match="samples must be at least 80, not 79"):
        usual.check_study(79, 1, None, None, 1, 1)
    with pytest.raises(VlmtraceError, match="conflicts must be at least 3, not 2"):
        usual.check_study(80, 1, 2, None, 1, 1)
    shown = {usual.sample(0, index).noun + usual.sample(0, index).colors[0] for index in range(80)}
    assert len(shown) == 80, "80 pairs do not show every thing in every color"
