"""The whole road is measured from images to the head table, and what is reckoned says so."""

import pytest

from vlmtrace.benchmarks import road, tables
from vlmtrace.methods.patching.sweeps import patch_heads


class Exact:
    """A library that knows the sweep's own numbers, plus a mistake."""

    def __init__(self, model, table, mistake=0.0):
        self.model, self.table, self.mistake = model, table, mistake

    def start(self, clean, corrupt):
        return corrupt

    def patch(self, started, layer, sites):
        logits = self.model.answer_logits(started).repeat(len(sites), 1)
        found = self.table.set_index(["layer", "head", "position"])["logit_diff"]
        for row, (head, position) in enumerate(sites):
            logits[row, self.table.attrs["correct"]] += found[layer, head, position] + self.mistake
        return logits


@pytest.fixture
def exact(random_blip, random_pairs):
    pair = random_pairs.iloc[[0]]
    table = patch_heads(random_blip, pair, modules=["cross_attention"])
    table.attrs["correct"] = int(random_blip.answer_ids(pair["correct_answer"], pair["incorrect_answer"])[0, 0])
    return table


def measured(random_blip, random_pairs, exact, monkeypatch, budget, mistake=0.0):
    monkeypatch.setattr(road, "known_libraries", lambda _model: {"exact": lambda model: Exact(model, exact, mistake)})
    return road.whole_road(random_blip, random_pairs, measured_pairs=1, budget=budget)


def test_all_patches_of_a_library_are_run_where_there_is_time(random_blip, random_pairs, exact, monkeypatch):
    found = measured(random_blip, random_pairs, exact, monkeypatch, budget=60)
    assert found["pairs"] == len(random_pairs) and found["measured_pairs"] == 1
    assert found["patches"] == len(exact) * len(random_pairs)
    way = found["ways"]["exact"]
    assert way["done"] == len(exact) and way["largest_difference"] <= 1e-4
    assert way["seconds"] > way["fixed_seconds"] > 0


def test_what_there_is_no_time_for_is_reckoned_and_said(random_blip, random_pairs, exact, monkeypatch):
    found = measured(random_blip, random_pairs, exact, monkeypatch, budget=0, mistake=0.5)
    way = found["ways"]["exact"]
    positions = exact["position"].nunique()
    assert way["done"] == positions, "one draw: all positions of a head"
    assert way["of_all"] == found["patches"]
    assert way["largest_difference"] == pytest.approx(0.5, abs=1e-3), "another library's mistake is seen"
    assert f"{positions} of {found['patches']}, extrapolated" in tables.road_table({"random": found})
