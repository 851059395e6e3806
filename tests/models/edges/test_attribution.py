"""Estimates of edges are the derivative of exact path patching, add up where they must, and are exact without bends."""

from dataclasses import replace

import pytest
import torch
from fixtures.taken_apart import Runs
from torch import nn

from vlmtrace.models.edges.attribution import attribute_edges
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.gradient_runs import gradient_runs
from vlmtrace.models.edges.nodes import EVERYTHING, INPUT, THE_OUTPUT
from vlmtrace.models.edges.sweep import sweep_edges
from vlmtrace.models.edges.wiring import edges_of, senders_of

MEMORY = 2**28

#: Layers that read lower ones' keys and are given embeddings of their own; layers that carry a state.
UNLIKE = ["gemma4", "qwen3_5"]


def numbered(found, edges):
    nodes = list(dict.fromkeys(edge.sender for edge in edges))
    numbers = {node: i for i, node in enumerate(nodes)}
    return [Sender(node) for node in nodes], [(numbers[edge.sender], edge.receiver) for edge in edges]


def swept(found, edges, stacks=None):
    read = sweep_edges(stacks or found.stacks, *numbered(found, edges), found.base, MEMORY)
    return read.logit_diff - found.base.logit_diff


def estimated(found, edges, stacks=None, shares=(0.0,), moved=None, memory=MEMORY, **options):
    stacks = stacks or found.stacks
    runs = [gradient_runs(stacks, found.runs.answer_ids, shares, moved)]
    return attribute_edges(stacks, *numbered(found, edges), runs, memory, **options)


def moved_by(stacks, share):
    """The same stacks with a source run that is only a share of the way from the base run."""

    def part(base, source):
        return base + share * (source - base)

    return [
        replace(
            stack,
            source={at: part(stack.layers.output(*at), value) for at, value in stack.source.items()},
            inputs={node: part(stack.layers.entering(0), value) for node, value in stack.inputs.items()},
            looked_at={name: part(stack.layers.looked_at(name), value) for name, value in stack.looked_at.items()},
            later={layer: share * value for layer, value in stack.later.items()},
            embedded={
                layer: {node: part(stack.layers.embedded(layer), value) for node, value in given.items()}
                for layer, given in stack.embedded.items()
            },
        )
        for stack in stacks
    ]


@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("computes", [False, True])
@pytest.mark.parametrize(
    "name",
    ["random_blip", "llava", "qwen2_vl", "gemma3", *(pytest.param(one, marks=pytest.mark.medium) for one in UNLIKE)],
)
def test_estimates_are_finite_differences_of_exact_patching(runs_of, name, corruption, computes):
    """Of a source run near the base run: what bends is straight there."""
    found = runs_of(name, corruption)
    edges = edges_of(found.model)[::7]
    # A state that normalizes small vectors bends sooner.
    share = 0.004 if name == "qwen3_5" else 0.02
    both = [moved_by(found.stacks, sign * share) for sign in (1, -1)]
    exact, estimate = (
        torch.stack([take(found, edges, stacks) for stacks in both])
        for take in (swept, lambda *given: estimated(*given, computes_receivers=computes))
    )
    exact, estimate = exact[0] - exact[1], estimate[0] - estimate[1]
    assert exact.norm() > 1e-4, "no edge does anything"
    assert (exact - estimate).norm() < 0.02 * exact.norm() + 1e-6 * len(edges) ** 0.5


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_estimates_of_all_senders_add_up(runs_of, name):
    """Without a norm between, what enters a receiver is a sum: all its edges together move it as everything does."""
    found = runs_of(name)
    edges = edges_of(found.model)
    estimate = estimated(found, edges)
    receivers = list(dict.fromkeys(edge.receiver for edge in edges))
    whole = attribute_edges(
        found.stacks, [Sender(EVERYTHING)], [(0, one) for one in receivers],
        [gradient_runs(found.stacks, found.runs.answer_ids, [0.0])], MEMORY,
    )  # fmt: skip
    place = {receiver: i for i, receiver in enumerate(receivers)}
    total = torch.zeros(len(receivers))
    total.index_add_(0, torch.tensor([place[edge.receiver] for edge in edges]), estimate)
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(total, whole, atol=1e-4 * whole.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "corruption"),
    [("random_blip", "image"), ("llava", "image"), ("llava", "text"), ("qwen3_vl", "image"), ("qwen2_vl", "text")],
)
def test_integrated_gradients_of_the_inputs_edges_add_up_to_the_gap(runs_of, name, corruption):
    """Completeness of integrated gradients: over all edges by which the inputs enter, from corrupt to clean."""
    found = runs_of(name, corruption)
    edges = [edge for edge in edges_of(found.model) if edge.sender.block == INPUT]
    total = estimated(found, edges, shares=[(i + 0.5) / 64 for i in range(64)]).sum()
    gap = (found.clean.logit_diff - found.base.logit_diff).sum()
    once = estimated(found, edges).sum()
    assert abs(total - gap) < 0.01 * abs(gap) + 1e-4
    assert abs(once - gap) > abs(total - gap), "one gradient is as good: nothing bends here"


@pytest.mark.parametrize("module", ["self_attention", "mlp"])
def test_integrated_gradients_of_a_module_add_up_to_its_patch(runs_of, module):
    found = runs_of("llava")
    edges = [edge for edge in edges_of(found.model) if edge.sender[1:3] == (module, 0)]
    moved = edges[0].sender
    total = estimated(found, edges, shares=[(i + 0.5) / 32 for i in range(32)], moved=moved).sum()
    ends = gradient_runs(found.stacks, found.runs.answer_ids, [0.0, 1.0], moved).answers
    assert abs(total - (ends[1] - ends[0])) < 0.01 * abs(ends[1] - ends[0]) + 1e-5
    assert abs(ends[1] - ends[0]) > 1e-4


def test_estimates_are_exact_where_nothing_bends(model_store, random_pairs):
    """Without norms and feed-forward, what enters values of the last layer and the output goes straight to logits."""
    model = model_store.load("llava")
    language = model.hf.model.language_model
    language.norm = nn.Identity()
    for layer in language.layers:
        layer.input_layernorm = layer.post_attention_layernorm = nn.Identity()
        nn.init.zeros_(layer.mlp.down_proj.weight)
    found = Runs(model, random_pairs, "image")
    last = model.blocks["language_model"].n_layers - 1
    edges = [
        edge
        for edge in edges_of(model)
        if edge.receiver.node == THE_OUTPUT or (edge.receiver.node.layer == last and edge.receiver.input == "value")
    ]
    exact = swept(found, edges)
    rounding = 1e-5 * max(found.base.correct.abs().item(), exact.abs().max().item())
    assert exact.abs().max() > 100 * rounding
    for options in ({}, {"computes_receivers": True}):
        torch.testing.assert_close(estimated(found, edges, **options), exact, atol=rounding, rtol=1e-3)
    bent = [edge for edge in edges_of(model) if edge.receiver.node.layer == last and edge.receiver.input == "query"]
    assert not torch.allclose(estimated(found, bent), swept(found, bent), atol=rounding, rtol=1e-3)


@pytest.mark.parametrize("name", ["llava", "random_blip"])
def test_a_computed_softmax_is_exact_below_straight_layers(runs_of, name):
    """Queries of everything: the estimate errs by what is above the head alone, so that it is the better one."""
    found = runs_of(name)
    receivers = list(dict.fromkeys(edge.receiver for edge in edges_of(found.model)))
    receivers = [one for one in receivers if one.input in ("query", "key")]
    wanted = [(0, one) for one in receivers]
    exact = sweep_edges(found.stacks, [Sender(EVERYTHING)], wanted, found.base, MEMORY).logit_diff
    exact = exact - found.base.logit_diff
    runs = [gradient_runs(found.stacks, found.runs.answer_ids, [0.0])]
    plain, computed = (
        attribute_edges(found.stacks, [Sender(EVERYTHING)], wanted, runs, MEMORY, computes) for computes in (0, 1)
    )
    assert (computed - exact).norm() < (plain - exact).norm()


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_memory_changes_no_estimate(runs_of, name):
    found = runs_of(name)
    edges = edges_of(found.model)[::11]
    for options in ({}, {"computes_receivers": True}, {"shares": (0.2, 0.9)}):
        whole, pieces = (estimated(found, edges, memory=memory, **options) for memory in (MEMORY, 1))
        torch.testing.assert_close(whole, pieces, atol=1e-6, rtol=1e-4)


def test_every_sender_is_estimated(runs_of):
    found = runs_of("random_blip")
    estimate = estimated(found, edges := edges_of(found.model))
    moving = {edge.sender for edge, value in zip(edges, estimate.tolist(), strict=True) if value}
    # Under image corruption the prompt, and what is computed before the image is looked at, are the same in both runs.
    same = {node for node in senders_of(found.model) if node not in moving}
    assert all(node.module == "prompt" or (node.module == "self_attention" and node.layer == 0) for node in same), (
        sorted(node.label for node in same)
    )
