"""Early decoding: the last layer is the model, an earlier one what final norm and unembedding read there."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_written
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Site


@pytest.mark.medium
def test_the_last_layer_is_the_model(model, pairs):
    early = check_written("early_answers", vt.decode_early(model, pairs))
    block = model.blocks[model.answer_block]
    last = early[early["layer"] == block.n_layers - 1]
    whole = vt.split_log_odds(model, pairs, without="corrupt")
    assert last["sample_id"].tolist() == pairs["sample_id"].tolist(), "rows are not in the order of the pairs"
    np.testing.assert_allclose(last["log_odds"], whole["log_odds"], atol=1e-4)
    assert last["answer"].tolist() == whole["answer"].tolist()
    assert last["is_correct"].tolist() == whole["is_correct"].tolist()
    some = vt.decode_early(model, pairs, layers=[block.n_layers - 1, 0])
    kept = early[early["layer"].isin([0, block.n_layers - 1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, kept, check_exact=False, atol=1e-4)
    first = early[early["layer"] == 0]
    assert (first["log_odds"].to_numpy() - last["log_odds"].to_numpy()).std() > 0.1, "layer 0 says the same: no proof"


@pytest.mark.medium
def test_an_earlier_layer_is_read_as_the_logit_lens_reads_it():
    """The stream behind the layer, through the final norm and the unembedding by hand."""
    model, usual = vt.load_model("tiny-llava"), vt.load_pairs("rendered_usual", n=3)
    early = vt.decode_early(model, usual)
    for row in range(3):
        pair, inputs = usual.iloc[row], run_inputs(model, usual.iloc[[row]], "clean")
        first, second = model.answer_ids([pair["correct_answer"]], [pair["incorrect_answer"]])[0]
        for layer in range(4):
            site = Site("language_model", "residual", layer)
            logits = model.read(model.trace(inputs, [site])[site][0, -1])
            found = early[(early["sample_id"] == pair["sample_id"]) & (early["layer"] == layer)].iloc[0]
            assert found["log_odds"] == pytest.approx(float(logits[first] - logits[second]), abs=1e-3), (row, layer)


def test_where_answers_turn_is_counted():
    """One pair is ahead from the start, one turns at layer 1, one goes back and turns at 2, one never stays."""
    curves = {"a": [1, 1, 1], "b": [-1, 2, 3], "c": [1, -1, 2], "d": [1, 1, -2]}
    rows = [
        {"sample_id": name, "unit": name, "category": "x", "block": "b", "layer": layer, "log_odds": float(value)}
        for name, curve in curves.items()
        for layer, value in enumerate(curve)
    ]
    early = pd.DataFrame(rows).assign(is_correct=lambda t: t["log_odds"] > 0, is_incorrect=lambda t: t["log_odds"] < 0)
    means = vt.early_means(early)
    assert means["turned"].tolist() == [0.25, 0.25, 0.25]
    assert means["log_odds"].tolist() == [0.5, 0.75, 1.0] and means["correct"].tolist() == [0.75, 0.75, 0.75]
    some = vt.early_means(early[early["layer"] != 1])
    assert some["turned"].tolist() == [0.5, 0.25], "b and c turn at the next layer that was decoded"
    with pytest.raises(VlmtraceError, match="stands twice"):
        vt.early_means(pd.concat([early, early]))
    with pytest.raises(VlmtraceError, match="has no row"):
        vt.early_means(early.iloc[:0])
    with pytest.raises(VlmtraceError, match="block"):
        vt.decode_early(vt.load_model("tiny-blip"), vt.load_pairs("rendered_usual", n=1), block="language_model")
    with pytest.raises(VlmtraceError, match="layers must be"):
        vt.decode_early(vt.load_model("tiny-blip"), vt.load_pairs("rendered_usual", n=1), layers=[])
    with pytest.raises(VlmtraceError, match="layer"):
        vt.decode_early(vt.load_model("tiny-blip"), vt.load_pairs("rendered_usual", n=1), layers=[99])
