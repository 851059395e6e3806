"""The browser's modules by themselves, in a page without a kernel: what needs a canvas, a theme or keys.

What needs no page is tested by deno, see tests/display/test_scripts.py.
"""

from pathlib import Path

import pytest
from fixtures.browser import open_page

from vlmtrace.app import rail
from vlmtrace.display.scripts import STATIC, script
from vlmtrace.display.style import RUN_COLORS

#: What is tested of each module.
NAMES = {"rail.js": "reduced", "heat_map.js": "heatMap, theme", "patch_image.js": "patchImage"}


@pytest.fixture(scope="module")
def page(browser):
    watched = open_page(browser)
    page = watched.page
    page.set_content('<body><div id="root" class="vt"></div></body>')
    page.add_style_tag(content=(STATIC / "view.css").read_text())
    # The parts' names are the page's, so that a test can call them.
    for path in (
        Path(rail.__file__).with_suffix(".js"),
        STATIC / "kit" / "heat_map.js",
        STATIC / "kit" / "patch_image.js",
    ):
        own = script(path).replace("export default { render };", "")
        page.add_script_tag(content=f"Object.assign(window, (() => {{ {own}; return {{ {NAMES[path.name]} }}; }})());")
    yield page
    assert not watched.faults
    page.context.close()


def test_a_theme_tells_the_colors_of_the_runs(page):
    told = page.evaluate("theme(document.getElementById('root'))")
    assert {run: told[run] for run in RUN_COLORS} == RUN_COLORS and not told["dark"]


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
        const map = heatMap(root, root, { rows: 3, columns: 2, width: 200, label: "heads", color: () => "red",
            value: (row, column) => row + column, marked: () => false, tell: (row, column) => `${row}.${column}`,
            hover: (cell) => said.push(String(cell)), pick: (row, column) => said.push(`pick ${row}.${column}`) });
        map.draw();
        for (const key of ["ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "Enter", "x"])
            map.canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
        return said; }"""
    )
    assert told == ["0,0", "1,0", "1,1", "1,1", "0,1", "pick 0.1"]


def test_patches_are_chosen_by_keys_and_by_dragging(page):
    told = page.evaluate(
        """async () => { const root = document.getElementById("root"), said = [];
        const boxes = [[0, 0, .5, .5], [0, .5, .5, 1], [.5, 0, 1, .5], [.5, .5, 1, 1]];
        const made = patchImage(root, root, { side: 100, boxes, label: "image", tell: (i) => `patch ${i}`,
            hover: (i) => said.push(i), change: (set) => said.push([...set].join("+")) });
        const canvas = new OffscreenCanvas(64, 64); canvas.getContext("2d");
        const picture = new Image(); picture.src = URL.createObjectURL(await canvas.convertToBlob());
        await picture.decode(); made.show(picture);
        const press = (key) => made.canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
        ["ArrowRight", "ArrowRight", "Enter", "ArrowDown", "Enter", "ArrowUp", "Enter"].forEach(press);
        const box = made.canvas.getBoundingClientRect(); made.canvas.setPointerCapture = () => {};
        const point = (kind, x, y) => made.canvas.dispatchEvent(new PointerEvent(kind,
            { clientX: box.x + x, clientY: box.y + y, pointerId: 1 }));
        point("pointerdown", 25, 25); said.push(made.isDragged());
        point("pointermove", 75, 75); point("pointerup", 75, 75); said.push(made.isDragged());
        return said; }"""
    )
    keys, dragged = told[:7], told[7:]
    assert keys == [0, 1, "1", 3, "1+3", 1, "3"]
    assert dragged[0] is True and sorted(dragged[-2].split("+")) == ["0", "1", "2", "3"] and dragged[-1] is False
