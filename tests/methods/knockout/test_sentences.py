"""Sentences about knock-outs: losses are told as positive shares, in the layer where they are largest."""

import numpy as np
import pandas as pd

from vlmtrace.methods.knockout import describe_knockouts


def losses(by_layer, module="cross_attention", edge="image → all"):
    rows = [
        {"sample_id": pair, "block": "text_encoder", "module": module, "layer": layer, "token_role": edge,
         "patching_effect": -loss}
        for pair in "abc"
        for layer, loss in enumerate(by_layer)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_costliest_layer_is_named():
    said = describe_knockouts(losses([0.1, 0.4, 0.2]), losses([0.25], "image_embeddings", "object"))
    assert "image → all (cross-attention of the text encoder): most in layer 1, 0.40 (picked on these pairs)." in said
    assert said.splitlines()[-1] == "- object: 0.25."


def test_a_window_of_layers_is_named_as_one():
    said = describe_knockouts(losses([0.1, 0.4, 0.2]).assign(token="2 layers"))
    assert "most in 2 layers around layer 1, 0.40 (picked on these pairs)." in said


def test_what_costs_nothing_is_told():
    assert "nothing in any layer" in describe_knockouts(losses([0.0, 0.0]))


def test_no_loss_is_a_sentence():
    empty = losses([0.1])
    for table in (empty[:0], empty.assign(patching_effect=np.nan)):
        assert describe_knockouts(table) == "No pair has a loss: its clean and corrupt runs do not differ."
