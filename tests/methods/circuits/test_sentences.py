"""Sentences about heads and circuits: they follow the verdicts of the tables."""

import pytest
from fixtures.finished_run import make_curves, make_heads, make_subsets

from vlmtrace.methods.circuits import circuit_verdicts, describe_circuits, describe_heads, describe_new_pairs


def test_important_heads_are_counted_and_the_strongest_is_named():
    first = describe_heads(make_heads()).splitlines()[0]
    assert first == (
        "T, image corruption: 2 of 3 heads are important, 1 of them against the answer. The strongest is "
        "cross-attention 1.0, 0.50 (picked on these pairs); then cross-attention 1.1."
    )


def test_without_an_important_head_the_largest_effect_is_told():
    first = describe_heads(make_heads(important=(False, False, False))).splitlines()[0]
    assert (
        "no head is important; the largest mean effect is that of cross-attention 1.0, 0.50 (picked on these pairs)."
        in first
    )
    assert first.endswith("from 0.12 on.")


def test_one_unit_is_told_to_find_nothing_whatever_the_effect():
    """`detectable_effect` is missing with one unit: the smallest effect that counts is not one that would be found."""
    heads = make_heads(important=(False, False, False)).assign(detectable_effect=float("nan"))
    first = describe_heads(heads).splitlines()[0]
    assert first.endswith("One unit (pairs that share an image or mirror each other) is not enough to find a head.")
    assert "80 of 100" not in first


def test_heads_that_turn_their_sign_on_new_pairs_are_not_counted():
    heads = make_heads()
    turned = heads.assign(mean_effect=-heads["mean_effect"])
    assert "2 of 2 important heads keep their sign, 2 are important again" in describe_new_pairs(heads, heads)
    said = describe_new_pairs(heads, turned)
    assert "correlate by −1.00" in said and "0 of 2 important heads keep their sign" in said


@pytest.mark.parametrize(
    ("sufficiency", "left", "words"),
    [
        (0.9, 0.1, ("0.90 [", "sufficient (as many random heads: 0.20)", "0.10 [", "necessary")),
        (0.5, 0.5, ("0.50 [", "partly sufficient", "partly necessary")),
        (0.1, 0.9, ("0.10 [", "not sufficient", "not necessary")),
    ],
)
def test_a_circuit_is_told_by_its_verdict(sufficiency, left, words):
    heads = make_heads(important=(True, False, False))
    circuits = circuit_verdicts(heads, make_curves(sufficiency, left), make_subsets())
    first = describe_circuits(circuits).splitlines()[0]
    for word in words:
        assert word in first
    computed = circuits[circuits["run"] == "computed"].iloc[0]
    whole = all(computed[name] == "yes" for name in ("sufficient", "necessary", "complete", "minimal"))
    assert first.startswith("T, image corruption: a circuit" if whole else "T, image corruption: no circuit")


def test_a_circuit_of_which_half_was_tested_is_neither_affirmed_nor_denied():
    heads = make_heads(important=(True, False, False))
    first = describe_circuits(circuit_verdicts(heads, make_curves())).splitlines()[0]
    assert first.startswith("T, image corruption: perhaps a circuit.")
    assert first.endswith("necessary. Completeness and minimality were not tested.")
    first = describe_circuits(circuit_verdicts(heads, make_curves(0.5, 0.5))).splitlines()[0]
    assert first.startswith("T, image corruption: no circuit.") and first.endswith("were not tested.")
    assert "not tested" not in describe_circuits(circuit_verdicts(heads, make_curves(), make_subsets()))


def test_heads_whose_share_is_missing_are_not_said_to_do_nothing():
    """All heads together may add nothing to the answer: then no share is known, and the heads were found important."""
    heads = make_heads(important=(True, False, False))
    curves = make_curves().assign(logit_diff_all=-1.0)
    said = describe_circuits(circuit_verdicts(heads, curves))
    assert "no important head helps" not in said
    assert said.startswith("T, image corruption: whether the one important head is a circuit is open")


def test_empty_tables_are_sentences():
    heads = make_heads(important=(True, False, False))
    circuits = circuit_verdicts(heads, make_curves(), make_subsets())
    assert describe_heads(heads[:0]) == "No head was tested."
    assert describe_new_pairs(heads, heads[:0]) == "No head was measured on both halves."
    assert describe_circuits(circuits[:0]) == "No circuit was tested."
    assert "so there is no circuit" in describe_circuits(circuits.assign(k=0))
    assert "no head has an effect" in describe_heads(heads.assign(mean_effect=float("nan"), is_important=False))
