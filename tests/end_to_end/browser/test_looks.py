"""The explorer as others see it: at 150 % zoom, by keyboard alone, without a sense of green."""

import io

import pytest
from fixtures.browser import open_page
from PIL import Image

#: Every view, and a number that it writes when it is drawn.
VIEWS = {
    "Circuit": "alone", "Answer": "answer", "Attention": "imageAttention", "Relevancy": "imageShare",
    "Patch": "effects", "Causal graph": "computed",
}  # fmt: skip

DRAWN = """(name) => [...document.querySelectorAll(".vt[data-drawn]:not(.vt-old *)")]
    .some((e) => e.offsetParent && name in e.dataset)"""

#: Controls and pictures that stand beyond an edge at which nothing can be scrolled.
CUT = """() => [...document.querySelectorAll(".vt-explorer :is(button, select, input:not(.vt-file), textarea, canvas)")]
    .filter((e) => e.offsetParent && e.getBoundingClientRect().width).filter((e) => {
        const at = e.getBoundingClientRect();
        for (let p = e.parentElement; p; p = p.parentElement) {
            const way = getComputedStyle(p).overflowX, box = p.getBoundingClientRect();
            if (way === "visible") continue;
            if (at.right <= box.right + 2 && at.left >= box.left - 2) continue;
            return way === "hidden" || way === "clip";
        }
        return at.right > innerWidth + 1;
    }).map((e) => `${e.tagName} ${e.dataset.name || e.name || e.ariaLabel || e.textContent}`)"""

#: Controls that Tab reaches by itself; parts of a group are reached from its first by arrow keys.
CONTROLS = """() => [...document.querySelectorAll(".vt-explorer :is(button, select, input, textarea, canvas, a)")]
    .filter((e) => e.offsetParent && !e.disabled && e.tabIndex >= 0)"""


@pytest.fixture(scope="module")
def page(browser, app):
    watched = open_page(browser)
    page = watched.page
    page.goto(app["address"], wait_until="commit")
    page.wait_for_function(DRAWN, arg="alone", timeout=300_000)
    yield page
    assert not watched.faults, "\n".join(watched.faults)
    page.context.close()


def open_view(page, title):
    page.locator(".vt-tab", has_text=title).click()
    page.wait_for_function(DRAWN, arg=VIEWS[title], timeout=120_000)
    page.wait_for_timeout(400)  # what was drawn is fitted into the window


@pytest.mark.slow
def test_nothing_is_cut_off_at_150_percent(page):
    before = page.viewport_size
    page.set_viewport_size({"width": 853, "height": 533})  # what 1280 × 800 are at 150 %
    cut = {}
    for title in VIEWS:
        open_view(page, title)
        cut |= {title: found} if (found := page.evaluate(CUT)) else {}
    page.set_viewport_size(before)
    assert not cut, f"beyond an edge: {cut}"


@pytest.mark.slow
@pytest.mark.parametrize("title", list(VIEWS))
def test_tab_reaches_every_control_and_shows_where_it_is(page, title):
    open_view(page, title)
    n = page.evaluate(f"({CONTROLS})().length")
    page.evaluate("document.activeElement.blur()")
    unmarked = []
    for _ in range(4 * n):
        page.keyboard.press("Tab")
        name = page.evaluate(
            """() => { const e = document.activeElement; e.dataset.vtReached = "1";
                const inside = e.closest(".vt-explorer"), seen = e.closest(".vt-drop") || e;
                return inside && getComputedStyle(seen).outlineStyle === "none" ? e.outerHTML.slice(0, 80) : ""; }"""
        )
        unmarked += [name] if name else []
        missed = page.evaluate(
            f"({CONTROLS})().filter((e) => !e.dataset.vtReached).map((e) => e.outerHTML.slice(0, 80))"
        )
        if not missed:
            break
    page.evaluate("document.querySelectorAll('[data-vt-reached]').forEach((e) => delete e.dataset.vtReached)")
    assert not missed, f"Tab never comes to {missed}"
    assert not unmarked, f"the focus is not seen on {unmarked}"


@pytest.mark.slow
@pytest.mark.parametrize("deficiency", ["deuteranopia", "protanopia", "tritanopia"])
def test_clean_and_corrupt_differ_for_who_sees_no_green(page, deficiency):
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setEmulatedVisionDeficiency", {"type": deficiency})
    try:
        track = page.locator(".vt-track")
        box = track.bounding_box()
        with Image.open(io.BytesIO(page.screenshot(clip=box))) as shot:
            picture = shot.convert("RGB")
    finally:
        session.send("Emulation.setEmulatedVisionDeficiency", {"type": "none"})
    middle = picture.height // 2
    corrupt, clean = (picture.getpixel((int(share * picture.width), middle)) for share in (0.08, 0.92))
    apart = sum((a - b) ** 2 for a, b in zip(corrupt, clean, strict=True)) ** 0.5
    assert apart > 100, f"{corrupt} and {clean} of the gauge's ends are hard to tell apart"
