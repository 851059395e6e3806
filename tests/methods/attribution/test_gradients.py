"""Attribution patching is the derivative of exact patching, and is exact where the model is linear."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.pair_runs import encode_pair, read_again, run_pairs
from vlmtrace.methods.attribution import gradients
from vlmtrace.methods.patching.first_order import _gradients_at, first_order, site_gradients
from vlmtrace.models import Readout, Site
from vlmtrace.models.hooks import attach_hooks

KEYS = ["sample_id", "block", "module", "layer", "position"]


@pytest.fixture(scope="module")
def runs(random_blip, random_pairs):
    pairs = random_pairs.iloc[[0, 4]]
    return run_pairs(random_blip, pairs, [encode_pair(random_blip, pairs, row, "image") for row in range(2)])


@pytest.mark.parametrize(
    "site",
    [
        Site("vision_encoder", "residual", 1),
        Site("text_encoder", "self_attention", 2),
        Site("text_encoder", "cross_attention", 0),
        Site("text_encoder", "mlp", 1),
        Site("text_decoder", "residual", 0),
    ],
)
def test_gradient_equals_finite_difference(random_blip, runs, site):
    """Moving the activation by ε along a direction moves LD by ε ∇LD·direction, for every pair by its own."""
    gradient = site_gradients(random_blip, runs, [site])[site]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
    direction /= direction.norm(dim=(1, 2), keepdim=True)

    def logit_diff(epsilon: float) -> torch.Tensor:
        with torch.no_grad(), attach_hooks([(random_blip.hook_point(site), lambda value: value + epsilon * direction)]):
            return Readout.of(random_blip.answer_logits(runs.inputs), runs.answer_ids).logit_diff.double()

    measured = (logit_diff(5e-2) - logit_diff(-5e-2)) / 1e-1
    expected = (gradient * direction).sum((1, 2)).double()
    torch.testing.assert_close(measured, expected, atol=5e-3, rtol=5e-2)
    assert expected.abs().max() > 1e-3, "a gradient of nothing proves nothing"


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_reaches_the_vision_encoder_through_the_image_tokens(model_store, random_pairs, family, steps):
    """Setting the language model's input would cut it off: all estimates of the vision encoder would be 0."""
    model = model_store.shared(family)
    pairs = random_pairs.iloc[[0]]
    runs = run_pairs(model, pairs, [encode_pair(model, pairs, 0, "image")])
    site = Site("vision_encoder", "residual", 0)
    gradient = site_gradients(model, runs, [site, Site("language_model", "residual", 0)], steps)[site]
    assert gradient.abs().max() > 1e-4, "no gradient reaches the vision encoder"
    if steps == 1:
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
        direction /= direction.norm()

        def logit_diff(epsilon: float) -> torch.Tensor:
            hook = (model.hook_point(site), lambda value: value + epsilon * direction)
            with torch.no_grad(), attach_hooks([hook], n_pairs=1):
                return read_again(model, runs, "corrupt").logit_diff.double()

        measured = (logit_diff(5e-2) - logit_diff(-5e-2)) / 1e-1
        torch.testing.assert_close(measured, (gradient * direction).sum((1, 2)).double(), atol=5e-3, rtol=5e-2)


def test_estimates_of_the_vision_encoder_alone(model_store, random_pairs):
    table = vt.attribute_modules(model_store.shared("llava"), random_pairs.head(1), blocks=["vision_encoder"])
    assert set(table["block"]) == {"vision_encoder"} and table["logit_diff"].abs().max() > 1e-4


def test_estimate_is_gradient_times_difference_by_hand(random_blip, random_pairs, runs):
    table = vt.attribute_heads(random_blip, random_pairs.iloc[[0, 4]], modules=["cross_attention"])
    site = Site("text_encoder", "cross_attention", 1)
    product = site_gradients(random_blip, runs, [site])[site] * (runs.clean[site] - runs.corrupt[site])
    rows = table[(table["layer"] == 1) & (table["head"] == 3) & (table["position"] == 4)]
    np.testing.assert_allclose(rows["logit_diff"], product[:, 4, 36:48].sum(-1), rtol=1e-5, atol=1e-5)
    assert rows["p_correct"].isna().all()


def test_heads_add_up_to_their_module(random_blip, random_pairs):
    pairs = random_pairs.iloc[[1]]
    heads = vt.attribute_heads(random_blip, pairs).groupby(KEYS)["logit_diff"].sum()
    modules = vt.attribute_modules(
        random_blip, pairs, modules=["self_attention", "cross_attention"], blocks=["text_encoder"]
    )
    np.testing.assert_allclose(modules.set_index(KEYS)["logit_diff"].sort_index(), heads.sort_index(), atol=1e-4)


def test_rows_and_order_are_those_of_the_exact_sweep(random_blip, random_pairs):
    exact, guess = (f(random_blip, random_pairs) for f in (vt.patch_modules, vt.attribute_modules))
    assert [name for name in exact if name != "direction"] == list(guess.columns), "gradients know one direction"
    assert exact[[*KEYS, "token", "token_role"]].equals(guess[[*KEYS, "token", "token_role"]])


def test_blocks_without_a_position_get_no_gradient(model_store, random_pairs, monkeypatch):
    asked = []

    def recorded(model, runs, sites, steps):
        asked.extend(site.block for site in sites)
        return site_gradients(model, runs, sites, steps)

    monkeypatch.setattr(gradients, "site_gradients", recorded)
    table = vt.attribute_modules(model_store.shared("llava"), random_pairs.head(1), positions="text")
    assert set(asked) == set(table["block"]) == {"language_model"}
    asked.clear()
    with pytest.raises(vt.VlmtraceError, match="No position matches"):
        vt.attribute_modules(model_store.shared("llava"), random_pairs.head(1), positions=["nowhere"])
    assert not asked


def test_positions_are_fetched_from_the_device_once(random_blip, random_pairs, monkeypatch):
    expected = vt.attribute_heads(random_blip, random_pairs.head(1))
    monkeypatch.setattr(gradients, "first_order", without_single_numbers(monkeypatch))
    pd.testing.assert_frame_equal(vt.attribute_heads(random_blip, random_pairs.head(1)), expected)


def without_single_numbers(monkeypatch):
    def called(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__int__", lambda _: pytest.fail("a number is fetched by itself"))
            return first_order(*arguments)

    return called


def test_small_steps_are_predicted_exactly(random_blip, random_pairs, tmp_path):
    """Between two almost equal images the first order is all there is."""
    pair = random_pairs.iloc[[3]]
    pixels = np.asarray(Image.open(pair["clean_image"].iloc[0])).copy()
    pixels[10:30, 10:30] += (pixels[10:30, 10:30] < 250).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "near.png")
    near = pair.assign(corrupt_image=str(tmp_path / "near.png"))
    exact, guess = (f(random_blip, near)["logit_diff"] for f in (vt.patch_heads, vt.attribute_heads))
    assert exact.abs().max() > 1e-4
    assert np.corrcoef(exact, guess)[0, 1] > 0.99


def test_more_steps_average_gradients(random_blip, runs):
    site = Site("text_encoder", "mlp", 0)
    two = site_gradients(random_blip, runs, [site], steps=2)[site]
    halves = [_gradients_at(random_blip, runs, [site], alpha, random_blip.entry_blocks)[site] for alpha in (0.25, 0.75)]
    torch.testing.assert_close(two, (halves[0] + halves[1]) / 2)
    assert not torch.allclose(halves[0], halves[1], rtol=1e-2)


def test_agreement_of_known_rankings():
    rows = [(i, "s", "b", "m", 0, i, float(v)) for i, v in enumerate([8, -6, 4, 2, 1, 0.5])]
    exact = pd.DataFrame(rows, columns=["position", "sample_id", "block", "module", "layer", "head", "patching_effect"])
    same = vt.ranking_agreement(exact, exact, top=2).iloc[0]
    assert (same["spearman"], same["overlap"], same["overlap_by_chance"]) == (1.0, 1.0, pytest.approx(2 / 6))
    other = exact.assign(patching_effect=[0.5, 1, -6, 4, 2, 8.0])
    found = vt.ranking_agreement(exact, other, top=2).iloc[0]
    assert found["overlap"] == 0.0
    # Ranks 6 1 5 4 3 2 against 2 3 1 5 4 6: Σd² = 16 + 4 + 16 + 1 + 1 + 16 = 54, ρ = 1 − 6·54/(6·35).
    assert found["spearman"] == pytest.approx(1 - 6 * 54 / 210)
    both = pd.concat([exact.assign(corruption=name) for name in ("image", "text")])
    with pytest.raises(vt.VlmtraceError, match="estimate effects hold several values of corruption, which would be"):
        vt.ranking_agreement(exact, both, top=2)
    with pytest.raises(vt.VlmtraceError, match="Effects of unlike direction cannot be compared"):
        vt.ranking_agreement(exact.assign(direction="noising"), exact.assign(direction="denoising"), top=2)
    with pytest.raises(vt.VlmtraceError, match="top=6 of 6 heads"):
        vt.ranking_agreement(exact, other, top=6)
    for foreign in (other.assign(module="n"), other.assign(patching_effect=np.nan)):
        with pytest.raises(vt.VlmtraceError, match="The tables share no head"):
            vt.ranking_agreement(exact, foreign, top=2)


@pytest.mark.medium
def test_one_gradient_in_the_corrupt_run_ranks_as_patching_does_and_one_in_the_clean_run_does_not():
    """Why integrated gradients rank worse under text corruption: a patch is made where all else is corrupt."""
    model = vt.load_model("tiny-blip")
    evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=40))
    pairs = evaluated[
        evaluated["is_correct"] & (evaluated["clean_logit_diff"] - evaluated["text_logit_diff"] > 1)
    ].head(4)
    options = {"modules": ["self_attention"], "corruption": "text"}
    exact = vt.patch_heads(model, pairs, **options)
    rank = {
        steps: vt.ranking_agreement(exact, vt.attribute_heads(model, pairs, steps=steps, **options))["spearman"].item()
        for steps in (1, 8, 16)
    }
    assert rank[1] > 0.9, f"one gradient ranks with {rank[1]:.2f}"
    assert rank[8] < rank[1] - 0.1, "integrated gradients rank as well: the page on attribution says they do not"
    assert abs(rank[8] - rank[16]) < 0.05, "the sum over the line is not done: more steps change it"
