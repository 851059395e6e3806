"""GIT: inputs say what stands at each position, and the model runs on what its own processor would give."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.relevancy.propagation import relevancy
from vlmtrace.models import Site
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.families.git import MASK

LANGUAGE, N_IMAGE = "language_model", 10  # a class token and 3 × 3 patches


@pytest.fixture(scope="module")
def git(model_store):
    return model_store.shared("git")


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (42, 42, 3), dtype=np.uint8))


def encode(model, picture, prompt):
    return model.encode([picture], [model.prompt_text(prompt)])


def test_the_model_sees_the_start_token_and_the_words_alone(git, picture):
    """A prompt that was closed with [SEP] would be one whose answer has ended."""
    inputs = encode(git, picture, "is this circle red or blue?")
    words = git.tokenizer("is this circle red or blue?", add_special_tokens=False).input_ids
    taken = git.family.as_batch(inputs)
    assert taken["input_ids"].tolist() == [[git.tokenizer.cls_token_id, *words]] and MASK not in taken
    assert git.tokenizer.sep_token_id in git.stop_ids
    with torch.no_grad():
        expected = git.hf(input_ids=taken["input_ids"], pixel_values=inputs["pixel_values"]).logits[:, -1]
        torch.testing.assert_close(git.answer_logits(inputs), expected, atol=1e-5, rtol=0)


def test_every_position_has_an_id_a_name_and_an_activation(git, picture):
    inputs = git.extend(encode(git, picture, "is this circle red or blue?"), [7, 8])
    length = inputs["input_ids"].shape[1]
    assert git.is_image(inputs)[0].nonzero()[:, 0].tolist() == list(range(N_IMAGE))
    assert git.trace(inputs)[LANGUAGE, "residual", 0].shape[1] == length
    tokens = git.tokens(LANGUAGE, git.prompt_text("is this circle red or blue?"), inputs)
    assert len(tokens) == length and [token.role for token in tokens[:N_IMAGE]] == ["image"] * N_IMAGE
    assert tokens[N_IMAGE].text == "[CLS]" and tokens[N_IMAGE + 1].text == "is"


def test_the_class_token_is_an_image_token_without_a_place(git, picture):
    inputs = encode(git, picture, "?")
    boxes = git.image_cells(picture, inputs)
    assert np.isnan(boxes[0]).all()
    np.testing.assert_allclose(boxes[1], [0, 0, 1 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_array_equal(git.token_patches(inputs), np.eye(N_IMAGE))


def test_the_image_enters_where_it_is_replaced(git, random_pairs):
    clean, inputs = (run_inputs(git, random_pairs.iloc[[1]], side) for side in ("clean", "image"))
    with torch.no_grad():
        expected = git.answer_logits(clean)
        torch.testing.assert_close(git.answer_logits(inputs, git.image_embeddings(clean)), expected)
        assert (git.answer_logits(inputs) - expected).abs().max() > 1e-3


def test_two_prompts_in_one_batch_equal_each_alone(git, picture):
    pictures, prompts = [picture, Image.new("RGB", (60, 42))], ["is this red or blue?", "is this blue or red?"]
    texts = list(map(git.prompt_text, prompts))
    with torch.no_grad():
        together = git.answer_logits(git.encode(pictures, texts))
        alone = [git.answer_logits(git.encode([one], [text])) for one, text in zip(pictures, texts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_positions_are_counted_from_the_first_word(git, picture):
    """The image has none of the model's 256 positions."""
    longest = "is " * 255
    inputs = encode(git, picture, longest)  # and the start token
    assert inputs["input_ids"].shape[1] == 256 + N_IMAGE == git.max_positions
    with torch.no_grad():
        assert git.answer_logits(inputs).isfinite().all()
    with pytest.raises(vt.VlmtraceError, match=r"267 tokens.*266"):
        encode(git, picture, longest + "is")
    assert git.encode_text(git.text_only_prompt(longest))["input_ids"].shape[1] == 256
    with pytest.raises(vt.VlmtraceError, match=r"267 tokens.*266"):
        git.encode_text(git.text_only_prompt(longest + "is"))


def test_a_knockout_takes_attention_away_in_every_layer(git, picture):
    """The model gives its attention the mask without a name. A position that sees itself alone tells no other."""
    inputs = encode(git, picture, "is this circle red or blue?")
    length, layers = inputs["input_ids"].shape[1], range(git.blocks[LANGUAGE].n_layers)
    sites = [Site(LANGUAGE, "residual", layer) for layer in layers]
    at = length - 4
    changed = dict(inputs, input_ids=inputs["input_ids"].clone())
    changed["input_ids"][0, at] += 1
    alone = ~torch.eye(length, dtype=torch.bool)[None]

    def differing():
        one, other = git.trace(inputs, sites), git.trace(changed, sites)
        return [((one[site] - other[site]).abs().amax(-1)[0] > 1e-5).nonzero()[:, 0].tolist() for site in sites]

    assert differing() == [list(range(at, length))] * len(layers), "words see what comes before them"
    with cut(git, "self_attention", list(layers), alone):
        assert differing() == [[at]] * len(layers)


@pytest.mark.medium
def test_methods_run_on_it_or_say_why_not(git, random_pairs, picture, tmp_path):
    pairs = random_pairs.iloc[[0]]
    cuts = vt.knock_out_attention(git, pairs, edges=[("image", "last")])
    assert cuts["logit_diff"].abs().max() > 1e-3
    assert vt.replace_image_tokens(git, pairs)["logit_diff"].abs().max() > 1e-3
    assert vt.attribute_heads(git, pairs)["logit_diff"].abs().max() > 1e-3
    found = relevancy(git, picture, "is this circle red or blue?", answer=[git.answer_token("red")])
    assert np.isfinite(found.image).all() and found.image.any()
    picture.save(tmp_path / "picture.png")
    question = {"sample_id": "a", "category": "color", "image": str(tmp_path / "picture.png"), "answer": "red"}
    questions = pd.DataFrame([{**question, "prompt": "is this circle red or blue?"}])
    assert len(vt.causal_trace(git, questions, draws=2, modules=["residual"]))
    with pytest.raises(vt.VlmtraceError, match="has no k_proj"):
        vt.open_lens(git, encode(git, picture, "?"))
