"""UDOP without words of the page: what its tokenizer gives, and which patch stands where."""

import numpy as np
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import Site
from vlmtrace.models.encoder_decoder import ENCODER
from vlmtrace.models.udop import Udop


@pytest.fixture(scope="module")
def model(model_store):
    found = model_store.shared("udop")
    assert isinstance(found, Udop)
    return found


def entering(model, inputs):
    return model.trace(inputs, [Site(ENCODER, "residual", 0)]).layer_inputs[ENCODER][0]


def test_inputs_are_those_of_the_models_own_processor_for_a_page_without_words(model, random_pairs):
    pair = random_pairs.iloc[0]
    text = model.prompt_text(pair["clean_prompt"])
    assert text == "Question answering. is this circle red or blue?"
    model.processor.image_processor.apply_ocr = False  # it needs Tesseract
    try:
        expected = model.processor(
            images=Image.open(pair["clean_image"]), text=text, text_pair=[""], boxes=[[0] * 4], return_tensors="pt"
        )
    finally:
        model.processor.image_processor.apply_ocr = True
    found = run_inputs(model, random_pairs.iloc[[0]], "clean")
    assert set(found) == {*expected, "decoder_input_ids"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], torch.as_tensor(value), rtol=0, atol=0)
    # The tokenizer without boxes gives the same tokens, and one separator.
    assert model.tokenizer(text).input_ids == found["input_ids"][0, :-1].tolist()


def test_words_and_patches_have_names(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    table = token_table(model, random_pairs.iloc[0], ENCODER, inputs)
    words = dict(zip(table["token_role"], table["token"], strict=True))
    assert words["correct"] == "▁red" and words["incorrect"] == "▁blue" and words["noun"] == "▁circle"
    n = inputs["input_ids"].shape[1]
    names = table["token"].tolist()
    assert names[n - 2 : n] == ["</s> 3,3"] * 2 and names[n] == "0,1" and names[-3:] == ["3,2", "padding", "padding"]


def test_a_painted_patch_changes_the_positions_that_show_it_and_the_first_changes_nothing(model):
    picture = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    inputs = model.encode_image(image)
    before, boxes = entering(model, inputs), model.image_cells(image, inputs)
    at = np.flatnonzero(model.image_positions(inputs, ENCODER))
    assert len(boxes) == len(at) == model.image_embeddings(inputs).shape[1]
    for row in range(4):
        for column in range(4):
            painted = picture.copy()
            painted[14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = [255, 0, 255]
            after = entering(model, model.encode_image(Image.fromarray(painted)))
            changed = np.flatnonzero((after - before).abs().amax(-1) > 1e-5)
            shows = (boxes == np.array([row, column, row + 1, column + 1]) / 4).all(axis=1)
            assert changed.tolist() == at[shows].tolist(), f"patch {row},{column}"
            assert len(changed) == {(0, 0): 0, (3, 3): 2}.get((row, column), 1)


def test_loading_says_that_words_are_not_given(model_store):
    with pytest.warns(UserWarning, match="as of a page on which no word was recognized"):
        vt.load_model(model_store.path("udop"))
