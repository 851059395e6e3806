"""Several images in a prompt: every family that takes them, and those that say that they take one."""

import re

import numpy as np
import pytest
import torch
from fixtures.families import TIERED
from fixtures.several_pairs import ALIKE, UNLIKE, two_image_pairs
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import Patches, Readout, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep import reference
from vlmtrace.models.universal import noise

LANGUAGE, VISION = "language_model", "vision_encoder"

#: Effects below this are too small, against what may differ, to prove anything.
VACUOUS = 2e-3


@pytest.fixture(scope="module", params=TIERED)
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture(scope="module")
def taking(model):
    """A model that takes several images; of the others only the refusal is tested."""
    if not model.family.several_images:
        pytest.skip("takes one image")
    return model


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return two_image_pairs(tmp_path_factory.mktemp("alike"), ALIKE)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    return two_image_pairs(tmp_path_factory.mktemp("unlike"), UNLIKE)


def patches(block, chosen):
    modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
    return Patches(block, modules, layers, heads, torch.tensor([positions]))


def assert_sweep_is_exact(model, pair, chosen_of):
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", "image"))
    before, after = model.trace(clean), model.trace(inputs)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    block, chosen = chosen_of(token_table(model, pair.iloc[0], LANGUAGE, clean), before)
    swept = patches(block, chosen)
    fast = model.sweep(before, after, inputs, swept, ids, memory=2**24)
    slow = reference.sweep(model, before, inputs, swept, ids)
    worst = (fast.logit_diff - slow.logit_diff).abs().max().item()
    assert worst <= 1e-4 * max(1, float(after.logits.abs().max())), f"{block}: logits are off by {worst:.2g}"
    effects = (slow.logit_diff - Readout.of(after.logits, ids).logit_diff[:, None]).abs()
    assert effects.max() > VACUOUS, "the patches of this test change nothing: it proves nothing"


def test_one_image_where_one_is_taken_is_said(model, alike):
    images = alike["clean_images"].iloc[0]
    if model.family.several_images:
        assert model.prompt_text("red or blue?", 2).count(model.image_placeholder) == 2
        return
    said = re.escape(f"takes one image in a prompt, not 2 ({model.family.one_image}): ask about one image at a time")
    for call in (lambda: model.prompt_text("?", 2), lambda: model.encode([images], [model.prompt_text("?")])):
        with pytest.raises(VlmtraceError, match=said):
            call()


def test_language_model_sweep_of_two_images_equals_reference(taking, alike):
    def chosen(table, _):
        block = taking.blocks[LANGUAGE]
        roles = table.set_index("position")["token_role"]
        places = [int(roles.index[roles == role][-1]) for role in ("image 1", "image 2", "correct", "last")]
        found = [(m, layer, None, at) for m in block.modules for layer in range(block.n_layers) for at in places]
        found += [("self_attention", layer, 0, at) for layer in range(block.n_layers) for at in places[1:]]
        return LANGUAGE, found

    assert_sweep_is_exact(taking, alike.iloc[[0]], chosen)


def test_vision_encoder_sweep_of_two_images_equals_reference(taking, alike):
    def chosen(_, trace):
        last = trace[VISION, "residual", 0].shape[1] - 1
        layers = range(taking.blocks[VISION].n_layers)
        return VISION, [("residual", layer, None, at) for layer in layers for at in (last // 2 + 2, last)]

    if VISION not in taking.blocks:
        pytest.skip("its vision encoder is not offered")
    assert_sweep_is_exact(taking, alike.iloc[[0]], chosen)


@pytest.mark.parametrize("which", ["alike", "unlike"])
def test_positions_belong_to_the_image_that_moves_them(taking, which, request):
    """The second image is changed: what the first one's positions hold stays to the bit, and the others' changes."""
    pair = request.getfixturevalue(which).iloc[[0]]
    images = pair["clean_images"].iloc[0]
    clean, inputs = (run_inputs(taking, pair, side) for side in ("clean", "image"))
    assert {name: value.shape for name, value in clean.items()} == {name: v.shape for name, v in inputs.items()}
    numbers = taking.image_numbers(images, clean, LANGUAGE)
    before, after = (taking.image_embeddings(given)[0] for given in (clean, inputs))
    moved = (before - after).abs().amax(-1).numpy()
    assert len(numbers) == len(before) and set(numbers) == {0, 1}
    assert moved[numbers == 0].max() < 1e-5, "a token of the first image changes with the second"
    placed = ~np.isnan(taking.image_cells(images, clean, LANGUAGE)).any(axis=1)
    assert (moved[(numbers == 1) & placed] > 1e-5).all(), "a token of the second image does not change with it"
    # Newlines between rows are no part of the image, where tokens have no place as well.
    assert (moved[numbers == 1] > 1e-5).mean() > 0.5, "most tokens of the second image do not change with it"
    if VISION not in taking.blocks:
        return
    numbers = taking.image_numbers(images, clean, VISION)
    before, after = (taking.trace(given)[VISION, "residual", 0][0] for given in (clean, inputs))
    assert len(numbers) == len(before) == len(taking.tokens(VISION, "", clean, images))
    moved = (before - after).abs().amax(-1).numpy()
    assert moved[numbers == 0].max() < 1e-5 and moved[numbers == 1].max() > 1e-3


@pytest.mark.parametrize("which", ["alike", "unlike"])
def test_tokens_say_their_image(taking, which, request):
    pair = request.getfixturevalue(which).iloc[0]
    clean = run_inputs(taking, pair.to_frame().T, "clean")
    table = token_table(taking, pair, LANGUAGE, clean)
    is_image = taking.is_image(clean)[0].numpy()
    numbers = taking.image_numbers(pair["clean_images"], clean, LANGUAGE)
    assert table.loc[is_image, "token_role"].tolist() == [f"image {number + 1}" for number in numbers]
    assert not table.loc[~is_image, "token_role"].str.startswith("image").any()
    assert {"correct", "incorrect"} <= set(table["token_role"])
    if VISION in taking.blocks:
        grids = taking.patch_grids(pair["clean_images"], clean)
        roles = [token.role for token in taking.tokens(VISION, "", clean, pair["clean_images"])]
        counts = [roles.count("image 1"), roles.count("image 2")]
        assert counts == [rows * columns for rows, columns in grids]


def painted(image, box):
    """The image with a box, in fractions of it, in another color."""
    top, left, bottom, right = (box * np.tile(image.size[::-1], 2)).round().astype(int)
    pixels = np.array(image)
    pixels[top:bottom, left:right] = [255, 0, 255]
    return Image.fromarray(pixels)


def shared_area(one, other):
    """Of the smaller of two boxes, how much lies in the other."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return np.prod(np.clip(sides, 0, None)) / min(np.prod(box[2:] - box[:2]) for box in (one, other))


def changes(model, images, which, box, block):
    """How much each position changes as it enters a block, when a box of one of the images is painted."""

    def entering(pictures):
        inputs = model.encode([pictures], [model.prompt_text("?", len(pictures))])
        if block == LANGUAGE:
            return model.image_embeddings(inputs)[0]
        return model.trace(inputs, [Site(VISION, "residual", 0)]).layer_inputs[VISION][0]

    other = [painted(image, box) if i == which else image for i, image in enumerate(images)]
    return (entering(other) - entering(images)).norm(dim=-1).numpy()


@pytest.mark.parametrize("which", [0, 1])
def test_a_painted_box_is_found_in_its_image(taking, which):
    """Where the positions' boxes say it lies; and nothing of the other image changes with it."""
    block = VISION if VISION in taking.blocks else LANGUAGE
    images = [Image.new("RGB", size, (128, 128, 128)) for size in ((60, 72), (90, 60))]
    if block == LANGUAGE:
        # No gray: where patches are normed one by one, a gray one turns at a touch of color.
        images = [noise(seed).resize(image.size) for seed, image in enumerate(images)]
    clean = taking.encode([images], [taking.prompt_text("?", 2)])
    numbers, boxes = (found(images, clean, block) for found in (taking.image_numbers, taking.image_cells))
    mine = np.flatnonzero((numbers == which) & ~np.isnan(boxes).any(axis=1))
    if not len(mine):
        pytest.skip("its tokens have no place")
    for position in mine[:: max(1, len(mine) // 3)]:
        moved = changes(taking, images, which, boxes[position], block)
        assert moved[numbers != which].max() < 1e-5, "a position of the other image changes"
        # Of tiles that show the same place, any may change most; and encoders carry a change on to other tokens.
        most, nearly = int(moved.argmax()), block == LANGUAGE and moved[position] > 0.8 * moved.max()
        assert nearly or shared_area(boxes[most], boxes[position]) > 0.5, f"{position} was painted, {most} changed most"


def test_image_tokens_are_made_of_the_patches_that_they_name(taking, unlike):
    """A patch of either image is overwritten behind the vision encoder: it changes tokens of that image alone."""
    if VISION not in taking.blocks:
        pytest.skip("its vision encoder is not offered")
    images = [open_image(path) for path in unlike["clean_images"].iloc[0]]
    inputs = taking.encode([images], [taking.prompt_text("?", 2)])
    patches, tokens = (taking.image_numbers(images, inputs, block) for block in (VISION, LANGUAGE))
    made_of = taking.token_patches(inputs, images)
    last = Site(VISION, "residual", taking.blocks[VISION].n_layers - 1)
    before = taking.image_embeddings(inputs)[0]
    for position in np.linspace(0, len(patches) - 1, 7).astype(int):

        def overwrite(value, position=position):
            value = value.clone()
            value[:, position] += torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(0))
            return value

        with attach_hooks([(taking.hook_point(last), overwrite)], n_pairs=1):
            changed = ((taking.image_embeddings(inputs)[0] - before).abs().amax(-1) > 1e-4).numpy()
        assert not changed[tokens != patches[position]].any(), "a token of the other image is made of this patch"
        if made_of is not None:
            assert np.array_equal(changed, made_of[:, position] > 0), f"patch {position} makes other tokens"


def test_of_equal_images_all_have_the_same_places(taking):
    image = Image.new("RGB", (36, 40))
    clean = taking.encode([[image, image, image]], [taking.prompt_text("?", 3)])
    boxes, numbers = (found([image] * 3, clean, LANGUAGE) for found in (taking.image_cells, taking.image_numbers))
    parts = [boxes[numbers == number] for number in range(3)]
    assert np.array_equal(parts[0], parts[1], equal_nan=True) and np.array_equal(parts[0], parts[2], equal_nan=True)
    if taking.family.square_side is None:
        assert np.isnan(boxes).all()
        return
    assert np.nanmin(boxes) >= 0 and np.nanmax(boxes) <= 1
    if not taking.family.model_type.startswith("llava_onevision"):  # several images are not cut into tiles there
        alone = taking.image_cells(image, taking.encode_image(image), LANGUAGE)
        np.testing.assert_allclose(parts[0], alone, atol=1e-9)


def test_prompts_of_two_images_in_one_batch_equal_each_alone(taking, alike):
    pairs = alike.iloc[[0, 2]]  # their prompts are the same, and their images are not
    together = taking.answer_logits(run_inputs(taking, pairs, "clean"))
    alone = [taking.answer_logits(run_inputs(taking, pairs.iloc[[i]], "clean"))[0] for i in range(2)]
    assert (together - torch.stack(alone)).abs().max() <= 1e-4 * max(1, float(together.abs().max()))
    assert (alone[0] - alone[1]).abs().max() > VACUOUS


def test_prompt_and_images_must_agree(taking, alike):
    images = alike["clean_images"].iloc[0]
    with pytest.raises(VlmtraceError, match=r"2 times, where .* is to see the images"):
        taking.encode([images], [taking.prompt_text("red or blue?")])
    with pytest.raises(VlmtraceError, match=r"once, where .* is to see the image:"):
        taking.encode([images[0]], [taking.prompt_text("red or blue?", 2)])
    with pytest.raises(VlmtraceError, match="empty list of images"):
        taking.encode([[]], [taking.prompt_text("red or blue?")])
