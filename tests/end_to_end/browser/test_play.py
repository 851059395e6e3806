"""What README shows is played in the app by clicks: find the head that reads the color, and turn the answer."""

import importlib.util
import io
import re

import pytest
from fixtures.browser import ROOT, open_page
from PIL import Image


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("play_explorer", ROOT / "docs" / "play_explorer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stills(browser, app, timings, script):
    watched = open_page(browser)
    page = watched.page
    page.set_default_timeout(120_000)
    page.goto(app["address"], wait_until="commit")
    page.wait_for_function(script.SEEN, arg=["alone", None], timeout=300_000)
    stills = list(script.play(page))
    assert not watched.faults, "\n".join(watched.faults)
    timings["played: the head that reads the color, s"] = round(stills[-1].seconds, 1)
    print(f"\n{stills[-1].seconds:.1f} s: {stills[-1].caption}")
    page.context.close()
    return stills


@pytest.mark.slow
def test_the_head_that_reads_the_color_is_found_and_the_answer_turned(stills, script):
    assert "largest effect" in stills[1].caption, f"the card says otherwise: {stills[1].caption}"
    shares = [int(re.search(r"(\d+) %", still.caption)[1]) for still in stills[2:]]
    assert shares == sorted(shares) and shares[0] >= 20, f"each head adds to what the gauge shows: {shares}"
    assert "The answer turns from yellow to green" in stills[-1].caption
    assert len(stills) - 2 <= script.MOST_PATCHES


@pytest.mark.slow
def test_the_moving_picture_has_a_frame_for_each_step(stills, script, tmp_path):
    path = tmp_path / "play.webp"
    script.save(stills, path)
    with Image.open(path) as picture:
        assert picture.n_frames == len(stills)
        first = Image.open(io.BytesIO(stills[0].screenshot))
        assert picture.width == first.width and picture.height > first.height, "the caption stands above the page"
    assert path.stat().st_size < 1.5e6


def test_the_picture_of_the_readme_is_a_small_moving_one(script):
    with Image.open(script.PICTURE) as picture:
        assert picture.n_frames >= 3
    assert script.PICTURE.stat().st_size < 1.5e6


def test_the_strongest_edge_out_of_the_image_names_a_head(script):
    labels = [
        "image → text_encoder.cross_attention.2.2.value: effect −0.93",
        "image → text_encoder.cross_attention.2.7.value: effect +0.35",
        "image → text_encoder.cross_attention.3.3.key: effect +0.99",
        "text_encoder.mlp.2 → output: effect +0.98",
    ]
    assert script.strongest_reader(labels) == ("text_encoder.cross_attention.2.7", 0.35)
