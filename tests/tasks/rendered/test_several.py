"""Questions about two pictures: what is asked is what they show, and the corruption is minimal."""

import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image, open_mask
from vlmtrace.core.schema import validate_pairs
from vlmtrace.tasks.rendered import several

N = 60


@pytest.fixture(scope="module")
def sampled():
    return [several.sample(seed=3, index=index) for index in range(N)]


def color(scene):
    return scene.things[0].color


def test_answers_are_what_the_pictures_show(sampled):
    for pair in sampled:
        right, wrong = pair.options
        assert {scene.things[0].noun for scene in (*pair.clean, *pair.corrupt)} == {pair.noun}
        for scenes, answer in ((pair.clean, right), (pair.corrupt, wrong)):
            if pair.category == "which":
                asked = pair.clean_prompt.split(" shows ")[1].split(" ")[1]
                shown = [color(scene) == asked for scene in scenes]
                assert shown.count(True) == 1 and several.ORDINALS[shown.index(True)] == answer
            elif pair.category == "color":
                asked = next(i for i, word in enumerate(several.ORDINALS) if f"the {word} picture" in pair.clean_prompt)
                assert color(scenes[asked]) == answer
            else:
                assert (color(scenes[0]) == color(scenes[1])) == (answer == "yes")


def test_only_one_picture_is_corrupted_where_one_is_enough(sampled):
    for pair in sampled:
        changed = [before != after for before, after in zip(pair.clean, pair.corrupt, strict=True)]
        assert sum(changed) == (2 if pair.category == "which" else 1) and pair.changed == changed.index(True)
        for before, after in zip(pair.clean, pair.corrupt, strict=True):
            assert before.with_value("color", "red") == after.with_value("color", "red"), "more than the color changes"


def test_kinds_and_orders_are_balanced(sampled):
    kinds = [(pair.category, pair.correct_first) for pair in sampled]
    assert {kinds.count(kind) for kind in set(kinds)} == {N // 6} and len(set(kinds)) == 6
    for pair in sampled:
        assert (pair.clean_prompt == pair.corrupt_prompt) == (pair.category != "color")
    asked = {pair.changed for pair in sampled if pair.category == "color"}
    assert asked == {0, 1}, "always the same picture is asked about"


def test_the_table_names_images_and_masks_of_both(sampled):
    pairs = validate_pairs(several.load(6, seed=3))
    loaded = vt.load_pairs("rendered_pictures", n=6, seed=3)
    assert loaded["sample_id"].tolist() == pairs["sample_id"].tolist()
    assert loaded["unit"].nunique() == 6, "two pairs show one picture"
    for pair, drawn in zip(pairs.to_dict("records"), sampled, strict=False):
        for clean, corrupt, scene, mask in zip(
            pair["clean_images"], pair["corrupt_images"], drawn.clean, pair["clean_object_masks"], strict=True
        ):
            image, other = (np.asarray(open_image(path)) for path in (clean, corrupt))
            assert np.array_equal(image, scene.render().pixels)
            inside = np.asarray(open_mask(mask, image.shape[1::-1])) > 0
            differs = (image != other).any(-1)
            assert differs.any() == (clean != corrupt) and inside.any()
            assert not differs[~inside].any() or differs[~inside].sum() < 0.5 * differs.sum(), "outside of the thing"
        assert pair["clean_object_mask"] == pair["clean_object_masks"][drawn.changed]


def test_training_shows_no_held_out_combination():
    assert all(
        thing.is_seen()
        for index in range(24)
        for pair in [several.sample(0, index, "train")]
        for scene in (*pair.clean, *pair.corrupt)
        for thing in scene.things
    )
    with pytest.raises(VlmtraceError, match="split"):
        several.load(1, seed=0, split="holdout")


@pytest.mark.slow
def test_a_family_of_several_images_answers_and_is_patched(model_store):
    model = model_store.shared("qwen2_vl")
    pairs = vt.load_pairs("rendered_pictures", n=6, model=model)
    usable, aside = vt.check_pairs(model, pairs, ["image"])
    assert len(usable) >= 4, aside["reason"].tolist()
    evaluated = vt.evaluate(model, usable, ["image"])
    assert evaluated["image_logit_diff"].notna().all()
    effects = vt.patch_regions(model, evaluated, modules=["residual"], regions=["image 1", "image 2", "image 1 object"])
    assert {"image 1", "image 2", "image 1 object"} == set(effects["token_role"])
