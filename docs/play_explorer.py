"""Play the explorer as a person does, and draw the moving picture of it: python docs/play_explorer.py.

What is played, after `make all`: find the head that reads the color, and turn the answer. A test plays the same
(tests/end_to_end/browser/test_play.py). Needs chromium and what `make test-browser` installs.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "explorer-play.webp"

#: Words that are typed into the search: they leave one pair, whose images differ in a color.
WORDS = "diamond green or yellow"

#: Of the window, in pixels: GitHub shows the picture at about 800, so that no text gets too small.
SIZE = {"width": 1200, "height": 780}

#: No more heads are patched than these; fewer turn the answer.
MOST_PATCHES = 8

#: How long a still is shown, in milliseconds, and the last one.
SHOWN, LAST = 2600, 5000

#: The data that the view which is shown has written, if it has this one: [name of the number, value that it must have].
SEEN = """([name, value]) => {
    const shown = [...document.querySelectorAll(".vt[data-drawn]:not(.vt-old *)")].filter((e) => e.offsetParent);
    const found = shown.find((e) => name in e.dataset && (value === null || e.dataset[name] === value));
    return found ? {...found.dataset} : null; }"""


class Still(NamedTuple):
    """What the page shows after one step.

    Attributes:
        caption: what has been done, and what is seen
        screenshot: a PNG
        pointer: x and y of the mouse, in pixels
        seconds: since the first step
    """

    caption: str
    screenshot: bytes
    pointer: tuple[float, float]
    seconds: float


class Hand:
    """A mouse that goes where it clicks.

    Attributes:
        page: of playwright
        at: x and y of the mouse
    """

    def __init__(self, page: Any):
        """Begin in the corner; the clock starts."""
        self.page, self.at, self.start = page, (0.0, 0.0), time.monotonic()

    def click(self, part: Any) -> None:
        """Move to the middle of a part of the page, and click."""
        part.scroll_into_view_if_needed()
        box = part.bounding_box()
        self.at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.move(*self.at, steps=5)
        self.page.mouse.click(*self.at)

    def seen(self, name: str, value: str | None = None) -> dict[str, str]:
        """Wait until the view that is shown has written a number; all that it has written."""
        return dict(self.page.wait_for_function(SEEN, arg=[name, value]).json_value())

    def still(self, caption: str) -> Still:
        """The page as it is, once nothing computes and nothing moves."""
        self.page.wait_for_function("!/computing|reading …/.test(document.body.innerText)")
        self.page.wait_for_timeout(400)
        return Still(caption, self.page.screenshot(), self.at, time.monotonic() - self.start)


def strongest_reader(labels: list[str]) -> tuple[str, float]:
    """The head into which the strongest edge from the image goes, and that edge's effect.

    Args:
        labels: what each edge says of itself, such as "image → text_encoder.cross_attention.2.7.value: effect +0.35"
    """
    found = [
        re.fullmatch(r"image → (\w+\.\w*attention\.\d+\.\d+)\.value: effect (\S+)", label.replace("−", "-"))
        for label in labels
    ]
    return max(((match[1], float(match[2])) for match in found if match), key=lambda row: row[1])


def percent(data: dict[str, str]) -> str:
    """The effect of what is patched, as the gauge shows it."""
    return f"{100 * float(data['effect']):.0f} %"


def play(page: Any) -> Iterator[Still]:
    """Find the head that reads the color, and turn the answer, by clicks; the explorer is open, with the circuit drawn.

    Args:
        page: of playwright

    Yields:
        a still after each step
    """
    hand = Hand(page)
    search = page.locator(".vt-rail-in input[type=search]")
    hand.click(search)
    search.press_sequentially(WORDS)
    row = page.locator(".vt-pair:visible").first
    name = row.get_attribute("data-id")
    before = hand.seen("alone")["drawn"]
    hand.click(row)
    page.wait_for_function(
        """(id) => { const v = document.querySelector(".vt-rail-in").dataset;
            return v.pair === id && v.busy === "false"; }""",
        arg=name,
    )
    page.wait_for_function(f"() => {{ const v = ({SEEN})(['alone', null]); return v && v.drawn !== {before!r}; }}")
    said = page.evaluate("[...document.querySelectorAll(\"g[data-name^='edge']\")].map((e) => e.ariaLabel)")
    head, _ = strongest_reader(said)
    short = ".".join(head.split(".")[-2:])
    yield hand.still(f"1  A pair that differs in one color. The thickest edge out of the image goes into head {short}.")

    hand.click(page.locator(f"g[data-name='node {head}']:visible"))
    card = page.locator(".vt-cards")
    rank = card.get_by_text(re.compile(r"^rank \d+ of"))
    rank.wait_for()
    place = re.search(r"rank (\d+) of (\d+)", rank.inner_text())
    assert place is not None
    yield hand.still(
        f"2  A click opens its card: here it looks at the diamond, with the largest effect of {place[2]} heads."
        if place[1] == "1"
        else f"2  A click opens its card: rank {place[1]} of {place[2]} heads."
    )

    hand.click(card.locator("button[data-name=patch]:visible"))
    data, n = hand.seen("patches", "1"), 1
    told = {
        "correct": page.locator(".vt-rail-in").get_attribute("data-clean"),
        "incorrect": page.locator(".vt-rail-in").get_attribute("data-corrupt"),
    }
    yield hand.still(
        f"3  “patch it”: with head {short} of the clean run alone, the gauge goes {percent(data)} of the way."
    )
    while data["answer"] != told["correct"] and n < MOST_PATCHES:
        hand.click(page.locator("button[data-name=strongest]:visible"))
        n += 1
        data = hand.seen("patches", str(n))
        turned = data["answer"] == told["correct"]
        yield hand.still(
            f"{n + 2}  “patch the strongest too”: {n} heads, {percent(data)}"
            + (f". The answer turns from {told['incorrect']} to {told['correct']}." if turned else " of the way.")
        )


def drawn(still: Still) -> Any:
    """A still as a picture, with its caption above and the mouse's pointer."""
    from PIL import Image, ImageDraw, ImageFont

    shot = Image.open(io.BytesIO(still.screenshot)).convert("RGB")
    height = 46
    picture = Image.new("RGB", (shot.width, shot.height + height), "#1c2024")
    picture.paste(shot, (0, height))
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    pen = ImageDraw.Draw(picture)
    pen.text((16, height / 2), still.caption, fill="white", font=ImageFont.truetype(str(font), 19), anchor="lm")
    x, y = still.pointer[0], still.pointer[1] + height
    arrow = [(0, 0), (0, 24), (6, 19), (10, 28), (15, 26), (11, 17), (19, 17)]
    pen.polygon([(x + dx, y + dy) for dx, dy in arrow], fill="black", outline="white", width=2)
    return picture


def save(stills: list[Still], path: Path) -> None:
    """Write the moving picture, whole or not at all."""
    from vlmtrace.core.files import write_atomically

    frames = [drawn(still) for still in stills]
    times = [SHOWN] * (len(frames) - 1) + [LAST]
    with write_atomically(path) as temporary:
        # Lossless: small colored parts are what it is about, and text stays sharp.
        frames[0].save(
            temporary, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, lossless=True, method=6
        )


def main() -> None:
    """Start the app, play, and draw."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        server = subprocess.Popen(
            [sys.executable, "-u", "-m", "vlmtrace.app.server", "--port=8930"], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            address = None
            while server.poll() is None and address is None:
                time.sleep(0.5)
                address = re.search(r"http://\S+\?token=\S+", Path(log.name).read_text())
            if address is None:
                raise SystemExit(f"The app ended:\n{Path(log.name).read_text()}")
            with sync_playwright() as playwright:
                arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
                browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
                page = browser.new_page(viewport=SIZE)
                page.set_default_timeout(120_000)
                page.goto(address.group(), wait_until="commit")
                page.wait_for_function(SEEN, arg=["alone", None])
                stills = list(play(page))
                browser.close()
        finally:
            server.terminate()
            server.wait()
    save(stills, PICTURE)
    for still in stills:
        print(f"{still.seconds:5.1f} s  {still.caption}")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
