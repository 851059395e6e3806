"""Attention is added up in little memory, and the numbers are those of all weights at once."""

import numpy as np
import pandas as pd
import pytest
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.pictures import given_images
from vlmtrace.methods.attention.attention_weights import head_attention


def test_attention_that_needs_much_memory_is_computed_pair_by_pair(random_blip, random_pairs, monkeypatch):
    asked, whole = [], random_blip.attention

    def attention(inputs, block, module):
        asked.append(len(inputs["input_ids"]))
        return whole(inputs, block, module)

    monkeypatch.setattr(random_blip, "attention", attention)
    pairs = random_pairs.iloc[[0, 4]]
    together = head_attention(random_blip, pairs)
    monkeypatch.setattr("vlmtrace.methods.attention.attended.LARGE", 4 * 3 * 4 * 12 * 17)
    pd.testing.assert_frame_equal(head_attention(random_blip, pairs), together, atol=1e-5)
    assert asked == [2, 1, 1]


@pytest.mark.parametrize("family", ["random_blip", "llava"])
def test_attention_is_added_up_in_double_a_layer_at_a_time(model_store, random_pairs, monkeypatch, family):
    """The shares are those of the whole table of weights in double, which is never made."""
    model, pair = model_store.shared(family), random_pairs.iloc[[0]]
    table = head_attention(model, pair)
    inputs = run_inputs(model, pair, "clean")
    block = model.head_block
    weights = model.attention(inputs, block.name, model.image_module).double().numpy()[:, 0]
    at_image = model.image_positions(inputs, model.image_block)
    placed = ~np.isnan(model.image_cells(given_images(pair.iloc[0].to_dict()), inputs, model.image_block)).any(axis=1)
    off_image = 1 - weights[..., at_image][..., placed].sum(-1)
    np.testing.assert_allclose(table["off_image"], off_image.ravel(), atol=1e-12)
    largest, whole = [], torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda self: largest.append(self.numel()) or whole(self))
    head_attention(model, pair)
    assert max(largest) < weights.size, "all layers at once became double"


def test_two_pairs_of_one_name_are_refused(random_blip, random_pairs):
    with pytest.raises(VlmtraceError, match="sample_id 'a' more than once"):
        head_attention(random_blip, random_pairs.head(2).assign(sample_id="a"))
