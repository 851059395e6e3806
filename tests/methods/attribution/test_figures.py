"""The figure of estimates shows each head's two numbers, and says how well they rank."""

import numpy as np
import pandas as pd

from vlmtrace import plots


def tables():
    generator = np.random.default_rng(0)
    rows = [
        (f"pair-{pair}", "image", "text_encoder", module, layer, head, position)
        for pair in range(3)
        for module in ("self_attention", "cross_attention")
        for layer in range(3)
        for head in range(4)
        for position in range(2)
    ]
    columns = ["sample_id", "corruption", "block", "module", "layer", "head", "position"]
    exact = pd.DataFrame(rows, columns=columns).assign(patching_effect=generator.normal(size=len(rows)))
    return exact, exact.assign(patching_effect=exact["patching_effect"] * 0.5)


def test_points_are_sums_over_positions_averaged_over_pairs():
    exact, estimate = tables()
    figure = plots.attribution_scatter(exact, estimate, top=5)
    (axes,) = figure.axes
    hollow = np.concatenate([points.get_offsets() for points in axes.collections[::2]])
    assert hollow.shape == (24, 2)
    np.testing.assert_allclose(hollow[:, 1], hollow[:, 0] / 2)
    head = exact.query("module == 'cross_attention' and layer == 1 and head == 2")
    expected = head.groupby("sample_id")["patching_effect"].sum().mean()
    assert np.isclose(hollow[:, 0], expected).sum() == 1
    filled = np.concatenate([points.get_offsets() for points in axes.collections[1::2]])
    assert len(filled) == 5 and np.abs(filled[:, 0]).min() >= np.sort(np.abs(hollow[:, 0]))[-5]


def test_it_says_how_well_the_estimate_ranks():
    (axes,) = plots.attribution_scatter(*tables(), top=5).axes
    assert axes.get_ylabel() == "estimate from gradients", "the table does not say how many"
    said = axes.texts[0].get_text()
    assert "rank correlation 1.00" in said and "5 of the 5 strongest" in said and "(by chance 1.0)" in said
