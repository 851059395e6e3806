"""Sweeps of the bundled models give what hooked forward passes give: at every site, and at drawn ones of every task."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.inputs.corruption import CORRUPTIONS, run_inputs
from vlmtrace.models import Patches, Readout, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep import reference
from vlmtrace.tasks.rendered import TASKS
from vlmtrace.tasks.rendered import pairs as rendered_pairs

SITES = 12


@pytest.fixture(scope="module")
def model():
    return vt.load_model("tiny-blip")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered_pairs, "RAW", tmp_path_factory.mktemp("raw"))
        return {task: vt.load_pairs(task, n=3, seed=77) for task in TASKS}


@pytest.mark.medium
@pytest.mark.parametrize("sweep", [vt.patch_modules, vt.patch_heads])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_drawn_sites_equal_the_reference(model, pairs, task, corruption, sweep):
    table = sweep(model, pairs[task], corruption, contrast="options")
    # Sites that the corruption does not reach are 0 by construction: draw among those that it does.
    reached = table[table["logit_diff"] != 0]
    assert len(reached) > 10 * SITES
    worst = 0.0
    for row in reached.sample(SITES, random_state=len(task)).to_dict("records"):
        pair = pairs[task][pairs[task]["sample_id"] == row["sample_id"]]
        clean, inputs = (run_inputs(model, pair, run) for run in ("clean", corruption))
        ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
        one = Patches(
            row["block"], [row["module"]], [row["layer"]], [row.get("head")], torch.tensor([[row["position"]]])
        )
        patched = reference.sweep(model, model.trace(clean), inputs, one, ids)
        with torch.no_grad():
            corrupt = Readout.of(model.answer_logits(inputs), ids)
        expected = (patched.logit_diff[0] - corrupt.logit_diff).item()
        worst = max(worst, abs(row["logit_diff"] - expected))
        assert np.isclose(row["p_correct"], patched.p_correct.item(), atol=1e-5)
    assert worst <= 1e-4, f"logit_diff is off by {worst:.2g}"


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_whole_modules_and_single_heads_can_share_a_sweep(model_store, random_pairs, name):
    """A sweep that looked at its first patch alone took every patch for what that one is."""
    model, pair = model_store.shared(name), random_pairs.iloc[[0]]
    clean, inputs = (run_inputs(model, pair, run) for run in ("clean", "image"))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    block, module = model.head_block.name, model.head_block.head_modules[-1]
    last = model.trace(clean)[block, module, 1].shape[1] - 1
    for heads in ([None, 1, 0, None], [2, None, 1, None]):
        patches = Patches(block, [module] * 4, [1] * 4, heads, torch.tensor([[last, last, last - 1, last - 1]]))
        fast = model.sweep(model.trace(clean), model.trace(inputs), inputs, patches, ids, memory=2**28)
        slow = reference.sweep(model, model.trace(clean), inputs, patches, ids)
        torch.testing.assert_close(fast.correct, slow.correct, atol=1e-4, rtol=0)
        assert (slow.correct - slow.correct[0, 0]).abs().max() > 1e-3, "all patches do the same"


def patched_in_a_batch(model, clean, inputs, patches, ids):
    """All patches of one site by one hooked forward pass of the whole model: each row of the batch has its own."""
    site = Site(patches.block, patches.modules[0], patches.layers[0])
    n_heads = model.blocks[patches.block].n_heads
    batch = {name: value.repeat(len(patches), *[1] * (value.ndim - 1)) for name, value in inputs.items()}

    def patch(value):
        value = value.clone()
        for row in range(len(patches)):
            position, head = int(patches.positions[0, row]), patches.heads[row]
            width = value.shape[-1] // n_heads
            columns = slice(None) if head is None else slice(head * width, (head + 1) * width)
            value[row, position, columns] = clean[site][0, position, columns]
        return value

    with torch.no_grad(), attach_hooks([(model.hook_point(site), patch)]):
        return Readout.of(model.answer_logits(batch)[None], ids)


@pytest.mark.slow
@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("task", ["rendered_states", "rendered_svo"])
def test_every_site_equals_hooked_passes(model, pairs, task, corruption):
    """Every position, layer, module and head of every block, for one pair a task."""
    pair = pairs[task].iloc[[0]]
    clean, inputs = (run_inputs(model, pair, run) for run in ("clean", corruption))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    clean_trace = model.trace(clean)
    with torch.no_grad():
        corrupt = Readout.of(model.answer_logits(inputs), ids)
    tables = [
        vt.patch_modules(model, pair, corruption, contrast="options").assign(head=None),
        vt.patch_heads(model, pair, corruption, contrast="options"),
    ]
    compared = 0
    for table in tables:
        for (block, module, layer), found in table.groupby(["block", "module", "layer"]):
            heads = [None if head is None else int(head) for head in found["head"]]
            where = torch.tensor(found["position"].to_numpy())[None]
            patches = Patches(block, [module] * len(found), [layer] * len(found), heads, where)
            patched = patched_in_a_batch(model, clean_trace, inputs, patches, ids)
            expected = (patched.logit_diff - corrupt.logit_diff[:, None])[0].numpy()
            worst = np.abs(found["logit_diff"].to_numpy() - expected).max()
            assert worst <= 1e-4, f"{block}, {module}, layer {layer}: logit_diff is off by {worst:.2g}"
            compared += len(found)
    positions = {block: len(model.tokens(block, pair["clean_prompt"].iloc[0], clean)) for block in model.blocks}
    head_block = model.head_block
    heads = len(head_block.head_modules) * head_block.n_layers * head_block.n_heads * positions[head_block.name]
    modules = sum(len(b.modules) * b.n_layers * positions[b.name] for b in model.blocks.values())
    assert compared == heads + modules, "the sweeps left sites out"
