"""What is drawn of a table of edges: which edges, how strong, where their nodes stand."""

import numpy as np
import pandas as pd
import pytest
from fixtures.synthetic_tables import make_edges

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.edges.drawing import drawn_circuit, edge_means, place_of

HEAD, MLP, LATER = "text_encoder.cross_attention.0.1", "text_encoder.mlp.0", "text_decoder.cross_attention.1.0"


def table(*rows, **more):
    return pd.DataFrame(rows, columns=["sender", "receiver", "patching_effect"]).assign(**more)


CIRCUIT = make_edges()


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("image", ("image", "input", "", "image", -1, None)),
        ("output", ("output", "input", "", "output", -1, None)),
        (MLP, (MLP, "input", "text_encoder", "mlp", 0, None)),
        (f"{HEAD}.key", (HEAD, "key", "text_encoder", "cross_attention", 0, 1)),
    ],
)
def test_a_name_is_taken_apart(label, expected):
    assert place_of(label) == expected


@pytest.mark.parametrize("label", ["pixels", "text_encoder.mlp", "text_encoder.mlp.x", "a.b.1.2.3", ""])
def test_what_is_no_name_is_refused(label):
    with pytest.raises(VlmtraceError, match=r"is no node's name: use names as vt\.edges"):
        place_of(label)


def test_every_name_of_a_model_is_taken_apart(model_store):
    from vlmtrace.models.edges.wiring import edges_of

    for name in ("random_blip", "llava"):
        for edge in edges_of(model_store.shared(name)):
            place, receiver = place_of(edge.sender.label), place_of(edge.receiver.label)
            assert (place.node, place.head) == (edge.sender.label, edge.sender.head)
            assert (receiver.node, receiver.input) == (edge.receiver.node.label, edge.receiver.input)


def test_positions_are_summed_and_units_count_once():
    rows = [("a", "u", 0, 0.1), ("a", "u", 1, 0.3), ("b", "u", 0, 0.2), ("c", "v", 0, 0.9)]
    effects = pd.DataFrame(rows, columns=["sample_id", "unit", "position", "patching_effect"])
    found = edge_means(effects.assign(sender="prompt", receiver="output", token="x"))
    assert found.table["effect"].tolist() == pytest.approx([((0.4 + 0.2) / 2 + 0.9) / 2])
    assert (found.n_edges, found.n_pairs, found.value) == (1, 3, "patching_effect")


def test_tokens_of_a_single_pair_are_nodes():
    effects = table(("prompt", MLP, 0.2), ("prompt", MLP, -0.1), (MLP, "output", 0.05), (MLP, "output", 0.3))
    effects = effects.assign(sample_id="a", position=[3, 5, 3, 5], token=["red", "blue", "red", "blue"])
    circuit = drawn_circuit(effects, 10)
    tokens = circuit.nodes[circuit.nodes["kind"] == "token"]
    assert sorted(tokens["text"]) == ["blue", "red"] and set(tokens["row"]) == {0}
    assert circuit.edges["effect"].tolist() == pytest.approx([0.35, 0.2, -0.1])
    assert circuit.n_edges == 2, "tokens of one edge are one edge"
    at = circuit.nodes.set_index("node")["at"]
    assert at[MLP] == "blue", "the token at which what the mlp sends does most"


def test_the_strongest_edges_are_drawn_whatever_their_sign():
    circuit = drawn_circuit(CIRCUIT, 3)
    assert circuit.edges["effect"].tolist() == [0.6, 0.4, 0.3] and circuit.n_edges == 7
    assert set(circuit.nodes["node"]) == {"image", HEAD, LATER, "output"}, "nodes of other edges are left out"
    assert drawn_circuit(CIRCUIT, 4).edges["effect"].tolist()[-1] == -0.25


def test_rows_go_up_as_information_flows():
    circuit = drawn_circuit(CIRCUIT, 10)
    assert circuit.rows == [
        "input", "text encoder 0: cross-attention", "text encoder 0: mlp", "text decoder 1: cross-attention", "answer",
    ]  # fmt: skip
    row = circuit.nodes.set_index("node")["row"]
    for edge in circuit.edges.itertuples():
        assert row[edge.sender_node] < row[edge.receiver_node], f"{edge.sender} is not below {edge.receiver}"


def test_the_stack_that_writes_the_answer_is_above_the_other_without_an_edge_between_them():
    circuit = drawn_circuit(table(("image", f"{HEAD}.value", 0.3), (LATER, "output", 0.6)), 10)
    assert circuit.rows == [
        "input", "text encoder 0: cross-attention", "text decoder 1: cross-attention", "answer",
    ]  # fmt: skip


def test_rows_go_up_in_every_model(model_store):
    from vlmtrace.methods.edges.listing import edges

    for name in ("random_blip", "llava"):
        every = edges(model_store.shared(name))
        some = every.assign(score=np.random.default_rng(0).normal(size=len(every)))
        circuit = drawn_circuit(some, 200)
        row = circuit.nodes.set_index("node")["row"]
        assert (row[circuit.edges["sender_node"]].to_numpy() < row[circuit.edges["receiver_node"]].to_numpy()).all()
        assert circuit.nodes["x"].between(0, 1).all()
        assert not circuit.nodes.duplicated(["row", "x"]).any(), "two nodes of a row stand at one place"
        assert circuit.value == "score"


@pytest.mark.parametrize("effect", [1.0, 1e-9, 0.0])
def test_a_star_of_equal_edges_is_drawn(effect):
    heads = [f"text_decoder.cross_attention.0.{head}" for head in range(12)]
    circuit = drawn_circuit(table(*((head, "output", effect) for head in heads), ("image", MLP, effect)), 50)
    assert len(circuit.edges) == 13 and sorted(circuit.nodes["node"]) == sorted([*heads, "output", "image", MLP])


def test_a_drawing_is_the_same_again():
    first, second = (drawn_circuit(CIRCUIT, 10).nodes for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        (CIRCUIT.drop(columns="patching_effect"), "patching_effect"),
        (CIRCUIT.iloc[:0], "has no rows"),
        (CIRCUIT.assign(patching_effect=np.nan), "All values of patching_effect are missing"),
        (CIRCUIT.assign(corruption=["image", "text"] + 5 * ["image"]), r"several values of corruption \(image, text\)"),
        (table((HEAD, f"{LATER}.key", 1.0), (LATER, f"{HEAD}.key", 1.0)), "run in a circle"),
    ],
)
def test_what_cannot_be_drawn_is_said(edges, said):
    with pytest.raises(VlmtraceError, match=said):
        drawn_circuit(edges, 10)
