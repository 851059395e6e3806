"""Images are made smaller, or of one size, before the model's processor; positions still are where they say."""

import numpy as np
import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.alignment import is_aligned


@pytest.fixture(scope="module")
def path(model_store):
    return model_store.path("qwen2_vl")


def n_positions(model, size):
    return model.encode_image(Image.new("RGB", size))["input_ids"].shape[1]


def test_fewer_pixels_are_fewer_image_tokens(path):
    whole, small = vt.load_model(path, check=False), vt.load_model(path, max_pixels=3200, check=False)
    assert n_positions(small, (84, 56)) == n_positions(whole, (69, 46)) < n_positions(whole, (84, 56))
    assert n_positions(small, (50, 50)) == n_positions(whole, (50, 50)), "a small image stays as it is"


def test_images_of_one_size_are_aligned(path):
    sizes = (140, 56), (56, 140)
    assert not is_aligned(vt.load_model(path, check=False), *sizes)
    assert is_aligned(vt.load_model(path, image_size="84x84", check=False), *sizes)


@pytest.mark.parametrize("options", [{"max_pixels": 3000}, {"image_size": (56, 84)}])
@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "random_blip"])
def test_a_painted_square_is_found_at_the_position_that_claims_its_place(model_store, name, options):
    model = vt.load_model(model_store.path(name), check=False, **options)
    size = (120, 90)
    black = Image.new("RGB", size)
    cells = model.image_cells(black, model.encode_image(black), "vision_encoder")
    known = np.flatnonzero(~np.isnan(cells).any(axis=1))
    at = known[len(known) // 2]
    top, left, bottom, right = cells[at] * np.array([size[1], size[0], size[1], size[0]])
    painted = black.copy()
    painted.paste((255, 255, 255), tuple(map(round, (left, top, right, bottom))))
    site = model.sites(["vision_encoder"])[0]
    before, after = (model.trace(model.encode_image(image), [site]) for image in (black, painted))
    changed = (before.layer_inputs["vision_encoder"] - after.layer_inputs["vision_encoder"]).abs().sum(-1)
    assert int(changed.flatten().argmax()) == at


def test_the_record_says_what_was_done_to_images(path):
    model = vt.load_model(path, max_pixels=900, image_size="84x56", check=False)
    assert model.loading == "float32, max_pixels=900, image_size=84x56"
    assert model.opened(Image.new("RGB", (10, 10))).size == (36, 24)
