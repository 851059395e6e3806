"""Circuits that are known: what is read from circuit.json, and what is said where there is none."""

import json

import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS
from vlmtrace.models import known_circuit
from vlmtrace.models.known import FILE


def test_a_circuit_is_read_from_a_folder_as_by_its_name():
    by_name, by_folder = known_circuit("planted-backup-llava"), known_circuit(MODELS / "planted-backup-llava")
    assert by_name.nodes.equals(by_folder.nodes) and by_name.edges.equals(by_folder.edges)
    told = json.loads((MODELS / "planted-backup-llava" / FILE).read_text())
    assert by_name.nodes["node"].tolist() == [node["node"] for node in told["nodes"]]
    assert list(by_name.joint) == told["joint"] and len(by_name.joint) == 2


def test_what_is_true_depends_on_the_corruption():
    known = known_circuit("planted-chain-llava")
    names = known.nodes.set_index("node")["name"]
    assert set(names[list(known.true_nodes("image"))]) == {"finder", "mover", "clearer", "comparer"}
    assert set(names[list(known.true_nodes("text"))]) == {"collector", "comparer"}
    assert known.true_edges("image") != known.true_edges("text")
    assert known.true_edges("image") <= set(zip(known.edges["sender"], known.edges["receiver"], strict=True))


def test_a_trained_model_has_no_known_circuit():
    with pytest.raises(VlmtraceError, match=r"No circuit of tiny-blip is known, since there is no file .*circuit.json"):
        known_circuit("tiny-blip")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"kind": "chain"}', '{"nodes": 3, "edges": []}', "\xff"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(VlmtraceError, match=r"does not hold a circuit .*: copy the planted model again"):
        known_circuit(tmp_path)
