"""The colors of the three runs: told apart by all, on light ground and on dark, in figures and in the browser."""

import itertools
import re

import matplotlib as mpl
import numpy as np
import pytest

from vlmtrace.display.scripts import STATIC
from vlmtrace.display.style import RUN_COLORS, RUN_COLORS_ON_DARK

#: How linear RGB looks without the cones for green: Machado, Oliveira and Fernandes 2009, severity 1.0
#: (https://doi.org/10.1109/TVCG.2009.113), and without those for red.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]

#: Of sRGB's primaries, and of its white, in CIE XYZ.
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
WHITE = XYZ.sum(1)

PALETTES = {"light": (RUN_COLORS, "#ffffff"), "dark": (RUN_COLORS_ON_DARK, "#111111")}


def linear(color):
    value = np.array(mpl.colors.to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    share = XYZ @ np.clip(rgb, 0, 1) / WHITE
    root = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def test_the_conversion_knows_a_color():
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=1e-3)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)  # as published for sRGB's red


def distances(palette, seen):
    labs = {run: lab(np.array(seen) @ linear(color)) for run, color in palette.items()}
    return {(a, b): float(np.linalg.norm(labs[a] - labs[b])) for a, b in itertools.combinations(palette, 2)}


@pytest.mark.parametrize("eyes", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["all cones", "no green", "no red"])
@pytest.mark.parametrize("ground", PALETTES)
def test_the_three_runs_stay_apart(ground, eyes):
    palette, _ = PALETTES[ground]
    assert min(distances(palette, eyes).values()) > 20, distances(palette, eyes)


def test_green_and_orange_would_not():
    """The measure sees what it is there for: a green and an orange of the same lightness become one olive."""
    found = distances({"clean": "#4c9a2a", "corrupt": "#c77a00"}, DEUTERANOPIA)
    assert (
        found["clean", "corrupt"]
        < 20
        < distances({"clean": "#4c9a2a", "corrupt": "#c77a00"}, np.eye(3))["clean", "corrupt"]
    )


@pytest.mark.parametrize("ground", PALETTES)
def test_they_can_be_read_as_text(ground):
    palette, paper = PALETTES[ground]
    for run, color in palette.items():
        high, low = sorted((float(XYZ[1] @ linear(one)) + 0.05 for one in (color, paper)), reverse=True)
        assert high / low >= 4.5, (run, "WCAG 2 asks for 4.5")


def test_the_browser_has_the_same_colors():
    css = (STATIC / "view.css").read_text()
    found = re.findall(r"--vt-clean: (#\w{6}); --vt-corrupt: (#\w{6}); --vt-patched: (#\w{6});", css)
    assert [dict(zip(RUN_COLORS, one, strict=True)) for one in found] == [RUN_COLORS, RUN_COLORS_ON_DARK]
