"""Ablation against hooks set by hand, and replacements computed by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.pair_runs import encode_pair, read_again, run_pairs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.patching import Patch
from vlmtrace.methods.patching.ablation import draw_donors
from vlmtrace.models import Site
from vlmtrace.models.hooks import attach_hooks


@pytest.fixture(scope="module", params=["random_blip", "llava"])
def model(request, model_store):
    return model_store.shared(request.param)


def activation(model, pairs, row, site):
    """(1, S, D) of a pair's clean run."""
    return model.trace(run_inputs(model, pairs.iloc[[row]], "clean"), [site])[site]


def expected_effect(model, pairs, row, patch, source):
    """LD_ablated − LD_clean and its share of the gap, with a hook that puts the source in place."""
    one = pairs.iloc[[row]].reset_index(drop=True)
    runs = run_pairs(model, one, [encode_pair(model, one, 0, "image")])

    def replace(value):
        value = value.clone()
        width = value.shape[-1] // model.blocks[patch.block].n_heads
        columns = slice(None) if patch.heads is None else slice(patch.heads[0] * width, (patch.heads[0] + 1) * width)
        for position in range(source.shape[1]) if patch.positions is None else patch.positions:
            value[:, position, columns] = source[:, position, columns]
        return value

    with torch.no_grad(), attach_hooks([(model.hook_point(patch.site), replace)], n_pairs=1):
        ld = float(read_again(model, runs, "clean").logit_diff)
    clean, corrupt = float(runs.clean_readout.logit_diff), float(runs.corrupt_readout.logit_diff)
    return ld - clean, (ld - clean) / (clean - corrupt)


def sites_of(model):
    block = model.head_block
    return [
        Patch(block.name, block.head_modules[-1], 1, None, (2,)),
        Patch(block.name, "mlp", 0, (6, 7)),
        Patch("vision_encoder", "self_attention", 0, None, (1,)),
    ]


def check(model, pairs, effects, row, source_of):
    mine = effects[effects["sample_id"] == pairs["sample_id"].iloc[row]]
    for patch, found in zip(sites_of(model), mine.itertuples(), strict=True):
        change, share = expected_effect(model, pairs, row, patch, source_of(patch.site))
        assert found.logit_diff == pytest.approx(change, abs=1e-4), f"{patch}: not what the hook gives"
        assert found.patching_effect == pytest.approx(share, abs=1e-4), f"{patch}: not a share of the gap"
        assert abs(change) > 1e-4, f"{patch} does nothing: this checks nothing"


def test_zero_is_a_hook_that_gives_zero(model, random_pairs):
    pairs = random_pairs.iloc[:2]
    effects = vt.ablate(model, pairs, sites_of(model), method="zero")
    for row in range(2):
        check(model, pairs, effects, row, lambda site, row=row: torch.zeros_like(activation(model, pairs, row, site)))


def test_mean_is_the_mean_of_each_role(model, random_pairs):
    pairs, reference = random_pairs.iloc[:2], random_pairs.iloc[2:6]
    effects = vt.ablate(model, pairs, sites_of(model), method="mean", reference=reference)

    def roles(table, row, block):
        inputs = run_inputs(model, table.iloc[[row]], "clean")
        return token_table(model, table.iloc[row].to_dict(), block, inputs)["token_role"].to_numpy()

    def source(site, row):
        every = np.concatenate([activation(model, reference, i, site)[0].numpy() for i in range(len(reference))])
        names = np.concatenate([roles(reference, i, site.block) for i in range(len(reference))])
        rows = [
            every[names == role].mean(0) if (names == role).any() else every.mean(0)
            for role in roles(pairs, row, site.block)
        ]
        return torch.tensor(np.stack(rows))[None]

    for row in range(2):
        check(model, pairs, effects, row, lambda site, row=row: source(site, row))


def test_resampled_is_another_pairs_activation(model, random_pairs):
    pairs = random_pairs.reset_index(drop=True)
    alike = pairs.groupby(pairs["clean_prompt"].str.split().str.len()).filter(lambda rows: len(rows) > 1)
    pairs = alike[alike["clean_prompt"].map(model.count_tokens).duplicated(keep=False)].reset_index(drop=True)
    assert len(pairs) > 1
    donors = draw_donors(model, pairs, pairs, seed=3)
    assert all(donor != row for row, donor in enumerate(donors)), "a pair must not be its own donor"
    effects = vt.ablate(model, pairs, sites_of(model), method="resample", seed=3)
    check(model, pairs, effects, 0, lambda site: activation(model, pairs, donors[0], site))


def test_a_donor_is_never_of_the_same_unit(random_blip, random_pairs):
    pair = random_pairs.iloc[[0]]
    twin = pair.assign(sample_id="twin")
    both = pd.concat([pair, twin], ignore_index=True)
    with pytest.raises(VlmtraceError, match="no other pair of its length and image shape"):
        draw_donors(random_blip, both, both, seed=0)  # they share their images
    donors = draw_donors(random_blip, both.assign(unit=["a", "b"]), both.assign(unit=["a", "b"]), seed=0)
    assert donors == [1, 0], "a unit that the table says must be respected"


def test_every_head_by_default_and_wrong_names_are_said(model, random_pairs):
    block, one = model.head_block, random_pairs.iloc[[0]]
    effects = vt.ablate(model, one, method="zero")
    assert len(effects) == block.n_layers * block.n_heads * len(block.head_modules)
    assert not effects.duplicated(["module", "layer", "head"]).any() and effects["method"].eq("zero").all()
    with pytest.raises(VlmtraceError, match="method"):
        vt.ablate(model, one, method="median")
    with pytest.raises(VlmtraceError, match="at least one site"):
        vt.ablate(model, one, [])
    with pytest.raises(VlmtraceError, match="not one head"):
        vt.ablate(model, one, [Patch(block.name, block.head_modules[0], 0, None, (0, 1))])
    with pytest.raises(VlmtraceError, match="Layer 9"):
        vt.ablate(model, one, [(block.head_modules[0], 9, 0)])


def test_ablating_a_whole_layer_to_its_own_value_loses_nothing(model, random_pairs):
    """The mean over one pair of positions that each have a role of their own is the pair's own activation."""
    one = random_pairs.iloc[[0]]
    block = model.blocks[model.answer_block]
    site = Site(block.name, "residual", block.n_layers - 1)
    effects = vt.ablate(model, one, [Patch(block.name, site.module, site.layer, ("last",))], method="mean")
    assert effects["patching_effect"].tolist() == pytest.approx([0], abs=1e-4)
    assert effects["head"].isna().all()
