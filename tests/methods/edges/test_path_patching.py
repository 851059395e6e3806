"""Edges into the output, of a run of the positions alone that are read out, are what they are among other edges."""

import pandas as pd
import pytest

from vlmtrace.inputs.batching import one_by_one
from vlmtrace.methods.edges import patch_edges

#: By family a pair's options, of which one at least has several tokens under its tokenizer.
OPTIONS = {"llava": ("red ball", "blue dog"), "qwen2_vl": ("red", "blue")}

FOUND = ["p_correct", "p_diff", "logit_diff", "patching_effect"]


def with_options(pairs, correct, incorrect):
    return pairs.assign(
        clean_prompt=f"is this circle {correct} or {incorrect}?",
        corrupt_prompt=f"is this circle {incorrect} or {correct}?",
        correct_answer=correct,
        incorrect_answer=incorrect,
    )


@pytest.mark.parametrize("positions", ["together", "all"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_edges_into_the_output_alone_are_those_among_others(model_store, random_pairs, name, positions):
    model = model_store.shared(name)
    pair = with_options(random_pairs.iloc[[0]], *OPTIONS[name])
    ((_, runs),) = one_by_one(model, pair.reset_index(drop=True), "image", "options")
    assert runs.whole is not None, "this test would prove nothing about whole answers"
    given = {"corruption": "image", "positions": positions, "contrast": "options"}
    alone = patch_edges(model, pair, receivers=["output"], **given)
    every = patch_edges(model, pair, receivers=["output", "language_model.mlp.1"], **given)
    among = every[every["receiver"] == "output"].reset_index(drop=True)
    assert len(alone) < len(every) and alone["logit_diff"].abs().max() > 1e-3
    pd.testing.assert_frame_equal(alone.drop(columns=FOUND), among.drop(columns=FOUND), check_categorical=False)
    pd.testing.assert_frame_equal(alone[FOUND], among[FOUND], atol=1e-4, rtol=0)
    if positions == "all":
        acts = alone.loc[alone["logit_diff"].abs() > 1e-5, "position"]
        assert acts.nunique() == 1, "of the prompt, the last position alone is read out"
