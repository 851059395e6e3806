"""Explorers: what they draw for a choice, how controls follow each other, and how errors are said."""

import functools
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from matplotlib.collections import QuadMesh
from nbclient import NotebookClient

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import figure_explorer as explorer
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.attention import explorers as attention_explorers
from vlmtrace.methods.patching import explorers as patching_explorers
from vlmtrace.models import Site


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> pd.DataFrame:
    return tables.make_pairs(tmp_path_factory.mktemp("pairs"), n=3)


@pytest.fixture(scope="module")
def module_patching(pairs) -> pd.DataFrame:
    """Effects with the image patches of `random_blip`: 4 × 4, numbered, in the last layer of the vision encoder."""
    text = tables.make_module_patching(pairs)
    text = text[text["block"] == "text_encoder"]
    patches = pd.DataFrame({"position": range(17), "patching_effect": np.arange(17) / 100})
    patches["token_role"] = patches["token"] = ["[CLS]", *["image"] * 16]
    sites = pd.DataFrame({"sample_id": pairs["sample_id"], "corruption": "image", "block": "vision_encoder"})
    return pd.concat([text, sites.assign(module="residual", layer=2).merge(patches, how="cross")], ignore_index=True)


@pytest.fixture(scope="module")
def head_patching(pairs) -> pd.DataFrame:
    return tables.make_head_patching(pairs, n_layers=2, n_heads=3)


class Screen:
    """Stands for the notebook: keeps what is displayed, and what it is replaced with."""

    def __init__(self):
        self.shown = []

    def display(self, content, display_id=False):
        self.shown.append(content)
        return self if display_id else None

    update = display


@pytest.fixture
def screen(monkeypatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(explorer, "display", screen.display)
    return screen


def heat_map(figure) -> np.ndarray:
    meshes = [found for axes in figure.axes if axes.get_label() != "<colorbar>" for found in axes.collections]
    (mesh,) = [found for found in meshes if isinstance(found, QuadMesh)]
    return np.asarray(mesh.get_array())


# What is drawn -----------------------------------------------------------------------------------------------------


def test_module_explorer_draws_the_effects_of_one_pair(random_blip, pairs, module_patching):
    explorer = patching_explorers.module_explorer(random_blip, pairs, module_patching)
    assert explorer.settings == {
        "sample_id": "color-0",
        "corruption": "image",
        "site": ("text_encoder", "cross_attention"),
    }
    figure = explorer.figure(sample_id="subject-2", corruption="text", site=("text_encoder", "mlp"))
    rows = module_patching.query("sample_id == 'subject-2' and corruption == 'text' and module == 'mlp'")
    assert np.allclose(heat_map(figure), rows.pivot(index="layer", columns="position", values="patching_effect"))
    texts = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    assert texts[:5] == ["[CLS]", "is", "the", "girl", "or"], "columns must be labelled by the prompt's tokens"
    titles = [axes.get_title() for panel in figure.subfigs for axes in panel.axes]
    assert titles[0] == "clean run: Is the girl or the dog kicking the ball?"
    assert titles[1].replace("\n", " ") == "corrupt run: Is the boy or the robot kicking the ball?"
    clean, corrupt = (axes.images[0].get_array() for axes in figure.subfigs[0].axes)
    assert np.array_equal(clean, corrupt), "under text corruption both runs see the clean image"


def test_module_explorer_draws_image_patches_where_they_are(random_blip, pairs, module_patching):
    figure = patching_explorers.module_explorer(random_blip, pairs, module_patching).figure(
        site=("vision_encoder", "residual")
    )
    drawn = figure.axes[2].images[0]
    assert np.allclose(drawn.get_array(), (np.arange(16).reshape(4, 4) + 1) / 100), "patches are mixed up with [CLS]"
    assert figure.axes[2].get_title(loc="left") == "layer 2"


def test_head_explorer_sums_positions_or_shows_one(random_blip, pairs, head_patching):
    explorer = patching_explorers.head_explorer(random_blip, pairs, head_patching)
    rows = head_patching.query("sample_id == 'color-0' and corruption == 'image' and module == 'cross_attention'")
    sums = rows.groupby(["layer", "head"])["patching_effect"].sum().unstack()
    assert np.allclose(heat_map(explorer.figure()), sums), "without a choice, positions are summed"
    at_five = rows[rows["position"] == 5].pivot(index="layer", columns="head", values="patching_effect")
    figure = explorer.figure(position=5)
    assert np.allclose(heat_map(figure), at_five)
    bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert "patched at 5: ##d (correct), this pair alone (n = 1)" in bar.get_xlabel()


def test_attention_explorer_draws_the_models_attention(random_blip, pairs):
    explorer = attention_explorers.attention_explorer(random_blip, pairs)
    assert explorer.settings == {"sample_id": "color-0", "layer": 0, "head": 0, "position": 4}, "starts at the answer"
    figure = explorer.figure(sample_id="shape-1", layer=2, head=3, position=1)
    inputs = run_inputs(random_blip, pairs[1:2], "clean")
    expected = random_blip.attention(inputs, "text_encoder", "cross_attention")[2, 0, 3, 1, 1:]
    drawn = figure.axes[1].images[1].get_array()
    assert np.allclose(drawn, expected.reshape(4, 4), atol=1e-6), "not the attention of this layer, head and token"
    assert figure.get_suptitle() == "Is this star tiny or huge?\ncross-attention 2.3 from 1: is"


def test_pairs_of_several_tasks_are_told_apart(random_blip, pairs):
    other = pairs.assign(task="rendered_svo", clean_image=pairs["corrupt_image"])
    explorer = attention_explorers.attention_explorer(random_blip, pd.concat([pairs, other], ignore_index=True))
    states, svo = (explorer.figure(sample_id=f"{task}/color-0") for task in ("rendered_states", "rendered_svo"))
    drawn = [figure.axes[0].images[0].get_array() for figure in (states, svo)]
    assert not np.array_equal(*drawn), "the same sample_id in another task is another pair"


def test_attention_is_read_once_for_a_pair(random_blip, pairs, monkeypatch):
    calls = []
    attention = type(random_blip).attention
    monkeypatch.setattr(type(random_blip), "attention", lambda *args: calls.append(1) or attention(*args))
    explorer = attention_explorers.attention_explorer(random_blip, pairs)
    for head in range(3):
        explorer.figure(head=head)
    assert len(calls) == 1, "another head of the same pair needs no forward pass"


def test_self_attention_of_a_question_encoder_is_not_drawn_on_the_image(random_blip, pairs):
    with pytest.raises(VlmtraceError, match="self_attention of text_encoder does not look at the image"):
        attention_explorers.image_attention(random_blip, pairs.iloc[0], "self_attention")


def test_drawing_works_on_tables_as_patching_makes_them(random_blip, random_pairs):
    pairs = random_pairs[:1]
    modules = vt.patch_modules(random_blip, pairs, "image")
    figure = patching_explorers.module_explorer(random_blip, pairs, modules).figure(site=("vision_encoder", "residual"))
    grid = modules.query("block == 'vision_encoder' and layer == 1 and position > 0")["patching_effect"]
    assert np.allclose(figure.axes[3].images[0].get_array().ravel(), grid)
    heads = vt.patch_heads(random_blip, pairs, "text")
    sums = heads[heads["module"] == "self_attention"].groupby(["layer", "head"])["patching_effect"].sum()
    drawn = patching_explorers.head_explorer(random_blip, pairs, heads).figure(module="self_attention")
    assert np.allclose(heat_map(drawn).ravel(), sums, atol=1e-6)
    assert random_blip.check_site(Site("vision_encoder", "residual", 1))


# Controls and errors -----------------------------------------------------------------------------------------------


def test_picture_stands_below_the_controls_and_is_replaced(random_blip, pairs, head_patching, screen):
    explorer = patching_explorers.head_explorer(random_blip, pairs, head_patching)
    explorer._ipython_display_()
    controls, picture = screen.shown
    assert [control.description for control in controls.children] == ["pair", "corruption", "module", "position"]
    assert picture.data.startswith(b"\x89PNG"), "without a live kernel there must be a picture to look at"
    explorer.controls["corruption"].value = "text"
    assert len(screen.shown) == 3 and screen.shown[2].data != picture.data, "the picture must follow its controls"


def test_positions_follow_the_pair(random_blip, pairs, head_patching, screen):
    explorer = patching_explorers.head_explorer(random_blip, pairs, head_patching)
    explorer._ipython_display_()
    position = explorer.controls["position"]
    assert [label for label, _ in position.options][:2] == ["sum over positions", "0: [CLS]"]
    assert [label for label, _ in position.options][6] == "5: ##d (correct)"
    position.value = 5
    explorer.controls["sample_id"].value = "subject-2"
    assert [label for label, _ in position.options][6] == "5: the", "the tokens must be those of the chosen pair"
    assert position.value == 5, "a position that the other pair has too stays chosen"
    assert len(screen.shown) == 4, "one change, one picture"


def test_error_is_a_sentence_in_place_of_the_picture(random_blip, pairs, module_patching, screen):
    lost = pairs.assign(clean_image=[pairs["clean_image"][0], "data/raw/nowhere.png", pairs["clean_image"][2]])
    explorer = patching_explorers.module_explorer(random_blip, lost, module_patching)
    explorer._ipython_display_()
    explorer.controls["sample_id"].value = "shape-1"
    said = screen.shown[-1]
    assert "nowhere.png does not exist" in repr(said) and "nowhere.png does not exist" in said._repr_html_()
    explorer.controls["sample_id"].value = "subject-2"
    assert screen.shown[-1].data.startswith(b"\x89PNG"), "the next choice must be drawn again"


def test_faults_in_a_callback_are_said_too(screen):
    def draw(figure, number):
        figure.suptitle(f"{1 / number}")

    found = explorer.FigureExplorer(draw, {"number": explorer.slider("number", 3)})
    with pytest.raises(ZeroDivisionError):  # at first it is raised, so that a notebook under papermill stops
        found._ipython_display_()
    found.controls["number"].value = 1
    found._ipython_display_()
    found.controls["number"].value = 0
    assert repr(screen.shown[-1]) == "These settings cannot be drawn: ZeroDivisionError: division by zero"


def test_sentences_are_escaped():
    assert "&lt;b&gt;" in explorer.Sentence("<b>")._repr_html_()


def test_choices_that_do_not_exist_are_refused(random_blip, pairs, module_patching, head_patching):
    modules = patching_explorers.module_explorer(random_blip, pairs, module_patching)
    with pytest.raises(VlmtraceError, match="Unknown sample_id 'x': choose one of color-0, shape-1, subject-2"):
        modules.figure(sample_id="x")
    with pytest.raises(VlmtraceError, match="Unknown block 'vision_encoder': choose one of text_encoder"):
        modules.figure(corruption="text", site=("vision_encoder", "residual"))
    with pytest.raises(VlmtraceError, match="Unknown module 'mlp': choose one of self_attention, cross_attention"):
        patching_explorers.head_explorer(random_blip, pairs, head_patching).figure(module="mlp")
    with pytest.raises(VlmtraceError, match="There is no head 4 for color-0: choose one of 0 to 3"):
        attention_explorers.attention_explorer(random_blip, pairs).figure(head=4)
    with pytest.raises(VlmtraceError, match="No pair of the pairs table is in the head_patching table"):
        patching_explorers.head_explorer(random_blip, pairs.assign(sample_id=["a", "b", "c"]), head_patching)
    with pytest.raises(VlmtraceError, match="no column 'token'"):
        patching_explorers.module_explorer(random_blip, pairs, module_patching.drop(columns="token"))


# In a notebook -----------------------------------------------------------------------------------------------------

NOTEBOOK = """
from vlmtrace.display.figure_explorer import FigureExplorer, slider
def draw(figure, number):
    figure.suptitle(str(number))
found = FigureExplorer(draw, {"number": slider("number", 3)})
found
"""


def test_picture_of_a_notebook_is_an_output_that_controls_replace(tmp_path):
    cells = [NOTEBOOK, "found.controls['number'].value = 2", "found.figure()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    root = Path(__file__).parents[2]
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(root)}}).execute()
    first, second, third = (cell.outputs for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in first[0].data
    assert len(first) == 2 and second == [], "the picture must be replaced in the explorer's own cell"
    assert first[1].data["image/png"].strip() == third[0].data["image/png"].strip(), "not the picture of number 2"


def test_draw_functions_have_defaults(random_blip, pairs, module_patching, head_patching):
    for draw in (
        functools.partial(
            patching_explorers.draw_modules, model=random_blip, pairs=pairs, module_patching=module_patching
        ),
        functools.partial(patching_explorers.draw_heads, pairs=pairs, head_patching=head_patching),
        functools.partial(
            attention_explorers.draw_attention_on_image,
            pairs=pairs,
            attention_of=functools.partial(attention_explorers.image_attention, random_blip),
        ),
    ):
        figure = explorer.FigureExplorer(draw, {}).figure()
        assert figure.axes, "without settings there must be a picture of the first pair"
