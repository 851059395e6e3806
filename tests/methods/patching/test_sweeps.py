"""The fast sweeps give the numbers of one hooked forward pass per patch; and identities that need no reference."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.benchmarks.measure import peak_memory
from vlmtrace.inputs import batching
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Patches, Readout, Site
from vlmtrace.models.blip import Blip
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep import reference

KEYS = ["sample_id", "block", "module", "layer", "head", "position"]


@pytest.fixture(scope="module")
def reference_model(random_blip):
    """The same weights, made to use the hooked reference."""
    slow = Blip(random_blip.name, random_blip.hf, random_blip.processor)
    slow.uses_fast_sweep = False
    return slow


def assert_same(fast: pd.DataFrame, slow: pd.DataFrame) -> None:
    keys = [key for key in KEYS if key in fast]
    assert fast[keys].equals(slow[keys]), "fast and reference sweeps list different sites"
    worst = (fast["logit_diff"] - slow["logit_diff"]).abs()
    assert worst.max() <= 1e-4, f"logit_diff off by {worst.max():.2g} at {fast.loc[worst.idxmax(), keys].to_dict()}"
    assert (fast["p_correct"] - slow["p_correct"]).abs().max() <= 1e-5
    assert slow["logit_diff"].abs().max() > 0.1, "the patches of this test change nothing: it proves nothing"


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_module_sweep_equals_reference_at_every_site(random_blip, reference_model, random_pairs, corruption):
    pairs = random_pairs.iloc[[0, 1, 4]]
    fast = vt.patch_modules(random_blip, pairs, corruption)
    slow = vt.patch_modules(reference_model, pairs, corruption)
    assert_same(fast, slow)
    assert set(fast["block"]) == {"vision_encoder", "text_encoder", "text_decoder"}


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_head_sweep_equals_reference_at_every_site(random_blip, reference_model, random_pairs, corruption):
    pairs = random_pairs.iloc[[0, 2]]
    assert_same(vt.patch_heads(random_blip, pairs, corruption), vt.patch_heads(reference_model, pairs, corruption))


@pytest.mark.medium
def test_grouping_and_memory_change_no_number(random_blip, random_pairs):
    together = vt.patch_heads(random_blip, random_pairs)
    alone = pd.concat([vt.patch_heads(random_blip, random_pairs.iloc[[i]]) for i in range(8)], ignore_index=True)
    little = vt.patch_heads(random_blip, random_pairs, memory_gb=1e-4)
    for other in (alone, little):
        assert together[KEYS].equals(other[KEYS])
        np.testing.assert_allclose(together["logit_diff"], other["logit_diff"], atol=5e-5)


def test_clean_into_clean_changes_nothing(random_blip, random_pairs):
    same = random_pairs.iloc[:2].assign(corrupt_image=random_pairs["clean_image"])
    table = vt.patch_modules(random_blip, same)
    assert (table["logit_diff"] == 0).all()
    assert table["patching_effect"].isna().all(), "no clean-corrupt contrast: the effect is missing, not 0 or infinite"


def test_image_sites_are_exactly_zero_under_text_corruption(random_blip, random_pairs):
    table = vt.patch_modules(random_blip, random_pairs.iloc[:2], "text", blocks=["vision_encoder"])
    assert (table["logit_diff"] == 0).all() and (table["patching_effect"] == 0).all()


def test_last_decoder_layer_restores_the_clean_answer(random_blip, random_pairs):
    for corruption in ("image", "text"):
        # Pairs whose answers have one token: of longer ones the start token's position gives the first token alone.
        table = vt.patch_modules(random_blip, random_pairs.iloc[[0, 2]], corruption, blocks=["text_decoder"])
        last = table[(table["layer"] == table["layer"].max()) & (table["module"] == "residual")]
        np.testing.assert_allclose(last["patching_effect"], 1, atol=1e-4)


def test_residual_of_every_position_restores_the_clean_answer(random_blip, random_pairs):
    pair = random_pairs.iloc[[0]]
    clean = random_blip.trace(run_inputs(random_blip, pair, "clean"))
    site = Site("text_encoder", "residual", 1)
    with torch.no_grad(), attach_hooks([(random_blip.hook_point(site), lambda _: clean[site])]):
        # Layers above still read the corrupt image, so only the last layer restores in full.
        part = random_blip.answer_logits(run_inputs(random_blip, pair, "image"))
    site = Site("text_encoder", "residual", 2)
    with torch.no_grad(), attach_hooks([(random_blip.hook_point(site), lambda _: clean[site])]):
        full = random_blip.answer_logits(run_inputs(random_blip, pair, "image"))
    torch.testing.assert_close(full, clean.logits)
    assert (part - clean.logits).abs().max() > 1e-2


def test_all_heads_of_a_position_equal_the_module_patch(random_blip, random_pairs):
    """Heads' slices add up to the module: patching a one-head model's head is patching the module."""
    pairs = random_pairs.iloc[[0]]
    inputs = {run: run_inputs(random_blip, pairs, run) for run in ("clean", "image")}
    clean, corrupt = (random_blip.trace(inputs[run]) for run in ("clean", "image"))
    for head in range(4):
        patched = reference.with_patch(
            corrupt["text_encoder", "cross_attention", 0],
            clean["text_encoder", "cross_attention", 0],
            3,
            head,
            4,
        )
        changed = (patched != corrupt["text_encoder", "cross_attention", 0]).nonzero()
        assert set(changed[:, 1].tolist()) == {3}
        assert set((changed[:, 2] // 12).tolist()) == {head}, "a head owns its own slice of the context, and only that"


@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("reverse", [False, True])
def test_head_sets_equal_reference(random_blip, reference_model, random_pairs, corruption, reverse):
    sets = [[], [("cross_attention", 1, 2)], [("self_attention", 0, 0), ("cross_attention", 2, 3)]]
    fast = vt.patch_head_sets(random_blip, random_pairs.iloc[:2], sets, corruption, reverse)
    slow = vt.patch_head_sets(reference_model, random_pairs.iloc[:2], sets, corruption, reverse)
    np.testing.assert_allclose(fast["logit_diff"], slow["logit_diff"], atol=1e-4)
    assert fast["logit_diff"].std() > 1e-2


def test_no_head_gives_corrupt_and_all_heads_give_clean(random_blip, random_pairs):
    every = [(m, layer, h) for m in ("self_attention", "cross_attention") for layer in range(3) for h in range(4)]
    pairs = random_pairs.iloc[:3]
    for reverse, expected in ((False, [0, 1]), (True, [1, 0])):
        table = vt.patch_head_sets(random_blip, pairs, [[], every], "image", reverse)
        np.testing.assert_allclose(table["patching_effect"], expected * 3, atol=1e-3)


def test_positions_by_role_and_index_are_rows_of_the_full_sweep(random_blip, random_pairs):
    pairs = random_pairs.iloc[:2]
    full = vt.patch_heads(random_blip, pairs)
    by_role = vt.patch_heads(random_blip, pairs, positions=["correct", "incorrect"])
    expected = full[full["token_role"].isin(["correct", "incorrect"])].reset_index(drop=True)
    assert by_role[KEYS].equals(expected[KEYS])
    np.testing.assert_allclose(by_role["logit_diff"], expected["logit_diff"], atol=1e-5)
    by_index = vt.patch_heads(random_blip, pairs, positions=[5])
    assert set(by_index["position"]) == {5}


def test_metric_columns_follow_their_definitions(random_blip, random_pairs):
    pair = random_pairs.iloc[[3]]
    row = vt.patch_heads(random_blip, pair).iloc[-1]
    ids = random_blip.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    inputs = {run: run_inputs(random_blip, pair, run) for run in ("clean", "image")}
    traces = {run: random_blip.trace(value) for run, value in inputs.items()}
    patches = Patches("text_encoder", [row["module"]], [row["layer"]], [row["head"]], torch.tensor([[row["position"]]]))
    patched = reference.sweep(random_blip, traces["clean"], inputs["image"], patches, ids)
    clean, corrupt = (Readout.of(traces[run].logits, ids) for run in ("clean", "image"))
    assert row["p_correct"] == pytest.approx(patched.p_correct.item(), abs=1e-5)
    assert row["p_diff"] == pytest.approx(patched.p_correct.item() - corrupt.p_correct.item(), abs=1e-5)
    change = patched.logit_diff.item() - corrupt.logit_diff.item()
    assert row["logit_diff"] == pytest.approx(change, abs=1e-4)
    gap = clean.logit_diff.item() - corrupt.logit_diff.item()
    assert row["patching_effect"] == pytest.approx(change / gap, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(corruption="noize"), "Unknown corruption 'noize'.*image, text"),
        (dict(modules=["mlps"]), "Unknown module 'mlps'.*residual"),
        (dict(blocks=["decoder"]), "Unknown block 'decoder'.*text_encoder"),
        (dict(positions=["corect"]), "No position matches"),
        (dict(memory_gb=0), "memory_gb must be a number above 0"),
    ],
)
def test_wrong_arguments_are_one_sentence(random_blip, random_pairs, change, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.patch_modules(random_blip, random_pairs.iloc[:1], **change)


def test_prompts_of_unlike_length_are_refused_before_the_sweep(random_blip, random_pairs):
    pair = random_pairs.iloc[[0]].assign(corrupt_prompt="is this circle striped or green?")
    with pytest.raises(vt.VlmtraceError, match=r"'pair-0'.*tokens"):
        vt.patch_heads(random_blip, pair, "text")


@pytest.mark.medium
def test_bfloat16_differs_by_rounding_only(random_blip, random_pairs):
    """With eight bits of mantissa sweep and hooks round differently: by up to a tenth of the largest effect."""
    half = Blip(random_blip.name, copy.deepcopy(random_blip.hf).to(torch.bfloat16), random_blip.processor)
    slow = Blip(half.name, half.hf, half.processor)
    slow.uses_fast_sweep = False
    fast, hooked, full = (
        vt.patch_heads(model, random_pairs.iloc[[0]])["logit_diff"] for model in (half, slow, random_blip)
    )
    for other in (hooked, full):
        assert (fast - other).abs().max() <= 0.1 * full.abs().max()
        assert fast.corr(other) > 0.98


@pytest.mark.medium
def test_peak_memory_stays_within_the_setting_whatever_the_number_of_sites(random_pairs):
    model = vt.load_model("tiny-blip")
    pair = random_pairs.iloc[[0]]
    allowed = 12 * 2**20
    few = peak_memory(lambda: vt.patch_heads(model, pair, modules=["cross_attention"], memory_gb=allowed / 2**30))
    many = peak_memory(lambda: vt.patch_heads(model, pair, memory_gb=allowed / 2**30))
    unbounded = peak_memory(lambda: vt.patch_heads(model, pair))
    assert few <= allowed and many <= allowed < unbounded


def test_effects_carry_the_unit_of_their_pair(random_blip, random_pairs):
    """Whoever averages effects needs to know which of them are one observation."""
    pairs = random_pairs.iloc[[0, 2]].assign(unit=["a", "a"])
    for table in (
        vt.patch_modules(random_blip, pairs, modules=["mlp"], positions=["correct"]),
        vt.patch_heads(random_blip, pairs, positions=["correct"]),
        vt.patch_regions(random_blip, pairs, regions=["image"]),
        vt.knock_out_attention(random_blip, pairs, edges=[("image", "options")]),
    ):
        assert set(table["unit"]) == {"a"}
    assert "unit" not in vt.patch_heads(random_blip, random_pairs.iloc[[0]], positions=["correct"])


@pytest.mark.parametrize(
    ("name", "block"),
    [("random_blip", "text_decoder"), ("random_blip", "vision_encoder"), ("florence2", "text_decoder")],
)
def test_options_are_refused_where_no_word_of_the_prompt_stands(model_store, random_pairs, name, block):
    """Nothing would be patched, and the table would be empty."""
    model = model_store.shared(name)
    sentence = rf"Unknown position of {block} 'options': choose"
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.patch_regions(model, random_pairs.iloc[[0]], block=block, regions=["options"])
    # What the sentence offers is patched.
    last = "last" if block == "text_decoder" else "image"
    table = vt.patch_regions(model, random_pairs.iloc[[0]], modules=["residual"], block=block, regions=[last])
    assert len(table) == model.blocks[block].n_layers and set(table["token_role"]) == {last}


def test_a_prompt_without_its_options_has_no_rows_for_them(random_blip, random_pairs):
    pairs = random_pairs.iloc[[0]].assign(clean_prompt="what color is it?", corrupt_prompt="what shape is it?")
    assert vt.patch_regions(random_blip, pairs, block="text_encoder", regions=["options"]).empty


@pytest.mark.parametrize(("rows", "expected"), [(50.0, 8), (2.8, 2), (0.05, 1)])
def test_fewer_pairs_of_a_model_with_large_layers_share_a_sweep(model_store, random_pairs, monkeypatch, rows, expected):
    """One pair fills the processor then, and the runs of eight would take more memory than all of its states."""
    model = model_store.shared("llava")
    whole = vt.patch_heads(model, random_pairs, positions=["last"])
    monkeypatch.setattr(batching, "rows_worth_a_call", lambda model: rows)
    assert batching.pairs_per_sweep(model) == expected
    again = vt.patch_heads(model, random_pairs, positions=["last"])
    np.testing.assert_allclose(again["logit_diff"], whole["logit_diff"], atol=1e-4)
    assert again["sample_id"].tolist() == whole["sample_id"].tolist()
