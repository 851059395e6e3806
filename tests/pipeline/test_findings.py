"""What a run's tables say."""

import pandas as pd
import pytest

from vlmtrace.pipeline.findings import strongest_sites


def test_the_strongest_site_is_that_of_the_mean_over_pairs():
    rows = [
        ("a", "residual", 0, "correct", 0.2),
        ("b", "residual", 0, "correct", 0.2),
        ("a", "residual", 1, "correct", 0.9),
        ("b", "residual", 1, "correct", -0.9),
        ("a", "mlp", 0, "?", -0.1),
    ]
    effects = pd.DataFrame(rows, columns=["sample_id", "module", "layer", "token_role", "patching_effect"])
    (site,) = strongest_sites(effects.assign(corruption="image", block="text_encoder"), "t")
    assert (site["module"], site["layer"], site["count"]) == ("residual", 0, 2)
    assert site["mean"] == pytest.approx(0.2)
