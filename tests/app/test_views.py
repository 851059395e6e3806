"""The views without a browser: numbers, code, sentences. What people click is in tests/end_to_end/browser."""

import io
import os
import socket
import struct
import zlib

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace import app, methods
from vlmtrace.app import server
from vlmtrace.app.ask import MOST_PIXELS, decode
from vlmtrace.app.tabs import declared_views
from vlmtrace.app.voila_server import configuration
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Example, Session, View
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.attention.view import LEVELS, Attention
from vlmtrace.methods.edges.view import EdgeView
from vlmtrace.methods.explanation.view import CausalView
from vlmtrace.methods.patching.intervention import Patch, intervene
from vlmtrace.methods.patching.view import Patching
from vlmtrace.methods.relevancy.view import RelevancyView


@pytest.fixture(scope="module", params=["blip", "llava"])
def model(request, model_store):
    return model_store.shared("random_blip" if request.param == "blip" else request.param)


@pytest.fixture
def session(model, random_pairs):
    return Session(model, random_pairs)


def shown(view):
    """A view that has been shown without an error."""
    assert not view.frame.error, view.frame.error
    assert view.frame.done and not view.frame.doing
    return view


def png_of(size):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, format="png")
    return buffer.getvalue()


# The example ------------------------------------------------------------


def test_attention_is_the_models_own(session):
    example, model = session.example, session.model
    record = example.attention()
    inputs = model.extend(run_inputs(model, example.frame(), "clean"), example.answer().ids)
    own = model.attention(inputs, record.block, record.module)[:, 0].numpy()
    rows = record.queries["position"].to_numpy()
    assert np.array_equal(record.weights, own[:, :, rows])
    assert np.allclose(record.weights.sum(-1), 1, atol=1e-5)
    assert list(record.queries["token_role"]).count("answer") == (
        0 if model.image_module == "cross_attention" else len(example.answer().ids)
    )


def test_attention_of_the_answer_is_where_its_tokens_are_predicted(session):
    example, model = session.example, session.model
    question, through = example.answer_attention()
    record, n = example.attention(), len(example.answer().ids)
    assert through.shape == (record.weights.shape[0], n, len(record.patches))
    if model.image_module == "cross_attention":
        inputs = model.extend(run_inputs(model, example.frame(), "clean"), example.answer().ids)
        own = model.attention(inputs, "text_decoder", "cross_attention")[:, 0, :, :n].numpy()
        assert np.array_equal(question.weights, own)
        by_hand = sum(own[1, :, 0].mean(0)[q] * record.weights[1, :, q].mean(0) for q in range(own.shape[-1]))
        assert np.allclose(through[1, 0], by_hand[record.patches], atol=1e-6)
    else:
        last = record.queries.index[record.queries["token_role"] == "last"][0]
        assert np.array_equal(through[:, 0], record.weights[:, :, last][..., record.patches].mean(1))


def test_the_image_is_shown_as_the_model_sees_it(session, tmp_path):
    model, example = session.model, session.example
    seen, (rows, columns) = example.seen()
    side = seen.width // columns
    picture = np.zeros((seen.height, seen.width, 3), dtype=np.uint8)
    picture[side : 2 * side, 2 * side : 3 * side] = (255, 0, 0)  # row 1, column 2
    Image.fromarray(picture).save(tmp_path / "painted.png")
    painted, _ = session.ask(clean_image=tmp_path / "painted.png", clean_prompt=example.question).seen()
    red = np.asarray(painted)[..., 0].reshape(rows, side, columns, side).mean((1, 3))
    assert np.unravel_index(red.argmax(), red.shape) == (1, 2)
    assert red[1, 2] > 200 and np.delete(red.ravel(), columns + 2).max() < 60
    assert (rows, columns) == model.patch_grid(example.inputs())


def test_top_tokens_are_sorted_probabilities(session):
    top = session.example.top(n=5)
    with torch.no_grad():
        logits = session.model.answer_logits(run_inputs(session.model, session.example.frame(), "clean"))[0]
    assert top["token_id"].tolist() == logits.topk(5).indices.tolist()
    assert top["probability"].tolist() == pytest.approx(logits.softmax(-1).topk(5).values.tolist(), abs=1e-6)


def test_what_is_missing_is_said(session):
    with pytest.raises(VlmtraceError, match="no clean_image"):
        Example(session.model, {"clean_prompt": "is this red?"})
    with pytest.raises(VlmtraceError, match="There is no pair 'x'"):
        session.choose("x")
    own = session.ask(clean_image=session.example.pair["clean_image"], clean_prompt="is this circle red?")
    with pytest.raises(VlmtraceError, match="has no corrupt run to patch: open a second image"):
        own.runs("image")


# Views ------------------------------------------------------------


def test_the_browser_is_sent_the_attention_itself(session):
    view = shown(Attention(session))
    record, state = view.record, view.canvas.state
    sent = np.frombuffer(view.canvas.weights, "<u2").reshape(record.weights.shape) * state["scale"]
    assert np.abs(sent - record.weights).max() <= record.weights.max() / LEVELS / 2 * 1.001
    roles = [record.queries["token_role"].iloc[i] for i in view.canvas.queries]
    assert roles == ["correct"], "the correct option looks first"
    steps, words = len(state["steps"]), len(state["words"])
    flat = np.frombuffer(view.canvas.matrices, "<f4")
    assert len(flat) == state["layers"] * steps * (words + len(state["patches"]))


def test_the_table_of_attention_follows_the_chosen_patches(session):
    view = shown(Attention(session))
    assert view.table["patch_attention"].isna().all()
    view.canvas.patches = [0, 3]
    record, table = view.record, view.table
    row = table[(table["layer"] == 1) & (table["head"] == 2)].iloc[4]
    weights = record.weights[1, 2, 4][record.patches]
    assert row["patch_attention"] == pytest.approx(weights[[0, 3]].sum(), abs=1e-6)
    assert row["image_attention"] == pytest.approx(weights.sum(), abs=1e-6)


def test_a_patched_head_has_the_effect_that_its_map_promises(session):
    view = shown(Patching(session))
    assert view.outcome.patching_effect == pytest.approx(0, abs=1e-5)
    block, module = view.place
    heads = view.head_effects()
    chosen = heads.loc[heads["patching_effect"].abs().idxmax()]
    view.toggle(Patch(block, module, int(chosen["layer"]), None, (int(chosen["head"]),)))
    assert view.outcome.patching_effect == pytest.approx(chosen["patching_effect"], abs=1e-4)
    view.at([3])
    at_three = view.head_effects().set_index(["layer", "head"])["patching_effect"]
    single = intervene(session.model, session.example.pair, [Patch(block, module, 1, (3,), (2,))])
    assert at_three[1, 2] == pytest.approx(single.patching_effect, abs=1e-4)


def test_the_intervention_is_undone_step_by_step(session):
    view = shown(Patching(session))
    block, module = view.place
    one, two = Patch(block, module, 0, None, (0,)), Patch(block, module, 1, (2,))
    view.toggle(one)
    effect = view.outcome.patching_effect
    view.toggle(two)
    with pytest.raises(VlmtraceError, match="There is no position 999"):
        view.toggle(Patch(block, module, 0, (999,)))
    assert view.patches == [one, two], "what cannot be done must leave nothing behind"
    view.clear()
    view.undo()
    view.undo()
    assert view.patches == [one] and view.outcome.patching_effect == pytest.approx(effect, abs=1e-6)
    view.toggle(one)
    assert view.patches == []


def executed(code, model, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda *_args, **_options: model)
    names = {}
    exec(code, names)
    return names


def test_copied_code_gives_the_same_numbers(session, monkeypatch):
    patching = shown(Patching(session))
    block, module = patching.place
    patching.toggle(Patch(block, module, 1, (2, 3), (0, 2)))
    patching.toggle(Patch(block, "mlp", 0))
    outcome = executed(patching.code(), session.model, monkeypatch)["outcome"]
    assert outcome.patching_effect == pytest.approx(patching.outcome.patching_effect, abs=1e-6)

    attention = shown(Attention(session))
    attention.canvas.layer, attention.canvas.head, attention.canvas.queries = 1, 2, [1, 4]
    row = executed(attention.code(), session.model, monkeypatch)["row"]
    assert np.array_equal(row, attention.overlay)

    asked = shown(app.Ask(session))
    example = executed(asked.code(), session.model, monkeypatch)["example"]
    pd.testing.assert_frame_equal(example.top(), session.example.top())

    relevancy = shown(RelevancyView(session))
    found = executed(relevancy.code(), session.model, monkeypatch)["found"]
    pd.testing.assert_frame_equal(found.table(), relevancy.table)


def test_relevancy_in_the_browser_is_the_tables(session):
    view = shown(RelevancyView(session))
    maps = view.canvas.state["maps"]
    for kind, values in maps.items():
        table = view.table[(view.table["kind"] == kind) & (view.table["step"] == 0)]
        off = table["relevance"].sum() - sum(values[0])
        assert -1e-9 < off <= table["relevance"].max() + 1e-9, "only [CLS] has no place in the image"


@pytest.mark.medium
def test_every_view_exports_picture_and_numbers(session):
    kinds = (app.Ask, Attention, RelevancyView, CausalView, Patching, EdgeView)
    for kind in kinds:
        view = shown(kind(session))
        if isinstance(view, CausalView):
            view.compute()  # it waits until it is asked
        name, content = view.export("png")
        assert content.startswith(b"\x89PNG") and name == f"{view.name}-{session.example.name}.png"
        table = pd.read_parquet(io.BytesIO(view.export("parquet")[1]))
        assert len(table) == len(view.table) == len(pd.read_csv(io.BytesIO(view.export("csv")[1])))


def test_views_compute_when_they_are_opened_and_stay_as_they_were(session, monkeypatch):
    views = app.explorer(session)
    attention = views.views["Attention"]
    assert attention.record is None, "a view that nobody opened has computed"
    shown(views.open("Attention"))
    attention.canvas.layer, attention.canvas.head = 1, 3
    views.open("Answer")
    monkeypatch.setattr(attention, "load", lambda: pytest.fail("nothing has changed"))
    views.open("Attention")
    assert (attention.canvas.layer, attention.canvas.head) == (1, 3)


def test_the_tabs_stand_in_their_order(session):
    assert list(app.explorer(session).views) == ["Answer", "Circuit", "Attention", "Relevancy", "Causal graph", "Patch"]


def test_a_view_in_a_methods_room_becomes_a_tab(tmp_path, monkeypatch):
    room = tmp_path / "rooms" / "made_up"
    room.mkdir(parents=True)
    (room / "__init__.py").touch()
    (room / "view.py").write_text(
        "from vlmtrace.display.view import View\n"
        "class MadeUp(View):\n    title, name, order = 'Made up', 'made-up', 15\n"
    )
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(room.parent)])
    titles = [view.title for view in declared_views()]
    assert titles == ["Answer", "Circuit", "Attention", "Made up", "Relevancy", "Causal graph", "Patch"]
    assert View not in declared_views(), "what a module imports is no view of its own"


def test_another_example_reaches_every_view(session):
    views = app.explorer(session)
    before = views.open("Attention").record
    views.open("Answer")
    session.choose(session.pairs["sample_id"].iloc[1])
    assert views.views["Attention"].record is before, "a hidden view waits"
    assert views.open("Attention").record is not before
    assert session.example.question in views.views["Attention"].frame.about


def test_a_fault_is_a_sentence_in_the_view(session, monkeypatch):
    view = Attention(session, hidden=True)
    monkeypatch.setattr(view, "load", lambda: 1 / 0)
    view.show()
    assert view.frame.error == (
        "attention failed (ZeroDivisionError: division by zero): choose something else, or report it."
    )
    own = session.ask(clean_image=session.example.pair["clean_image"], clean_prompt="is this circle red?")
    patching = Patching(session)
    assert patching.frame.error.startswith(f"{own.name} has no corrupt run to patch") and not patching.canvas.state


def test_a_view_needs_no_session(model, random_pairs):
    assert shown(app.Ask(model, random_pairs)).table["run"].unique().tolist() == ["clean", "image", "text"]
    with pytest.raises(VlmtraceError, match="needs a session, or a model and pairs"):
        app.Ask(model)


# What people open ------------------------------------------------------------


def test_an_own_image_and_question(session):
    view = shown(app.Ask(session))
    view.open(png_of((40, 36)))
    example = session.example
    assert example.corruptions == [] and example.image.getpixel((0, 0)) == (255, 0, 0)
    view.open(png_of((36, 40)), run="image")
    assert session.example.corruptions == ["image"] and session.example.image.size == (40, 36)
    view.ask("is this square red or blue?")
    assert session.example.question == "is this square red or blue?" and session.example.corruptions == ["image"]


def huge_png(width, height):
    """A PNG that says it has so many pixels; all that is needed to refuse it, and nothing that could be decoded."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + head, b"IDAT" + zlib.compress(b""), b"IEND")
    sizes = (struct.pack(">I", len(chunk) - 4) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        size + chunk + struct.pack(">I", zlib.crc32(chunk)) for size, chunk in zip(sizes, chunks, strict=True)
    )


def test_files_are_bounded_before_they_are_decoded(monkeypatch):
    assert decode(png_of((5, 4))).size == (5, 4)
    with pytest.raises(VlmtraceError, match="not an image that can be read"):
        decode(b"no image at all")
    with pytest.raises(VlmtraceError, match="not an image that can be read"):
        decode(png_of((50, 50))[:60])
    with pytest.raises(VlmtraceError, match=r"has 7\.0 MB, more than 6"):
        decode(b"x" * (7 * 2**20))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(VlmtraceError, match=f"8000 × 8000 pixels, more than {MOST_PIXELS:,}"):
        decode(huge_png(8000, 8000))


def test_nothing_that_is_opened_is_written(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view = app.Ask(session)
    view.open(png_of((40, 36)))
    view.export("png")
    assert not list(tmp_path.rglob("*")), "an upload must stay in memory"


# The app ------------------------------------------------------------


def test_the_app_listens_on_the_named_interface_with_a_token():
    given = configuration("127.0.0.1", 1234, "secret", "dark")
    assert (given.Voila.ip, given.Voila.port, given.Voila.token) == ("127.0.0.1", 1234, "secret")
    assert given.VoilaConfiguration.theme == "dark"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < server.free_port("127.0.0.1", port) < port + 20
    with pytest.raises(VlmtraceError, match=r"no address of this machine|No port from"):
        server.free_port("203.0.113.7", 8866)
    paths = server.environment()["PYTHONPATH"].split(os.pathsep)
    assert str(server.NOTEBOOK.parents[1]) in paths, "the kernel must find the package"
    assert (server.PATHS["JUPYTER_PATH"] / "voila" / "templates" / "vlmtrace" / "index.html.j2").is_file()


def test_parameters_reach_the_apps_notebook(tmp_path):
    cells = nbformat.read(server.prepared(tmp_path, model="tiny-llava", tasks=["rendered_svo"]), as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert 'model = "tiny-llava"' in source and 'tasks = ["rendered_svo"]' in source


def test_the_notebook_is_committed_clean():
    notebook = nbformat.read(server.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert notebook.cells[0].source.startswith("# 9") and "**Question:**" in text and "Look for" in text
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 25
