"""Which inputs of nodes share a residual stream, and what circuits occupy that are run together."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vlmtrace.models.edges.circuit_run import OF_BASE, OF_RUN, OF_SOURCE, circuit_bytes, run_circuits
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, THE_OUTPUT, Receiver
from vlmtrace.models.edges.streams import streams_of
from vlmtrace.models.edges.wiring import edges_of, wirings_of

#: Two stacks, one stack, one whose mlps stand beside its heads, one whose upper layers read keys and values of lower
#: ones, one that looks at the image from within, and one some layers of which carry a state.
KINDS = ["random_blip", "llava", "aya_vision", "gemma4_shared", "mllama", "qwen3_5"]


def carrying(found, *outside):
    """Of one circuit each: all edges but those of which a function says that they are outside, (C, edge)."""
    edges = edges_of(found.model)
    return torch.tensor([[not is_outside(edge) for edge in edges] for is_outside in outside])


def streams_in(found, carried, words=None):
    return streams_of(found.stacks, edges_of(found.model), carried, words or {})


def into(*labels):
    return lambda edge: edge.sender == IMAGE and edge.receiver.label in labels


def drawn(found, n=5):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, len(edges_of(found.model)), generator=generator) < torch.linspace(0.3, 0.95, n)[:, None]


@pytest.mark.parametrize("name", ["random_blip", *[pytest.param(one, marks=pytest.mark.medium) for one in KINDS[1:]]])
def test_circuits_of_all_edges_and_of_none_need_one_stream(runs_of, name):
    """Also beside one another, and whatever run the outputs are of."""
    found = runs_of(name)
    ways = torch.tensor([[OF_RUN], [OF_BASE], [OF_SOURCE]]).expand(-1, len(edges_of(found.model)))
    for carried in (ways, ways[:1], ways[1:2]):
        for stack, streams in zip(found.stacks, streams_in(found, carried), strict=True):
            n_layers = stack.layers.block.n_layers
            assert len(streams.carried) == 1 and streams.last == [n_layers] and set(streams.of.values()) == {0}
            for layer, modules in enumerate(streams.inputs):
                for module, inputs in modules.items():
                    assert len(inputs.distinct) == 1, f"{module} of layer {layer} is computed more than once"


@pytest.mark.medium
def test_the_kinds_of_models_are_those_that_are_meant(runs_of):
    wirings = {name: wirings_of(runs_of(name).model) for name in KINDS}
    assert [len(found) for found in wirings.values()] == [2, 1, 1, 1, 1, 1]
    assert wirings["aya_vision"][0].is_parallel and not wirings["llava"][0].is_parallel
    assert any(isinstance(at, int) for at in wirings["gemma4_shared"][0].keys_at.values())
    assert IMAGE in wirings["mllama"][0].keys_at.values()


def test_inputs_share_a_stream_where_the_same_edge_is_outside(runs_of):
    found = runs_of("llava")
    at = "language_model.self_attention.1"
    query, key, mlp = f"{at}.0.query", f"{at}.2.key", "language_model.mlp.1"
    (alone,) = streams_in(found, carrying(found, into(query)))
    (same,) = streams_in(found, carrying(found, into(query, key, mlp)))
    (apart,) = streams_in(found, carrying(found, into(query), into(key), into(mlp)))
    assert [len(streams.carried) for streams in (alone, same, apart)] == [2, 2, 4]
    by_label = {receiver.label: stream for receiver, stream in same.of.items()}
    assert by_label[query] == by_label[key] == by_label[mlp] != by_label["output"]
    assert [label for label, stream in by_label.items() if stream == by_label[query]] == [query, key, mlp]


def test_nobody_shares_a_stream_that_a_later_circuit_tells_apart(runs_of):
    """All circuits that are run together decide, not the first alone."""
    found = runs_of("llava")
    (streams,) = streams_in(found, carrying(found, into(), into("language_model.mlp.0")))
    assert len(streams.carried) == 2
    assert streams.of_circuits(slice(1)).n_circuits == 1 and streams.of_circuits(slice(1, 2)).n_circuits == 1


def test_a_stream_goes_up_no_further_than_it_is_read(runs_of):
    found = runs_of("llava")
    (streams,) = streams_in(found, carrying(found, into("language_model.mlp.0", "language_model.mlp.1")))
    by_label = {receiver.label: stream for receiver, stream in streams.of.items()}
    n_layers = found.stacks[0].layers.block.n_layers
    assert streams.last[by_label["output"]] == n_layers and streams.later == [by_label["output"]]
    assert streams.last[by_label["language_model.mlp.0"]] == 1 < n_layers
    assert by_label["language_model.mlp.0"] == by_label["language_model.mlp.1"]


def test_edges_of_single_words_have_streams_of_their_own(runs_of):
    found = runs_of("llava", "text")
    mlps = [
        edge.receiver for edge in edges_of(found.model) if edge.sender == PROMPT and edge.receiver.node.head is None
    ]
    first, second, third = mlps[:3]
    carried = carrying(found, lambda _: False)
    (streams,) = streams_in(found, carried, {first: [5], second: [5], third: [6]})
    assert len(streams.carried) == 3
    assert streams.of[first] == streams.of[second] != streams.of[third]
    assert {stream: list(at) for stream, at in streams.words.items()} == {
        streams.of[first]: [5],
        streams.of[third]: [6],
    }
    (none,) = streams_in(found, carried, {first: []})
    assert none.words == {none.of[first]: ()}, "an edge that carries no word is taken for one that carries all"


def test_heads_whose_keys_are_made_of_the_same_are_computed_together(runs_of):
    found = runs_of("random_blip")
    keys = [f"text_encoder.cross_attention.1.{head}.key" for head in (0, 1)]
    question, answer = streams_in(found, carrying(found, into(*keys)))
    inputs = question.inputs[1]["cross_attention"]
    assert len(question.carried) == 1 and len(inputs.distinct) == 2
    assert inputs.of_node[0] == inputs.of_node[1] != inputs.of_node[2]
    assert len(answer.inputs[1]["cross_attention"].distinct) == 1, "the question is the same for all"


@pytest.mark.parametrize("name", ["random_blip", *[pytest.param(one, marks=pytest.mark.medium) for one in KINDS[1:]]])
def test_circuits_run_in_parts_are_those_run_together(runs_of, name):
    found = runs_of(name)
    edges, carried = edges_of(found.model), drawn(found)
    words = {Receiver(THE_OUTPUT): [3]} if name == "llava" else {}
    streams = streams_of(found.stacks, edges, carried, words)
    whole = run_circuits(found.stacks, edges, carried, 2**30, words).correct
    for n in (1, 2):
        parts = run_circuits(found.stacks, edges, carried, n * circuit_bytes(found.stacks, streams), words)
        torch.testing.assert_close(parts.correct, whole, atol=1e-4, rtol=0)
    assert whole.unique().numel() == len(carried), "circuits all do the same"


class Operations(TorchDispatchMode):
    """Counts what tensors are asked to do."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += 1
        return function(*args, **(kwargs or {}))


def test_finding_streams_asks_little_of_the_device(runs_of):
    """A copy from an accelerator for each edge would take longer than the run."""
    found = runs_of("llava")
    carried = drawn(found)
    with Operations() as operations:
        (streams,) = streams_in(found, carried)
        streams.of_circuits(slice(2))
    assert len(streams.carried) > 20 and operations.n < 10


def image_keys(found, n=6):
    """Circuits in each of which other heads' keys are not made of the image; all else is in all of them."""
    edges = edges_of(found.model)
    generator = torch.Generator().manual_seed(5)
    is_key = torch.tensor([edge.sender == IMAGE and edge.receiver.input == "key" for edge in edges])
    return (torch.rand(n, len(edges), generator=generator) < 0.5) | ~is_key


def counting(layers, compute, n_going, held):
    """A module's `compute` that counts what is held meanwhile: all streams' states, those of the module, its images."""

    def computing(module, layer, **given):
        made = compute(module, layer, **given)
        states = (len(made) + n_going) * layers.state_bytes()
        looked_at = {id(one.entering): one.entering.nbytes for kind, one in given.items() if kind != "query"}
        held.append(states + (0 if layers.looked_at(module, layer) is None else sum(looked_at.values())))
        return made

    return computing


@pytest.mark.parametrize("name", ["random_blip", "llava", pytest.param("mllama", marks=pytest.mark.medium)])
@pytest.mark.parametrize("draw", [drawn, image_keys])
def test_circuits_take_no_more_memory_than_they_may(runs_of, name, draw, monkeypatch):
    found = runs_of(name)
    edges, carried, held = edges_of(found.model), draw(found, 6), []
    streams = streams_of(found.stacks, edges, carried, {})
    memory = 2 * circuit_bytes(found.stacks, streams)
    for stack, mine in zip(found.stacks, streams, strict=True):
        layers, n_going = stack.layers, 2 * len(mine.carried)
        monkeypatch.setattr(layers, "compute", counting(layers, layers.compute, n_going, held))
    run_circuits(found.stacks, edges, carried, memory)
    n_modules = sum(len(modules) for mine in streams for modules in mine.inputs)
    assert len(held) == 3 * n_modules, "six circuits go up in pairs"
    assert max(held) <= memory
