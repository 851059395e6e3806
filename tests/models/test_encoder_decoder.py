"""Models with an encoder and a decoder of text, loaded by `load_model`: every site equals a hooked forward pass."""

from itertools import product

import numpy as np
import pytest
import torch
from fixtures.family_builders import encoder_decoders

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.relevancy import relevancy
from vlmtrace.models import Patches, Readout, Site
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.encoder_decoder import DECODER, ENCODER, EncoderDecoder
from vlmtrace.models.sweep import reference


@pytest.fixture(scope="module", params=[name for name in encoder_decoders.APART if name not in ("donut", "trocr")])
def model(request, model_store):
    return model_store.shared(request.param)


def runs(model, pairs, corruption):
    pair = pairs.iloc[[1]]
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", corruption))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    return model.trace(clean), model.trace(inputs), inputs, ids


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_every_layer_module_and_head_equals_hooked_passes(model, random_pairs, corruption, record_property):
    assert isinstance(model, EncoderDecoder) and model.uses_fast_sweep
    clean, corrupt, inputs, ids = runs(model, random_pairs, corruption)
    base = Readout.of(corrupt.logits, ids)
    for block in model.blocks.values():
        length = clean[block.name, "residual", 0].shape[1]
        places = sorted({0, length // 2, length - 1})
        chosen = [(m, layer, None, at) for m, layer, at in product(block.modules, range(block.n_layers), places)]
        chosen += [
            (m, layer, block.n_heads - 1, at)
            for m, layer, at in product(block.head_modules, range(block.n_layers), places)
        ]
        modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
        patches = Patches(block.name, modules, layers, heads, torch.tensor([positions]))
        fast = model.sweep(clean, corrupt, inputs, patches, ids, memory=2**28)
        slow = reference.sweep(model, clean, inputs, patches, ids)
        worst = max((getattr(fast, name) - getattr(slow, name)).abs().max().item() for name in vars(slow))
        record_property(f"largest difference in {block.name}", worst)
        assert worst <= 1e-4, f"{block.name}: logits are off by {worst:.2g}"
        effects = (slow.logit_diff - base.logit_diff[:, None]).abs()[0]
        for module in block.modules:
            assert effects[[i for i, name in enumerate(modules) if name == module]].max() > 1e-3, f"{module}: no effect"


def test_all_of_the_last_decoder_layer_is_all_that_is_read(model, random_pairs):
    clean, corrupt, inputs, ids = runs(model, random_pairs, "image")
    last, end = model.blocks[DECODER].n_layers - 1, inputs["decoder_input_ids"].shape[1] - 1
    patches = Patches(DECODER, ["residual"], [last], [None], torch.tensor([[end]]))
    found = model.sweep(clean, corrupt, inputs, patches, ids, memory=2**28)
    torch.testing.assert_close(found.correct[:, 0], Readout.of(clean.logits, ids).correct, atol=1e-4, rtol=0)


def test_positions_have_names_and_the_image_its_places(model, random_pairs):
    pair = random_pairs.iloc[[0]]
    inputs = run_inputs(model, pair, "clean")
    text = model.prompt_text(pair["clean_prompt"].iloc[0])
    encoder, decoder = (model.tokens(block, text, inputs) for block in (ENCODER, DECODER))
    entering = model.trace(inputs, [Site(ENCODER, "residual", 0)]).layer_inputs[ENCODER]
    assert len(encoder) == entering.shape[1] and len(decoder) == inputs["decoder_input_ids"].shape[1]
    is_image = model.image_positions(inputs, ENCODER)
    assert [token.role == "image" for token in encoder] == is_image.tolist() and is_image.any()
    assert decoder[-1].role == "last"
    boxes = model.image_cells(pair["clean_image"].iloc[0], inputs)
    # Where image tokens lie is known of UDOP alone; see its own tests.
    assert boxes.shape == (is_image.sum(), 4) and np.isnan(boxes).all() == (model.family.name != "UDOP")
    longer = model.extend(inputs, [7, 8])
    assert [token.role for token in model.tokens(DECODER, text, longer)][-3:] == ["answer", "answer", "last"] or len(
        decoder
    ) == 1


def test_the_image_enters_where_it_is_replaced(model, random_pairs):
    clean, inputs = (run_inputs(model, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    with torch.no_grad():
        expected = model.answer_logits(clean)
        torch.testing.assert_close(model.answer_logits(inputs, model.image_embeddings(clean)), expected)
        assert (model.answer_logits(inputs) - expected).abs().max() > 1e-3


def test_answers_are_what_the_model_generates(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    ids = model.hf.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=1, forced_eos_token_id=None)[
        0
    ].tolist()
    start = inputs["decoder_input_ids"][0].tolist()
    ids = ids[len(start) :] if ids[: len(start)] == start else ids
    found = model.answer_tokens(inputs, max_new_tokens=4)
    stop = next((i for i, token in enumerate(ids) if token in model.stop_ids), len(ids))
    assert found == ids[:stop]


@pytest.mark.medium
def test_methods_run_on_encoder_and_decoder(model, random_pairs):
    pairs = random_pairs.iloc[[0, 1]]
    modules = vt.patch_modules(model, pairs, "text", positions=["correct", "last"])
    assert set(modules["block"]) == {ENCODER, DECODER} and modules["logit_diff"].abs().max() > 1e-3
    heads = vt.patch_heads(model, pairs, positions=["correct"])
    assert set(heads["block"]) == {ENCODER} and heads["logit_diff"].abs().max() > 1e-4
    cuts = vt.knock_out_attention(model, pairs.iloc[[0]], edges=[("image", "all")])
    assert cuts["logit_diff"].abs().max() > 1e-4


def test_a_knockout_takes_attention_away_in_every_layer(model, random_pairs):
    """A position that sees nothing but itself gives its own value."""
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    length = len(model.image_positions(inputs, ENCODER))
    alone = ~torch.eye(length, dtype=torch.bool)[None]
    layers = range(model.blocks[ENCODER].n_layers)
    sites = [Site(ENCODER, "residual", layer) for layer in layers]
    changed = dict(inputs, input_ids=inputs["input_ids"].clone())
    words = (~model.is_image(inputs)[0, : inputs["input_ids"].shape[1]]).nonzero()[:, 0]
    at = int(words[len(words) // 2])
    changed["input_ids"][0, at] = inputs["input_ids"][0, at] - 1
    with torch.no_grad(), cut(model, "self_attention", list(layers), alone, ENCODER):
        one, other = model.trace(inputs, sites), model.trace(changed, sites)
    # What only fills up may see nothing at all, and nothing sees it.
    names = model.tokens(ENCODER, model.prompt_text(random_pairs["clean_prompt"].iloc[0]), inputs)
    seen = torch.tensor([name.role != "padding" for name in names])
    for site in sites:
        differs = ((one[site] - other[site]).abs().amax(-1)[0] > 1e-5) & seen
        assert differs.nonzero()[:, 0].tolist() == [at], f"layer {site.layer}: others have seen the changed word"


def test_answers_of_several_tokens(model, random_pairs):
    pair = random_pairs.iloc[[0]].assign(correct_answer="red circle", incorrect_answer="blue square")
    whole = vt.patch_modules(model, pair, "text", blocks=[ENCODER], positions=[3, 5, 6])
    assert whole["logit_diff"].abs().max() > 1e-3


def test_what_follows_attention_in_one_sequence_is_refused(model, random_pairs):
    pair = random_pairs.iloc[0]
    with pytest.raises(vt.VlmtraceError, match="reads its question in its text_encoder and answers in its"):
        relevancy(model, pair["clean_image"], pair["clean_prompt"])
    sentence = r"reads the image's tokens in its text_encoder and answers in its text_decoder.*\(patch_modules"
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.open_lens(model, run_inputs(model, random_pairs.iloc[[0]], "clean"))
