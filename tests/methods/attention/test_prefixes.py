"""Pairs whose answers begin with unlike words are looked at together, and each as it is alone."""

import pandas as pd
import pytest
import torch

from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.methods.attention import head_attention


@pytest.fixture(params=["llava", "random_blip"])
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture
def mixed(random_pairs):
    """Pairs of one prompt, with answers that begin with two words, with one, and with none."""
    pairs = random_pairs.iloc[[0, 4, 0]].assign(sample_id=["two", "one", "none"])
    return pairs.assign(answer_prefix=["this is", "this", None]).reset_index(drop=True)


def test_attention_of_unlike_prefixes_is_that_of_each_pair(model, mixed):
    together = head_attention(model, mixed)
    alone = [head_attention(model, mixed.iloc[[row]].reset_index(drop=True)) for row in range(len(mixed))]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True), atol=1e-6)


def test_the_mean_image_token_needs_no_prefix(model, mixed):
    found = mean_image_token(model, mixed)
    assert torch.equal(found, mean_image_token(model, mixed.drop(columns="answer_prefix")))
