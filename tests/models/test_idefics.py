"""IDEFICS, the first: gated layers are layers, and its processor is given what it takes."""

import numpy as np
import pytest
import torch
from fixtures.family_parts import IDEFICS_CHAT
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Site
from vlmtrace.models.idefics import MASK

LANGUAGE = "language_model"
MARK, AROUND = "<image>", "<fake_token_around_image>"


@pytest.fixture(scope="module", params=["idefics", pytest.param("idefics_without_perceiver", marks=pytest.mark.slow)])
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (56, 70, 3), dtype=np.uint8))


def texts_of(model, inputs):
    return model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())


def test_gated_layers_stand_between_the_others(model):
    block = model.blocks[LANGUAGE]
    assert block.kinds == ("cross_attention", "attention", "attention") * 2 and block.n_layers == 6
    kinds = [type(model.layer_module(LANGUAGE, i)).__name__ for i in range(3)]
    assert kinds == ["IdeficsGatedCrossAttentionLayer", "IdeficsDecoderLayer", "IdeficsDecoderLayer"]
    attention = model.attention_module(Site(LANGUAGE, "self_attention", 3))
    assert attention is model.hf.model.gated_cross_attn_layers[1].cross_attn
    assert model.uses_fast_sweep and "vision_encoder" in model.blocks


def test_a_prompt_becomes_what_the_processor_makes_of_its_parts(model, picture):
    inputs = model.encode([picture], [model.prompt_text("is this red or blue?")])
    expected = model.processor(text=[[picture, "is this red or blue?"]], return_tensors="pt", add_special_tokens=False)
    assert inputs["input_ids"].equal(expected["input_ids"])
    assert inputs[MASK].equal(expected[MASK]) and inputs[MASK][0, :, 0].tolist()[:3] == [0, 0, 1]
    assert texts_of(model, inputs)[:4] == ["<s>", AROUND, MARK, AROUND]


@pytest.mark.parametrize("written", [MARK, f"{AROUND}{MARK}{AROUND}"])
def test_a_chat_template_puts_the_image_once(model_store, picture, written):
    model = model_store.load("idefics")
    model.processor.chat_template = IDEFICS_CHAT.replace(MARK, written).replace("<end_of_utterance>", "")
    inputs = model.encode([picture], [model.prompt_text("is this red or blue?")])
    texts = texts_of(model, inputs)
    assert texts.count("<s>") == 1 and texts.count(MARK) == 1 and texts.count(AROUND) == 2
    assert texts[0] == "<s>" and "User" in "".join(texts[: texts.index(MARK)])
    seen = inputs[MASK][0, :, 0].tolist()
    assert seen == [0] * texts.index(MARK) + [1] * (len(texts) - texts.index(MARK))


def test_a_prompt_without_an_image_is_what_the_processor_makes_of_it(model):
    """It gives such a prompt an image of zeros, which no position sees."""
    expected = model.processor(text=[["is this red or blue?"]], return_tensors="pt", add_special_tokens=False)
    found = model.encode_text(model.text_only_prompt("is this red or blue?"))
    assert found["input_ids"].equal(expected["input_ids"])
    with torch.no_grad():
        logits = model.hf(**expected).logits[:, -1]
        torch.testing.assert_close(model.answer_logits(found), logits, atol=1e-5, rtol=0)


def test_the_image_enters_where_it_is_replaced(model, random_pairs):
    clean, inputs = (run_inputs(model, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    with torch.no_grad():
        expected, embeddings = model.answer_logits(clean), model.image_embeddings(clean)
        rows = 4 if model.hf.config.use_resampler else 17
        assert embeddings.shape == (1, rows, 16)
        torch.testing.assert_close(model.answer_logits(inputs, embeddings), expected)
        assert (model.answer_logits(inputs) - expected).abs().max() > 1e-3


def test_new_tokens_see_the_image(model, picture):
    inputs = model.encode([picture], [model.prompt_text("is this red or blue?")])
    longer = model.extend(inputs, [47, 152])
    assert longer[MASK].shape[1] == longer["input_ids"].shape[1] and longer[MASK][0, -2:].all()
    assert model.image_ids == {model.tokenizer.convert_tokens_to_ids(MARK)}


def test_added_tokens_are_among_the_words_that_are_read_off(model, random_pairs):
    trace = model.trace(run_inputs(model, random_pairs.iloc[[0]], "clean"))
    last = trace[LANGUAGE, "residual", 5][:, -1]
    with torch.no_grad():
        found = model.unembed(model.final_norm(last))
    assert found.shape[-1] == len(model.tokenizer)
    torch.testing.assert_close(found, trace.logits, atol=1e-5, rtol=0)


def test_several_images_are_refused_in_a_sentence(model):
    with pytest.raises(vt.VlmtraceError, match="takes one image in a prompt, not 2"):
        model.prompt_text("is this red or blue?", n_images=2)


def test_a_prompt_that_is_an_address_is_not_fetched(model, picture, monkeypatch):
    """The processor takes such a part for where an image lies."""
    fetched = []
    monkeypatch.setattr(type(model.processor.image_processor), "fetch_images", lambda _self, url: fetched.append(url))
    with pytest.raises(
        vt.VlmtraceError, match=r"is an address alone, and the processor of .* would take it for an image"
    ):
        model.encode([picture], [model.prompt_text(" http://localhost/picture.png")])
    assert not fetched


@pytest.mark.medium
def test_methods_run_on_it_or_say_why_not(model, random_pairs):
    pairs = random_pairs.iloc[[0]]
    regions = vt.patch_regions(model, pairs, regions=["image"], block="vision_encoder")
    assert regions["logit_diff"].abs().max() > 1e-3
    assert vt.knock_out_attention(model, pairs)["logit_diff"].abs().max() > 1e-3
    assert vt.attribute_heads(model, pairs)["logit_diff"].abs().max() > 1e-3
    with pytest.raises(vt.VlmtraceError, match="adds image features behind later layers too"):
        vt.replace_image_tokens(model, pairs)
    with pytest.raises(vt.VlmtraceError, match="are not all alike"):
        vt.open_lens(model, run_inputs(model, pairs, "clean"))
