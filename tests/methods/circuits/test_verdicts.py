"""Verdicts follow the numbers by fixed rules; better than random is no verdict."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.verdicts import circuit_verdicts

CIRCUIT = ["cross_attention 1.0", "cross_attention 1.1"]


def make_heads(important=(True, True, False)):
    head = {"block": "text_encoder", "module": "cross_attention", "layer": 1, "head": range(3)}
    return pd.DataFrame({"task": "t", "corruption": "image", **head, "mean_effect": 0.3, "is_important": important})


def make_curves(sufficiency, left, random=(0.05, 0.95), k=2, n=30, run="computed", spread=0.01):
    """`n` pairs with a gap of 4 logits; a circuit of k heads, and as many random ones."""
    jitter = spread * np.linspace(-1, 1, n)
    rows = []
    for direction, ranked, other in (("sufficiency", sufficiency, random[0]), ("necessity", left, random[1])):
        for order, share in (("ranked", ranked), ("random", other)):
            for pair in range(n):
                rows.append((f"p{pair}", direction, order, 1 + 4 * (share + jitter[pair])))
    table = pd.DataFrame(rows, columns=["sample_id", "direction", "order", "logit_diff"])
    ends = {"logit_diff_none": 1.0, "logit_diff_all": 5.0}
    return table.assign(task="t", corruption="image", run=run, draw=0, k=k, **ends)


def make_subsets(inside, without):
    """LD of circuit and model without each subset, from shares by number of removed heads or by the subset's name."""
    rows = [(name, 1 + 4 * inside[name], 1 + 4 * without[name]) for name in inside]
    table = pd.DataFrame(rows, columns=["removed", "logit_diff_circuit", "logit_diff_model"])
    return table.assign(sample_id="p0", task="t", corruption="image", k=2, logit_diff_none=1.0, logit_diff_all=5.0)


def test_three_heads_that_restore_an_eighth_are_no_circuit_though_they_beat_random_ones():
    """The case of the default run: .12 restored, .90 left, and a green yes."""
    (row,) = circuit_verdicts(make_heads(), make_curves(0.12, 0.90)).to_dict("records")
    assert row["better_than_random"]
    assert (row["sufficient"], row["necessary"]) == ("no", "no")
    assert row["sufficiency"] == pytest.approx(0.12) and row["left"] == pytest.approx(0.90)


@pytest.mark.parametrize(
    ("sufficiency", "spread", "word"),
    [(0.9, 0.01, "yes"), (0.81, 0.2, "partly"), (0.5, 0.01, "partly"), (0.21, 0.2, "no"), (0.1, 0.01, "no")],
    ids=["surely above .8", "above .8, unsure", "half", "above .2, unsure", "a tenth"],
)
def test_words_demand_the_whole_interval(sufficiency, spread, word):
    n = 12
    table = circuit_verdicts(make_heads(), make_curves(sufficiency, 1 - sufficiency, n=n, spread=spread))
    assert table["sufficient"].tolist() == [word]
    assert table["necessary"].tolist() == [word], "the same rule holds for what is lost without the circuit"


def test_runs_have_rows_of_their_own():
    curves = pd.concat([make_curves(0.9, 0.1, run="frozen"), make_curves(0.3, 0.9)])
    table = circuit_verdicts(make_heads(), curves).set_index("run")
    assert table["sufficient"].to_dict() == {"frozen": "yes", "computed": "partly"}
    assert set(table["k"]) == {2} and set(table["n_heads"]) == {3} and set(table["n_units"]) == {30}
    assert table["complete"].isna().all(), "without subsets completeness is open"


def test_completeness_and_minimality_by_hand():
    a, b = CIRCUIT
    both = f"{a}, {b}"
    inside = {"": 0.9, a: 0.5, b: 0.895, both: 0.0}
    model = {"": 1.0, a: 0.95, b: 0.98, both: 0.9}
    (row,) = circuit_verdicts(make_heads(), make_curves(0.9, 0.9), make_subsets(inside, model)).to_dict("records")
    # Taking both heads away leaves .9 of the model and nothing of the circuit: others do the same work.
    assert row["incompleteness"] == pytest.approx(0.9) and row["complete"] == "no"
    # b matters when a is gone: .5 against 0.
    assert row["n_redundant"] == 0 and row["minimal"] == "yes"
    inside = {"": 0.9, a: 0.0, b: 0.895, both: 0.0}
    (row,) = circuit_verdicts(make_heads(), make_curves(0.9, 0.1), make_subsets(inside, {**inside, "": 1.0})).to_dict(
        "records"
    )
    assert row["incompleteness"] == pytest.approx(0.1) and row["complete"] == "yes"
    assert row["n_redundant"] == 1 and row["minimal"] == "no", "b changes the circuit by .005 at most"


def test_random_heads_that_do_as_well_fail_the_control():
    for random in ((0.9, 0.9), (0.05, 0.1)):
        table = circuit_verdicts(make_heads(), make_curves(0.9, 0.1, random=random))
        assert table["better_than_random"].tolist() == [False], f"random heads restore and leave {random}"


def test_no_important_head_is_no_circuit():
    (row,) = circuit_verdicts(make_heads(important=False), make_curves(0.9, 0.1, k=0)).to_dict("records")
    assert (row["k"], row["sufficient"], row["necessary"]) == (0, "no", "no")
    assert pd.isna(row["better_than_random"]), "no heads are not compared"


def test_a_size_that_was_not_run_is_a_sentence():
    with pytest.raises(VlmtraceError, match="no circuit of 2 heads for t/image"):
        circuit_verdicts(make_heads(), make_curves(0.9, 0.1, k=3))
