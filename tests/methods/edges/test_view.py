"""The view of edges without a browser: what a click computes, against the methods that compute it alone."""

import numpy as np
import pytest
from fixtures.views import click, shown

from vlmtrace.display import Session
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.edges import EdgeView, image_patch_effects, intervene_on_edges, pair_edges, patch_edges
from vlmtrace.methods.patching import Patching


@pytest.fixture
def view(view_model, random_pairs):
    return shown(EdgeView(Session(view_model, random_pairs)))


def test_what_is_drawn_is_what_patching_gives(view, view_model, random_pairs):
    exact = patch_edges(view_model, random_pairs.iloc[[0]]).set_index(["sender", "receiver"])["patching_effect"]
    assert len(view.canvas.state["edges"]) == view.n == 30
    for edge in view.canvas.state["edges"]:
        assert edge["effect"] == pytest.approx(exact[edge["sender"], edge["receiver"]], abs=1e-4)
    assert abs(view.canvas.state["edges"][0]["effect"]) == pytest.approx(exact.abs().max(), abs=1e-4)


def test_a_click_on_an_edge_patches_it_and_another_takes_it_back(view, view_model):
    first, second = view.canvas.state["edges"][:2]
    state = click(view, do="toggle", sender=first["sender"], receiver=first["receiver"])
    assert state["effect"] == pytest.approx(first["effect"], abs=1e-4), "the graph promised another effect"
    state = click(view, do="toggle", sender=second["sender"], receiver=second["receiver"])
    both = [(edge["sender"], edge["receiver"]) for edge in (first, second)]
    together = intervene_on_edges(view_model, view.example.frame().iloc[0], both)
    assert state["effect"] == pytest.approx(together.patching_effect, abs=1e-5)
    assert view.table["is_patched"].sum() == 2
    click(view, do="toggle", sender=first["sender"], receiver=first["receiver"])
    assert view.chosen == both[1:]
    assert click(view, do="clear")["effect"] == pytest.approx(0, abs=1e-5)


@pytest.mark.medium
def test_positions_of_an_edge_are_those_of_patching(view, view_model, random_pairs):
    own = view.session.model.head_block.name
    for sender, corruption in (("image", "image"), ("prompt", "text"), (own, "image")):
        view.choose(corruption)
        edge = next(e for e in view.effects().itertuples() if str(e.sender).startswith(sender) and e.patching_effect)
        found = view.numbers.by_position(str(edge.sender), str(edge.receiver))
        ends = {"senders": [str(edge.sender)], "receivers": [str(edge.receiver)]}
        exact = patch_edges(view_model, random_pairs.iloc[[0]], corruption, positions="all", **ends)
        assert found["position"].tolist() == exact["position"].tolist(), sender
        assert found["token"].tolist() == exact["token"].tolist()
        assert np.allclose(found["patching_effect"], exact["patching_effect"], atol=1e-4)


def test_an_opened_head_shows_the_models_own_attention(view, view_model):
    block = view_model.head_block
    module = block.head_modules[-1]
    state = click(view, do="open", node=f"{block.name}.{module}.1.2", query=3)
    own = view_model.attention(run_inputs(view_model, view.example.frame(), "clean"), block.name, module)[1, 0, 2, 3]
    attention = state["node"]["attention"]
    shown = sum(share for _, share in attention["words"]) + sum(attention["patches"])
    assert shown == pytest.approx(float(own.sum()), abs=1e-5), "every key is a word or a patch"
    assert sorted([share for _, share in attention["words"]] + attention["patches"]) == pytest.approx(
        sorted(own.tolist()), abs=1e-6
    )
    assert len(attention["patches"]) == len(state["boxes"])
    mean = click(view, do="open", node=f"{block.name}.{module}.1.2")["node"]["attention"]
    assert mean["words"] != attention["words"] or mean["patches"] != attention["patches"]


def test_an_opened_node_tells_what_it_reads_and_who_reads_it(view):
    effects = view.effects()
    node = next(label for label in effects["sender"].astype(str) if ".mlp." in label)
    state = click(view, do="open", node=node)
    assert state["node"]["attention"] is None
    into, out = effects[effects["receiver"] == node], effects[effects["sender"] == node]
    for found, rows in ((state["node"]["reads"], into), (state["node"]["readBy"], out)):
        strongest = rows["patching_effect"].abs().nlargest(6)
        assert [abs(effect) for *_, effect in found] == pytest.approx(strongest.tolist())
    assert click(view, do="open", node="")["node"] is None


@pytest.mark.medium
def test_a_large_model_computes_what_enters_opened_nodes(view_model, random_pairs, monkeypatch):
    whole = EdgeView(Session(view_model, random_pairs)).effects().set_index(["sender", "receiver"])["patching_effect"]
    monkeypatch.setattr(pair_edges, "MOST_EDGES", 10)
    view = EdgeView(Session(view_model, random_pairs))
    assert set(view.effects()["receiver"]) == {"output"}
    node = str(view.effects()["sender"].iloc[-1])
    click(view, do="open", node=node)
    more = view.effects()
    assert {str(label).removesuffix(".input") for label in more["receiver"]} > {"output"}
    found = more.astype({"sender": str, "receiver": str}).set_index(["sender", "receiver"])["patching_effect"]
    assert all(label == "output" or label.startswith(node) for label in found.index.get_level_values(1))
    assert np.allclose(found, [whole[edge] for edge in found.index], atol=1e-5)
    click(view, do="open", node="")
    assert len(view.effects()) == len(more), "what was computed stays"


def test_the_drawn_edges_as_a_circuit(view):
    every = [(edge["sender"], edge["receiver"]) for edge in view.canvas.state["edges"]]
    assert len(set(every)) == len(every) and view.canvas.state["alone"] is not None
    all_edges = click(view, do="choose", n=len(view.effects()))
    assert all_edges["alone"] == pytest.approx(1, abs=1e-4), "all edges are the clean run"


def test_words_of_the_question_are_nodes_where_the_other_question_has_others(view, view_model, random_pairs):
    state = click(view, do="choose", corruption="text")
    words = {node["node"]: node for node in state["nodes"] if node["kind"] == "token"}
    assert words and not any(node["node"] == "prompt" for node in state["nodes"])
    here, there = random_pairs.iloc[0][["clean_prompt", "corrupt_prompt"]].str.lower()
    for node in words.values():
        word, instead = node["text"].strip("Ġ▁").lower(), node["instead"].strip("Ġ▁").lower()
        assert node["opens"] == "prompt" and word != instead and word in here and instead in there
    exact = patch_edges(view_model, random_pairs.iloc[[0]], "text", senders=["prompt"], positions="all")
    exact = exact.set_index(["position", "receiver"])["patching_effect"]
    sent = [edge for edge in state["edges"] if edge["sender"].startswith("prompt")]
    assert sent
    for edge in sent:
        at = int(edge["sender"].removeprefix("prompt@"))
        assert edge["effect"] == pytest.approx(exact[at, edge["receiver"]], abs=1e-4)
        assert edge["sender_node"] == f"prompt {at}" and edge["sender_node"] in words
    assert not any(node["kind"] == "token" for node in click(view, do="choose", corruption="image")["nodes"])


def test_a_word_is_patched_alone(view):
    state = click(view, do="choose", corruption="text")
    edge = next(edge for edge in state["edges"] if edge["sender"].startswith("prompt@"))
    state = click(view, do="toggle", sender=edge["sender"], receiver=edge["receiver"])
    assert state["effect"] == pytest.approx(edge["effect"], abs=1e-4), "the graph promised another effect"
    assert view.table["is_patched"].sum() == 1 and state["places"]["of"] == ["prompt", edge["receiver"]]
    other = EdgeView(view.session, hidden=True)
    other.restore(view.settings)
    other.show()
    assert other.chosen == view.chosen and other.corruption == "text"
    view.session.choose(view.session.pairs["sample_id"].iloc[1])
    assert view.chosen == [], "the word of one question lingers on another"


def test_all_words_together_are_the_whole_prompt(view, view_model, random_pairs):
    view.choose("text")
    exact = patch_edges(view_model, random_pairs.iloc[[0]], "text").set_index(["sender", "receiver"])["patching_effect"]
    whole = view.effects().astype({"sender": str, "receiver": str}).set_index(["sender", "receiver"])["patching_effect"]
    assert np.allclose(whole.loc[exact.index], exact, atol=1e-4) and len(whole) == len(exact)
    reads = click(view, do="open", node="prompt")["node"]["readBy"]
    assert reads[0][2] == pytest.approx(exact["prompt", reads[0][1]], abs=1e-4)


def test_the_code_gives_what_the_view_shows(view, view_model, monkeypatch):
    edge = view.canvas.state["edges"][0]
    click(view, do="toggle", sender=edge["sender"], receiver=edge["receiver"])
    import vlmtrace as vt

    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    names: dict = {}
    exec(view.code(), names)
    assert names["outcome"].patching_effect == pytest.approx(view.outcome.patching_effect, abs=1e-6)


def test_patches_of_the_image_are_put_in_together(view):
    tokens = view.example.cells(view.example.model.image_block)
    placed = np.flatnonzero(~np.isnan(tokens).any(axis=1))
    state = click(view, do="patch image", patches=[2, 5])
    alone = image_patch_effects(view.example, [placed[[2, 5]].tolist()])
    assert state["image"]["outcome"]["effect"] == pytest.approx(alone.effects[0], abs=1e-5)
    assert state["image"]["chosen"] == [2, 5] and view.session.patched.effect == pytest.approx(
        alone.effects[0], abs=1e-5
    )
    single = image_patch_effects(view.example, [[int(placed[5])]]).effects[0]
    assert state["image"]["effects"][5] == pytest.approx(single, abs=1e-4)
    assert click(view, do="clear")["image"]["outcome"] is None and view.session.patched is None


def test_where_drawn_heads_look_is_sent_for_hovering(view, view_model):
    attention = view.canvas.state["attention"]
    heads = [node["node"] for node in view.canvas.state["nodes"] if node["kind"] == "head"]
    assert set(attention) == set(heads)
    label = heads[0]
    block, module, layer, head = label.split(".")
    own = view_model.attention(run_inputs(view_model, view.example.frame(), "clean"), block, module)[
        int(layer), 0, int(head)
    ]
    text = ~view.example.image_positions(block)[: len(own)]
    mean = own.numpy()[text].mean(0)
    sent = attention[label]["patches"] + [share for _, share in attention[label]["words"]]
    assert sorted(sent) == pytest.approx(sorted(mean.tolist()), abs=1e-6)


@pytest.mark.medium
def test_means_over_pairs_take_the_place_of_this_pairs_effects(view, view_model, random_pairs):
    one = view.canvas.state["edges"][0]["effect"]
    state = click(view, do="choose", scope="run")
    exact = patch_edges(view_model, random_pairs.head(4)).groupby(["sender", "receiver"], observed=True)[
        "patching_effect"
    ]
    edge = state["edges"][0]
    assert edge["effect"] == pytest.approx(exact.mean()[edge["sender"], edge["receiver"]], abs=1e-4)
    assert "mean over the first" in state["source"] and view.figure().axes
    assert click(view, do="choose", scope="pair")["edges"][0]["effect"] == pytest.approx(one)


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_the_gauge_is_told_what_the_patched_run_answers_first(view, view_model, corruption):
    view.choose(corruption)
    effects = view.effects()
    weakest = effects.loc[effects["patching_effect"].abs().idxmin()]
    view.toggle(str(weakest["sender"]), str(weakest["receiver"]))
    logits = view.example.runs(corruption).corrupt.logits[0]
    own = view_model.tokenizer.convert_ids_to_tokens([int(logits.argmax())])[0]
    assert view.session.patched.answer == own, "an edge that does nothing changes the answer"


def test_the_gauge_shows_what_is_patched_in_the_view_that_is_open(view):
    edge = view.canvas.state["edges"][0]
    click(view, do="toggle", sender=edge["sender"], receiver=edge["receiver"])
    told = view.session.patched
    other = Patching(view.session)
    assert other.patches == [] and view.session.patched is None
    view.show()
    assert view.session.patched == told, "the gauge says that nothing is patched beside an edge that is"
    other.show()
    assert view.session.patched is None


def test_opening_a_head_selects_it(view):
    node = next(node["node"] for node in view.canvas.state["nodes"] if node["kind"] == "head")
    click(view, do="open", node=node)
    assert view.session.selected.label == node


def test_an_address_brings_everything_back(view, view_model, random_pairs):
    assert view.settings == {}
    edge = view.canvas.state["edges"][1]
    click(view, do="toggle", sender=edge["sender"], receiver=edge["receiver"])
    click(view, do="patch image", patches=[1, 2])
    other = EdgeView(Session(view_model, random_pairs), hidden=True)
    other.restore(view.settings)
    other.show()
    assert other.chosen == view.chosen and other.patches == [1, 2]
    assert other.canvas.state["image"]["outcome"] == view.canvas.state["image"]["outcome"]
    other.session.choose(random_pairs["sample_id"].iloc[1])
    assert other.patches == []


def test_an_address_keeps_its_words_in_a_view_that_has_shown_another_pair(view, view_model, random_pairs):
    state = click(view, do="choose", corruption="text")
    word = next(edge for edge in state["edges"] if edge["sender"].startswith("prompt@"))
    click(view, do="toggle", sender=word["sender"], receiver=word["receiver"])
    session = Session(view_model, random_pairs)
    session.choose(random_pairs["sample_id"].iloc[1])
    other = shown(EdgeView(session))
    other.hide()
    session.choose(random_pairs["sample_id"].iloc[0])
    other.restore(view.settings)
    other.show()
    assert other.settings == view.settings, "words of this very question are taken for those of the other one"
    session.choose(random_pairs["sample_id"].iloc[1])
    assert other.chosen == [] and "edges" not in other.settings


def test_under_a_node_stands_the_token_that_does_half_of_what_its_strongest_edge_does(view):
    at, edges = view.canvas.state["at"], view.canvas.state["edges"]
    senders = dict.fromkeys(edge["sender"] for edge in edges if "." in edge["sender"])
    for sender in list(senders)[:6]:
        edge = next(edge for edge in edges if edge["sender"] == sender)
        found = view.numbers.by_position(sender, edge["receiver"])
        found = found[~found["token_role"].astype(str).str.startswith("image")].reset_index(drop=True)
        size = found["patching_effect"].abs()
        if len(found) > 1 and size.max() >= abs(edge["effect"]) / 2:
            assert at[sender] == found["token"][size.idxmax()], sender
        else:
            assert sender not in at, "what acts at the image or at many tokens is said to act at one"
