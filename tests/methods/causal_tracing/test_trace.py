"""Causal tracing with noise: what the sweep gives is what hooks give, and what must come out does."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stats import mean_interval
from vlmtrace.methods.causal_tracing.noise import Noise, noise_scale
from vlmtrace.methods.causal_tracing.summary import average_effects, later_layers
from vlmtrace.methods.causal_tracing.trace import causal_trace
from vlmtrace.models import Patches, Site
from vlmtrace.models.hooks import attach_hooks

KEYS = ["sample_id", "block", "module", "layer", "position", "step"]
DECODERS = ["llava", "paligemma", "gemma3", "qwen2_vl"]


@pytest.fixture(scope="module")
def questions(random_pairs):
    table = random_pairs.iloc[[0, 2]].rename(columns={"clean_image": "image", "clean_prompt": "prompt"})
    return table[["sample_id", "category", "image", "prompt", "noun"]].reset_index(drop=True)


@pytest.fixture(scope="module", params=["random_blip", *DECODERS])
def model(request, model_store):
    return short_of_words(model_store.shared(request.param))


def short_of_words(model):
    """The same model, whose answers end after two tokens: random weights would go on and on."""
    short = copy.copy(model)
    short.answer_tokens = lambda inputs, image=None: model.answer_tokens(inputs, 2, image)
    return short


@pytest.fixture(scope="module")
def traced(model, questions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return causal_trace(model, questions, level=2, draws=3, window=2)


@pytest.mark.slow
def test_the_sweep_equals_hooks_at_every_site(model, questions, traced):
    slow = copy.copy(model)
    slow.uses_fast_sweep = False
    one = questions.iloc[[0]]
    scale = noise_scale(model, questions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = causal_trace(slow, one, level=2, draws=3, window=2, scale=scale)
    swept = traced[traced["sample_id"] == one["sample_id"].iloc[0]].reset_index(drop=True)
    assert swept[KEYS].equals(hooked[KEYS])
    assert set(swept["step"]) == {0, 1}, "a second token of the answer has to be traced, too"
    worst = (swept["p_answer"] - hooked["p_answer"]).abs().max()
    assert worst <= 1e-5, f"p(answer) is off by {worst:.2g}"
    windowed = hooked[hooked["window"] > 1]
    assert windowed["indirect_effect"].abs().max() > 1e-3, "windows change nothing: this test proves nothing"


@pytest.mark.parametrize("name", DECODERS[:1])
def test_image_tokens_of_the_first_layer_keep_their_noise(model_store, questions, name):
    """What enters layer 0 is noise there: a patch of its heads or its mlp adds to that, and not to the image."""
    model = short_of_words(model_store.shared(name))
    slow = copy.copy(model)
    slow.uses_fast_sweep = False
    options = dict(level=2, draws=2, window=1, positions=["image"], modules=["self_attention", "mlp"])
    one, scale = questions.iloc[[0]], noise_scale(model, questions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        swept, hooked = (causal_trace(m, one, scale=scale, **options) for m in (model, slow))
    assert swept[KEYS].equals(hooked[KEYS])
    first = hooked["layer"] == 0
    assert hooked.loc[first, "indirect_effect"].abs().max() > 1e-5, "the first layer changes nothing"
    worst = (swept["p_answer"] - hooked["p_answer"])[first].abs().max()
    assert worst <= 1e-6, f"p(answer) is off by {worst:.2g} in the first layer"


def test_one_site_by_hand(model, questions):
    """One module in a window of two layers, every draw a forward pass with hooks of its own."""
    question = questions.iloc[0]
    inputs = model.encode([question["image"]], [model.prompt_text(question["prompt"])])
    image = model.image_embeddings(inputs)
    block, position = model.head_block.name, inputs["input_ids"].shape[1] - 2
    sites = [Site(block, "mlp", layer) for layer in (0, 1)]
    clean, token = model.trace(inputs, sites), model.answer_tokens(inputs)[0]
    noise = Noise(noise_scale(model, questions), level=2, draws=3, seed=5)

    def put_in_clean(site):
        def hook(value):
            patched = value.clone()
            patched[:, position] = clean[site][:, position]
            return patched

        return model.hook_point(site), hook

    corrupt, restored = [], []
    with torch.no_grad():
        for z in noise.unit(question["sample_id"], image):
            disturbed = image + 2 * noise.scale * z
            corrupt.append(model.answer_logits(inputs, disturbed).softmax(-1)[0, token].item())
            with attach_hooks([put_in_clean(site) for site in sites], n_pairs=1):
                restored.append(model.answer_logits(inputs, disturbed).softmax(-1)[0, token].item())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = causal_trace(
            model, questions, level=2, draws=3, seed=5, window=2, modules=["mlp"], blocks=[block], positions=[position]
        )
    (row,) = table.query("sample_id == @question.sample_id and layer == 0 and step == 0").to_dict("records")
    assert row["p_corrupt"] == pytest.approx(np.mean(corrupt), abs=1e-5)
    assert row["p_answer"] == pytest.approx(np.mean(restored), abs=1e-5)
    effects = np.subtract(restored, corrupt)
    assert row["indirect_effect"] == pytest.approx(effects.mean(), abs=1e-5)
    # Student's t with two degrees of freedom, 97.5 %: 4.303.
    half = 4.3027 * effects.std(ddof=1) / np.sqrt(3)
    assert row["ci_high"] - row["indirect_effect"] == pytest.approx(half, abs=1e-5)


def test_no_noise_no_effect(model, questions):
    with pytest.warns(UserWarning, match="still gives the answer"):
        table = causal_trace(model, questions.iloc[[0]], level=0, draws=2, window=2)
    np.testing.assert_allclose(table["indirect_effect"], 0, atol=1e-6)
    assert table["normalized_effect"].isna().all(), "no gap between clean and corrupt: a share of it is missing, not 0"
    np.testing.assert_allclose(table["p_corrupt"], table["p_clean"], atol=1e-6)


def test_the_last_position_of_the_last_layer_restores_in_full(model, traced):
    block, highest = model.answer_block, model.blocks[model.answer_block].n_layers - 1
    top = traced[(traced["block"] == block) & (traced["module"] == "residual") & (traced["layer"] == highest)]
    last = top[top["token_role"] == "last"]
    assert len(last) == 4, "two questions, two steps each"
    np.testing.assert_allclose(last["p_answer"], last["p_clean"], atol=1e-5)
    assert (last["p_clean"] - last["p_corrupt"]).abs().max() > 1e-3


def test_restoring_every_position_of_a_layer_gives_the_clean_answer(model, questions):
    """In BLIP the last layer of the question encoder: those below it still read the disturbed image."""
    question = questions.iloc[0]
    inputs = model.encode([question["image"]], [model.prompt_text(question["prompt"])])
    image = model.image_embeddings(inputs)
    layer = model.head_block.n_layers - 1 if model.image_module == "cross_attention" else 0
    site = Site(model.head_block.name, "residual", layer)
    clean = model.trace(inputs, [site])
    noise = Noise(noise_scale(model, questions), level=3, draws=1)
    disturbed = noise.disturb(image, noise.unit("x", image))
    with torch.no_grad(), attach_hooks([(model.hook_point(site), lambda _: clean[site])], n_pairs=1):
        restored = model.answer_logits(inputs, disturbed)
    torch.testing.assert_close(restored, clean.logits, atol=1e-4, rtol=0)
    with torch.no_grad():
        assert (model.answer_logits(inputs, disturbed) - clean.logits).abs().max() > 1e-2


@pytest.mark.medium
def test_questions_together_equal_each_alone(model, questions, traced):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scale = noise_scale(model, questions)
        alone = causal_trace(
            model,
            questions.iloc[[1]],
            level=2,
            draws=3,
            window=2,
            scale=scale,
            memory_gb=1e-4,
            blocks=[model.answer_block],
        )
    same = traced[(traced["sample_id"] == questions["sample_id"][1]) & (traced["block"] == model.answer_block)]
    np.testing.assert_allclose(alone["p_answer"], same["p_answer"], atol=1e-5)


def test_roles_of_answer_tokens(model, traced):
    second = traced.query("step == 1 and block == @model.answer_block").drop_duplicates(["sample_id", "position"])
    assert (second.groupby("sample_id")["token_role"].agg(lambda roles: (roles == "last").sum()) == 1).all()
    last = second.loc[second.groupby("sample_id")["position"].idxmax()]
    first = traced.query("step == 0").drop_duplicates("sample_id")
    assert last["token"].tolist() == first["answer_token"].tolist(), "the second token is due after the first"
    assert not (traced["token_role"] == "image").any(), "positions='text' leaves the image's tokens out"


# Noise and pairing ------------------------------------------------------------


def test_without_pairing_a_site_without_effect_has_one(random_blip, questions):
    """Layer 0's self-attention comes before the image: restoring it changes nothing, whatever the noise."""
    options = dict(level=2, draws=3, modules=["self_attention"], blocks=["text_encoder"], window=1)
    one, model = questions.iloc[[0]], short_of_words(random_blip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paired, apart = (causal_trace(model, one, paired=paired, **options) for paired in (True, False))
    paired, apart = (table[table["layer"] == 0] for table in (paired, apart))
    assert paired[["indirect_effect", "ci_low", "ci_high"]].abs().max(axis=None) < 1e-6
    assert apart["indirect_effect"].abs().min() > 1e-5
    assert apart["indirect_effect"].nunique() == len(apart), "every site has draws of its own"
    np.testing.assert_allclose(paired["p_corrupt"].iloc[0], apart["p_corrupt"].iloc[0], atol=1e-6)


def test_noise_is_as_described(random_blip, questions):
    inputs = random_blip.encode(list(questions["image"]), ["is this a or b?"] * 2)
    embeddings = random_blip.image_embeddings(inputs)
    scale = noise_scale(random_blip, questions)
    assert scale == pytest.approx(embeddings.double().std(correction=0).item(), rel=1e-5)
    image = embeddings[:1]
    noise = Noise(scale, level=3, draws=200)
    z = noise.unit("a", image)
    torch.testing.assert_close(noise.disturb(image, z) - image, 3 * scale * z, atol=1e-4, rtol=0)
    assert (noise.disturb(image, z) - image).std().item() == pytest.approx(3 * scale, rel=0.02)
    published = Noise(scale, level=5, draws=200, kind="multiplicative")
    torch.testing.assert_close(published.disturb(image, z), image * (1 + 5 * z))
    assert torch.equal(z, Noise(1.0, draws=200).unit("a", image)), "draws depend on nothing but seed, question and site"
    for other in (
        noise.unit("b", image),
        noise.unit("a", image, site=1),
        Noise(scale, seed=1, draws=200).unit("a", image),
    ):
        assert (other != z).float().mean() > 0.99


def test_the_curve_agrees_with_the_trace(random_blip, questions):
    model = short_of_words(random_blip)
    curve = vt.noise_curve(model, questions.assign(unit="u"), levels=(0, 2), draws=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = causal_trace(model, questions, level=2, draws=3, blocks=["text_decoder"], modules=["residual"])
    steps = traced.drop_duplicates(["sample_id", "step"]).reset_index(drop=True)
    at_two = curve[curve["level"] == 2].reset_index(drop=True)
    np.testing.assert_allclose(at_two["p_answer"], steps["p_corrupt"], atol=1e-6)
    np.testing.assert_allclose(at_two["still_answers"], steps["still_answers"])
    at_zero = curve[curve["level"] == 0].reset_index(drop=True)
    np.testing.assert_allclose(at_zero["p_answer"], steps["p_clean"], atol=1e-6)
    assert (at_zero["still_answers"] == 1).all() and (curve["unit"] == "u").all()


# Many questions ------------------------------------------------------------


def table_of(effects: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """(question, layer) -> effects at positions of one role."""
    rows = [
        dict(sample_id=question, layer=layer, indirect_effect=effect, position=position)
        for (question, layer), values in effects.items()
        for position, effect in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(step=0, block="b", module="residual", token_role="noun")


def test_positions_are_averaged_within_a_question_first():
    table = table_of({("a", 0): [0.0, 0.2], ("b", 0): [0.5]})
    (row,) = average_effects(table).to_dict("records")
    assert row["mean"] == pytest.approx((0.1 + 0.5) / 2) and row["n"] == 2
    low, high = mean_interval([0.1, 0.5], n_boot=2000)
    assert (row["ci_low"], row["ci_high"]) == (low[0], high[0])


def test_questions_about_one_image_count_once():
    table = table_of({("a", 0): [0.0], ("b", 0): [0.4], ("c", 0): [1.0]})
    table["unit"] = table["sample_id"].map({"a": "one", "b": "one", "c": "two"})
    (row,) = average_effects(table).to_dict("records")
    assert row["mean"] == pytest.approx((0.2 + 1) / 2) and row["n"] == 2


def test_later_layers_by_hand():
    table = table_of(
        {("a", 0): [0.0], ("a", 1): [9.0], ("a", 2): [0.4], ("b", 0): [0.1], ("b", 1): [9.0], ("b", 2): [0.2]}
    )
    (row,) = later_layers(table).to_dict("records")
    assert (row["lower"], row["upper"], row["difference"]) == pytest.approx((0.05, 0.3, 0.25)), (
        "the middle counts nowhere"
    )
    low, high = mean_interval([0.4, 0.1], n_boot=2000)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low[0], high[0]))
    assert row["verdict"] == "no difference seen", "two questions settle nothing"


def test_claims_about_layers_are_corrected_for_all_rows():
    # Two hundred roles at which neither half matters more: on their own one in twenty would seem to.
    generator = np.random.default_rng(0)
    effects = generator.normal(size=(200, 10, 2))
    role, question, layer = (index.ravel() for index in np.indices(effects.shape))
    table = pd.DataFrame({"token_role": role.astype(str), "sample_id": question, "layer": layer})
    table = table.assign(indirect_effect=effects.ravel(), step=0, block="b", module="mlp", position=0)
    found = later_layers(table)
    claimed = found[found["verdict"] != "no difference seen"]
    assert claimed.empty, f"{len(claimed)} of 200 roles without a difference were said to have one"
    assert (found["p_value"] < 0.05).any(), "the case does not show what correction does"
    table.loc[(table["token_role"] == "7") & (table["layer"] == 1), "indirect_effect"] += 9
    found = later_layers(table).set_index("token_role")
    assert found.loc["7", "verdict"] == "later" and (found["verdict"] == "later").sum() == 1


# Bad input ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(window=9), "window=9 is not a number of layers of text_encoder: choose 1 to 3"),
        (dict(modules=["mpl"]), "mlp"),
        (dict(blocks=["vision_encoder"]), "block that reads text"),
        (dict(draws=0), "draws must be a whole number from 1"),
        (dict(level=-1), "level must be a number of at least 0"),
        (dict(noise="additiv"), "additive"),
        (dict(positions=["nowhere"]), "No position matches"),
        (dict(memory_gb=0), "memory_gb must be a number above 0"),
    ],
)
def test_mistakes_are_named(random_blip, questions, options, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        causal_trace(short_of_words(random_blip), questions.iloc[[0]], **options)


def test_a_model_that_gets_the_image_twice_is_refused(questions, model_store):
    model = model_store.shared("qwen3_vl")
    with pytest.raises(VlmtraceError, match="adds image features behind later layers"):
        causal_trace(model, questions)


def test_a_question_without_an_answer_is_named(random_blip, questions):
    silent = copy.copy(random_blip)
    silent.answer_tokens = lambda inputs, image=None: []
    with pytest.raises(VlmtraceError, match="gives no answer to 'pair-0'"):
        causal_trace(silent, questions)


def test_windows_of_patches_are_their_layers():
    patches = Patches("b", ["mlp", "mlp"], [0, 2], [None, None], torch.zeros(1, 2, dtype=torch.long), windows=[2, 1])
    assert [list(patches.window(i)) for i in range(2)] == [[0, 1], [2]]
    assert patches.subset([1]).windows == [1] and patches.of_pair(0).windows == [2, 1]
