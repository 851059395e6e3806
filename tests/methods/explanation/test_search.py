"""Hidden tokens do not matter any more; planted tokens are found; the control draws what it says."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.methods.explanation import search as explanation
from vlmtrace.methods.explanation.causal_graph import token_tiers
from vlmtrace.methods.explanation.masked_sets import blind_sets, random_sets, smallest_change
from vlmtrace.methods.explanation.search import Explanation, GraphOptions, causal_graph, explain
from vlmtrace.methods.explanation.token_masking import (
    BATCH,
    MaskableQuestion,
    attention_paid,
    joint_attention,
    mask_tokens,
)

PROMPT = "is this square striped or dotted?"
#: With a window, a prefix that sees itself, tiles, positions of its own, and image features that come in again.
KINDS = ("random_blip", "llava", "llava_next", "gemma3", "paligemma", "qwen3_vl", "blip2")
#: Attention of random models is spread thin, and its rows are alike: let more in.
LOOSE = GraphOptions(alpha=0.2, threshold=0.0, max_tokens=8)


@pytest.fixture(scope="module", params=KINDS)
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture
def llava(model_store):
    return model_store.shared("llava")


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 36, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def example(model, picture):
    ids = [model.answer_token("red"), model.answer_token("blue")]
    found = MaskableQuestion(model, picture, PROMPT, ids, 1)
    found.picture, found.ids = picture, ids
    return found


def mask(example, chosen):
    masked = np.zeros((1, len(example.tokens)), dtype=bool)
    masked[0, chosen] = True
    return mask_tokens(example.model, example.inputs, example.tokens, masked)


# Masking ------------------------------------------------------------


def test_the_tokens_are_those_of_image_and_question(model, example):
    kinds = example.tokens["kind"]
    words = example.tokens.loc[kinds == "text", "word"]
    assert list(dict.fromkeys(words)) == ["is", "this", "square", "striped", "or", "dotted", "?"]
    assert (kinds == "image").sum() == model.image_embeddings(example.inputs).shape[1]
    assert example.tokens.loc[kinds == "image", "cell"].tolist() == list(range((kinds == "image").sum()))


def test_what_a_masked_word_says_does_not_matter(model, example):
    rows = np.flatnonzero(example.tokens["kind"] == "text")
    for row in rows[[1, 3]]:
        ids = example.inputs["input_ids"].clone()
        ids[0, example.tokens["position"][row]] = ids[0, example.tokens["position"][rows[0]]]
        other = {**example.inputs, "input_ids": ids}
        with torch.no_grad():
            assert (model.answer_logits(other) - model.answer_logits(example.inputs)).abs().max() > 1e-3
            with mask(example, [row]):
                torch.testing.assert_close(
                    model.answer_logits(other), model.answer_logits(example.inputs), atol=1e-5, rtol=0
                )


def test_what_a_masked_patch_shows_does_not_matter(model, example):
    image = model.image_embeddings(example.inputs).detach()
    # Where layers have a window, the end of the answer sees no more than the end of the image.
    for cell in (image.shape[1] - 3, image.shape[1] - 1):
        other = image.clone()
        other[0, cell] += 3 * torch.randn(image.shape[-1], generator=torch.Generator().manual_seed(0)) * image.std()
        row = int(np.flatnonzero((example.tokens["cell"] == cell).fillna(False))[0])
        with torch.no_grad():
            before = [model.answer_logits(example.inputs, image=shown) for shown in (image, other)]
            assert (before[0] - before[1]).abs().max() > 1e-3
            with mask(example, [row]):
                after = [model.answer_logits(example.inputs, image=shown) for shown in (image, other)]
        torch.testing.assert_close(*after, atol=1e-5, rtol=0)


def test_masking_nothing_changes_nothing_and_leaves_nothing(model, example):
    def n_hooks():
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.hf.modules())

    before = n_hooks()
    with torch.no_grad():
        plain = model.answer_logits(example.inputs)
        with mask(example, []):
            torch.testing.assert_close(model.answer_logits(example.inputs), plain, atol=1e-4, rtol=0)
        assert torch.equal(model.answer_logits(example.inputs), plain) and n_hooks() == before


def test_sets_of_a_batch_do_not_touch_each_other(model, example):
    word = len(example.tokens) - 2
    sets = [(), (word,), (1, word - 1), (word,)]
    names, chances = example.answers(sets)
    alone = [example.answers([chosen]) for chosen in sets]
    assert names == [name for ((name,), _) in alone]
    np.testing.assert_allclose(chances, [chance for _, (chance,) in alone], atol=1e-5)
    assert chances[0] != pytest.approx(chances[1], rel=1e-3), "masking changes nothing: this proves nothing"


# The matrix ------------------------------------------------------------


def test_joint_attention_is_the_models_own(model, example):
    layer = model.head_block.n_layers - 1
    joint = joint_attention(model, example.inputs, layer)
    np.testing.assert_allclose(joint.sum(-1), 1, atol=1e-5)
    if model.image_module == "self_attention":
        own = model.attention(example.inputs, "language_model", "self_attention")[layer, 0]
        np.testing.assert_array_equal(joint, own.double().numpy())
        np.testing.assert_array_equal(attention_paid(model, joint[1], 9), joint[1, -1])
        return
    cross = model.attention(example.inputs, "text_encoder", "cross_attention")[layer, 0].numpy()
    read = model.attention(example.inputs, "text_decoder", "cross_attention")[layer, 0].numpy().mean(0)
    n_image, n_text = cross.shape[-1], cross.shape[-2]
    np.testing.assert_allclose(2 * joint[:, n_image : n_image + n_text, :n_image], cross, rtol=1e-6)
    assert joint.shape[-1] == n_image + n_text + 1
    paid = attention_paid(model, joint[2], n_image)
    by_hand = sum(read[-1, word] * cross[2, word] / 2 for word in range(n_text))
    np.testing.assert_allclose(paid[:n_image], by_hand, rtol=1e-5)
    np.testing.assert_allclose(paid[n_image : n_image + n_text], read[-1], rtol=1e-6)


def test_no_edge_points_only_backwards(model, example):
    """What cannot be seen cannot be a cause: an edge has an arrow at the end that comes later."""
    joint = joint_attention(model, example.inputs, model.head_block.n_layers - 1)
    tiers = token_tiers(joint)
    rows, columns = np.nonzero((joint > 0).any(0))
    later = tiers[columns] > tiers[rows]
    assert not later.any(), "a token attends to one of a higher tier"
    n_edges = 0
    for head in range(model.head_block.n_heads):
        try:
            graph = causal_graph(model, example.picture, PROMPT, head, answer=example.ids, step=1, options=LOOSE)
        except vt.VlmtraceError:
            continue
        index = [*example.tokens["index"].to_numpy()[graph.tokens["member"].iloc[:-1]], len(joint[0]) - 1]
        for edge in graph.edges.itertuples():
            ends = {edge.source: edge.source_mark, edge.target: edge.target_mark}
            lower, higher = sorted(ends, key=lambda node: tiers[index[node]])
            if tiers[index[lower]] < tiers[index[higher]]:
                n_edges += 1
                assert ends[higher] == "arrow", f"head {head}: {edge} makes a later token a cause of an earlier one"
    assert n_edges or model.name == "gemma3", "no edge joins tokens of unlike tiers: this proves nothing"


# The search ------------------------------------------------------------


def planted(*needed):
    """A model that says "no" once all of the needed are masked."""

    def answers(sets):
        changed = [set(needed) <= set(chosen) for chosen in sets]
        return ["no" if gone else "yes" for gone in changed], [0.1 if gone else 0.9 for gone in changed]

    return answers


def test_the_planted_set_is_found_and_the_smallest_first():
    singles = [((i,), 0, 1.0) for i in range(BATCH + 5)]
    pairs = [((i, i + 1), 1, 2.0) for i in range(5)]
    found, tried, untried = smallest_change(planted(BATCH + 2), "yes", singles + pairs, 256)
    assert found == (BATCH + 2,) and len(tried) == BATCH + 5 and untried == 0, "all sets of the size are tried"
    assert tried["changed"].tolist() == [i == BATCH + 2 for i in range(BATCH + 5)]
    found, tried, _ = smallest_change(planted(3, 4), "yes", singles + pairs, 256)
    assert found == (3, 4) and len(tried) == BATCH + 10
    assert tried[tried["changed"]].iloc[0][["head", "size", "answer"]].tolist() == [1, 2, "no"]
    found, tried, untried = smallest_change(planted(3, 4), "yes", singles + pairs, 10)
    assert found is None and len(tried) == 10 and untried == BATCH
    found, tried, untried = smallest_change(planted(3), "yes", singles + pairs, 10)
    assert found == (3,) and len(tried) == 10 and untried == BATCH + 5 - 10, "larger sets are not left untried"


def test_all_sets_of_the_size_found_are_named_not_the_first_alone():
    """Each of 2 and of 5 changes the answer when masked: both are minimal."""

    def answers(sets):
        gone = [bool({2, 5} & set(chosen)) for chosen in sets]
        return ["no" if one else "yes" for one in gone], [0.1 if one else 0.9 for one in gone]

    singles = [((i,), 0, 1.0) for i in range(7)]
    found, tried, _ = smallest_change(answers, "yes", [*singles, ((0, 2), 0, 2.0)], 256)
    assert found == (2,) and tried.loc[tried["changed"], "tokens"].tolist() == [(2,), (5,)]


def test_a_search_without_graphs_draws_from_all_tokens():
    kinds = np.array(["image"] * 6 + ["text"] * 4)
    every, possible = blind_sets(kinds, (7,), 128, seed=0)
    assert every == [(6,), (7,), (8,), (9,)] and possible == 4, "few sets are tried all, the one found among them"
    every, possible = blind_sets(kinds, (0, 7), 24, seed=0)
    assert possible == 24 and set(every) == {(i, j) for i in range(6) for j in range(6, 10)}
    drawn, possible = blind_sets(kinds, (0, 1, 7), 50, seed=0)
    assert possible == 60 and len(drawn) == 50
    assert all(sorted(kinds[list(draw)]) == ["image", "image", "text"] for draw in drawn)
    assert blind_sets(kinds, (), 50, seed=0) == ([], 0)


@pytest.mark.parametrize(("tries", "complete"), [(1, True), (2, True), (2, False), (5, True)])
def test_the_chance_of_a_random_search_is_that_of_drawing_sets(tries, complete):
    """Three of eight sets change the answer: drawn at random again and again, so many searches find one."""
    changed = np.array([True] * 3 + [False] * 5)
    rows = pd.DataFrame({"changed": [False] * (tries - 1) + [True], "size": 1})
    blind = pd.DataFrame({"changed": changed})
    found = Explanation(
        "yes",
        0.9,
        {},
        {},
        0,
        pd.DataFrame(),
        "no",
        rows[rows["changed"]],
        rows,
        0,
        blind,
        blind,
        8 if complete else 99,
        0.0,
    )
    generator = np.random.default_rng(0)
    draws = [generator.choice(changed, tries, replace=not complete).any() for _ in range(20_000)]
    assert found.tries == tries and found.blind_chance == pytest.approx(np.mean(draws), abs=0.01)


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_a_token_planted_in_a_model_is_its_explanation(name, request, picture, monkeypatch):
    model = request.getfixturevalue(name)
    graphs = explain(model, picture, PROMPT, options=LOOSE).graphs
    reached = [
        int(row.member) for graph in graphs.values() for row in graph.tokens.itertuples() if 0 < row.distance < np.inf
    ]
    assert reached, "no token is within reach: this proves nothing"
    monkeypatch.setattr(MaskableQuestion, "answers", lambda self, sets: planted(reached[-1])(sets))
    monkeypatch.setattr(MaskableQuestion, "target", "yes", raising=False)
    monkeypatch.setattr(MaskableQuestion, "__setattr__", lambda self, key, value: self.__dict__.setdefault(
        key, "yes" if key == "target" else value
    ))  # fmt: skip
    found = explain(model, picture, PROMPT, options=LOOSE)
    assert found.masked.index.tolist() == [reached[-1]] and found.becomes == "no"
    assert len(found.random) == 20 and found.random_share == 0.0
    assert str(found).startswith("Masking ") and "0 of 20 draws" in str(found)
    # One token of its kind changes the answer: a random search of t tries finds it with probability t / n.
    kinds = MaskableQuestion(model, picture, PROMPT, None, 0).tokens["kind"]
    n = int((kinds == found.masked["kind"].iloc[0]).sum())
    assert found.blind_chance == pytest.approx(min(1, found.tries / n)) and len(found.blind) == found.n_blind == n
    assert f"finds such a set with probability {found.blind_chance:.2f}" in str(found)
    assert f"try {found.tries}, alone among" in str(found) and len(found.minimal) == 1


def test_random_draws_are_of_the_same_kinds_and_never_the_chosen():
    kinds = np.array(["image"] * 6 + ["text"] * 4)
    draws = random_sets(kinds, (0, 1, 7), 50, seed=3)
    assert len(draws) == 50 and len(set(draws)) > 10
    for draw in draws:
        assert not {0, 1, 7} & set(draw) and sorted(kinds[list(draw)]) == ["image", "image", "text"]
    assert draws == random_sets(kinds, (0, 1, 7), 50, seed=3) != random_sets(kinds, (0, 1, 7), 50, seed=4)
    assert random_sets(kinds, (6, 7, 8), 50, seed=3) == [] == random_sets(kinds, (), 50, seed=3)


@pytest.mark.medium
def test_graphs_and_explanations_hold_together(model, picture):
    found = explain(model, picture, PROMPT, options=LOOSE)
    assert set(found.graphs) | set(found.refused) == set(range(model.head_block.n_heads))
    head, graph = next(iter(found.graphs.items()))
    n = len(graph.tokens)
    assert graph.correlations.shape == (n, n) and graph.tokens["kind"].iloc[-1] == "answer"
    np.testing.assert_allclose(np.diag(graph.correlations), 1)
    assert (graph.tokens["attention"].iloc[:-1] >= LOOSE.threshold).all() and n <= LOOSE.max_tokens + 1
    assert graph.n_samples == model.hf.config.get_text_config().hidden_size
    alone = causal_graph(model, picture, PROMPT, head, options=LOOSE)
    assert alone.edges.equals(graph.edges) and alone.tokens.equals(graph.tokens)
    assert found.minimal["changed"].all() and len(found.minimal) == found.tried["changed"].sum()
    if found.head is not None:
        assert found.becomes != found.answer and 0 <= found.blind_chance <= 1
        assert not found.tried["changed"].iloc[: found.tries - 1].any()
        assert set(found.minimal["size"]) == {len(found.masked)} and found.tried["size"].max() == len(found.masked)
    again = explain(model, picture, PROMPT, options=LOOSE)
    assert again.tried.equals(found.tried) and again.random.equals(found.random) and again.blind.equals(found.blind)


@pytest.mark.medium
def test_tiny_blip_hangs_on_the_word_that_it_answers():
    """A word of the question that the model repeats: masked, it cannot; other words do not matter."""
    model, pairs = vt.load_model("tiny-blip"), vt.load_pairs("rendered_states", n=6, seed=0)
    found = explain(model, pairs["clean_image"][0], pairs["clean_prompt"][0])
    assert found.masked["word"].tolist() == [pairs["correct_answer"][0]] == [found.answer]
    assert found.becomes != found.answer and found.random_share < 0.2


# Refusals ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layer": 9}, "Layer 9 does not exist: language_model has layers 0 to 2"),
        ({"heads": [0, 7]}, r"Heads \[7\] do not exist: language_model has heads 0 to 3"),
        ({"heads": []}, "do not exist"),
        ({"step": 99}, "step=99 does not exist"),
        ({"options": GraphOptions(threshold=2.0)}, "No head of layer 2 has a graph.*lower the threshold"),
        ({"layer": -1}, "layer must be a whole number"),
    ],
)
def test_bad_options_get_a_sentence(llava, picture, options, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence):
        explain(llava, picture, PROMPT, **options)


def test_an_answer_that_the_model_does_not_give_is_refused(llava, picture):
    given = llava.answer_tokens(llava.encode([picture], [llava.prompt_text(PROMPT)]), 1)[0]
    other = next(token for token in map(llava.answer_token, ("red", "blue")) if token != given)
    with pytest.raises(vt.VlmtraceError, match="explain what it does give"):
        explain(llava, picture, PROMPT, [other], options=LOOSE)


def test_a_head_without_a_graph_is_named_and_the_others_go_on(llava, picture, monkeypatch):
    real = explanation.joint_attention

    def one_head_looks_at_one_token(*args):
        attention = real(*args)
        attention[1] = 0
        attention[1, :, 0] = 1  # a special token: the answer pays no other any attention
        attention[2] = 0
        attention[2, :, attention.shape[-1] // 2] = 1
        return attention

    monkeypatch.setattr(explanation, "joint_attention", one_head_looks_at_one_token)
    found = explain(llava, picture, PROMPT, options=GraphOptions(alpha=0.2, threshold=1e-3, max_tokens=8))
    assert set(found.graphs) == {0, 3} and set(found.refused) == {1, 2}
    assert "lower the threshold" in found.refused[1] and "are singular" in found.refused[2]


@pytest.mark.medium
def test_the_graphs_of_a_causal_decoder_point_forwards_only():
    """The case that was wrong: of all edges of tiny-llava's heads, every sixth to twentieth pointed only backwards."""
    model, pair = vt.load_model("tiny-llava"), vt.load_pairs("rendered_states", n=1).iloc[0]
    question = MaskableQuestion(model, pair["clean_image"], pair["clean_prompt"], None, 0)
    n_edges = backwards = 0
    for layer in range(model.head_block.n_layers):
        for head in range(model.head_block.n_heads):
            try:
                graph = causal_graph(model, pair["clean_image"], pair["clean_prompt"], head, layer)
            except vt.VlmtraceError:
                continue
            index = [*question.tokens["index"].to_numpy()[graph.tokens["member"].iloc[:-1]], 10**6]
            for edge in graph.edges.itertuples():
                is_forward = index[edge.source] < index[edge.target]
                backwards += (edge.target_mark if is_forward else edge.source_mark) != "arrow"
                n_edges += 1
    assert n_edges > 100 and not backwards, f"{backwards} of {n_edges} edges let a later token cause an earlier one"
