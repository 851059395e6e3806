"""Names that are both a region of the image and the role of a word."""

import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.inputs.token_roles import token_table


@pytest.fixture
def llava(model_store):
    return model_store.shared("llava")


@pytest.fixture
def verb_pairs(random_pairs):
    """Pairs as those of svo_probes: a column names the object's word, and there are no masks."""
    masks = [column for column in random_pairs if column.endswith("_mask")]
    return random_pairs.iloc[[2, 6]].drop(columns=masks).assign(object="ball").reset_index(drop=True)


def test_object_is_the_region_where_the_image_stands(llava, verb_pairs, tmp_path):
    pair, inputs = verb_pairs.iloc[0].to_dict(), run_inputs(llava, verb_pairs.iloc[[0]], "clean")
    assert "object" in set(token_table(llava, pair, "language_model", inputs)["token_role"])
    assert named_positions(llava, pair, "language_model", inputs, ["object", "all"]).keys() == {"all"}
    size = Image.open(pair["clean_image"]).size
    for color, n_found in ((0, 0), (255, 9)):  # a mask that covers nothing, and one that covers all
        Image.new("L", size, color).save(tmp_path / "mask.png")
        masked = pair | {"clean_object_mask": str(tmp_path / "mask.png")}
        found = named_positions(llava, masked, "language_model", inputs, ["object", "image"])
        assert found["image"].sum() == 9 and (found["object"].sum() if "object" in found else 0) == n_found
        assert n_found == 0 or (found["object"] == found["image"]).all()


def test_object_is_the_word_where_no_image_stands(random_blip, verb_pairs):
    pair, inputs = verb_pairs.iloc[0].to_dict(), run_inputs(random_blip, verb_pairs.iloc[[0]], "clean")
    block = random_blip.head_block.name
    roles = token_table(random_blip, pair, block, inputs)["token_role"]
    assert named_positions(random_blip, pair, block, inputs, ["object"])["object"].tolist() == list(roles == "object")


def test_no_effect_of_a_word_is_called_that_of_the_object_in_the_image(llava, verb_pairs):
    effects = vt.patch_regions(llava, verb_pairs, modules=["residual"], regions=["object", "image"])
    assert set(effects["token_role"]) == {"image"}
    cut = vt.knock_out_attention(llava, verb_pairs, edges=[("object", "last"), ("image", "last")])
    assert set(cut["token_role"]) == {"image → last"}
    of_word = vt.patch_modules(llava, verb_pairs, "text", modules=["residual"], positions=["object"])
    assert set(of_word["token_role"]) == {"object"} and (of_word["token"].str.strip() != "").all()
    with pytest.raises(VlmtraceError, match="Unknown position"):
        vt.patch_regions(llava, verb_pairs, modules=["residual"], regions=["objct"])
