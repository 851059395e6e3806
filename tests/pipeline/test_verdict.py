"""The words of the verdict follow from its numbers."""

import pytest

from vlmtrace.pipeline.verdict import verdict


def circuit(task="t", k=3, sufficient="partly", necessary="no", complete="no", sufficiency=0.5):
    row = {"task": task, "corruption": "image", "run": "computed", "k": k, "sufficient": sufficient}
    row |= {"necessary": necessary, "complete": complete, "minimal": "yes", "sufficiency": sufficiency, "left": 0.4}
    return row | {"sufficiency_low": 0.4, "sufficiency_high": 0.6, "left_low": 0.3, "left_high": 0.5}


def universal(n_heads, m=6):
    return {"scope": "all", "criterion": "important", "n_heads": n_heads, "m": m, "expected": 0.04}


def candidate(kind="region", mean=0.3):
    return {"kind": kind, "task": "t", "corruption": "image", "mean": mean, "low": 0.2, "high": 0.4}


def test_the_nearest_circuit_is_told_where_none_is_whole():
    (said,) = verdict([circuit("rendered_svo", sufficiency=0.2), circuit("rendered_states")], [], [], [])
    assert said == (
        "No circuit: nowhere are the important heads sufficient, necessary, complete and minimal at once. Nearest is "
        "rendered states, image corruption: with all other heads as in the corrupt run "
        "they restore 0.50 of what all heads do (picked on these pairs), partly sufficient; without them 0.40 "
        "[0.30, 0.50] is left, not necessary."
    )
    (said,) = verdict([circuit()], [], [], [])
    assert "they restore 0.50 [0.40, 0.60] of what all heads do, partly" in said, "nothing was picked"


def test_a_circuit_is_told_with_its_case_and_the_frozen_run_is_not_read():
    whole = circuit(sufficient="yes", necessary="yes", complete="yes")
    (said,) = verdict([whole, {**whole, "run": "frozen", "task": "other"}], [], [], [])
    assert (
        said
        == "The important heads are a circuit, sufficient, necessary, complete and minimal, in t, image corruption."
    )


def test_a_circuit_that_was_not_tested_for_completeness_may_be_one():
    half = circuit("rendered_svo", sufficient="yes", necessary="yes", complete=None) | {"minimal": None}
    assert verdict([circuit(), half], [], [], []) == [
        "Perhaps a circuit: the important heads are sufficient and necessary in rendered svo, image corruption; "
        "completeness and minimality were not tested."
    ]
    (said,) = verdict([half | {"necessary": "partly"}], [], [], [])
    assert said.startswith("No circuit: nowhere"), "what was tested is enough to say so"


def test_missing_shares_and_heads_that_do_not_help_are_told_apart():
    missing = circuit(sufficiency=float("nan"))
    (said,) = verdict([missing, circuit(k=0)], [], [], [])
    assert said.startswith("Whether the important heads are a circuit is open")
    (said,) = verdict([circuit(k=0, sufficiency=0.0)], [], [], [])
    assert said == "No circuit: in no case does an important head help the answer."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (universal(0), "No head is important in all six cases."),
        (universal(1), "One head is important in all six cases (by chance 0.04)."),
        (universal(3, m=2), "Three heads are important in all two cases (by chance 0.04)."),
        (universal(2, m=1), "Two heads are important in the only case (by chance 0.04)."),
    ],
)
def test_heads_of_all_cases_are_counted(row, said):
    assert verdict([], [row], [], []) == [said]


def test_no_finding_is_a_sentence():
    (said,) = verdict([], [], [candidate(), candidate()], [])
    assert said == "No finding: none of two candidates has an effect that surely differs from 0 on new pairs."


def test_the_costliest_knockout_is_told_where_it_is_no_finding():
    rows = [candidate("knockout", 0.1), candidate("knockout", 0.3), candidate("region")]
    (said,) = verdict([], [], rows, [candidate("region")])
    assert said == (
        "Of the knock-outs, the costliest, of t, takes away 0.30 of the gap (picked on these pairs); a loss of 0.50 "
        "leaves the answer halfway between clean and corrupt."
    )
    (said,) = verdict([], [], rows[1:], [candidate("region")])
    assert said.startswith("Of the knock-outs, the costliest, of t, takes away 0.30 [0.20, 0.40] of the gap;")
    assert verdict([], [], rows, [candidate("knockout")]) == []


def test_nothing_is_said_of_stages_that_have_not_run():
    assert verdict([], [], [], []) == []
