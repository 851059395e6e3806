"""Questions about something that is not there: only what stands in its place changes."""

import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.core.images import open_image, open_mask
from vlmtrace.core.schema import validate_pairs
from vlmtrace.tasks.rendered import absent
from vlmtrace.tasks.rendered.words import COLORS

N = 40


@pytest.fixture(scope="module")
def sampled():
    return [absent.sample(seed=3, index=index) for index in range(N)]


def test_what_is_asked_about_is_in_one_image_alone(sampled):
    for pair in sampled:
        clean, corrupt = ([thing.noun for thing in scene.things] for scene in (pair.clean, pair.corrupt))
        assert pair.noun not in clean and corrupt[0] == pair.noun and clean[1] == corrupt[1]
        assert len(set(clean)) == 2
        offered = pair.prompt.removeprefix(f"Is this {pair.noun} ").rstrip("?").split(" or ")
        assert pair.color in offered and set(offered) <= set(COLORS) and len(set(offered)) == 2
        there, gone = pair.clean.things[0], pair.corrupt.things[0]
        assert there.color == gone.color == pair.color and (there.x, there.y) == (gone.x, gone.y)
        (other,) = set(offered) - {pair.color}
        assert other not in [thing.color for thing in pair.clean.things], "the other color is in the picture"
    first = [pair.prompt.index(pair.color) < pair.prompt.index(" or ") for pair in sampled]
    assert sum(first) == N // 2, "the lure stands first in half of the questions"


def test_training_pairs_show_training_combinations_only():
    for index in range(N):
        pair = absent.sample(seed=0, index=index, split="train")
        assert pair.seen_combination and all(s.things[0].is_seen() for s in (pair.clean, pair.corrupt))


@pytest.mark.medium
def test_the_table_is_one_of_pairs(sampled):
    pairs = validate_pairs(vt.load_pairs("rendered_absent", n=4, seed=3))
    assert pairs["clean_prompt"].tolist() == [pair.prompt for pair in sampled[:4]]
    assert set(pairs["correct_answer"]) == {"neither"}
    for pair in pairs.to_dict("records"):
        clean, corrupt = (np.asarray(open_image(pair[name])) for name in ("clean_image", "corrupt_image"))
        changed = (clean != corrupt).any(-1)
        rows, columns = np.nonzero(np.asarray(open_mask(pair["clean_distractor_mask"])))
        assert changed.any() and changed[rows, columns].mean() < 0.05, "the other thing has changed, too"
    evaluated = vt.evaluate(vt.load_model("tiny-blip"), pairs, ["image"])
    assert evaluated["image_is_flipped"].all()
