"""The view Attention without a browser: every module, objects as patches, selection and address."""

import numpy as np
import pytest
from fixtures.views import click, shown

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import mask_coverage
from vlmtrace.methods.attention.records import VISION, places, record_of
from vlmtrace.methods.attention.view import Attention


@pytest.fixture
def view(view_model, random_pairs):
    return shown(Attention(Session(view_model, random_pairs)))


def sent(view):
    state = view.canvas.state
    flat = np.frombuffer(view.canvas.weights, "<u2") * state["scale"]
    return flat.reshape(state["layers"], state["heads"], len(state["queries"]), state["keys"])


def test_every_module_can_be_looked_at(view, view_model, random_pairs):
    assert [name for name, _ in view.canvas.state["places"]] == [".".join(place) for place in places(view_model)]
    inputs = run_inputs(view_model, random_pairs.iloc[[0]], "clean")
    for block, module in places(view_model)[1:]:
        state = click(view, do="place", place=f"{block}.{module}")
        own = view_model.attention(inputs, block, module)[:, 0].numpy()
        assert state["place"] == f"{block}.{module}" and state["keys"] == own.shape[-1] == len(state["keyTokens"])
        rows = [token["position"] for token in state["queries"]]
        kept = [row for row in rows if row >= 0]
        assert np.abs(sent(view)[:, :, : len(kept)] - own[:, :, kept]).max() < 1e-4, (block, module)
        assert len(state["patches"]) == len(state["boxes"])
        assert view.export("png")[1].startswith(b"\x89PNG") and len(view.table) == own.shape[0] * own.shape[1] * len(
            rows
        )


def test_the_vision_encoder_has_cls_and_the_mean_over_patches(view, view_model, random_pairs):
    record = record_of(view.example, VISION, "self_attention")
    own = view_model.attention(run_inputs(view_model, random_pairs.iloc[[0]], "clean"), VISION, "self_attention")[
        :, 0
    ].numpy()
    placed = ~np.isnan(view.example.cells(VISION)).any(axis=1)
    assert (
        record.queries["token"].tolist()[-1] == "patches" and record.patches.tolist() == np.flatnonzero(placed).tolist()
    )
    assert np.allclose(record.weights[:, :, -1], own[:, :, placed].mean(2), atol=1e-6)
    assert np.allclose(record.weights[:, :, :-1], own[:, :, ~placed], atol=1e-6)


def test_object_means_every_patch_that_shows_any_of_it(view_model):
    pair = vt.load_pairs("rendered_states", n=1)
    view = Attention(Session(view_model, pair))
    found = view.canvas.state["regions"]["object"]
    shares = mask_coverage(pair.iloc[0], "clean_object_mask", np.array(view.canvas.state["boxes"]))
    assert found == np.flatnonzero(shares > 0.01).tolist()
    boxes = np.array(view.canvas.state["boxes"])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (shares * areas)[found].sum() > 0.98 * (shares * areas).sum(), "part of the object is left out"


def test_a_click_on_a_head_selects_it_and_a_selection_is_followed(view, view_model):
    block, module = places(view_model)[0]
    click(view, do="select", place=f"{block}.{module}.1.3")
    assert view.session.selected.head == 3
    view.session.select(f"{block}.{module}.0.2")
    assert (view.canvas.layer, view.canvas.head) == (0, 2)
    view.session.select(f"{VISION}.self_attention.1.1")
    assert view.canvas.state["place"] == f"{VISION}.self_attention" and (view.canvas.layer, view.canvas.head) == (1, 1)
    view.session.select("output")
    assert (view.canvas.layer, view.canvas.head) == (1, 1) and not view.frame.error


def test_an_address_brings_the_head_back(view, view_model, random_pairs):
    assert view.settings == {}
    view.session.select(f"{VISION}.self_attention.1.1")
    other = Attention(Session(view_model, random_pairs), hidden=True)
    other.restore(view.settings)
    other.show()
    assert other.canvas.state["place"] == f"{VISION}.self_attention" and (other.canvas.layer, other.canvas.head) == (
        1,
        1,
    )
    for wrong in ("x", f"{VISION}.self_attention.99.0", f"{VISION}.residual.0", "output"):
        with pytest.raises(VlmtraceError):
            other.restore({"head": wrong})
    assert (other.canvas.layer, other.canvas.head) == (1, 1)


def test_what_cannot_be_looked_at_leaves_what_was_shown(view):
    before = view.canvas.state
    view._receive(None, {"do": "place", "place": "nothing.at_all"}, [])
    assert "nothing.at_all" in view.frame.error and view.place is None
    assert view.canvas.state == {**before, "nRefused": 1}, "the page shows the module that was refused"


def test_the_code_gives_the_numbers_of_any_module(view, view_model, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    for block, module in places(view_model):
        click(view, do="place", place=f"{block}.{module}")
        view.canvas.layer, view.canvas.head, view.canvas.queries = 1, 1, [0]
        names: dict = {}
        exec(view.code(), names)
        assert np.array_equal(names["row"], view.overlay), (block, module)
