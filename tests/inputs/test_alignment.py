"""Two images are aligned where every position stands for the same place in both, and nowhere else."""

import numpy as np
import pandas as pd
import pytest
from fixtures.families import THROUGHOUT, TIERED, tier
from fixtures.sized_pairs import ONE_SIZE, QWEN, TILED, pair_of
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs import alignment
from vlmtrace.inputs.alignment import places_of, size_mismatch
from vlmtrace.inputs.pair_runs import encode_pair


def test_every_family_has_its_case():
    assert {*QWEN, *ONE_SIZE, *TILED} == set(THROUGHOUT), "add the new family to its kind above"


@pytest.mark.parametrize("name", TIERED)
def test_of_every_family_it_is_said_whether_sizes_agree(name, model_store):
    """Whatever a processor makes of them, by itself or among several; where nothing is known of places, too."""
    model = model_store.shared(name)
    for n_images in (1, 2) if model.family.several_images else (1,):
        try:
            found = alignment.sizes_mismatch(model, [(56, 28)] * n_images, [(28, 56)] * n_images)
        except vt.VlmtraceError as error:
            assert "use images of one size" in str(error)
        else:
            assert found is None or "SAME_SIZE=yes" in found
        assert alignment.sizes_mismatch(model, [(56, 28)] * n_images, [(56, 28)] * n_images) is None


@pytest.mark.parametrize("name", [pytest.param("kosmos2_5", marks=tier("kosmos2_5"))])
def test_without_places_the_form_of_the_images_must_agree(name, model_store):
    model = model_store.shared(name)
    flat, upright = places_of(model, (56, 28)), places_of(model, (28, 56))
    assert flat.shapes == upright.shapes and flat.ids == upright.ids, "the case proves nothing"
    assert "their inputs differ in form" in size_mismatch(model, (56, 28), (28, 56))
    assert size_mismatch(model, (56, 28), (112, 56)) is None


@pytest.mark.parametrize("name", QWEN)
def test_equal_token_counts_of_another_shape_are_refused(name, model_store):
    model = model_store.shared(name)
    flat, upright = places_of(model, (56, 28)), places_of(model, (28, 56))
    assert flat.n_tokens == upright.n_tokens, "the case proves nothing: shapes alone tell them apart"
    problem = size_mismatch(model, (56, 28), (28, 56))
    for part in ("56 × 28", "28 × 56", "SAME_SIZE=yes", "patches against", name):
        assert part in problem, problem
    assert size_mismatch(model, (60, 40), (120, 80)) is None, "both become the same grid"
    assert size_mismatch(model, (60, 40), (61, 40)) is None


@pytest.mark.parametrize("name", TILED)
def test_another_arrangement_of_tiles_is_refused(name, model_store):
    model = model_store.shared(name)
    assert "not aligned" in size_mismatch(model, (112, 56), (56, 112))
    assert size_mismatch(model, (112, 56), (114, 56)) is None


@pytest.mark.parametrize("name", ["internvl", "aya_vision"])
def test_two_tiles_side_by_side_are_not_two_tiles_one_below_the_other(name, model_store):
    model = model_store.shared(name)
    one, other = places_of(model, (112, 56)), places_of(model, (56, 112))
    assert (one.grid, one.ids, one.shapes) == (other.grid, other.ids, other.shapes), "the case proves nothing"
    assert "show other places" in size_mismatch(model, (112, 56), (56, 112))


@pytest.mark.parametrize("name", ["random_blip", *ONE_SIZE])
def test_images_that_are_cropped_or_stretched_to_one_square_are_aligned(name, model_store):
    model = model_store.shared(name)
    for sizes in (((56, 28), (28, 56)), ((60, 40), (200, 20)), ((1, 40), (60, 40)), ((640, 480), (480, 640))):
        assert size_mismatch(model, *sizes) is None, sizes


def test_padding_where_the_other_has_picture_is_refused(model_store):
    """LLaVA-1.5 whose processor fills images up to a square instead of cropping them."""
    model = model_store.load("llava")
    images = model.processor.image_processor
    plain = type(images).preprocess

    def padded(pictures, *args, **options):
        picture = pictures[0] if isinstance(pictures, list) else pictures
        square = Image.new("RGB", (max(picture.size),) * 2, (127, 127, 127))
        square.paste(picture, [(square.width - size) // 2 for size in picture.size])
        return plain(images, [square], *args, **options)

    images.preprocess = padded
    shapes = [places_of(model, size).shapes for size in ((90, 30), (30, 90))]
    assert shapes[0] == shapes[1], "the case proves nothing"
    assert "show other places" in size_mismatch(model, (90, 30), (30, 90))
    assert size_mismatch(model, (90, 30), (180, 60)) is None


def test_boxes_are_measured_relative_to_what_is_seen():
    whole = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1], [np.nan] * 4])
    cropped = np.array([[0, 0.25, 1, 0.5], [0, 0.5, 1, 0.75], [np.nan] * 4])
    assert alignment.same_places(whole, alignment.relative_to_seen(cropped))
    assert not alignment.same_places(whole, whole[[0, 2, 1]]), "the one shows nothing where the other does"
    for shift, same in ((0.2, True), (0.25, False), (0.3, False)):
        assert alignment.same_places(whole, whole + np.array([0, shift, 0, shift])) is same, (
            "half of a box is the limit"
        )


def test_places_are_found_once_for_each_size(model_store, monkeypatch):
    model = model_store.load("qwen2_vl")
    encoded = []
    plain = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda *args: encoded.append(1) or plain(*args))
    assert size_mismatch(model, (60, 40), (60, 40)) is None and not encoded, "images of one size are aligned"
    size_mismatch(model, (60, 40), (40, 60))
    before = len(encoded)
    assert before > 0
    size_mismatch(model, (60, 40), (40, 60))
    assert len(encoded) == before


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "idefics3"])
def test_pairs_that_are_not_aligned_are_refused_by_name_and_set_aside(name, model_store, tmp_path):
    model = model_store.shared(name)
    pairs = pair_of(tmp_path, (112, 56), (56, 112))
    with pytest.raises(vt.VlmtraceError, match="Pair 'one': The clean image of 112 × 56 pixels and"):
        encode_pair(model, pairs, 0, "image")
    with pytest.raises(vt.VlmtraceError, match="Pair 'one': The clean image of 112 × 56 pixels and"):
        vt.patch_modules(model, pairs, positions=["last"], modules=["residual"])
    usable, set_aside = vt.check_pairs(model, pairs)
    assert usable.empty and "SAME_SIZE=yes" in set_aside["reason"].iloc[0]
    assert len(vt.check_pairs(model, pairs, corruptions=["text"])[0]) == 1, "the corrupt image is not looked at"
    encode_pair(model, pairs, 0, "text")


def test_donors_of_a_resample_ablation_are_aligned(model_store, tmp_path):
    from vlmtrace.methods.patching.ablation import draw_donors

    model = model_store.shared("qwen2_vl")
    flat = pair_of(tmp_path, (56, 28), (56, 28))
    upright = pair_of(tmp_path, (28, 56), (28, 56), sample_id="upright")
    with pytest.raises(vt.VlmtraceError, match="no other pair of its"):
        draw_donors(model, flat, upright, seed=0)
    (tmp_path / "more").mkdir()
    fits = pair_of(tmp_path / "more", (60, 30), (60, 30), sample_id="fits")
    assert draw_donors(model, flat, pd.concat([upright, fits], ignore_index=True), seed=0) == [1]
