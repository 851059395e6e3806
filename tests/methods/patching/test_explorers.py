"""Explorers of patching effects: what they draw for a choice, how controls follow, how errors are said."""

import functools

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables
from fixtures.figures import Screen, only_heat_map

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import figure_explorer
from vlmtrace.methods.patching.explorers import draw_heads, draw_modules, head_explorer, module_explorer
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


@pytest.fixture
def screen(monkeypatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(figure_explorer, "display", screen.display)
    return screen


def test_module_explorer_draws_the_effects_of_one_pair(random_blip, pairs, module_patching):
    explorer = module_explorer(random_blip, pairs, module_patching)
    assert explorer.settings == {
        "sample_id": "color-0",
        "corruption": "image",
        "site": ("text_encoder", "cross_attention"),
    }
    figure = explorer.figure(sample_id="subject-2", corruption="text", site=("text_encoder", "mlp"))
    rows = module_patching.query("sample_id == 'subject-2' and corruption == 'text' and module == 'mlp'")
    assert np.allclose(only_heat_map(figure), rows.pivot(index="layer", columns="position", values="patching_effect"))
    texts = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    assert texts[:5] == ["[CLS]", "is", "the", "girl", "or"], "columns must be labelled by the prompt's tokens"
    titles = [axes.get_title() for panel in figure.subfigs for axes in panel.axes]
    assert titles[0] == "clean run: Is the girl or the dog kicking the ball?"
    assert titles[1].replace("\n", " ") == "corrupt run: Is the boy or the robot kicking the ball?"
    clean, corrupt = (axes.images[0].get_array() for axes in figure.subfigs[0].axes)
    assert np.array_equal(clean, corrupt), "under text corruption both runs see the clean image"


def test_module_explorer_draws_image_patches_where_they_are(random_blip, pairs, module_patching):
    figure = module_explorer(random_blip, pairs, module_patching).figure(site=("vision_encoder", "residual"))
    drawn = figure.axes[2].images[0]
    assert np.allclose(drawn.get_array(), (np.arange(16).reshape(4, 4) + 1) / 100), "patches are mixed up with [CLS]"
    assert figure.axes[2].get_title(loc="left") == "layer 2"


def test_head_explorer_sums_positions_or_shows_one(random_blip, pairs, head_patching):
    explorer = head_explorer(random_blip, pairs, head_patching)
    rows = head_patching.query("sample_id == 'color-0' and corruption == 'image' and module == 'cross_attention'")
    sums = rows.groupby(["layer", "head"])["patching_effect"].sum().unstack()
    assert np.allclose(only_heat_map(explorer.figure()), sums), "without a choice, positions are summed"
    at_five = rows[rows["position"] == 5].pivot(index="layer", columns="head", values="patching_effect")
    figure = explorer.figure(position=5)
    assert np.allclose(only_heat_map(figure), at_five)
    bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert "patched at 5: ##d (correct), this pair alone (n = 1)" in bar.get_xlabel()


def test_drawing_works_on_tables_as_patching_makes_them(random_blip, random_pairs):
    pairs = random_pairs[:1]
    modules = vt.patch_modules(random_blip, pairs, "image")
    figure = module_explorer(random_blip, pairs, modules).figure(site=("vision_encoder", "residual"))
    grid = modules.query("block == 'vision_encoder' and layer == 1 and position > 0")["patching_effect"]
    assert np.allclose(figure.axes[3].images[0].get_array().ravel(), grid)
    heads = vt.patch_heads(random_blip, pairs, "text")
    sums = heads[heads["module"] == "self_attention"].groupby(["layer", "head"])["patching_effect"].sum()
    drawn = head_explorer(random_blip, pairs, heads).figure(module="self_attention")
    assert np.allclose(only_heat_map(drawn).ravel(), sums, atol=1e-6)
    assert random_blip.check_site(Site("vision_encoder", "residual", 1))


def test_picture_stands_below_the_controls_and_is_replaced(random_blip, pairs, head_patching, screen):
    explorer = head_explorer(random_blip, pairs, head_patching)
    explorer._ipython_display_()
    controls, picture = screen.shown
    assert [control.description for control in controls.children] == ["pair", "corruption", "module", "position"]
    assert picture.data.startswith(b"\x89PNG"), "without a live kernel there must be a picture to look at"
    explorer.controls["corruption"].value = "text"
    assert len(screen.shown) == 3 and screen.shown[2].data != picture.data, "the picture must follow its controls"


@pytest.mark.medium
def test_positions_follow_the_pair(random_blip, pairs, head_patching, screen):
    explorer = head_explorer(random_blip, pairs, head_patching)
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
    explorer = module_explorer(random_blip, lost, module_patching)
    explorer._ipython_display_()
    explorer.controls["sample_id"].value = "shape-1"
    said = screen.shown[-1]
    assert "nowhere.png does not exist" in repr(said) and "nowhere.png does not exist" in said._repr_html_()
    explorer.controls["sample_id"].value = "subject-2"
    assert screen.shown[-1].data.startswith(b"\x89PNG"), "the next choice must be drawn again"


def test_choices_that_do_not_exist_are_refused(random_blip, pairs, module_patching, head_patching):
    modules = module_explorer(random_blip, pairs, module_patching)
    with pytest.raises(VlmtraceError, match="Unknown sample_id 'x': choose one of color-0, shape-1, subject-2"):
        modules.figure(sample_id="x")
    with pytest.raises(VlmtraceError, match="Unknown block 'vision_encoder': choose one of text_encoder"):
        modules.figure(corruption="text", site=("vision_encoder", "residual"))
    with pytest.raises(VlmtraceError, match="Unknown module 'mlp': choose one of self_attention, cross_attention"):
        head_explorer(random_blip, pairs, head_patching).figure(module="mlp")
    with pytest.raises(VlmtraceError, match="No pair of the pairs table is in the head_patching table"):
        head_explorer(random_blip, pairs.assign(sample_id=["a", "b", "c"]), head_patching)
    with pytest.raises(VlmtraceError, match="no column 'token'"):
        module_explorer(random_blip, pairs, module_patching.drop(columns="token"))


def test_draw_functions_have_defaults(random_blip, pairs, module_patching, head_patching):
    for draw in (
        functools.partial(draw_modules, model=random_blip, pairs=pairs, module_patching=module_patching),
        functools.partial(draw_heads, pairs=pairs, head_patching=head_patching),
    ):
        figure = figure_explorer.FigureExplorer(draw, {}).figure()
        assert figure.axes, "without settings there must be a picture of the first pair"
