"""The explorer as a person uses it, in headless Chromium: in JupyterLab and as an app.

What is checked are the numbers behind the pictures, which every view writes into its element's data-attributes.
"""

import json
import re
import socket
import time
import urllib.error
import urllib.request

import psutil
import pytest
from fixtures.browser import ARTEFACTS, open_page

Error = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").Error


#: Every view, and a number that it writes when it is drawn.
VIEWS = {
    "Circuit": "alone", "Answer": "answer", "Attention": "imageAttention", "Relevancy": "imageShare",
    "Patch": "effects", "Causal graph": "computed",
}  # fmt: skip


class Person:
    """Does in the page what a person would do, and reads what it says."""

    def __init__(self, watched, where, timings):
        self.watched, self.page, self.where, self.timings = watched, watched.page, where, timings

    def data(self, view):
        """The numbers of the view that is shown, or of the one named."""
        return self.page.evaluate(
            """(test) => { const all = [...document.querySelectorAll(".vt[data-drawn]:not(.vt-old *)")];
            const found = all.filter((e) => e.offsetParent).find((e) => test in e.dataset);
            return found ? {...found.dataset} : null; }""",
            view,
        )

    def wait(self, attribute, condition="true", timeout=90_000):
        """Wait until the shown view's attribute is such that a condition on `v` (its data) holds; return the data."""
        try:
            self.page.wait_for_function(
                f"""() => {{ const e = [...document.querySelectorAll(".vt[data-drawn]:not(.vt-old *)")]
                    .filter((e) => e.offsetParent).find((e) => "{attribute}" in e.dataset);
                    if (!e) return false; const v = e.dataset; return Boolean({condition}); }}""",
                timeout=timeout,
            )
        except Error as error:
            self.page.screenshot(path=ARTEFACTS / f"{self.where}-waited-in-vain.png")
            raise AssertionError(
                f"{attribute} never came to {condition}; faults: {self.watched.faults}; now: {self.data(attribute)}"
            ) from error
        return self.data(attribute)

    def open(self, title, attribute):
        """Open a view; how long it takes until it is drawn is measured in the page."""
        seconds = self.page.evaluate(
            """([title, attribute]) => new Promise((done) => {
            const start = performance.now();
            const seen = () => { const e = [...document.querySelectorAll(".vt[data-drawn]:not(.vt-old *)")]
                .find((e) => e.offsetParent && attribute in e.dataset);
                e ? done((performance.now() - start) / 1000) : requestAnimationFrame(seen); };
            [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === title).click();
            requestAnimationFrame(seen); })""",
            [title, attribute],
        )
        self.timings.setdefault(f"{self.where}: first paint of {title}, s", round(seconds, 3))
        return self.data(attribute)

    def rail(self, condition="true", timeout=90_000):
        """What the rail says, once nothing is being done and a condition on `v` (its data) holds."""
        self.page.wait_for_function(
            f"""() => {{ const v = document.querySelector(".vt-rail-in")?.dataset;
                return v && v.pair && v.busy === "false" && Boolean({condition}); }}""",
            timeout=timeout,
        )
        return self.page.evaluate("({...document.querySelector('.vt-rail-in').dataset})")

    def choose(self, row):
        """Click a pair of the list, and wait until it is the one that is shown; what the rail says."""
        name = row.get_attribute("data-id")
        row.click()
        return self.rail(f"v.pair === {name!r}")

    def error(self):
        """The sentence in the rail."""
        return self.page.locator(".vt-rail-in [data-name=error]").text_content()

    def shown(self, selector):
        return self.page.locator(f"{selector}:visible")

    def hover(self, locator, what, n=8):
        """Move over a part of the page; note the slowest hover, until it is drawn and until the next frame."""
        box, slowest, frame = locator.bounding_box(), 0.0, 0.0
        for i in range(n):
            x = box["x"] + box["width"] * (0.15 + 0.7 * i / n)
            self.page.mouse.move(x, box["y"] + box["height"] * (0.2 + 0.5 * i / n))
            self.page.wait_for_timeout(60)
            times = self.page.evaluate(
                """() => [...document.querySelectorAll(".vt[data-hover-ms]")].filter((e) => e.offsetParent)
                .map((e) => [Number(e.dataset.hoverMs), Number(e.dataset.frameMs)])[0] ?? [0, 0]"""
            )
            slowest, frame = max(slowest, times[0]), max(frame, times[1] or 0)
        self.timings[f"{self.where}: slowest hover over {what} until drawn, ms"] = slowest
        self.timings[f"{self.where}: slowest hover over {what} until the next frame, ms"] = frame
        self.page.mouse.move(5, 5)

    def picture(self, name):
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("document.querySelector('.vt-explorer').scrollIntoView()")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=ARTEFACTS / f"{self.where}-{name}.png")

    def nothing_went_wrong(self):
        errors = self.page.evaluate(
            """() => [...document.querySelectorAll("[data-error]")].map((e) => e.dataset.error).filter(Boolean).concat(
            [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"], .jp-mod-error')]
            .map((e) => e.textContent).filter((text) => /Error|Traceback/.test(text)))"""
        )
        assert not errors
        assert not self.watched.faults, "\n".join(self.watched.faults)


@pytest.fixture(scope="module")
def in_lab(browser, lab, timings):
    watched = open_page(browser)
    page = watched.page
    page.goto(lab, wait_until="commit")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=180_000)
    # Cells that are run before there is a kernel are run by nobody.
    page.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=180_000
    )
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    person, asked = Person(watched, "lab", timings), time.perf_counter()
    person.wait("alone", timeout=150_000)
    timings["lab: from running the cells to the first picture, s"] = round(time.perf_counter() - asked, 1)
    # All other cells have run too.
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=240_000)
    yield person
    watched.page.context.close()


@pytest.fixture(scope="module")
def in_app(browser, app, timings):
    watched, asked = open_page(browser), time.perf_counter()
    watched.page.goto(app["address"], wait_until="commit")
    person = Person(watched, "app", timings)
    person.wait("alone", timeout=300_000)
    timings["app: from opening the page to the first picture, s"] = round(time.perf_counter() - asked, 1)
    yield person
    watched.page.context.close()


@pytest.fixture(params=["in_lab", "in_app"], ids=["lab", "app"], scope="module")
def person(request):
    return request.getfixturevalue(request.param)


def test_the_explorer_is_one_screen(person):
    """It opens with the circuit drawn and the pair beside it; no view moves what stands around it."""
    person.rail("v.clean && v.corrupt && v.clean !== v.corrupt")
    person.picture("circuit")
    places = """() => [".vt-explorer", ".vt-rail-in", ".vt-tabs", ".vt-side-in", ".vt-pairs"].map((name) => {
        const r = document.querySelector(name).getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })"""
    before = person.page.evaluate(places)
    for title, attribute in VIEWS.items():
        person.open(title, attribute)
        assert person.page.evaluate(places) == before, f"something moved when {title} was opened"
    if person.where == "app":
        assert before[0] == [0, 0, 1280, 800], "the tool has the whole window"
        assert person.page.evaluate("document.scrollingElement.scrollHeight") <= 800
    person.nothing_went_wrong()


def test_another_pair_has_another_answer(person):
    person.open("Answer", "answer")
    before, said = person.rail(), person.data("answer")
    person.picture("answer")
    person.shown("[data-name=pairs]").focus()
    person.page.keyboard.press("ArrowDown")
    after = person.rail(f"v.pair !== {before['pair']!r}")
    answer = person.wait("answer", f"v.drawn !== {said['drawn']!r}")
    assert after["question"] == answer["question"] != before["question"] and answer["top"] != said["top"]
    assert after["clean"] == answer["answer"] and after["clean"] in after["question"], (
        "one of the options is the answer"
    )
    person.shown("select[name=run]").select_option("image")
    corrupt = person.wait("answer", f"v.drawn !== {answer['drawn']!r}")
    assert corrupt["answer"] == after["corrupt"] != after["clean"] and corrupt["question"] == after["question"]
    person.shown("select[name=run]").select_option("clean")
    person.wait("answer", f"v.drawn === {answer['drawn']!r}")
    pictures = person.page.locator(".vt-pair[aria-selected=true] img")
    pictures.nth(1).wait_for()
    assert pictures.count() == 2, "the list shows both images of a pair"
    person.nothing_went_wrong()


def test_layers_heads_and_patches_of_attention(person):
    first = person.open("Attention", "imageAttention")
    person.picture("attention")
    other = "1" if first["layer"] != "1" else "2"
    go_to(person, "heads", int(other), 3)
    moved = person.wait("imageAttention", f"v.layer === '{other}' && v.head === '3'")
    assert moved["imageAttention"] != first["imageAttention"]
    selected = person.page.evaluate("document.querySelector('.vt-side-in').dataset.selected")
    assert selected.endswith(f".{other}.3"), "the head opens at the right"

    image = person.shown(".vt-stack canvas[data-name=image]")
    box = image.bounding_box()
    image.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.3})
    one = person.wait("strongest", "v.patches.split(',').length === 1 && v.patches !== ''")
    x, y = box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.55
    person.page.mouse.move(x, y)
    person.page.mouse.down()
    person.page.mouse.move(x + 0.3 * box["width"], y + 0.3 * box["height"], steps=4)
    person.page.mouse.up()
    many = person.wait("strongest", "v.patches.split(',').length > 4")
    assert set(one["patches"].split(",")) < set(many["patches"].split(","))
    assert float(many["patchAttention"]) > float(one["patchAttention"])
    # Hovering asks nobody: it is drawn in the browser.
    person.hover(person.shown(".vt-stack canvas[data-name=heads]"), "the map of heads")
    person.hover(image, "the image's patches")
    person.nothing_went_wrong()


def test_keys_are_enough(person):
    person.open("Attention", "imageAttention")
    person.shown(".vt-stack canvas[data-name=heads]").focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowRight", "Enter"):
        person.page.keyboard.press(key)
    data = person.wait("imageAttention", "v.layer === '1' && v.head === '1'")
    person.shown(".vt-stack .vt-token").first.focus()
    person.page.keyboard.press("ArrowRight")
    person.page.keyboard.press("Enter")
    assert person.wait("imageAttention", "v.queries === '1'")["imageAttention"] != data["imageAttention"]


def test_relevancy_through_other_ways(person):
    first = person.open("Relevancy", "imageShare")
    person.picture("relevancy")
    assert 0 < float(first["imageShare"]) < 1
    person.shown("select[data-name=way]").select_option("vision")
    other = person.wait("imageShare", "v.way === 'vision'")
    assert float(other["image"]) != float(first["image"]) and other["prompt"] == first["prompt"]
    person.hover(person.shown(".vt-stack canvas").first, "relevancy")
    person.nothing_went_wrong()


def test_a_causal_graph_follows_its_level(person):
    person.open("Causal graph", "computed")
    start = time.monotonic()
    person.shown("button[data-name=compute]").click()
    first = person.wait("sentence", "v.computed === 'true'")
    person.timings[f"{person.where}: graphs of all heads and the search, s"] = round(time.monotonic() - start, 2)
    person.picture("causal")
    assert int(first["nodes"]) >= 2
    slider = person.shown("input[data-name=threshold]")
    slider.fill("4")
    second = person.wait("sentence", f"v.computed === 'true' && v.nodes !== '{first['nodes']}'")
    assert int(second["nodes"]) < int(first["nodes"]), "a higher threshold lets fewer tokens in"
    person.nothing_went_wrong()


def go_to(person, name, row, column):
    """Choose a cell of a map by keys; the first arrow goes to the first cell."""
    person.shown(f".vt-stack canvas[data-name={name}]").focus()
    for key in ["ArrowRight"] + ["ArrowUp"] * row + ["ArrowRight"] * column + ["Enter"]:
        person.page.keyboard.press(key)


def test_a_patched_head_moves_the_answer_and_undo_takes_it_back(person):
    start = person.open("Patch", "effects")
    assert float(start["effect"]) == pytest.approx(0, abs=1e-5) and start["patches"] == "0"
    effects = json.loads(start["effects"])
    best, head = max(((i, j) for i in range(len(effects)) for j in range(8)), key=lambda at: effects[at[0]][at[1]])
    go_to(person, "heads", best, head)
    one = person.wait("effects", "v.patches === '1'")
    assert float(one["effect"]) == pytest.approx(effects[best][head], abs=1e-4), "the map promised another effect"
    at_tokens = json.loads(start["tokenEffects"])
    places = [(i, j) for i in range(len(at_tokens)) for j in range(len(at_tokens[0]))]
    for n, (layer, token) in enumerate(sorted(places, key=lambda at: -at_tokens[at[0]][at[1]])[:3], start=2):
        go_to(person, "tokens", layer, token)
        many = person.wait("effects", f"v.patches === '{n}'")
    assert float(many["effect"]) > 0.5 and many["answer"] != start["answer"], f"the answer must turn: {many}"
    assert person.shown("button[data-name=strongest]").is_enabled()
    person.picture("patch")
    person.hover(person.shown(".vt-stack canvas[data-name=heads]"), "the map of effects")
    # By mouse as well: a cell of the last layer, in and out.
    for n in ("5", "4"):
        person.shown(".vt-stack canvas[data-name=heads]").click(position={"x": 60 if head == 0 else 40, "y": 20})
        person.wait("effects", f"v.patches === '{n}'")
    person.shown("button[data-name=undo]").click()
    person.wait("effects", "v.patches === '5'")
    for left in range(4, -1, -1):
        person.shown("button[data-name=undo]").click()
        back = person.wait("effects", f"v.patches === '{left}'")
    assert float(back["effect"]) == pytest.approx(0, abs=1e-5) and back["answer"] == start["answer"]
    person.nothing_went_wrong()


def test_an_edge_is_patched_and_a_node_opened(person):
    start = person.open("Circuit", "alone")
    assert float(start["effect"]) == pytest.approx(0, abs=1e-5) and start["chosen"] == "0"
    strongest = person.shown("g[data-name^='edge']").last  # it lies on top
    said = re.search(r"effect (\S+)$", strongest.get_attribute("aria-label")).group(1)
    strongest.focus()
    person.page.keyboard.press("Enter")
    one = person.wait("alone", "v.chosen === '1'")
    assert float(one["effect"]) == pytest.approx(float(said.replace("−", "-")), abs=0.0051), (
        "another effect was promised"
    )
    person.shown("g[data-name='node output']").focus()
    person.page.keyboard.press("Enter")
    person.wait("alone", "v.node === 'output'")
    person.picture("edges")
    person.shown("button[data-name=clear]").click()
    person.wait("alone", "v.chosen === '0'")
    person.nothing_went_wrong()


def test_a_word_is_patched_and_a_module_has_a_card(person):
    person.open("Circuit", "alone")
    person.shown("select[data-name=corruption]").select_option("text")
    person.wait("alone", "v.corruption === 'text'")
    word = person.shown("g[data-name^='edge prompt ']").last
    said = word.get_attribute("aria-label")
    assert "in place of" in said, "a word of the question is a node, and says what the other question has there"
    word.focus()
    person.page.keyboard.press("Enter")
    one = person.wait("alone", "v.chosen === '1'")
    promised = float(said.rsplit("effect ", 1)[1].replace("−", "-"))
    assert float(one["effect"]) == pytest.approx(promised, abs=0.0051), "another effect was promised"
    person.shown("g[data-name^='node '][data-name*='.mlp.']").first.focus()
    person.page.keyboard.press("Enter")
    person.wait("module", "v.computed === 'true'")
    person.shown("button[data-name='knock out']").click()
    card = person.wait("module", "v.knockedOut !== ''")
    person.picture("module-card")
    person.shown("button[data-name=patch]").click()
    patched = person.wait("effects", "v.patches === '1'")
    assert float(patched["effect"]) == pytest.approx(float(card["denoising"]), abs=1e-4), "the card promised another"
    person.shown("button[data-name=clear]").click()
    person.wait("effects", "v.patches === '0'")
    person.shown("select[data-name=corruption]").select_option("image")
    person.wait("effects", "v.corruption === 'image'")
    person.open("Circuit", "alone")
    person.shown("button[data-name=clear]").click()
    person.wait("alone", "v.chosen === '0'")
    person.shown("select[data-name=corruption]").select_option("image")
    person.wait("alone", "v.corruption === 'image'")
    person.nothing_went_wrong()


def test_state_stays_when_another_view_is_opened(person):
    before = person.open("Attention", "imageAttention")
    person.open("Answer", "answer")
    after = person.open("Attention", "imageAttention")
    assert {**before, "hoverMs": 0, "frameMs": 0} == {**after, "hoverMs": 0, "frameMs": 0}


def test_exports_are_files_and_code(person):
    person.open("Attention", "imageAttention")
    frame = person.shown(".vt[data-view=attention]")
    for kind, magic in (("png", b"\x89PNG"), ("csv", b"block,module,layer,head"), ("parquet", b"PAR1")):
        with person.page.expect_download() as download:
            frame.get_by_role("button", name=kind, exact=True).click()
        assert download.value.path().read_bytes().startswith(magic)
        assert download.value.suggested_filename.endswith(kind)
    frame.get_by_role("button", name="code", exact=True).click()
    frame.locator("pre", has_text="record.weights").wait_for()
    person.nothing_went_wrong()


def images_of(person, folder):
    """The two images that the rail shows, as files."""
    found = []
    for side in ("clean", "corrupt"):
        content = person.page.evaluate(
            """async (side) => { const image = document.querySelector(`img[alt="the ${side} image"]`);
            return [...new Uint8Array(await (await fetch(image.src)).arrayBuffer())]; }""",
            side,
        )
        found.append(folder / f"{side}.png")
        found[-1].write_bytes(bytes(content))
    return found


def test_a_pair_of_ones_own_in_every_view(person, tmp_path):
    before = person.choose(person.page.locator(".vt-pair").nth(2))
    clean, corrupt = images_of(person, tmp_path)
    person.shown("input[name=file-clean]").set_input_files(clean)
    own = person.rail("v.pair.startsWith('own')")
    assert own["question"] == before["question"] and own["clean"] == before["clean"]
    person.shown("input[name=file-corrupt]").set_input_files(corrupt)
    person.rail(f"v.corrupt === {before['corrupt']!r}")
    for title, attribute in VIEWS.items():
        person.open(title, attribute)
        person.picture(f"own-{title.lower().replace(' ', '-')}")
    assert not person.watched.faults and not person.error()


def test_nothing_that_was_typed_or_opened_is_lost(person, tmp_path):
    from PIL import Image

    person.open("Answer", "answer")
    first = person.choose(person.page.locator(".vt-pair:not([hidden])").nth(1))
    question, other = person.shown("textarea[name=question-clean]"), person.shown("textarea[name=question-corrupt]")
    question.fill("is this square large?")
    person.shown("[data-name=pairs]").focus()
    person.page.keyboard.press("ArrowDown")
    person.rail(f"v.pair !== {first['pair']!r}")
    assert question.input_value() != "is this square large?"
    person.page.keyboard.press("ArrowUp")
    person.rail(f"v.pair === {first['pair']!r}")
    assert question.input_value() == "is this square large?", "a draft is kept while other pairs are looked at"
    question.press("Enter")
    own = person.rail("v.question === 'is this square large?'")
    other.fill("is this square on the left or on the right side?")
    other.press("Enter")
    person.shown(".vt-problem").get_by_text("so that both must have as many").wait_for()
    person.shown(".vt-problem button").first.click()
    person.rail("v.question === 'is this square on the left or on the right side?'")
    (tmp_path / "text.png").write_text("no image")
    person.shown("input[name=file-corrupt]").set_input_files(tmp_path / "text.png")
    person.shown("[data-name=error]").get_by_text("The file is not an image that can be read").wait_for()
    assert person.rail()["pair"] == own["pair"], "what cannot be opened changes nothing"
    # Larger than what is sent: it is made smaller in the browser.
    Image.effect_noise((3200, 2600), 90).convert("RGB").save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 6 * 2**20
    person.shown("input[name=file-clean]").set_input_files(tmp_path / "large.png")
    person.page.wait_for_function(
        """() => { const image = document.querySelector('img[alt="the clean image"]');
        return image && image.naturalWidth / image.naturalHeight > 1.2; }"""
    )
    person.rail()
    assert not person.error() and not person.watched.faults


def test_both_models_and_a_finding_that_is_sent(in_app, browser, app):
    """The model is changed in the app, a head opened; the address shows the same in another window."""
    person = in_app
    for name in ("tiny-llava", "tiny-blip", "tiny-llava"):
        if person.rail()["model"] != name:
            person.shown("select[name=model]").select_option(name)
            person.rail(f"v.model === {name!r}")
        person.choose(person.page.locator(".vt-pair:not([hidden])").last)
        for title, attribute in VIEWS.items():
            person.open(title, attribute)
            person.picture(f"{name}-{title.lower().replace(' ', '-')}")
        person.nothing_went_wrong()
    person.open("Patch", "effects")
    go_to(person, "heads", 2, 3)
    patched = person.wait("effects", "v.patches === '1'")
    head = person.page.evaluate("document.querySelector('.vt-side-in').dataset.selected")
    assert head.endswith(".2.3"), "a click on a head opens its card"
    person.page.wait_for_function("location.hash.includes('patches')")
    sent = person.page.evaluate("location.hash")
    watched = open_page(browser)
    watched.page.goto(app["address"] + sent, wait_until="commit")
    other = Person(watched, "sent", person.timings)
    assert other.wait("effects", "v.patches === '1'", timeout=300_000)["effect"] == patched["effect"]
    there, here = other.rail(), person.rail()
    assert (there["model"], there["pair"], there["question"]) == ("tiny-llava", here["pair"], here["question"])
    assert watched.page.evaluate("document.querySelector('.vt-side-in').dataset.selected") == head
    assert watched.page.evaluate("location.hash") == sent
    # What is not there is said, and the rest stays.
    watched.page.evaluate("location.hash = 'pair=nobody&view=patch'")
    watched.page.locator(".vt-toast").get_by_text("There is no pair 'nobody'").wait_for()
    assert other.rail()["pair"] == there["pair"]
    other.nothing_went_wrong()
    watched.page.context.close()


# The look of it ------------------------------------------------------------


def test_dark_theme_of_jupyterlab(in_lab):
    in_lab.choose(in_lab.page.locator(".vt-pair:not([hidden])").last)
    change = "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    in_lab.page.evaluate(change)
    in_lab.page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    for title, attribute in (("Answer", "answer"), ("Attention", "imageAttention"), ("Patch", "effects")):
        in_lab.open(title, attribute)
        in_lab.page.wait_for_timeout(300)
        in_lab.picture(f"dark-{title.lower()}")
    ink, page = in_lab.page.evaluate(
        """() => { const e = [...document.querySelectorAll(".vt[data-drawn]")].find((e) => e.offsetParent);
        const light = (c) => c.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 765;
        const below = getComputedStyle(e.closest(".jp-Notebook")).backgroundColor;
        return [light(getComputedStyle(e).color), light(below)]; }"""
    )
    assert ink - page > 0.5, "light text on a dark page"
    in_lab.nothing_went_wrong()


# Who may come in ------------------------------------------------------------


def test_the_app_listens_here_only_and_asks_for_its_token(app):
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(app["pid"]), *psutil.Process(app["pid"]).children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1"}, f"something listens on {listening}"
    request = urllib.request.Request(f"http://127.0.0.1:{app['port']}/", method="GET")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert "/login" in answer.url, "a page without a token"
    except urllib.error.HTTPError as error:
        assert error.code in (401, 403)
    with socket.create_connection(("127.0.0.1", app["port"]), timeout=10):
        pass
