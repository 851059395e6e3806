"""What is selected in a session: any place of the model by its name, and nothing else."""

import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Patched, Selection, Session
from vlmtrace.models.edges.wiring import edges_of


@pytest.fixture(scope="module", params=["blip", "llava"])
def model(request, model_store):
    return model_store.shared("random_blip" if request.param == "blip" else request.param)


@pytest.fixture
def session(model, random_pairs):
    return Session(model, random_pairs)


def test_every_node_of_every_edge_can_be_selected(session):
    edges = edges_of(session.model)
    for label in {edge.sender.label for edge in edges} | {edge.receiver.label for edge in edges}:
        chosen = session.select(label)
        assert chosen == session.selected and label.startswith(chosen.label)
        assert chosen.kind == "head" or chosen.layer is None or chosen.module == "mlp"


def test_a_head_says_where_it_is(session):
    block = session.model.head_block
    chosen = session.select(f"{block.name}.{block.head_modules[-1]}.1.2", [3, 1, 3])
    assert (chosen.kind, chosen.block, chosen.layer, chosen.head, chosen.short) == ("head", block.name, 1, 2, "1.2")
    assert chosen.positions == (1, 3)
    assert session.select(chosen) == chosen
    assert session.select(f"{block.name}.residual.0").kind == "module"
    assert session.select("image") == Selection("image") and session.select("image").kind == "node"
    assert session.select("") is None and session.selected is None


@pytest.mark.parametrize(
    "label",
    ["x", "image.1", "text_encoder", "..", "a.b.c.d", "vision_encoder.mlp.99", "vision_encoder.mlp.1.0",
     "vision_encoder.self_attention.0.999", "vision_encoder.self_attention.-1.0", "vision_encoder.self_attention.1e1.0",
     "vision_encoder.self_attention.²", "vision_encoder.mlp.1.0.query.x", "<script>", "a" * 10**6],
)  # fmt: skip
def test_what_is_no_place_is_said_and_changes_nothing(session, label):
    before = session.select("output")
    with pytest.raises(VlmtraceError) as refused:
        session.select(label)
    assert session.selected == before and len(str(refused.value)) < 1000


def test_listeners_hear_of_a_change_once(session):
    heard = []
    session.observe_selection(heard.append)
    session.select("image")
    session.select("image")
    session.select(None)
    assert heard == [Selection("image"), None]


def test_what_was_patched_belongs_to_its_example(session):
    heard = []
    session.observe_patched(heard.append)
    patched = Patched(0.5, "red", "image", "head 1.2")
    session.report(patched)
    assert session.patched == patched
    session.choose(session.example.name)
    assert session.patched == patched, "the same example"
    session.choose(session.pairs["sample_id"].iloc[1])
    assert session.patched is None and heard == [patched, None]


def test_an_example_of_ones_own_can_be_gone_back_to(session):
    first = session.example
    assert session.own is None
    with pytest.raises(VlmtraceError, match="There is no pair 'own'"):
        session.choose("own")
    own = session.ask(clean_image=first.pair["clean_image"], clean_prompt="is this circle red?")
    assert session.choose(first.name) is first
    assert session.choose("own") is own is session.own
