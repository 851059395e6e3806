"""Words in patches: planted ones are read where they were planted."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.families import THROUGHOUT
from PIL import Image

import vlmtrace as vt
from vlmtrace.methods.lens import words
from vlmtrace.methods.lens.decomposition import open_lens
from vlmtrace.methods.lens.map_scores import object_tokens
from vlmtrace.methods.lens.questions import lens_of, question_inputs
from vlmtrace.methods.lens.words import (
    decode_to_words,
    first_layers,
    head_input_map,
    norm_before,
    stream_vectors,
    word_layers,
    word_ranks,
    word_tokens,
)
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.types import Site


@pytest.mark.parametrize("name", THROUGHOUT)
def test_a_side_is_all_that_a_key_or_value_sees(name, model_store, questions):
    """Swap the input of one position for its side: with the norm's scale kept, the recorded key is the same."""
    model = model_store.shared(name)
    lens = lens_of(model, questions.iloc[0])
    layer, head = 1, 3
    shared = head // (lens.heads.shape[2] // lens.keys.shape[2])
    for quantity, recorded in (("key", lens.keys), ("value", lens.values)):
        seen, before = head_input_map(lens, quantity, layer, head), norm_before(lens, layer)
        module = model.attention_module(Site("language_model", "self_attention", layer))
        projection = getattr(module, f"{quantity[0]}_proj")
        bias = projection(before.bias[None])[0]  # of the norm through the matrix, and the matrix's own
        bias = bias.unflatten(0, (-1, lens.heads.shape[-1]))[shared]
        vectors = stream_vectors(lens, quantity, layer, head)
        found = vectors @ seen.T / before.scale + bias
        torch.testing.assert_close(found, recorded[layer, :, shared], atol=1e-4, rtol=1e-4)
        assert (vectors - lens.hidden[layer]).norm() > 1e-2, "nothing was projected away"
        torch.testing.assert_close(
            stream_vectors(lens, "input", layer) @ seen.T, vectors @ seen.T, atol=1e-4, rtol=1e-4
        )


def test_a_planted_word_is_read_where_it_was_planted(tiny, questions):
    """The stream at one patch is set to the direction of a word; the value of one head is made to write another."""
    inputs = question_inputs(tiny, questions["image"][0], questions["prompt"][0])
    place = int(np.flatnonzero(open_lens(tiny, inputs).image_positions)[4])
    words = tiny.hf.get_output_embeddings().weight
    read, written = 41, 77
    gain = tiny.final_norm.weight

    def direction(token):
        vector = torch.linalg.lstsq(words * gain, torch.nn.functional.one_hot(torch.tensor(token), len(words)).float())
        return 100 * vector.solution

    def plant(stream):
        stream = stream.clone()
        stream[:, place] = direction(read)
        return stream

    layer, head = 1, 2
    attention = tiny.attention_module(Site("language_model", "self_attention", layer))
    with torch.no_grad(), attach_hooks([(HookPoint(tiny.layer_module("language_model", layer), True), plant)]):
        lens = open_lens(tiny, inputs)
        value = lens.values[layer, place, head // 2]
        kept = attention.o_proj.weight.clone()
        size = lens.heads.shape[-1]
        outer = direction(written)[:, None] * (value / value.square().sum())[None]
        attention.o_proj.weight[:, head * size : (head + 1) * size] = outer
        try:
            lens = open_lens(tiny, inputs)
            output = decode_to_words(lens, stream_vectors(lens, "output", layer, head), [place], 1)
        finally:
            attention.o_proj.weight.copy_(kept)
    assert decode_to_words(lens, stream_vectors(lens, "input", 1), [place], 1)["token_id"].tolist() == [read]
    assert output["token_id"].tolist() == [written]
    ranks = word_ranks(lens, [read])
    assert ranks.shape == (tiny.blocks["language_model"].n_layers + 1, lens.hidden.shape[1])
    assert ranks[1, place] == 1 and first_layers(ranks)[place] == (0 if ranks[0, place] == 1 else 1)


def test_an_embedding_is_read_as_its_own_word(tiny, lens):
    words = tiny.hf.get_input_embeddings().weight
    vectors = lens.hidden[0].clone()
    vectors[2] = 3 * words[50]
    found = decode_to_words(lens, vectors, [2], 2, through="embedding")
    assert found["token_id"][0] == 50 and found["score"][0] == pytest.approx(1, abs=1e-5)


def test_ranks_count_the_words_before(tiny, lens):
    place, tokens = 5, [3, 9]
    p = lens.read(lens.hidden[2, place : place + 1], place)[0]
    wanted = 1 + sum(float(value) > float(p[tokens].max()) for value in p)
    assert word_ranks(lens, tokens)[2, place] == wanted
    ranks = np.array([[4, 2, 9], [1, 6, 9], [1, 1, 9]])
    np.testing.assert_array_equal(first_layers(ranks), [1, 2, np.nan])
    np.testing.assert_array_equal(first_layers(ranks, at_most=2), [1, 0, np.nan])


def test_words_are_counted_by_place(tiny, masked):
    table = word_layers(tiny, masked.iloc[:1], at_most=3)
    assert len(table) == 2 * (tiny.blocks["language_model"].n_layers + 1) * 3
    lens = lens_of(tiny, masked.iloc[0])
    ranks = word_ranks(lens, word_tokens(lens, "red"), through="embedding")
    with Image.open(masked["object_mask"][0]) as mask:
        on_object = object_tokens(mask, tiny.image_cells(masked["image"][0], lens.inputs))
    wanted = (ranks[1, np.flatnonzero(lens.image_positions)[on_object]] <= 3).mean()
    found = table.query("through == 'embedding' and layer == 1 and place == 'object'")["share"]
    assert found.tolist() == [wanted]


@pytest.mark.parametrize("through", ["unembedding", "embedding"])
def test_layers_and_positions_are_those_asked_for_in_that_order(lens, through):
    ranks = word_ranks(lens, [3, 9], through=through)
    some = word_ranks(lens, [3, 9], through=through, layers=[3, 1], positions=[7, 0, 5])
    np.testing.assert_array_equal(some, ranks[[3, 1]][:, [7, 0, 5]])
    heads = word_ranks(lens, [3], "output", 2, through)
    np.testing.assert_array_equal(word_ranks(lens, [3], "output", 2, through, layers=[2]), heads[[2]])


def test_read_in_parts_ranks_are_the_same(lens, monkeypatch):
    whole = word_ranks(lens, [3, 9])
    monkeypatch.setattr(words, "READ_AT_ONCE", 7 * len(lens.logits))
    np.testing.assert_array_equal(word_ranks(lens, [3, 9]), whole)


def test_a_word_far_behind_has_a_rank_where_its_probability_rounds_to_0(lens):
    """One word takes all the probability; the others keep their order."""
    steep = dataclasses.replace(lens, hidden=1e4 * lens.hidden)
    logits = steep.read(steep.hidden[1, 5:6], 5)[0]
    third = int(logits.argsort(descending=True)[2])
    assert logits.softmax(-1)[third] == 0 and word_ranks(steep, [third], layers=[1], positions=[5]).tolist() == [[3]]


def test_layers_and_places_can_be_left_out(tiny, masked):
    table = word_layers(tiny, masked)
    n_layers = tiny.blocks["language_model"].n_layers
    for layers, places in (([2], ["object"]), ([n_layers, 0], ["answer", "elsewhere"])):
        some = word_layers(tiny, masked, layers=layers, places=places)
        key = ["sample_id", "through", "layer", "place"]
        wanted = table[table["layer"].isin(layers) & table["place"].isin(places)].sort_values(key)
        assert len(some) == 2 * 2 * len(layers) * len(places)
        assert (some["is_output"] == (some["layer"] == n_layers)).all()
        np.testing.assert_array_equal(some.sort_values(key)[[*key, "share"]], wanted[[*key, "share"]])
    twice = word_layers(tiny, masked, layers=[0, 2, 0], places=["object", "object"], through=["embedding"] * 2)
    once = table[table["layer"].isin([0, 2]) & (table["place"] == "object") & (table["through"] == "embedding")]
    pd.testing.assert_frame_equal(twice, once.reset_index(drop=True))
    with pytest.raises(vt.VlmtraceError, match="Unknown place 'sky'"):
        word_layers(tiny, masked, places=["sky"])


def test_what_is_not_there_is_said(lens):
    with pytest.raises(vt.VlmtraceError, match="There is no head 9"):
        stream_vectors(lens, "key", 9, 0)
    with pytest.raises(vt.VlmtraceError, match="quantity to read"):
        stream_vectors(lens, "query", 0, 0)


def test_a_word_is_read_by_the_token_that_is_the_whole_word():
    """One letter of "pink" begins many other words; " pink" is that word alone."""
    pieces = {"pink": [4, 5], " pink": [6], "Pink": [7, 5], " Pink": [8], "crescent": [1, 2], " crescent": [3, 2]}

    class Tokenizer:
        unk_token_id = 0

        def __call__(self, text, **_):
            return SimpleNamespace(input_ids=pieces.get(text, [0]))

        def decode(self, ids):
            return str(ids)

    lens = SimpleNamespace(model=SimpleNamespace(tokenizer=Tokenizer(), name="made up"))
    assert word_tokens(lens, "pink") == [6, 8]
    assert word_tokens(lens, "crescent") == [1, 3], "where no form is one token, what it begins with is all there is"
