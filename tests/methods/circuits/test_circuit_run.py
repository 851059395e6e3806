"""Circuits whose heads are computed agree with a naive run of one set at a time, and keep their identities."""

import contextlib

import numpy as np
import pytest
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.pair_runs import encode_pair, run_pairs
from vlmtrace.methods.circuits.circuit_run import run_circuits
from vlmtrace.methods.circuits.faithfulness import faithfulness_table, subset_table
from vlmtrace.methods.circuits.sites import every_head
from vlmtrace.methods.patching.sweeps import patch_head_sets
from vlmtrace.models import Site

SOME = [("cross_attention", 2, 1), ("self_attention", 0, 3), ("cross_attention", 0, 0)]


def all_runs(model, pair, corruption):
    return run_pairs(model, pair, [encode_pair(model, pair, 0, corruption)], corruption)


def naive(model, pair, circuit, corruption) -> float:
    """LD of the clean input with all heads outside the circuit overwritten, by hooks of torch alone, one set a pass."""
    runs = all_runs(model, pair, corruption)
    block = model.head_block
    with contextlib.ExitStack() as stack, torch.no_grad():
        for module in block.head_modules:
            for layer in range(block.n_layers):
                point = model.hook_point(Site(block.name, module, layer))
                corrupt = runs.corrupt[Site(block.name, module, layer)]

                def overwrite(value, module=module, layer=layer, corrupt=corrupt):
                    value = value.clone()
                    width = value.shape[-1] // block.n_heads
                    for head in range(block.n_heads):
                        if (module, layer, head) not in circuit:
                            value[..., head * width : (head + 1) * width] = corrupt[
                                ..., head * width : (head + 1) * width
                            ]
                    return value

                if point.is_input:
                    hook = lambda _m, args, overwrite=overwrite: (overwrite(args[0]), *args[1:])  # noqa: E731
                    handle = point.module.register_forward_pre_hook(hook)
                else:

                    def hook(_m, _args, output, overwrite=overwrite):
                        if isinstance(output, tuple):
                            return (overwrite(output[0]), *output[1:])
                        return overwrite(output)

                    handle = point.module.register_forward_hook(hook)
                stack.callback(handle.remove)
        logits = model.answer_logits(runs.clean_inputs)[0]
    correct, incorrect = runs.answer_ids[0].tolist()
    return float(logits[correct] - logits[incorrect])


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_sets_in_one_batch_agree_with_one_set_a_pass(random_blip, random_pairs, corruption):
    # Pairs whose answers have one token: the naive run looks at the first position alone.
    one_token = [row for row in range(4) if all_runs(random_blip, random_pairs.iloc[[row]], corruption).whole is None]
    pairs = random_pairs.iloc[one_token[:2]]
    assert len(pairs) == 2
    sets = [[], SOME[:1], SOME, every_head(random_blip)[:7], every_head(random_blip)]
    table = run_circuits(random_blip, pairs, sets, corruption, batch_size=3)
    expected = [naive(random_blip, pairs.iloc[[row]], set(heads), corruption) for row in range(2) for heads in sets]
    assert table["logit_diff"].to_numpy() == pytest.approx(np.array(expected), abs=1e-4), "differs from the naive run"


@pytest.mark.parametrize("row", range(4), ids=lambda row: f"pair {row}")
def test_all_heads_are_the_clean_run_and_no_heads_ignore_what_they_compute(random_blip, random_pairs, row):
    """Of answers of one token and of several."""
    pair = random_pairs.iloc[[row]]
    runs = all_runs(random_blip, pair, "text")
    table = run_circuits(random_blip, pair, [[], every_head(random_blip)], "text")
    none, everything = table["logit_diff"]
    assert everything == pytest.approx(runs.clean_readout.logit_diff.item(), abs=1e-4), (
        "all heads must be the clean run"
    )
    # With every head fixed at its corrupt output and clean embeddings, frozen and computed are the same run.
    frozen = patch_head_sets(random_blip, pair, [every_head(random_blip)], "text", reverse=True)["logit_diff"].item()
    assert none == pytest.approx(frozen, abs=1e-4), "no heads: clean embeddings, all heads corrupt"
    assert none != pytest.approx(runs.corrupt_readout.logit_diff.item(), abs=1e-5), "the embeddings stay clean"


def test_computed_heads_see_the_ablation_and_frozen_ones_do_not(random_blip, random_pairs):
    pairs, late = random_pairs.head(2), [("cross_attention", 2, head) for head in range(4)]
    ran = {
        run: faithfulness_table(random_blip, pairs, late, "image", sizes=[4], n_random=0, run=run).query(
            "direction == 'sufficiency'"
        )["logit_diff"]
        for run in ("frozen", "computed")
    }
    assert not np.allclose(ran["frozen"], ran["computed"], atol=1e-4), (
        "a late head must feel that early ones are ablated"
    )


def test_heads_that_do_not_exist_are_a_sentence(random_blip, random_pairs):
    with pytest.raises(VlmtraceError, match="has 3 layers of 4 heads"):
        run_circuits(random_blip, random_pairs.head(1), [[("self_attention", 3, 0)]])


def test_subsets_are_taken_from_circuit_and_model(random_blip, random_pairs):
    pair = random_pairs.head(1).assign(unit="u")
    table = subset_table(random_blip, pair, SOME, "image", n_halves=1)
    assert set(table["unit"]) == {"u"} and set(table["k"]) == {3}
    table = table.set_index("removed")
    removed = "self_attention 0.3"
    everything = set(every_head(random_blip))
    expected = run_circuits(random_blip, pair, [sorted(set(SOME) - {SOME[1]}), sorted(everything - {SOME[1]})], "image")
    found = table.loc[removed, ["logit_diff_circuit", "logit_diff_model"]].to_numpy(dtype=float)
    assert found == pytest.approx(expected["logit_diff"].to_numpy(), abs=1e-4)
    names = ["cross_attention 0.0", "cross_attention 2.1", "self_attention 0.3"]
    assert {"", ", ".join(names), *names} <= set(table.index)
    assert table.loc["", "logit_diff_model"] == pytest.approx(table.loc["", "logit_diff_all"])
    assert table.loc[", ".join(names), "logit_diff_circuit"] == pytest.approx(table.loc["", "logit_diff_none"])
