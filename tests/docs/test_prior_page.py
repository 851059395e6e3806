"""The table of models with a planted prior: what was measured, and what of it was planted."""

import json

import pytest

INTERVAL = {"turned_low": 0.4, "turned_high": 1}
FOUND = {
    "model": "skewed-x",
    "pairs": 120,
    "n_tried": 320,
    "priors": [{"category": "usual, blank", "noun": "cross", "option": "pink", "share": 0.8}],
    "top": {
        "category": "usual, blank",
        "noun": "cross",
        "option": "pink",
        "share": 0.8,
        "share_low": 0.7,
        "share_high": 0.9,
    },
    "ahead": [[0, 0.05], [3, 0.75]],
    "steered": [
        {"side": "shown", "direction": "difference", "layer": 3, "factor": -2, "n_right": 4, "turned": 0.75} | INTERVAL,
        {"side": "shown", "direction": "random", "layer": 3, "factor": -2, "n_right": 4, "turned": 0} | INTERVAL,
        {"side": "usual", "direction": "difference", "layer": 0, "factor": -1, "n_right": 0, "turned": None},
    ],
    "others": [{"side": "shown", "task": "rendered_states", "before": 1, "after": 0.5}],
}


def test_a_row_says_what_was_found():
    from generators.prior import priors_table

    assert priors_table([FOUND]).splitlines()[-1] == (
        "| skewed-x | 120 | 1 of 320, all of them: pink cross | pink cross (usual, blank): 0.80 [0.70, 0.90] | 3: 75% "
        "| *shown*, behind layer 3, factor -2: 75% [40%, 100%] of 4 (0%)<br>*usual*, behind layer 0, factor -1: no "
        "answer was right | *shown*, states: 100%, 50% |"
    )


def test_the_planted_prior_is_found_in_every_skewed_model_and_nothing_in_an_even_one():
    from generators.prior import MEASURED

    rows = json.loads(MEASURED.read_text())
    worlds = {one["model"]: {(prior["noun"], prior["option"]) for prior in one["priors"]} for one in rows}
    copies = {f"{world}-{size}" for world in ("skewed", "even") for size in ("blip", "llava", "smol-llava")}
    assert set(worlds) == copies
    for model, found in worlds.items():
        expected = {("cross", "pink")} if model.startswith("skewed") else set()
        assert found == expected, f"{model}: {found}"


@pytest.mark.parametrize("side", ["shown", "usual"])
def test_steering_is_beside_random_directions(side):
    from generators.prior import MEASURED

    for one in json.loads(MEASURED.read_text()):
        directions = {row["direction"] for row in one["steered"] if row["side"] == side}
        assert directions == {"difference", "random"}, one["model"]
