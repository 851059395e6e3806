"""Maps, their tests, words and heads, each against something naive or worked by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.families import FAMILIES, save
from PIL import Image

import vlmtrace as vt
from vlmtrace.methods.lens import map_scores as grounding
from vlmtrace.methods.lens import modality as textual
from vlmtrace.methods.lens import words as lens_words
from vlmtrace.methods.lens.contributions import lens_contributions, lens_of, open_lens, question_inputs, top_heads
from vlmtrace.methods.lens.map_scores import (
    MAPS,
    image_maps,
    map_table,
    replacement_curves,
    roc_auc,
    rollout,
    score_maps,
)
from vlmtrace.methods.lens.words import first_layers, side, top_words, word_layers, word_ranks, word_tokens
from vlmtrace.models.hooks import HookPoint, hooks
from vlmtrace.models.types import Site

LANGUAGE = "language_model"


@pytest.fixture(scope="session")
def masked(questions, random_pairs):
    table = questions.assign(object_mask=list(random_pairs["clean_object_mask"][:2]), category="color")
    return table.assign(sentences=["the circle is red.", "the square is striped."])


@pytest.fixture(scope="session")
def lens(tiny, questions):
    return lens_of(tiny, questions.iloc[0])


# Maps ---------------------------------------------------------------------------------------------------------------


def test_rollout_by_hand():
    first, second = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]])
    found = rollout(torch.stack([first, second]))
    # (second + 1) / 2 times (first + 1) / 2: [[1, 0], [.1, .9]] @ [[1, 0], [.25, .75]]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.325, 0.675]]))


def test_area_under_roc_is_how_often_a_positive_lies_higher():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 6, 15).astype(float)  # with ties
        positive = rng.random(15) < 0.4
        if positive.all() or not positive.any():
            continue
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
        assert roc_auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(roc_auc(np.arange(3.0), np.zeros(3, dtype=bool)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_maps(name, folder, masked):
    model = vt.load_model(save(name, folder))
    lens = lens_of(model, masked.iloc[0])
    maps = image_maps(lens, top=99)  # all heads: with a sliding window the strongest may not see the image at all
    sees = bool(lens.weights[:, :, lens.at, lens.image_positions].any())
    n = int(lens.image_positions.sum())
    assert list(maps) == list(MAPS)
    for method, values in maps.items():
        assert values.shape == (n,) and np.isfinite(values).all()
        if sees or method in ("gradient", "random"):
            assert np.ptp(values) > 1e-5, f"the map {method} is the same everywhere"
    if not model.injects_image_features_later:
        curves = replacement_curves(lens, maps, model.image_embeddings(lens.inputs)[0].mean(0), steps=3)
        ends = {(round(float(c["deletion"][0]), 5), round(float(c["insertion"][-1]), 5)) for c in curves.values()}
        full = round(float(lens.logits.softmax(-1)[lens.token]), 5)
        np.testing.assert_allclose(list(ends), [[full, full]], atol=2e-5)
    else:
        with pytest.raises(vt.VlmtraceError, match="pointing alone"):
            replacement_curves(lens, maps, torch.zeros(1))


def test_gradient_times_input_is_what_small_steps_say(tiny, lens):
    found = grounding.gradient_times_input(lens)
    image = tiny.image_embeddings(lens.inputs)

    def log_p(images):
        with torch.no_grad():
            return tiny.answer_logits(lens.inputs, image=images)[0].double().log_softmax(-1)[lens.token]

    for place in (0, len(found) - 1):
        step = torch.zeros_like(image)
        step[:, place] = 1e-2 * image[:, place]
        change = (log_p(image + step) - log_p(image - step)) / 2e-2
        assert found[place] == pytest.approx(float(change), abs=2e-3)
    assert np.abs(found).max() > 1e-2


def test_curves_are_those_of_runs_one_by_one(tiny, lens):
    image = tiny.image_embeddings(lens.inputs)
    mean = torch.randn(image.shape[-1], generator=torch.Generator().manual_seed(1))
    values = np.array([0.3, 0.9, 0.1, 0.9, 0.5, 0.2, 0.8, 0.4, 0.0])
    curves = replacement_curves(lens, {"mine": values, "other": -values}, mean, steps=4, at_once=3)
    order = [1, 3, 6, 4, 7, 0, 5, 2, 8]
    for point, size in enumerate((0, 2, 4, 7, 9)):
        for kind in ("deletion", "insertion"):
            new = image.clone()
            for place in order[:size] if kind == "deletion" else order[size:]:
                new[0, place] = mean
            with torch.no_grad():
                p = tiny.answer_logits(lens.inputs, image=new)[0].softmax(-1)[lens.token]
            assert curves["mine"][kind][point] == pytest.approx(float(p), abs=1e-5)
    assert np.ptp(curves["mine"]["deletion"]) > 1e-3


def test_scores_follow_from_maps_and_curves(tiny, masked):
    scores, curves = score_maps(tiny, masked, steps=3, top=2)
    assert len(scores) == 2 * len(MAPS) and len(curves) == 2 * len(MAPS) * 2 * 4
    one = scores[(scores["sample_id"] == "pair-0") & (scores["method"] == "attention")].iloc[0]
    lens = lens_of(tiny, masked.iloc[0])
    boxes = tiny.image_cells(masked["image"][0], lens.inputs)
    with Image.open(masked["object_mask"][0]) as mask:
        positive = grounding.object_tokens(mask, boxes)
    attention = lens.weights.mean((0, 1))[-1].numpy()[lens.image_positions]
    assert one["auc"] == pytest.approx(roc_auc(attention, positive))
    points = curves[(curves["sample_id"] == "pair-0") & (curves["method"] == "attention")].query("kind == 'deletion'")
    assert one["deletion"] == pytest.approx(np.trapezoid(points["p"], points["share"]))
    assert one["is_correct"] == (tiny.answer_token("red") == lens.token)


def test_without_masks_nothing_points(tiny, questions):
    scores, _ = score_maps(tiny, questions, ["attention", "random"], steps=2)
    assert scores["auc"].isna().all() and scores["deletion"].notna().all()
    assert set(map_table(scores, "attention")["measure"]) == {"deletion", "insertion"}


def test_the_table_of_maps_compares_question_by_question():
    auc = {"lens": [0.9, 0.8, 0.7, 0.9], "attention": [0.95, 0.85, 0.75, 0.95], "random": [0.5, 0.4, 0.6, 0.5]}
    scores = pd.concat(
        pd.DataFrame({"sample_id": list("abcd"), "method": method, "auc": values, "deletion": values, "insertion": 0.5})
        for method, values in auc.items()
    )
    table = map_table(scores).set_index(["measure", "method"])
    assert table.loc[("auc", "attention"), "difference"] == pytest.approx(0.05)
    assert table.loc[("auc", "attention"), "verdict"] == "better"
    assert table.loc[("deletion", "attention"), "verdict"] == "worse"
    assert table.loc[("insertion", "random"), "verdict"] == "no difference seen"
    assert table.loc[("auc", "lens"), "verdict"] == ""


# Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_side_is_all_that_a_key_or_value_sees(name, folder, questions):
    """Swap the input of one position for its side: with the norm's scale kept, the recorded key is the same."""
    model = vt.load_model(save(name, folder))
    lens = lens_of(model, questions.iloc[0])
    layer, head = 1, 3
    shared = head // (lens.heads.shape[2] // lens.keys.shape[2])
    for what, recorded in (("key", lens.keys), ("value", lens.values)):
        seen, before = lens_words.seen_by(lens, what, layer, head), lens_words.norm_before(lens, layer)
        module = model.attention_module(Site(LANGUAGE, "self_attention", layer))
        projection = getattr(module, f"{what[0]}_proj")
        bias = projection(before.bias[None])[0]  # of the norm through the matrix, and the matrix's own
        bias = bias.unflatten(0, (-1, lens.heads.shape[-1]))[shared]
        vectors = side(lens, what, layer, head)
        found = vectors @ seen.T / before.scale + bias
        torch.testing.assert_close(found, recorded[layer, :, shared], atol=1e-4, rtol=1e-4)
        assert (vectors - lens.hidden[layer]).norm() > 1e-2, "nothing was projected away"
        torch.testing.assert_close(side(lens, "input", layer) @ seen.T, vectors @ seen.T, atol=1e-4, rtol=1e-4)


def test_a_planted_word_is_read_where_it_was_planted(tiny, questions):
    """The stream at one patch is set to the direction of a word; the value of one head is made to write another."""
    inputs = question_inputs(tiny, questions["image"][0], questions["prompt"][0])
    place = int(np.flatnonzero(open_lens(tiny, inputs).image_positions)[4])
    words = tiny.hf.get_output_embeddings().weight
    read, written = 41, 77
    gain = tiny.norm.weight

    def direction(token):
        vector = torch.linalg.lstsq(words * gain, torch.nn.functional.one_hot(torch.tensor(token), len(words)).float())
        return 100 * vector.solution

    def plant(stream):
        stream = stream.clone()
        stream[:, place] = direction(read)
        return stream

    layer, head = 1, 2
    attention = tiny.attention_module(Site(LANGUAGE, "self_attention", layer))
    with torch.no_grad(), hooks([(HookPoint(tiny.text.layers[layer], True), plant)]):
        lens = open_lens(tiny, inputs)
        value = lens.values[layer, place, head // 2]
        kept = attention.o_proj.weight.clone()
        size = lens.heads.shape[-1]
        outer = direction(written)[:, None] * (value / value.square().sum())[None]
        attention.o_proj.weight[:, head * size : (head + 1) * size] = outer
        try:
            lens = open_lens(tiny, inputs)
            output = top_words(lens, side(lens, "output", layer, head), [place], 1)
        finally:
            attention.o_proj.weight.copy_(kept)
    assert top_words(lens, side(lens, "input", 1), [place], 1)["token_id"].tolist() == [read]
    assert output["token_id"].tolist() == [written]
    ranks = word_ranks(lens, [read])
    assert ranks.shape == (tiny.blocks[LANGUAGE].n_layers + 1, lens.hidden.shape[1])
    assert ranks[1, place] == 1 and first_layers(ranks)[place] == (0 if ranks[0, place] == 1 else 1)


def test_an_embedding_is_read_as_its_own_word(tiny, lens):
    words = tiny.hf.get_input_embeddings().weight
    vectors = lens.hidden[0].clone()
    vectors[2] = 3 * words[50]
    found = top_words(lens, vectors, [2], 2, through="embedding")
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
    assert len(table) == 2 * (tiny.blocks[LANGUAGE].n_layers + 1) * 3
    lens = lens_of(tiny, masked.iloc[0])
    ranks = word_ranks(lens, word_tokens(lens, "red"), through="embedding")
    with Image.open(masked["object_mask"][0]) as mask:
        on_object = grounding.object_tokens(mask, tiny.image_cells(masked["image"][0], lens.inputs))
    wanted = (ranks[1, np.flatnonzero(lens.image_positions)[on_object]] <= 3).mean()
    found = table.query("through == 'embedding' and layer == 1 and place == 'object'")["share"]
    assert found.tolist() == [wanted]


def test_what_is_not_there_is_said(lens):
    with pytest.raises(vt.VlmtraceError, match="There is no head 9"):
        side(lens, "key", 9, 0)
    with pytest.raises(vt.VlmtraceError, match="side of a head"):
        side(lens, "query", 0, 0)


# Images against sentences -------------------------------------------------------------------------------------------


def table_of(values):
    n, n_layers, n_heads = values.shape
    question, layer, head = (index.ravel() for index in np.indices((n, n_layers, n_heads)))
    return pd.DataFrame({"sample_id": question, "layer": layer, "head": head, "log_p_increase": values.ravel()})


def test_agreement_by_hand():
    rng = np.random.default_rng(0)
    visual = np.arange(8.0).reshape(1, 2, 4) + 0.01 * rng.standard_normal((6, 2, 4))
    textual_values = visual.copy()
    textual_values[:, 1, 3], textual_values[:, 0, 0] = visual[:, 0, 0], visual[:, 1, 3]
    found = textual.agreement(table_of(visual), table_of(textual_values), k=2, n_boot=50).set_index("compared")
    # Ranks 0 … 7 with the first and the last swapped: 1 − 6 · (49 + 49) / (8 · 63).
    assert found.loc["visual, textual", "spearman"] == pytest.approx(1 - 6 * 98 / (8 * 63))
    assert found.loc["visual, textual", "shared"] == 1 and found["shared_by_chance"].unique() == [0.5]
    assert found.loc["visual, halves", "spearman"] == 1
    assert textual.shared_heads(table_of(visual), table_of(textual_values), k=2) == [(1, 2)]
    assert top_heads(visual.mean(0), 2) == [(1, 3), (1, 2)]


def test_knocked_out_heads_are_replaced_by_their_mean(tiny, masked):
    heads = [(0, 1), (2, 3)]
    table = textual.knock_out_heads(tiny, masked, heads, n_random=2)
    lenses = [lens_of(tiny, row, told="sentences") for row in masked.to_dict("records")]
    model, inputs = tiny, lenses[0].inputs
    size = lenses[0].heads.shape[-1]

    def replace(layer, head):
        mean = torch.stack([lens.heads[layer, -1, head] for lens in lenses]).mean(0)

        def put(value):
            value = value.clone()
            value[0, -1, head * size : (head + 1) * size] = mean
            return value

        return model.hook_point(Site(LANGUAGE, "self_attention", layer)), put

    with torch.no_grad(), hooks([replace(*head) for head in heads]):
        p = model.answer_logits(inputs)[0].double().softmax(-1)[lenses[0].token]
    before = lenses[0].logits.double().softmax(-1)[lenses[0].token]
    one = table.query("run == 'textual' and heads == 'chosen' and sample_id == 'pair-0'").iloc[0]
    wanted = float(torch.logit(p) - torch.logit(before))
    assert one["log_odds_change"] == pytest.approx(wanted, abs=1e-3) and abs(wanted) > 1e-2
    assert one["p"] == pytest.approx(float(p), abs=1e-4)
    assert set(textual.knockout_table(table)["heads"]) == {"chosen", "random", "chosen − random"}


def test_random_heads_are_others_of_the_same_layers():
    heads = [(0, 1), (0, 2), (1, 0)]
    for drawn in textual.random_heads(heads, 2, 4, 5):
        assert len(set(drawn)) == 3 and not set(drawn) & set(heads)
        assert [layer for layer, _ in drawn] == [0, 0, 1]
    with pytest.raises(vt.VlmtraceError, match="choose fewer"):
        textual.random_heads([(0, 0), (0, 1), (1, 1)], 2, 2, 1)


def test_tables_of_other_questions_are_refused(tiny, masked):
    table = lens_contributions(tiny, masked.iloc[:1])
    with pytest.raises(vt.VlmtraceError, match="same questions"):
        textual.agreement(table, table.assign(sample_id="another"))
