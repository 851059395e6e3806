"""The browser's small modules by themselves, in a page without a kernel: what they reckon, keep and draw."""

from pathlib import Path

import pytest
from fixtures.browser import open_page

from vlmtrace.app import rail
from vlmtrace.display.style import RUN_COLORS
from vlmtrace.display.view import KIT, STATIC, script


@pytest.fixture(scope="module")
def page(browser):
    watched = open_page(browser)
    page = watched.page
    page.set_content('<body><div id="root" class="vt"></div></body>')
    page.add_style_tag(content=(STATIC / "view.css").read_text())
    own = script(Path(rail.__file__).with_suffix(".js"))
    page.add_script_tag(content=own.replace("export default { render };", ""))
    yield page
    assert not watched.faults
    page.context.close()


def test_the_modules_stay_small():
    assert all(len(part.read_text().splitlines()) < 150 for part in KIT)


@pytest.mark.parametrize(
    ("said", "is_said"),
    [
        ("percent(0.9999)", "100 %"), ("percent(0.0123)", "1.2 %"), ("percent(0.0001)", "<0.1 %"),
        ("signed(-0.251)", "−0.25"), ("signed(0.5)", "+0.50"), ("signed(null)", "–"), ("signed(NaN)", "–"),
    ],
)  # fmt: skip
def test_numbers_in_words(page, said, is_said):
    assert page.evaluate(said) == is_said


def test_the_gauge_has_room_beyond_both_ends(page):
    assert page.evaluate("[onGauge(0), onGauge(1)]") == pytest.approx([1 / 6, 5 / 6])
    places = page.evaluate("[-1e9, -0.1, 0, 0.5, 1, 1.1, 1e9].map(onGauge)")
    assert places == sorted(places) and places[0] > 0 and places[-1] < 1 and places[3] == pytest.approx(0.5)


def test_signed_colors_are_red_above_and_blue_below(page):
    assert page.evaluate("diverging(0.5)") == "rgba(190,24,38,0.500)"
    assert page.evaluate("[diverging(-2), diverging(0)]") == ["rgba(33,102,172,1.000)", "rgba(190,24,38,0.000)"]
    assert page.evaluate("heat(0)").endswith(",0.000)") and page.evaluate("heat(1)").endswith(",1.000)")


def test_a_theme_tells_the_colors_of_the_runs(page):
    told = page.evaluate("theme(document.getElementById('root'))")
    assert {run: told[run] for run in RUN_COLORS} == RUN_COLORS and not told["dark"]


def test_drafts_are_kept_until_they_are_asked(page):
    kept = page.evaluate(
        """() => { const d = new Drafts(), said = [];
        d.put("a", "clean", "is it red?"); d.put("a", "corrupt", "is it blue?");
        d.shown("b", {clean: "x", corrupt: ""}); said.push(d.of("a", "clean"), d.of("b", "clean"));
        d.ask("a"); d.shown("own", {clean: "is it red?", corrupt: ""});
        said.push(d.of("own", "clean"), d.of("own", "corrupt"), d.of("a", "clean"));
        d.ask("own"); d.shown("own", {clean: "is it red?", corrupt: ""}); said.push(d.of("own", "corrupt"));
        return said.map((text) => text ?? null); }"""
    )
    assert kept == ["is it red?", None, None, "is it blue?", None, "is it blue?"]


@pytest.mark.parametrize(
    ("width", "height", "becomes"), [(40, 30, (40, 30)), (5000, 2500, (2048, 1024)), (9000, 3, (2048, 1))]
)
def test_images_are_reduced_before_they_are_sent(page, width, height, becomes):
    size = page.evaluate(
        """async ([width, height]) => { const canvas = new OffscreenCanvas(width, height);
        canvas.getContext("2d").fillRect(0, 0, width, height);
        const sent = await reduced(new File([await canvas.convertToBlob()], "a.png"), 2 ** 20);
        const image = await createImageBitmap(new Blob([sent])); return [image.width, image.height]; }""",
        [width, height],
    )
    assert tuple(size) == becomes


def test_what_the_browser_cannot_read_is_sent_as_it_is_or_refused(page):
    told = page.evaluate(
        """async () => { const file = new File(["no image"], "a.tif");
        const sent = await reduced(file, 100), why = await reduced(file, 4).catch((error) => error.message);
        return [sent.byteLength, why]; }"""
    )
    assert told[0] == len("no image") and told[1].startswith("The file has 0.0 MB and cannot be reduced here")


def test_keys_move_in_a_heat_map(page):
    told = page.evaluate(
        """() => { const root = document.getElementById("root"), said = [];
        const map = heatMap(root, root, { rows: 3, columns: 2, width: 200, label: "heads", color: diverging,
            value: (row, column) => row + column, marked: () => false, tell: (row, column) => `${row}.${column}`,
            hover: (cell) => said.push(String(cell)), pick: (row, column) => said.push(`pick ${row}.${column}`) });
        map.draw();
        for (const key of ["ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "Enter", "x"])
            map.canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
        return said; }"""
    )
    assert told == ["0,0", "1,0", "1,1", "1,1", "0,1", "pick 0.1"]
