"""The explorer of attention draws what the model attends to, and asks it once per pair."""

import functools

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import figure_explorer
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.attention.explorers import attention_explorer, draw_attention_on_image, image_attention


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> pd.DataFrame:
    return tables.make_pairs(tmp_path_factory.mktemp("pairs"), n=3)


def test_attention_explorer_draws_the_models_attention(random_blip, pairs):
    explorer = attention_explorer(random_blip, pairs)
    assert explorer.settings == {"sample_id": "color-0", "layer": 0, "head": 0, "position": 4}, "starts at the answer"
    figure = explorer.figure(sample_id="shape-1", layer=2, head=3, position=1)
    inputs = run_inputs(random_blip, pairs[1:2], "clean")
    expected = random_blip.attention(inputs, "text_encoder", "cross_attention")[2, 0, 3, 1, 1:]
    drawn = figure.axes[1].images[1].get_array()
    assert np.allclose(drawn, expected.reshape(4, 4), atol=1e-6), "not the attention of this layer, head and token"
    assert figure.get_suptitle() == "Is this star tiny or huge?\ncross-attention 2.3 from 1: is"


def test_pairs_of_several_tasks_are_told_apart(random_blip, pairs):
    other = pairs.assign(task="rendered_svo", clean_image=pairs["corrupt_image"])
    explorer = attention_explorer(random_blip, pd.concat([pairs, other], ignore_index=True))
    states, svo = (explorer.figure(sample_id=f"{task}/color-0") for task in ("rendered_states", "rendered_svo"))
    drawn = [figure.axes[0].images[0].get_array() for figure in (states, svo)]
    assert not np.array_equal(*drawn), "the same sample_id in another task is another pair"


def test_attention_is_read_once_for_a_pair(random_blip, pairs, monkeypatch):
    calls = []
    attention = type(random_blip).attention
    monkeypatch.setattr(type(random_blip), "attention", lambda *args: calls.append(1) or attention(*args))
    explorer = attention_explorer(random_blip, pairs)
    for head in range(3):
        explorer.figure(head=head)
    assert len(calls) == 1, "another head of the same pair needs no forward pass"


def test_self_attention_of_a_question_encoder_is_not_drawn_on_the_image(random_blip, pairs):
    with pytest.raises(VlmtraceError, match="self_attention of text_encoder does not look at the image"):
        image_attention(random_blip, pairs.iloc[0], "self_attention")


def test_a_head_that_does_not_exist_is_refused(random_blip, pairs):
    with pytest.raises(VlmtraceError, match="There is no head 4 for color-0: choose one of 0 to 3"):
        attention_explorer(random_blip, pairs).figure(head=4)


def test_draw_function_has_defaults(random_blip, pairs):
    attention_of = functools.partial(image_attention, random_blip)
    draw = functools.partial(draw_attention_on_image, pairs=pairs, attention_of=attention_of)
    figure = figure_explorer.FigureExplorer(draw, {}).figure()
    assert figure.axes, "without settings there must be a picture of the first pair"
