"""circuit.json tells of the model that it lies beside: its nodes and edges are the model's, and their effects true."""

import json

import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.paths import MODELS
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.models.edges.circuit_run import run_circuits
from vlmtrace.models.edges.stacks import stacks_of
from vlmtrace.models.edges.wiring import edges_of
from vlmtrace.models.known import FILE, known_circuit
from vlmtrace.training.planted.card import N_PAIRS
from vlmtrace.training.planted.circuits import AGAINST, blip_plan, llava_plan
from vlmtrace.training.planted.known import PLANTED, write_circuit
from vlmtrace.training.planted.proof import batches_of_runs, color_pairs


def plan_of(name):
    _, kind, architecture = name.split("-")
    return {"llava": llava_plan, "blip": blip_plan}[architecture](kind)


def clear_pair(model, name):
    """A pair of which the model sees enough."""
    plan, pairs = plan_of(name), color_pairs(10)
    return next(pairs.iloc[[i]] for i in range(10) if list(batches_of_runs(model, plan, pairs.iloc[[i]])))


@pytest.mark.parametrize("name", PLANTED)
def test_it_is_the_circuit_that_was_planted(name, tmp_path):
    write_circuit(plan_of(name), name.split("-")[2], tmp_path)
    assert (MODELS / name / FILE).read_text() == (tmp_path / FILE).read_text()


@pytest.mark.parametrize("name", PLANTED)
def test_files_are_small_and_the_card_tells_the_nodes(name):
    files = {path.name: path.stat().st_size for path in (MODELS / name).iterdir()}
    assert sum(files.values()) < 5e6, files
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", FILE} <= set(files)
    card = (MODELS / name / "README.md").read_text()
    for node in known_circuit(name).nodes["node"]:
        assert f"`{node}`" in card
    assert f"python -m vlmtrace.training.planted {name}" in card
    assert f"On {N_PAIRS} pairs" in card, "the card was written by another version of what writes it"


def test_there_are_three_kinds_in_both_architectures():
    kinds = {(json.loads((MODELS / name / FILE).read_text())["kind"], name.split("-")[2]) for name in PLANTED}
    assert kinds == {(kind, how) for kind in ("chain", "backup", "against") for how in ("llava", "blip")}


@pytest.mark.medium
@pytest.mark.parametrize("name", PLANTED)
def test_a_run_of_its_edges_alone_gives_the_clean_answer(name):
    model = vt.load_model(name)
    edges = edges_of(model)
    known = known_circuit(name)
    listed = set(zip(known.edges["sender"], known.edges["receiver"], strict=True))
    inside = torch.tensor([(edge.sender.label, edge.receiver.label) in listed for edge in edges])
    assert inside.sum() == len(listed), f"edges that {name} does not have: {listed}"
    pair = clear_pair(model, name)
    for corruption in ("image", "text"):
        true = known.true_edges(corruption)
        carrying = torch.tensor([(edge.sender.label, edge.receiver.label) in true for edge in edges])
        for _, runs in one_by_one(model, pair, corruption, "answer"):
            stacks = stacks_of(model, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)
            clean, corrupt = runs.clean_readout.logit_diff.item(), runs.corrupt_readout.logit_diff.item()
            found = run_circuits(stacks, edges, torch.stack([inside, carrying, ~carrying]), 2**28).logit_diff[0]
            faithful = (found - corrupt) / (clean - corrupt)
            assert faithful[:2] == pytest.approx(1, abs=0.02), f"{corruption} corruption"
            assert faithful[2] == pytest.approx(0, abs=0.02), f"{corruption} corruption, without the circuit"


def wanted_effect(kind, sender, receiver):
    """Effect of a true edge under image corruption, alone."""
    if kind == "backup":  # both colors stand there in full where one of two heads carries the clean one
        return 0.5 if "mover" in sender or "mover" in receiver else 1.0
    if kind == "against":
        lost = AGAINST / (1 + AGAINST)
        if "opponent" in sender or "opponent" in receiver:
            return lost
        return 1 - lost if "mover" in sender + receiver or sender == "comparer" else 1.0
    return 1.0


@pytest.mark.medium
@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_exact_effects_are_those_of_the_circuit(name, corruption):
    model, known = vt.load_model(name, check=False), known_circuit(name)
    table = vt.patch_edges(model, clear_pair(model, name), corruption=corruption)
    effects = table.set_index([table["sender"].astype(str), table["receiver"].astype(str)])["patching_effect"]
    true = known.true_edges(corruption)
    names = dict(zip(known.nodes["node"], known.nodes["name"], strict=True))

    def called(label):
        return next((names[node] for node in names if label == node or label.startswith(f"{node}.")), label)

    for edge in true:
        wanted = wanted_effect(known.kind, *map(called, edge)) if corruption == "image" else 1.0
        assert effects[edge] == pytest.approx(wanted, abs=0.03), f"{edge} of {name}"
    listed = set(zip(known.edges["sender"], known.edges["receiver"], strict=True))
    outside = effects[[edge not in listed for edge in effects.index]].abs()
    assert outside.max() <= 0.01, outside.nlargest(5)
    # What shows where to look is about the same in both runs: trained eyes are a little surer of one picture.
    alike = effects[[edge in listed - true for edge in effects.index]].abs()
    assert alike.max() <= 0.05, alike.nlargest(5)
