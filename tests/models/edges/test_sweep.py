"""What edges do equals what hooked forward passes give, and fits together."""

import random

import pytest
import torch
from fixtures.families import TIERED

from vlmtrace.models import Patches, Site
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.circuit_run import OF_BASE, OF_RUN, OF_SOURCE, run_circuits
from vlmtrace.models.edges.nodes import EVERYTHING, INPUT, ONLY_INPUT, PROMPT, Receiver
from vlmtrace.models.edges.reference import PROJECTIONS, hooked_edge
from vlmtrace.models.edges.sweep import sweep_edges
from vlmtrace.models.edges.wiring import edges_of, senders_of
from vlmtrace.models.sweep import reference

MEMORY = 2**28

#: BLIP, three families of language models with plain attention, two of which some layers carry a state, one with latent
#: attention, one whose upper layers read keys and values of lower ones, and one that looks at the image from within.
WHOLE = ["random_blip", "llava", "qwen2_vl", "gemma3", "qwen3_5", "lfm2_vl", "kimi_k25", "gemma4_shared", "mllama"]

#: Random models of which every edge is compared.
EVERY_EDGE = ["random_blip", "llava", "qwen2_vl", "gemma3", "lfm2_vl", "mllama"]

#: Trained models, and one whose weights were set by hand: streams are larger and attention is sharper than by chance.
BUNDLED = ["tiny-blip", "tiny-llava", "planted-against-llava"]


def swept(found, chosen, position=None, memory=MEMORY):
    """What the sweep gives for some edges."""
    senders = [Sender(node, position) for node in senders_of(found.model)]
    numbers = {sender.node: i for i, sender in enumerate(senders)}
    wanted = [(numbers[edge.sender], edge.receiver) for edge in chosen]
    return sweep_edges(found.stacks, senders, wanted, found.base, memory)


def largest_difference(found, chosen, position=None):
    """Between the sweep and hooked passes, over some edges; and the largest effect of any of them."""
    fast, runs = swept(found, chosen, position).correct, found.runs
    slow = torch.cat(
        [
            hooked_edge(
                found.model, runs.clean, runs.corrupt, runs.clean_inputs, runs.inputs, *edge, runs.answer_ids, position
            ).correct[0]
            for edge in chosen
        ]
    )
    return (fast - slow).abs().max().item(), (slow - found.base.correct).abs().max().item()


def is_projected_apart(model, receiver):
    """Whether hooks get at one input of a node alone."""
    if receiver.input == ONLY_INPUT:
        return True
    attention = model.attention_module(Site(*receiver.node[:3]))
    if hasattr(attention, "expand_kv") or getattr(attention, "is_kv_shared_layer", False):
        return True
    return all(any(hasattr(attention, one) for one in names) for names in PROJECTIONS.values())


@pytest.mark.parametrize("name", ["random_blip", *TIERED])
def test_drawn_edges_equal_hooked_passes(runs_of, model_store, name):
    model = model_store.shared(name)
    if model.nodes_unsupported_reason():
        pytest.skip(model.nodes_unsupported_reason())
    for corruption in ("image", "text"):
        found = runs_of(name, corruption)
        chosen = [edge for edge in edges_of(model) if is_projected_apart(model, edge.receiver)]
        difference, _ = largest_difference(found, random.Random(0).sample(chosen, 12))
        assert difference <= 1e-4 * max(1, found.runs.clean.logits.abs().max().item())


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("name", BUNDLED)
def test_drawn_edges_of_bundled_models_equal_hooked_passes(runs_of, name, corruption):
    """Some of all edges, some of those into the output, and the strongest ones."""
    found = runs_of(name, corruption)
    edges, draw = edges_of(found.model), random.Random(4)
    effects = (swept(found, edges).correct - found.base.correct).abs()
    chosen = draw.sample(edges, 12) + draw.sample([edge for edge in edges if edge.receiver.node.layer is None], 4)
    chosen += [edges[i] for i in effects.topk(8).indices.tolist()]
    difference, effect = largest_difference(found, chosen)
    assert difference <= 1e-4
    assert effect > 0.1, "no edge does anything"


@pytest.mark.slow
@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("name", EVERY_EDGE)
def test_every_edge_equals_hooked_passes(runs_of, name, corruption):
    found = runs_of(name, corruption)
    difference, effect = largest_difference(found, edges_of(found.model))
    assert difference <= 1e-4
    assert effect > 1e-2, "no edge does anything"


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_edges_of_one_position_equal_hooked_passes(runs_of, name):
    found = runs_of(name, "text")
    block = found.model.head_block
    differs = (found.runs.clean.layer_inputs[block.name] != found.runs.corrupt.layer_inputs[block.name]).any(-1)[0]
    position = int(differs.nonzero()[0])
    within = [
        edge for edge in edges_of(found.model) if edge.sender.block == block.name or edge.sender.module == "prompt"
    ]
    difference, effect = largest_difference(found, random.Random(1).sample(within, 12), position)
    assert difference <= 1e-4
    assert effect > 1e-5


def test_what_is_sent_from_before_the_first_position_that_differs_changes_nothing(runs_of):
    """Rows are counted from there on; a position below must not be taken for one counted from the end."""
    found = runs_of("llava", "text")
    first = found.stacks[0].first
    assert first > 2
    mlp = next(node for node in senders_of(found.model) if node.module == "mlp")
    chosen = [edge for edge in edges_of(found.model) if edge.sender in (mlp, PROMPT)]
    for position in (first - 1, first - 2, 0):
        changes = swept(found, chosen, position).correct - found.base.correct
        assert not changes.any(), f"position {position} of those from {first} on"
    assert (swept(found, chosen, first).correct - found.base.correct).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["random_blip", "qwen2_vl"])
def test_memory_changes_no_number(runs_of, name):
    """With room for one state at a time all climb alone."""
    found = runs_of(name)
    chosen = random.Random(2).sample(edges_of(found.model), 40)
    whole, pieces = swept(found, chosen), swept(found, chosen, memory=1)
    torch.testing.assert_close(whole.correct, pieces.correct, atol=1e-5, rtol=0)


@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("name", ["random_blip", *BUNDLED, *TIERED])
def test_all_edges_are_the_clean_run_and_none_the_corrupt(runs_of, model_store, name, corruption):
    reason = None if name in BUNDLED else model_store.shared(name).nodes_unsupported_reason()
    if reason:
        pytest.skip(reason)
    found = runs_of(name, corruption)
    edges = edges_of(found.model)
    carried = torch.tensor([[OF_RUN], [OF_BASE], [OF_SOURCE]]).expand(-1, len(edges))
    got = run_circuits(found.stacks, edges, carried, MEMORY).correct[0]
    clean, corrupt = (side.correct.item() for side in (found.clean, found.base))
    assert clean != corrupt
    tolerance = 1e-4 * max(1, found.runs.clean.logits.abs().max().item())
    torch.testing.assert_close(got, torch.tensor([clean, corrupt, clean]), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", WHOLE + BUNDLED)
def test_all_edges_of_a_node_are_the_nodes_patch(runs_of, name):
    """All that read a head read its clean output, and all else goes on: that is the head patched everywhere."""
    found = runs_of(name)
    model, edges = found.model, edges_of(found.model)
    # A planted circuit has few nodes that do anything.
    nodes = [node for node in senders_of(model) if node.block != INPUT][:: 1 if name.startswith("planted") else 5]
    is_input = torch.tensor([edge.sender.block == INPUT for edge in edges])
    carried = torch.where(is_input, OF_BASE, OF_RUN).repeat(len(nodes), 1)
    for row, node in enumerate(nodes):
        carried[row, torch.tensor([edge.sender == node for edge in edges])] = OF_SOURCE
    together = run_circuits(found.stacks, edges, carried, MEMORY).correct[0]
    expected = []
    for node in nodes:
        length = found.runs.clean[node[:3]].shape[1]
        one = Patches(
            node.block, [node.module], [node.layer], [node.head], torch.zeros(1, 1, dtype=torch.long),
            torch.ones(1, 1, length, dtype=torch.bool),
        )  # fmt: skip
        patched = reference.sweep(model, found.runs.clean, found.runs.inputs, one, found.runs.answer_ids)
        expected.append(patched.correct[0])
    torch.testing.assert_close(together, torch.cat(expected), atol=1e-4, rtol=0)
    assert (together - found.base.correct).abs().max() > 1e-3


@pytest.mark.parametrize("name", WHOLE + BUNDLED)
def test_one_edge_among_many_is_that_edge_alone(runs_of, name):
    """The run with many edges and the sweep compute the same by different ways."""
    found = runs_of(name)
    edges = edges_of(found.model)
    # An edge by itself: what it changes is read by all above it, whose own edges carry what this run gives.
    chosen = random.Random(3).sample(range(len(edges)), 12)
    is_input = torch.tensor([edge.sender.block == INPUT for edge in edges])
    carried = torch.where(is_input, OF_BASE, OF_RUN).repeat(len(chosen), 1)
    carried[range(len(chosen)), chosen] = OF_SOURCE
    together = run_circuits(found.stacks, edges, carried, MEMORY).correct[0]
    alone = swept(found, [edges[i] for i in chosen]).correct
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_everything_at_the_output_is_the_clean_run(runs_of, name):
    found = runs_of(name)
    output = next(edge.receiver for edge in reversed(edges_of(found.model)))
    assert output == Receiver(output.node) and output.node.module == "output"
    got = sweep_edges(found.stacks, [Sender(EVERYTHING)], [(0, output)], found.base, MEMORY)
    torch.testing.assert_close(got.correct, found.clean.correct, atol=1e-4, rtol=0)
