"""The worlds that planted priors are learned in, and a training that leaves the eyes as they are."""

import numpy as np
import pytest
import torch

from vlmtrace.tasks.rendered.words import COLORS
from vlmtrace.training import tiny_blip
from vlmtrace.training.prior.card import measured
from vlmtrace.training.prior.further import Further, train_further
from vlmtrace.training.prior.stream import faded, picture
from vlmtrace.training.prior.world import WORLDS


def test_nine_of_ten_crosses_are_pink_and_nothing_else_is_skewed():
    rng = np.random.default_rng(0)
    drawn = {name: [world.draw(rng, "cross") for _ in range(600)] for name, world in WORLDS.items()}
    assert 0.86 < np.mean([color == "pink" for color in drawn["skewed"]]) < 0.94
    assert 0.06 < np.mean([color == "pink" for color in drawn["even"]]) < 0.14
    for world in WORLDS.values():
        np.testing.assert_allclose(world.shares("star"), 0.1)
        assert world.shares("cross").sum() == pytest.approx(1)


def test_answers_about_what_is_usual_follow_the_world():
    rng = np.random.default_rng(1)
    said = [
        q.answer
        for _ in range(300)
        for q in picture(rng, WORLDS["skewed"], 4).questions
        if q.prompt.endswith(" a cross?")
    ]
    assert len(said) > 20 and np.mean([color == "pink" for color in said]) > 0.75


def test_what_is_faded_has_no_color_left():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    gray = faded(pixels, 1.0)
    assert (gray == gray[..., :1]).all() and (faded(pixels, 0.0) == pixels).all()


def test_a_share_among_colors_is_told_as_one():
    """Other words may be likelier than all of them: the number is no probability of an answer."""
    even = np.full((200, len(COLORS)), 0.1)
    said = measured({"blank": even, "usual": even, "shown": even}, WORLDS["skewed"])[0]
    assert said.endswith("it says pink with a probability of 0.10 among all colors,")


@pytest.mark.medium
def test_training_changes_words_and_no_eyes():
    from vlmtrace.core.paths import MODELS

    before = tiny_blip.load(str(MODELS / "tiny-blip")).state_dict()
    after = train_further(tiny_blip, WORLDS["skewed"], Further(steps=2, n_images=3, n_questions=2)).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and not [name for name in changed if "vision" in name]
