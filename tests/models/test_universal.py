"""Models of unknown types: guessed, said, compared, and never trusted; and what trips a guess up."""

import dataclasses
import warnings

import pytest
import torch
import transformers
from fixtures.families import TIERED
from fixtures.family_builders.given_features import GIVEN
from fixtures.models import scramble
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Patches
from vlmtrace.models.families import family_of, registry
from vlmtrace.models.families.guess import CannotGuess, guess
from vlmtrace.models.guessed import GuessedDecoder
from vlmtrace.models.layer_kinds import check_can_be_hidden
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.self_check import self_check
from vlmtrace.models.universal import UniversalDecoder

LANGUAGE = "language_model"


@pytest.fixture
def unknown(model_store, monkeypatch):
    """Load one of the random models as if no family described it."""

    def load(name, check=True):
        path = model_store.path(name)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "families", dict)
            return vt.load_model(path, check=check)

    return load


# Guessing ------------------------------------------------------------


@pytest.mark.parametrize("name", TIERED)
def test_guesses_are_what_the_families_say(model_store, name):
    known = model_store.shared(name)
    if known.family.norm == "":
        with pytest.raises(CannotGuess, match="whose text layers it cannot find"):
            guess(known.hf.config)
        return
    guessed = guess(known.hf.config)
    if guessed is None:
        pytest.skip("of a class that transformers lists elsewhere: nothing is guessed")
    spec = known.family
    paths = (spec.attention_output,) if isinstance(spec.attention_output, str) else spec.attention_output
    assert guessed.text == spec.text and guessed.mlp == spec.mlp
    assert guessed.one_part_per_layer == spec.one_part_per_layer
    assert set(guessed.attention_output) <= set(paths)
    assert spec.norm == guessed.norm or guessed.norm == ""
    assert not guessed.vision_types and guessed.square_side is None, "positions in the image are never guessed"


def test_what_no_class_answers_about_images_is_not_guessed():
    assert guess(transformers.LlamaConfig()) is None


def test_an_encoder_of_its_own_is_not_guessed(model_store):
    config = model_store.shared("blip2").hf.config
    config = type(config)(**config.to_dict() | {"text_config": {"model_type": "t5", "num_layers": 2}})
    with pytest.raises(CannotGuess, match="an encoder of its own"):
        guess(config)


def test_no_more_layers_are_built_than_a_text_stack_is_known_to_have(model_store):
    config = type(model_store.shared("llava").hf.config)(text_config={"model_type": "llama", "num_hidden_layers": 1001})
    with pytest.raises(CannotGuess, match="whose 1001 layers are more"):
        guess(config)


def assert_exact(model, pairs):
    pair = pairs.iloc[[1]]
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", "image"))
    clean, corrupt = model.trace(clean), model.trace(inputs)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    block, length = model.blocks[LANGUAGE], clean[LANGUAGE, "residual", 0].shape[1]
    chosen = [(m, layer, at) for m in block.modules for layer in block.layers_with(m) for at in (1, length - 2)]
    modules, layers, positions = (list(column) for column in zip(*chosen, strict=True))
    patches = Patches(LANGUAGE, modules, layers, [None] * len(chosen), torch.tensor([positions]))
    fast = model.sweep(clean, corrupt, inputs, patches, ids, memory=2**30)
    slow = reference.sweep(model, clean, inputs, patches, ids)
    worst = (fast.correct - slow.correct).abs().max().item()
    assert worst <= 1e-4, f"logits are off by {worst:.2g}"


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", pytest.param("nemotron_h_omni", marks=pytest.mark.medium)])
def test_an_unknown_model_is_patched_by_the_fast_sweep_where_that_is_exact(unknown, random_pairs, name):
    with pytest.warns(
        UserWarning, match=r"which vlmtrace does not know\. Its parts were guessed: text layers .*used\."
    ):
        model = unknown(name)
    assert isinstance(model, GuessedDecoder) and model.replays and model.uses_fast_sweep
    # Qwen2.5-VL's vision encoder goes through the image window by window: no order of its positions is guessed.
    assert list(model.blocks) == [LANGUAGE]
    assert_exact(model, random_pairs)


def test_an_unknown_model_whose_layers_get_more_is_patched_by_batches(unknown, random_pairs):
    """Qwen3-VL adds image features between layers: replaying them one by one would be wrong."""
    with pytest.warns(UserWarning, match="patched by whole passes in batches, which takes several times as long"):
        model = unknown("qwen3_vl")
    assert not model.replays and model.uses_fast_sweep and not model.fixes_heads
    assert_exact(model, random_pairs)
    effects = vt.patch_heads(model, random_pairs.iloc[[0]], positions=["correct"])
    assert effects["logit_diff"].abs().max() > 1e-3


@pytest.mark.medium
def test_an_unknown_model_may_have_layers_of_one_part(unknown, model_store):
    known, model = model_store.shared("nemotron_h_omni").blocks[LANGUAGE], unknown("nemotron_h_omni", check=False)
    found = model.blocks[LANGUAGE]
    assert found.lacking == known.lacking and found.heads == known.heads == (8, 0, 4, 0, 8)
    assert found.kinds == known.kinds


def test_a_model_loaded_without_its_check_uses_no_sweep_that_was_not_compared(unknown, random_pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = unknown("llava", check=False)
    assert not model.replays
    assert_exact(model, random_pairs)


def test_a_cap_that_the_model_does_not_apply_is_not_assumed(unknown):
    """Gemma 3's configuration may name a soft cap of logits, which its forward pass does not apply."""
    with pytest.warns(UserWarning, match="guessed"):
        model = unknown("gemma3")
    assert model.hf.config.get_text_config().final_logit_softcapping == 5.0
    assert model.reads and not model.family.caps_logits
    inputs = model.encode([Image.new("RGB", (40, 40))], [model.prompt_text("is this red?")])
    trace = model.trace(inputs)
    last = trace[LANGUAGE, "residual", model.blocks[LANGUAGE].n_layers - 1][:, -1]
    with torch.no_grad():
        torch.testing.assert_close(model.read(last), trace.logits, atol=1e-4, rtol=0)


def test_places_in_the_image_are_not_made_up(unknown):
    model = unknown("llava", check=False)
    image = Image.new("RGB", (40, 40))
    inputs = model.encode_image(image)
    assert model.token_patches(inputs) is None
    with pytest.raises(vt.VlmtraceError, match=r"cuts images into patches is not known.*images of one size"):
        model.patch_grid(inputs)


# Streams ------------------------------------------------------------


def test_streams_side_by_side_are_refused_unless_a_family_says_where_they_lie(model_store):
    """Hooks would take (position, stream) for positions, in the reference too: the two would agree."""
    model = model_store.load("glm5_next")
    told = UniversalDecoder(model.name, model.hf, model.processor, model.family)
    inputs = told.encode([Image.new("RGB", (64, 64))], [told.prompt_text("is this red?")])
    n_streams = model.hf.config.get_text_config().hc_mult
    width = model.hf.config.get_text_config().hidden_size
    assert told.trace(inputs)[LANGUAGE, "residual", 1].shape == (1, inputs["input_ids"].shape[1], n_streams * width)
    spec = dataclasses.replace(model.family, stream_axis=None)
    untold = UniversalDecoder(model.name, model.hf, model.processor, spec)
    image = torch.zeros_like(told.image_embeddings(inputs))
    # Without the check of loading, too, and wherever activations are read or replaced.
    for use in (
        lambda: self_check(untold),
        lambda: untold.trace(inputs),
        lambda: untold.image_embeddings(inputs),
        lambda: untold.answer_logits(inputs, image),
    ):
        with pytest.raises(vt.VlmtraceError, match=r"A text layer .* of four dimensions .*\(stream_axis\)"):
            use()


def test_words_are_not_read_off_streams_that_the_model_mixes(model_store):
    model = model_store.shared("glm5_next")
    with pytest.raises(vt.VlmtraceError, match="words cannot be read off its layers"):
        model.read(torch.zeros(1, 64))


# Families whose image side is given ------------------------------------------------------------


@pytest.fixture(scope="module", params=GIVEN)
def given(request):
    torch.manual_seed(0)
    hf, processor = GIVEN[request.param]()
    scramble(hf, seed=1)
    return family_of(hf.config, request.param).interface_class()(request.param, hf, processor)


@pytest.mark.medium
def test_the_language_side_of_families_whose_image_side_cannot_run_here(given):
    with pytest.warns(UserWarning, match="patched by whole forward passes in batches: the numbers are exact"):
        self_check(given)
    assert given.uses_fast_sweep
    prompts = [f"is this {color} or blue?" for color in ("red", "green")]
    assert len({given.count_tokens(prompt) for prompt in prompts}) == 1
    texts = [given.prompt_text(prompt) for prompt in prompts]
    images = [Image.linear_gradient("L").convert("RGB").resize((64, 64), box=box) for box in (None, (0, 0, 256, 90))]
    clean_inputs, inputs = (given.encode([image], [text]) for image, text in zip(images, texts, strict=True))
    clean, corrupt = given.trace(clean_inputs), given.trace(inputs)
    ids = corrupt.logits.topk(2).indices
    block, length = given.blocks[LANGUAGE], inputs["input_ids"].shape[1]
    assert clean[LANGUAGE, "residual", 0].shape[1] == length
    places = (2, 6, length - 1)
    chosen = [(m, layer, None, at) for m in block.modules for layer in range(block.n_layers) for at in places]
    chosen += [("self_attention", layer, 0, at) for layer in range(block.n_layers) for at in places]
    modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
    patches = Patches(LANGUAGE, modules, layers, heads, torch.tensor([positions]))
    fast = given.sweep(clean, corrupt, inputs, patches, ids, memory=2**30)
    slow = reference.sweep(given, clean, inputs, patches, ids)
    allowed = 1e-4 * max(1.0, corrupt.logits.abs().max().item())
    worst = (fast.correct - slow.correct).abs().max().item()
    assert worst <= allowed, f"logits are off by {worst:.2g}"
    for module in block.modules:
        of_module = [i for i, name in enumerate(modules) if name == module]
        assert (slow.correct[0, of_module] - corrupt.logits[0, ids[0, 0]]).abs().max() > 2e-3, f"{module} does nothing"


def test_positions_are_hidden_only_in_layers_of_known_kinds(model_store):
    model = model_store.shared("glm5_next")
    block = model.blocks[LANGUAGE]
    assert block.kinds == ("state", "state", "state", "indexed_attention") and not block.attention_modules
    with pytest.raises(vt.VlmtraceError, match=r"Layer 3 of .* is of a kind \(indexed_attention\)"):
        check_can_be_hidden(model.name, block, [3])
    with pytest.raises(vt.VlmtraceError, match=r"Layer 0 of .* carries a state"):
        check_can_be_hidden(model.name, block, [0])


def test_weights_are_given_where_all_layers_attend(given):
    inputs = given.encode([Image.new("RGB", (64, 64))], [given.prompt_text("is this red?")])
    if not given.blocks[LANGUAGE].attention_modules:
        with pytest.raises(vt.VlmtraceError, match="gives no attention weights"):
            given.attention(inputs, LANGUAGE, "self_attention")
        return
    weights = given.attention(inputs, LANGUAGE, "self_attention")
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("name", ["glm5_next", "chameleon", "qwen4_exp"])
def test_the_image_enters_where_it_is_replaced(model_store, random_pairs, name):
    model, pair = model_store.shared(name), random_pairs.iloc[[1]]
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", "image"))
    with torch.no_grad():
        expected = model.answer_logits(clean)
        found = model.answer_logits(inputs, model.image_embeddings(clean))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert (model.answer_logits(inputs) - expected).abs().max() > 1e-3
