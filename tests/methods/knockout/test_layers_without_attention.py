"""Attention knock-outs in models that mix layers of attention with layers that carry a state or look at the image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vlmtrace as vt
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.inputs.pair_runs import read_again
from vlmtrace.methods.knockout.figures import knockout_effects
from vlmtrace.models import Block, Site
from vlmtrace.models.layer_kinds import attending_layers, check_has_weights

#: Layers that attend to their own sequence, by model.
ATTENDING = {"qwen3_5": [2], "lfm2_vl": [1, 3], "lfm3_vl": [1, 3], "mllama": [0, 2, 4]}


@pytest.fixture(scope="module", params=ATTENDING)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name, model_store):
    return model_store.shared(name)


def without(layers, hidden):
    """Attention written out, in which some queries (Q, K) of some layers do not see some keys."""
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(module, query, key, value, *args, **options):
        if module not in layers:
            return usual(module, query, key, value, *args, **options)
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        scores = query @ key.transpose(-1, -2) * options["scaling"]
        mask = args[0] if args else options.get("attention_mask")  # given where a layer sees a window alone
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if mask is None else mask
        # Tokens of an answer that is given see and are seen as ever.
        longer = scores.shape[-1] - len(hidden)
        seen = seen & ~F.pad(hidden, (0, longer, 0, longer))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0)
        return (weights @ value).transpose(1, 2), weights

    return attention


def lost(model, pair, runs, edge, layers, monkeypatch):
    """What one pair's clean run loses where some layers attend by `without`."""
    block = model.head_block.name
    found = named_positions(model, pair, block, runs.clean_inputs, [*edge, "all"])
    hidden = torch.as_tensor(np.outer(found[edge[1]], found[edge[0]])).fill_diagonal_(False)
    chosen = [model.attention_module(Site(block, "self_attention", layer)) for layer in layers]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", without(chosen, hidden))
        return (read_again(model, runs).logit_diff - runs.clean_readout.logit_diff).item()


@pytest.mark.medium
@pytest.mark.parametrize("window", [1, "all"])
def test_each_window_equals_attention_written_out_without_what_is_hidden(
    name, model, random_pairs, window, monkeypatch
):
    layers = ATTENDING[name]
    pairs = random_pairs.iloc[[0, 4, 1]]  # two of one length and one of another
    edges = [("options", "last"), ("all", "last")]
    if model.image_module == "self_attention" and model.edges[0][0] == "image":
        edges = [*model.edges, ("image", "all")]
    table = vt.knock_out_attention(model, pairs, edges=edges, window=len(layers) if window == "all" else window)
    assert sorted(table["layer"].unique()) == layers, "the middle of a window is a layer of attention"
    strongest = 0.0
    own = {pairs["sample_id"].iloc[i]: runs for i, runs in one_by_one(model, pairs, "image", "answer")}
    for row in table.itertuples():
        count, _, which = row.token.partition(" layers: ")
        knocked = [int(layer) for layer in which.split(", ")]
        assert len(knocked) == int(count) and set(knocked) <= set(layers) and row.layer in knocked
        edge = tuple(row.token_role.split(" → "))
        pair = pairs[pairs["sample_id"] == row.sample_id].iloc[0].to_dict()
        expected = lost(model, pair, own[row.sample_id], edge, knocked, monkeypatch)
        assert row.logit_diff == pytest.approx(expected, abs=1e-4), f"{edge} in layers {which}"
        strongest = max(strongest, abs(expected))
    assert strongest > 2e-3, "nothing is lost: this proves nothing"


def test_windows_count_layers_of_attention_and_the_table_says_which_they_are(model_store, random_pairs):
    model = model_store.shared("mllama")
    table = vt.knock_out_attention(model, random_pairs.iloc[[0]], edges=[("options", "last")], window=2)
    default = vt.knock_out_attention(model, random_pairs.iloc[[0]])
    assert default["token"].tolist() == ["1 layers: 0", "1 layers: 2", "1 layers: 4"], "a fifth of three is one"
    assert dict(zip(table["layer"], table["token"], strict=True)) == {
        0: "2 layers: 0, 2",
        2: "2 layers: 2, 4",
        4: "1 layers: 4",
    }
    assert knockout_effects(table).axes[0].get_xlabel() == "layer (middle of a window of 2)"


def test_a_window_has_no_more_layers_than_attend(name, model, random_pairs):
    layers = ATTENDING[name]
    sentence = rf"window={len(layers) + 1} is not a number of layers of attention \({', '.join(map(str, layers))}\)"
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.knock_out_attention(model, random_pairs.iloc[[0]], window=len(layers) + 1)


@pytest.mark.medium
def test_a_model_in_which_no_layer_attends_to_single_positions_is_refused(model_store, random_pairs):
    model = model_store.shared("glm5_next")
    assert not attending_layers(model.head_block)
    sentence = r"No layer of language_model .* of the kinds indexed_attention, state\).*\(patch_modules, patch_heads\)"
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.knock_out_attention(model, random_pairs.iloc[[0]])
    # What the sentence advises works.
    pair, where = random_pairs.iloc[[0]], {"positions": ["last"]}
    for patched in (vt.patch_modules(model, pair, **where), vt.patch_heads(model, pair, **where)):
        assert patched["logit_diff"].abs().max() > 1e-4


def test_where_the_image_is_no_part_of_the_sequence_cutting_attention_to_it_is_not_advised(model_store, random_pairs):
    model = model_store.shared("mllama")
    with pytest.raises(vt.VlmtraceError, match=r"patch its modules instead \(patch_modules\)"):
        vt.replace_image_tokens(model, random_pairs.iloc[[0]])
    with pytest.raises(vt.VlmtraceError, match="Unknown position"):
        vt.knock_out_attention(model, random_pairs.iloc[[0]], edges=[("image", "last")])


@pytest.mark.parametrize(
    ("has", "advice"),
    [
        ({"head_modules": ("self_attention",)}, r"patch its heads instead \(patch_heads\)"),
        ({"hooked_modules": ("self_attention",)}, r"patch its heads instead \(patch_whole_heads\)"),
        ({}, r"patch its residual stream instead \(patch_modules\)"),
    ],
)
def test_what_stands_in_for_attention_weights_is_something_that_the_block_has(has, advice):
    with pytest.raises(vt.VlmtraceError, match=advice):
        check_has_weights("a model", Block("vision_encoder", 2, 4, ("residual",), **has))
