"""Donut and TrOCR, loaded by `load_model`: every site equals a hooked pass, and positions are where they say."""

import json
from itertools import product

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.relevancy import relevancy
from vlmtrace.models import Patches, Readout
from vlmtrace.models.image_decoder import DECODER, VISION, ImageDecoder
from vlmtrace.models.sweep import reference


@pytest.fixture(scope="module", params=["donut", "trocr"])
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture(scope="module")
def donut(model_store):
    return model_store.shared("donut")


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_every_layer_module_and_head_equals_hooked_passes(model, random_pairs, corruption, record_property):
    assert isinstance(model, ImageDecoder) and model.uses_fast_sweep
    pair = random_pairs.iloc[[1]]
    clean_inputs, inputs = (run_inputs(model, pair, side) for side in ("clean", corruption))
    clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    base = Readout.of(corrupt.logits, ids)
    blocks = [model.blocks[DECODER]] + ([model.blocks[VISION]] if corruption == "image" else [])
    for block in blocks:
        length = clean[block.name, "residual", 0].shape[1]
        places = sorted({1, length // 2, length - 1})
        chosen = [(m, layer, None, at) for m, layer, at in product(block.modules, range(block.n_layers), places)]
        chosen += [(m, layer, 1, at) for m, layer, at in product(block.head_modules, range(block.n_layers), places)]
        modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
        patches = Patches(block.name, modules, layers, heads, torch.tensor([positions]))
        fast = model.sweep(clean, corrupt, inputs, patches, ids, memory=2**28)
        slow = reference.sweep(model, clean, inputs, patches, ids)
        worst = max((getattr(fast, name) - getattr(slow, name)).abs().max().item() for name in vars(slow))
        record_property(f"largest difference in {block.name}", worst)
        assert worst <= 1e-4, f"{block.name}: logits are off by {worst:.2g}"
        assert (slow.logit_diff - base.logit_diff[:, None]).abs().max() > 2e-3


def test_stages_and_layers_below_a_patch_are_skipped(donut, random_pairs):
    model = donut
    clean_inputs, inputs = (run_inputs(model, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    patches = Patches(DECODER, ["residual"], [2], [None], torch.tensor([[3]]))
    model.sweep(clean, corrupt, inputs, patches, torch.tensor([[5, 6]]), memory=2**28)
    assert model.skippable == {"stages", VISION, DECODER}


def test_positions_are_named_and_of_image_embeddings(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    text = model.prompt_text(random_pairs["clean_prompt"].iloc[0])
    seen, read = (model.tokens(block, text, inputs) for block in (VISION, DECODER))
    trace = model.trace(inputs)
    assert len(seen) == trace[VISION, "residual", 0].shape[1] == model.image_embeddings(inputs).shape[1]
    assert len(seen) == len(model.image_positions(inputs, VISION))
    assert len(read) == trace[DECODER, "residual", 0].shape[1] and read[-1].role == "last"


def test_the_question_stands_between_the_marks_of_questions(donut, random_pairs):
    model = donut
    assert model.prompt_text("is this red?") == "<s_docvqa><s_question>is this red?</s_question><s_answer>"
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    text = model.prompt_text(random_pairs["clean_prompt"].iloc[0])
    seen, read = (model.tokens(block, text, inputs) for block in (VISION, DECODER))
    assert len(read) == inputs["input_ids"].shape[1] and read[0].role == "<s_docvqa>" and read[-1].role == "last"
    rows, columns = model.patch_grid(inputs)
    assert (rows, columns) == (8, 12) and [token.text for token in seen][-1] == "7,11"
    assert len(seen) == model.image_embeddings(inputs).shape[1] == len(model.token_patches(inputs))
    assert np.isnan(model.image_cells(random_pairs["clean_image"].iloc[0], inputs)).all()


def test_the_image_enters_where_it_is_replaced(model, random_pairs):
    clean, inputs = (run_inputs(model, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    with torch.no_grad():
        expected = model.answer_logits(clean)
        torch.testing.assert_close(model.answer_logits(inputs, model.image_embeddings(clean)), expected)
        assert (model.answer_logits(inputs) - expected).abs().max() > 1e-3


@pytest.mark.medium
def test_methods_run_on_them(model, random_pairs):
    pairs = random_pairs.iloc[[0, 1]]
    heads = vt.patch_heads(model, pairs, positions=["correct"])
    assert set(heads["module"]) == {"self_attention", "cross_attention"} and heads["logit_diff"].abs().max() > 1e-4
    cuts = vt.knock_out_attention(model, pairs.iloc[[0]], edges=[("image", "last")])
    assert cuts["logit_diff"].abs().max() > 1e-4
    whole = pairs.iloc[[0]].assign(correct_answer="red circle", incorrect_answer="blue square")
    effects = vt.patch_modules(model, whole, "text", blocks=[DECODER], positions=[3, 5, 6, 7])
    assert effects["logit_diff"].abs().max() > 1e-3
    with pytest.raises(vt.VlmtraceError, match="reads its question in its text_decoder"):
        relevancy(model, pairs["clean_image"].iloc[0], pairs["clean_prompt"].iloc[0])


def test_other_models_of_the_same_class_are_refused(tmp_path):
    config = {
        "model_type": "vision-encoder-decoder",
        "architectures": ["VisionEncoderDecoderModel"],
        "encoder": {"model_type": "vit"},
        "decoder": {"model_type": "gpt2"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(vt.VlmtraceError, match=r"made of vit and gpt2, which is not known \(those of"):
        vt.load_model(tmp_path)
