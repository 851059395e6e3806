"""Noising: the sweeps with the runs in each other's place, checked against hooks set by hand."""

import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.pair_runs import encode_pair, read_again, run_pairs
from vlmtrace.methods.patching import in_direction
from vlmtrace.models import Site
from vlmtrace.models.hooks import attach_hooks


@pytest.fixture(scope="module", params=["blip", "llava"])
def model(request, model_store):
    return model_store.shared("random_blip" if request.param == "blip" else request.param)


def _noised(model, runs, row, width):
    """The effect of copying one activation from the corrupt into the clean run, by one hooked forward pass."""
    site = Site(row.block, row.module, row.layer)
    source = (runs.corrupt)[site]
    columns = slice(None)
    if hasattr(row, "head"):
        columns = slice(row.head * width, (row.head + 1) * width)

    def patch(value):
        value = value.clone()
        value[:, row.position, columns] = source[:, row.position, columns]
        return value

    with torch.no_grad(), attach_hooks([(model.hook_point(site), patch)], n_pairs=1):
        found = read_again(model, runs, "clean")
    clean, corrupt = float(runs.clean_readout.logit_diff), float(runs.corrupt_readout.logit_diff)
    return float(found.logit_diff), (clean - float(found.logit_diff)) / (clean - corrupt), clean


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_noising_is_a_hooked_clean_run(model, random_pairs, corruption):
    one = random_pairs.iloc[[0]].reset_index(drop=True)
    runs = run_pairs(model, one, [encode_pair(model, one, 0, corruption)], corruption)
    block = model.head_block
    width = runs.clean[block.name, block.head_modules[0], 0].shape[-1] // block.n_heads
    heads = vt.patch_heads(model, one, corruption, positions=[3], direction="noising")
    modules = vt.patch_modules(model, one, corruption, positions=[3], direction="noising")
    assert set(heads["direction"]) == set(modules["direction"]) == {"noising"}
    for row in [*heads.iloc[::5].itertuples(), *modules.iloc[::2].itertuples()]:
        ld, effect, clean = _noised(model, runs, row, width)
        assert row.patching_effect == pytest.approx(effect, abs=1e-4), f"{row}: not the share that is lost"
        assert row.logit_diff == pytest.approx(ld - clean, abs=1e-4), f"{row}: not less the clean run's LD"


def test_noising_all_of_the_last_layer_loses_everything(model, random_pairs):
    one = random_pairs.iloc[[0]]
    block = model.blocks[model.answer_block]
    regions = vt.patch_regions(model, one, modules=["residual"], regions=["all"], block=block.name, direction="noising")
    last = regions[regions["layer"] == block.n_layers - 1]
    assert last["patching_effect"].tolist() == pytest.approx([1], abs=1e-4)


def test_denoising_is_the_default_and_says_so(model, random_pairs):
    one = random_pairs.iloc[[0]]
    block = model.answer_block
    default = vt.patch_modules(model, one, positions=[0], blocks=[block])
    named = vt.patch_modules(model, one, positions=[0], blocks=[block], direction="denoising")
    pd.testing.assert_frame_equal(default, named)
    assert set(default["direction"]) == {"denoising"}


def test_noising_twice_is_denoising(model, random_pairs):
    one = random_pairs.iloc[[0]].reset_index(drop=True)
    runs = run_pairs(model, one, [encode_pair(model, one, 0, "image")])
    back = in_direction(in_direction(runs, "noising"), "noising")
    assert back.clean is runs.clean and back.inputs is runs.inputs and back.clean_readout is runs.clean_readout
    with pytest.raises(VlmtraceError, match="direction"):
        in_direction(runs, "sideways")
