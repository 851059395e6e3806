"""Curves say what the table says."""

import pandas as pd
import pytest
from fixtures.edge_runs import made_up

from vlmtrace import plots
from vlmtrace.core.errors import VlmtraceError


def test_a_panel_per_corruption_and_a_line_per_rule_and_order():
    table = pd.concat(
        [
            made_up([0, 0.5, 0.9, 1]),
            made_up([0, 0.1, 0.2, 1], order="random"),
            made_up([0, 0.7, 1.1, 1]).assign(rule="best"),
            made_up([0, 0.3, 0.4, 1]).assign(corruption="text"),
        ]
    )
    figure = plots.edge_faithfulness_curves(table)
    first, second = figure.axes
    assert "image" in first.get_title("left") and "text" in second.get_title("left")
    lines = {line.get_label(): line for line in first.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["grown from the output", "grown from the output, random scores", "best edges"]
    assert lines["best edges"].get_ydata().tolist() == pytest.approx([0, 0.7, 1.1, 1])
    assert first.get_xscale() == "log"


def test_a_table_without_rows_is_refused():
    with pytest.raises(VlmtraceError, match="no rows"):
        plots.edge_faithfulness_curves(made_up([0, 0, 0, 1])[:0])
