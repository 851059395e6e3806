"""Sweeps of the bundled model give, at drawn sites of every task, what one hooked forward pass gives."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.corruption import CORRUPTIONS, run_inputs
from vlmtrace.models import Patches, Readout, reference
from vlmtrace.tasks import TASKS
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


@pytest.mark.parametrize("sweep", [vt.patch_modules, vt.patch_heads])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("task", TASKS)
def test_drawn_sites_equal_the_reference(model, pairs, task, corruption, sweep):
    table = sweep(model, pairs[task], corruption)
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
