"""Tables of estimated edges: the same rows as those of exact ones, their numbers put together by hand."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.methods.edges import estimates
from vlmtrace.methods.edges.estimates import EDGE_METHODS, NODE_METHODS
from vlmtrace.models.edges.attribution import attribute_edges
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.gradient_runs import gradient_runs
from vlmtrace.models.edges.nodes import EVERYTHING
from vlmtrace.models.edges.stacks import stacks_of
from vlmtrace.models.edges.wiring import edges_of

SOME = {"senders": ["image", "text_encoder.mlp", "text_decoder.self_attention.0"], "receivers": ["text_decoder"]}
FOUND = ["p_correct", "p_diff", "logit_diff", "patching_effect"]


@pytest.fixture(scope="module")
def pairs(random_pairs):
    return random_pairs.iloc[[0, 4]].reset_index(drop=True)


@pytest.mark.parametrize("method", EDGE_METHODS)
def test_rows_are_those_of_exact_edges(random_blip, pairs, method):
    exact = vt.patch_edges(random_blip, pairs, **SOME)
    estimate = vt.attribute_edges(random_blip, pairs, method=method, **SOME)
    pd.testing.assert_frame_equal(
        estimate.drop(columns=FOUND), exact.drop(columns=FOUND), check_dtype=False, check_categorical=False
    )
    assert estimate[["p_correct", "p_diff"]].isna().all(axis=None)
    assert estimate["logit_diff"].abs().max() > 1e-5


@pytest.mark.parametrize("method", ["AtP", "QK-fix", "AtP*"])
def test_rows_of_nodes_are_those_of_exact_ones(random_blip, pairs, method):
    exact, estimate = (
        vt.attribute_nodes(random_blip, pairs, method=one, receivers=["text_encoder"]) for one in ("exact", method)
    )
    pd.testing.assert_frame_equal(estimate.drop(columns=FOUND), exact.drop(columns=FOUND))
    assert set(exact["sender"]) == {"everything"} and exact["p_correct"].between(0, 1).all()
    if method == "AtP*":
        return
    ((_, runs),) = one_by_one(random_blip, pairs.head(1), "image", "answer")
    stacks = stacks_of(random_blip, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)
    receivers = {edge.receiver.label: edge.receiver for edge in edges_of(random_blip)}
    mine = estimate[estimate["sample_id"] == pairs["sample_id"][0]]
    expected = attribute_edges(
        stacks, [Sender(EVERYTHING)], [(0, receivers[label]) for label in mine["receiver"]],
        [gradient_runs(stacks, runs.answer_ids, [0.0])], 2**28, method == "QK-fix",
    ).numpy()  # fmt: skip
    np.testing.assert_allclose(mine["logit_diff"], expected, atol=1e-6, rtol=1e-4)
    assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("contrast", ["answer", "options"])
def test_estimates_by_hand(random_blip, pairs, direction, contrast):
    table = vt.attribute_edges(random_blip, pairs, "text", direction=direction, contrast=contrast, **SOME)
    wanted = {(edge.sender.label, edge.receiver.label): edge for edge in edges_of(random_blip)}
    for row, runs in one_by_one(random_blip, pairs, "text", contrast):
        source, base, inputs = runs.clean, runs.corrupt, runs.inputs
        if direction == "noising":
            source, base, inputs = base, source, runs.clean_inputs
        stacks = stacks_of(random_blip, source, base, inputs, runs.answer_ids)
        mine = table[table["sample_id"] == pairs["sample_id"][row]]
        edges = [wanted[key] for key in zip(mine["sender"], mine["receiver"], strict=True)]
        expected = attribute_edges(
            stacks, [Sender(edge.sender) for edge in edges], [(i, edge.receiver) for i, edge in enumerate(edges)],
            [gradient_runs(stacks, runs.answer_ids, [0.0])], 2**28,
        ).numpy()  # fmt: skip
        np.testing.assert_allclose(mine["logit_diff"], expected, atol=1e-6, rtol=1e-4)
        gap = (runs.clean_readout.logit_diff - runs.corrupt_readout.logit_diff).item()
        sign = -1 if direction == "noising" else 1
        np.testing.assert_allclose(mine["patching_effect"], sign * expected / gap, atol=1e-6, rtol=1e-3)
    assert set(table["direction"]) == {direction}


@pytest.mark.parametrize("method", ["EAP", "EAP-IG-activations"])
@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_positions_one_by_one_add_up_to_all_together(model_store, pairs, name, method):
    """What moves at one position is read there, and to the first order such movements add up."""
    model, pairs = model_store.shared(name), pairs.head(1)
    block = model.head_block.name
    some = {"senders": ["prompt", f"{block}.mlp.0"], "receivers": [f"{block}.self_attention.1", f"{block}.mlp.1"]}
    exact = vt.patch_edges(model, pairs, "text", positions="all", **some)
    apart = vt.attribute_edges(model, pairs, "text", method, positions="all", **some)
    together = vt.attribute_edges(model, pairs, "text", method, **some)
    kept = ["sender", "receiver", "position", "token", "token_role"]
    pd.testing.assert_frame_equal(apart[kept], exact[kept], check_dtype=False, check_categorical=False)
    edge = ["sender", "receiver"]
    summed = apart.astype(dict.fromkeys(edge, str)).groupby(edge)["logit_diff"].sum()
    expected = together.astype(dict.fromkeys(edge, str)).set_index(edge)["logit_diff"].loc[summed.index]
    np.testing.assert_allclose(summed, expected, atol=1e-5, rtol=1e-3)
    assert expected.abs().max() > 1e-3 and apart["logit_diff"].abs().gt(1e-5).sum() > len(together)


def test_methods_average_over_the_runs_that_they_name(random_blip, pairs):
    """Clean and corrupt: half of the estimate in each run. Two steps: a quarter and three quarters of the way."""
    pairs = pairs.head(1)
    ((_, runs),) = one_by_one(random_blip, pairs, "image", "answer")
    stacks = stacks_of(random_blip, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)
    (edge,) = [e for e in edges_of(random_blip) if e.sender.label == "image" and e.receiver.label.endswith("2.1.value")]
    names = {"senders": ["image"], "receivers": [edge.receiver.label]}

    def at(shares, moved=None):
        found = gradient_runs(stacks, runs.answer_ids, shares, moved)
        return attribute_edges(stacks, [Sender(edge.sender)], [(0, edge.receiver)], [found], 2**28).item()

    def table(method, **options):
        return vt.attribute_edges(random_blip, pairs, method=method, **names, **options)["logit_diff"].item()

    ends = at([0.0]), at([1.0])
    assert abs(ends[0] - ends[1]) > 1e-5
    assert table("EAP") == pytest.approx(ends[0], rel=1e-4)
    assert table("clean-corrupted") == pytest.approx(sum(ends) / 2, rel=1e-4)
    assert table("EAP-IG-inputs", steps=2) == pytest.approx((at([0.25]) + at([0.75])) / 2, rel=1e-4)
    moved = at([0.25], edge.sender), at([0.75], edge.sender)
    assert table("EAP-IG-activations", steps=2) == pytest.approx(sum(moved) / 2, rel=1e-4)
    # With room for one run at a time, the same.
    one_by_one_again = table("EAP-IG-inputs", steps=2, memory_gb=1e-6)
    assert one_by_one_again == pytest.approx(table("EAP-IG-inputs", steps=2), rel=1e-4)


@pytest.mark.parametrize("method", ["EAP-IG-inputs", "EAP-IG-activations"])
def test_more_steps_keep_no_more_runs(random_blip, pairs, method, monkeypatch):
    """Three steps, with room for two runs at a time: the average weighs both parts by their runs."""
    pairs, steps = pairs.head(1), 3
    ((_, runs),) = one_by_one(random_blip, pairs, "image", "answer")
    stacks = stacks_of(random_blip, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)
    own = [edge for edge in edges_of(random_blip) if edge.sender.label in ("image", "text_encoder.mlp.0")][::7]
    sent = [(Sender(edge.sender), edge.receiver) for edge in own]
    room = sum(stack.layers.state_bytes() * stack.layers.block.n_layers for stack in stacks)
    whole = estimates._estimated(stacks, runs.answer_ids, sent, method, steps, 100 * room)
    made: list[weakref.ref] = []

    def some(stacks, answer_ids, shares, moved=None):
        assert not any(one() is not None for one in made), "runs of the steps before are kept"
        found = gradient_runs(stacks, answer_ids, shares, moved)
        made.append(weakref.ref(found))
        assert len(shares) <= 2
        return found

    monkeypatch.setattr(estimates, "gradient_runs", some)
    apart = estimates._estimated(stacks, runs.answer_ids, sent, method, steps, 2 * room)
    assert len(made) == 2 * (1 if method == "EAP-IG-inputs" else len({sender.node for sender, _ in sent}))
    np.testing.assert_allclose(apart, whole, atol=1e-6)
    assert whole.abs().max() > 1e-4


def test_atp_star_is_the_mean_magnitude_over_dropped_layers(model_store, pairs):
    model = model_store.shared("llava")
    pairs = pairs.head(1)
    table = vt.attribute_nodes(model, pairs)
    ((_, runs),) = one_by_one(model, pairs, "image", "answer")
    stacks = stacks_of(model, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)
    receivers = {edge.receiver.label: edge.receiver for edge in edges_of(model)}
    wanted = [(0, receivers[label]) for label in table["receiver"]]
    n = model.blocks["language_model"].n_layers
    each = torch.stack(
        [
            attribute_edges(
                stacks, [Sender(EVERYTHING)], wanted,
                [gradient_runs(stacks, runs.answer_ids, [0.0], dropped=("language_model", layer))], 2**28, True,
            )
            for layer in range(n)
        ]
    )  # fmt: skip
    np.testing.assert_allclose(table["logit_diff"], each.abs().sum(0).numpy() / (n - 1), atol=1e-6, rtol=1e-4)
    assert (table["logit_diff"] >= 0).all() and (each[0] - each[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("is_long", [False, True])
def test_integrated_gradients_of_the_images_edges_add_up_to_one(random_blip, pairs, is_long):
    """Also of answers of several tokens, where either's log-probability has a gradient of its own."""
    if is_long:
        pairs = pairs.assign(correct_answer="striped red", incorrect_answer="blue dotted ball")
    table = vt.attribute_edges(
        random_blip, pairs, contrast="options", method="EAP-IG-inputs", steps=64, senders=["image"]
    )
    total = table.groupby("sample_id")["patching_effect"].sum()
    np.testing.assert_allclose(total, 1, atol=0.02)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, pairs: vt.attribute_edges(model, pairs, method="EAP-IG"), "EAP-IG-inputs"),
        (lambda model, pairs: vt.attribute_nodes(model, pairs, method="AtP**"), r"AtP\*"),
        (lambda model, pairs: vt.attribute_edges(model, pairs, steps=0), "steps"),
        (lambda model, pairs: vt.attribute_nodes(model, pairs, receivers=["output"]), "output is no node that gives"),
        (lambda model, pairs: vt.attribute_edges(model, pairs, senders=["image.0"]), "no sender 'image.0'"),
        (lambda model, pairs: vt.attribute_edges(model, pairs, direction="up"), "direction"),
    ],
)
def test_what_is_refused(random_blip, pairs, call, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        call(random_blip, pairs)


def test_methods_are_named_in_the_docstrings():
    for function, methods in ((vt.attribute_edges, EDGE_METHODS), (vt.attribute_nodes, NODE_METHODS)):
        assert all(f'"{method}"' in function.__doc__ for method in methods)
