"""The control of maps: a model that has not changed agrees with itself, one that has does not."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.methods.lens import randomization
from vlmtrace.methods.lens.map_scores import image_maps
from vlmtrace.methods.lens.questions import lens_of
from vlmtrace.methods.lens.randomization import randomization_control, randomization_table


def test_with_nothing_randomized_maps_agree_wholly(tiny, masked):
    control = randomization_control(tiny, masked, ["lens", "attention", "rollout", "gradient"], top_layers=[0], top=99)
    known = control.dropna()
    assert len(known) and np.allclose(known["spearman"], 1) and np.allclose(known["spearman_magnitude"], 1)
    assert set(control["randomized"]) == {"last 0 layers"} and len(control) == 2 * 4


def test_the_token_explained_is_the_trained_models(tiny, masked, monkeypatch):
    asked = []
    real = randomization.image_maps

    def remember(lens, methods, top, seed, token=None):
        asked.append((lens.token, token))
        return real(lens, methods, top, seed, token)

    monkeypatch.setattr(randomization, "image_maps", remember)
    randomization_control(tiny, masked.iloc[:1], ["gradient"], top_layers=[None])
    assert asked[0][1] is None and asked[1][1] == asked[0][0]
    lens = lens_of(tiny, masked.iloc[0])
    other = (lens.token + 1) % len(lens.logits)
    for method in ("lens", "gradient"):
        own, named, another = (
            image_maps(lens, [method], top=99, token=token)[method] for token in (None, lens.token, other)
        )
        assert np.array_equal(own, named) and not np.allclose(own, another), f"{method} is the same for every token"


def test_the_table_averages_questions():
    control = pd.DataFrame(
        {
            "sample_id": ["a", "b"] * 2,
            "method": ["lens"] * 2 + ["rollout"] * 2,
            "randomized": "all weights",
            "spearman": [0.5, -0.1, 0.8, np.nan],
            "spearman_magnitude": [0.1, 0.3, 0.8, np.nan],
        }
    )
    table = randomization_table(control).set_index("method")
    assert table.loc["lens", ["n", "spearman", "lowest", "highest"]].tolist() == pytest.approx([2, 0.2, -0.1, 0.5])
    assert table.loc["rollout", ["n", "spearman"]].tolist() == pytest.approx([1, 0.8])


@pytest.mark.medium
def test_rollout_shows_the_architecture_and_the_lens_what_was_learned():
    """On tiny-llava: rollout of a model that has learned nothing is much the same map."""
    model, questions = vt.load_model("tiny-llava"), vt.load_questions("rendered_open", n=8)
    table = randomization_table(randomization_control(model, questions)).set_index("method")["spearman"]
    assert table["rollout"] > 0.5, "rollout depends on what was learned"
    assert (table[["lens", "gradient", "random"]].abs() < 0.3).all(), "a map survives that should not"
