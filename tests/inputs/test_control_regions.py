"""Margins and random draws of image tokens, on grids worked by hand."""

import numpy as np

from vlmtrace.inputs.control_regions import control_regions, with_margin


def grid(rows, columns):
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    return np.stack([row / rows, column / columns, (row + 1) / rows, (column + 1) / columns], axis=1)


def test_a_margin_is_one_token_wide_on_all_sides():
    chosen = np.zeros((5, 6), dtype=bool)
    chosen[2, 3] = True
    expected = np.zeros((5, 6), dtype=bool)
    expected[1:4, 2:5] = True
    assert with_margin(chosen.ravel(), grid(5, 6)).reshape(5, 6).tolist() == expected.tolist()


def test_a_margin_ends_at_the_edge_and_does_not_wrap():
    chosen = np.zeros((3, 3), dtype=bool)
    chosen[0, 2] = True
    found = with_margin(chosen.ravel(), grid(3, 3)).reshape(3, 3)
    assert found.tolist() == [[False, True, True], [False, True, True], [False, False, False]]


def test_a_token_without_a_place_touches_nothing():
    boxes = np.vstack([np.full((1, 4), np.nan), grid(1, 3)])
    chosen = np.array([True, True, False, False])
    assert with_margin(chosen, boxes).tolist() == [True, True, True, False]


def test_drawn_tokens_have_a_place_and_lie_outside():
    boxes = np.vstack([np.full((1, 4), np.nan), grid(4, 4)])
    chosen = np.zeros(17, dtype=bool)
    chosen[[6, 7]] = True
    regions = {"object": chosen}
    name = "as many as object with margin"
    counts = np.zeros(17)
    for seed in range(200):
        found = control_regions(regions, boxes, [name], "pair", seed)[name]
        counts += found
        assert found.sum() == 4, "12 of the 16 tokens belong to object and margin: only 4 are left"
    outside = ~with_margin(chosen, boxes) & ~np.isnan(boxes).any(1)
    assert (counts > 0).tolist() == outside.tolist()


def test_every_other_token_is_drawn_about_as_often():
    boxes = grid(4, 4)
    chosen = np.arange(16) < 4
    found = [control_regions({"object": chosen}, boxes, ["as many as object"], str(i)) for i in range(600)]
    counts = np.sum([one["as many as object"] for one in found], axis=0)
    assert (counts[:4] == 0).all() and (np.abs(counts[4:] - 200) < 60).all(), counts


def test_a_region_that_is_not_there_has_no_control():
    assert control_regions({"image": np.ones(4, dtype=bool)}, grid(2, 2), ["as many as object"]) == {}
