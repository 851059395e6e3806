"""How estimates rank edges: against tables made by hand."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace import plots
from vlmtrace.methods.edges.agreement_figures import overlap_curve

N = 40


def table(effects, corruption="image", n_pairs=2):
    """Edges of these mean effects; pairs differ around them."""
    effects = np.asarray(effects, dtype=float)
    return pd.concat(
        pd.DataFrame(
            {
                "sample_id": f"pair-{pair}",
                "corruption": corruption,
                "sender": [f"block.mlp.{i % 5}" for i in range(len(effects))],
                "receiver": [f"block.self_attention.{i // 5}.0.value" for i in range(len(effects))],
                "patching_effect": effects + (pair - (n_pairs - 1) / 2),
            }
        )
        for pair in range(n_pairs)
    ).astype({"sender": "category", "receiver": "category"})


def test_numbers_are_those_of_mean_effects():
    exact = np.random.default_rng(1).normal(size=N)
    estimate = exact.copy()
    estimate[np.abs(exact).argmax()], estimate[np.abs(exact).argmin()] = 0.0, 10.0
    found = vt.edge_agreement(table(exact), table(estimate), top=4).iloc[0]
    series = pd.Series(exact), pd.Series(estimate)
    assert found[["n_pairs", "n_edges", "top"]].tolist() == [2, N, 4]
    assert found["spearman"] == pytest.approx(series[0].corr(series[1], method="spearman"))
    assert found["pearson"] == pytest.approx(series[0].corr(series[1]))
    assert found["spearman_magnitude"] == pytest.approx(series[0].abs().corr(series[1].abs(), method="spearman"))
    assert found["overlap"] == 0.75 and found["overlap_by_chance"] == 4 / N


def test_a_row_for_each_corruption_that_both_have():
    exact = pd.concat([table(np.arange(N)), table(np.arange(N)[::-1], "text")])
    estimate = pd.concat([table(np.arange(N)), table(np.arange(N), "text")])
    found = vt.edge_agreement(exact, estimate, top=5).set_index("corruption")
    assert found.loc["image", ["spearman", "overlap"]].tolist() == pytest.approx([1, 1])
    assert found.loc["text", ["spearman", "overlap"]].tolist() == pytest.approx([-1, 0])
    assert vt.edge_agreement(exact, table(np.arange(N)), top=5)["corruption"].tolist() == ["image"]


@pytest.mark.parametrize(
    ("exact", "estimate", "top", "sentence"),
    [
        (table(np.arange(N)), table(np.arange(N), n_pairs=3), 5, "not of the same pairs"),
        (table(np.arange(N)), table(np.arange(N), "text"), 5, "No edge is in both"),
        (table(np.arange(N)), table(np.arange(N)), N, "says nothing"),
        (table(np.arange(N)).drop(columns="sender"), table(np.arange(N)), 5, "sender"),
        (
            pd.concat([table(np.arange(N)).assign(direction=way) for way in ("denoising", "noising")]),
            table(np.arange(N)),
            5,
            "exact effects hold several values of direction",
        ),
        (
            table(np.arange(N)).assign(direction="noising"),
            table(np.arange(N)).assign(direction="denoising"),
            5,
            "unlike direction cannot be compared .exact: noising, estimate: denoising",
        ),
    ],
)
def test_what_is_refused(exact, estimate, top, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.edge_agreement(exact, estimate, top=top)


def test_the_curve_is_the_overlap_at_every_number():
    generator = np.random.default_rng(0)
    means = pd.DataFrame({"exact": generator.normal(size=N)})
    means["estimate"] = means["exact"] + generator.normal(size=N)
    counts, shares = overlap_curve(means)
    for count, share in zip(counts, shares, strict=True):
        strongest = [set(means[name].abs().nlargest(count).index) for name in means]
        assert share == pytest.approx(len(strongest[0] & strongest[1]) / count)
    assert counts[-1] == N and shares[-1] == 1 and shares.min() < shares.max()


def test_the_figure_has_a_panel_a_corruption_and_a_curve_an_estimate():
    exact = pd.concat([table(np.arange(N)), table(np.arange(N), "text")])
    other = table(np.arange(N)[::-1])
    figure = plots.edge_agreement(exact, {"same": exact, "turned": other})
    assert [axes.get_title() for axes in figure.axes] == [
        "image corruption (n = 2 pairs)",
        "text corruption (n = 2 pairs)",
    ]
    said = [[line.get_label() for line in axes.lines] for axes in figure.axes]
    assert said == [["same (1.00)", "turned (-1.00)", "chance"], ["same (1.00)", "chance"]]
    assert set(figure.axes[0].lines[0].get_ydata()) == {1.0}
    assert figure.axes[1].lines[0].get_color() == figure.axes[0].lines[0].get_color()
    for axes in figure.axes:
        listed = [text.get_text() for text in axes.get_legend().get_texts()]
        assert listed == [line.get_label() for line in axes.lines]
    hidden = plots.edge_agreement(exact, {"_mine": exact}).axes[0].get_legend()
    assert hidden.get_texts()[0].get_text() == "_mine (1.00)", "a name with an underscore is listed, too"
    with pytest.raises(vt.VlmtraceError, match="no estimate"):
        plots.edge_agreement(exact, {})
