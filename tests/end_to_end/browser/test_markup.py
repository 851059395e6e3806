"""Data that are markup, in a real browser: the report, pages of notebooks and the app show them, and nothing runs.

Each text would set `window.__pwned` or ask another machine where it is obeyed; see `fixtures.payloads`.
"""

import json
import re

import nbformat
import pandas as pd
import pytest
from fixtures.app_server import running_app
from fixtures.browser import open_page
from fixtures.contract import complete
from fixtures.payloads import ALL, PAYLOADS
from fixtures.synthetic_tables import make_pairs
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.pipeline import open_run, write_report

#: What is obeyed where markup is, in few tokens; the page has a function of this name.
SHORT = "<svg onload=p()>"

MATHJAX = "https://cdnjs.cloudflare.com/ajax/libs/mathjax/"


class Watch:
    """A page in which every dialog, every request and every mark of an obeyed text is noticed."""

    def __init__(self, browser):
        self.watched = open_page(browser)
        self.page, self.asked, self.dialogs = self.watched.page, [], []
        self.page.add_init_script("window.p = () => { window.__pwned = 1; }")
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.context.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), self._elsewhere)

    def _elsewhere(self, route):
        # What the page's policy refuses does not come so far.
        self.asked.append(route.request.url)
        # In place of MathJax: enough to see that it may run.
        if route.request.url.startswith(MATHJAX):
            route.fulfill(content_type="text/javascript", body="window.__mathjax = eval('1')")
        else:
            route.abort()

    def nothing_was_obeyed(self, *allowed):
        self.page.wait_for_timeout(300)
        for frame in self.page.frames:
            assert frame.evaluate("typeof window.__pwned") == "undefined", f"something ran in {frame.url}"
        assert not self.dialogs
        assert not [url for url in self.asked if not url.startswith(allowed or ("none",))]

    def hover_and_click_everything(self):
        """What is obeyed only by a mouse or a key: handlers of elements that came from data."""
        self.page.evaluate(
            """() => { for (const e of document.querySelectorAll("body *"))
            for (const kind of ["mouseover", "mouseenter", "focus", "click", "toggle", "load", "error"])
            if (e.hasAttribute("on" + kind)) e.dispatchEvent(new Event(kind)); }"""
        )


@pytest.fixture
def watch(browser):
    made = Watch(browser)
    yield made
    made.page.context.close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    run = open_run("r")
    evaluated = complete(
        "evaluated",
        pd.DataFrame(
            {
                "sample_id": [f"{ALL}{i}" for i in range(4)],
                "category": [ALL, ALL, "shape", "shape"],
                "correct_first": [True, False, True, False],
                "clean_prompt": ALL, "corrupt_prompt": ALL, "correct_answer": ALL, "incorrect_answer": f"not {ALL}",
                "generated_answer": ALL, "is_correct": [True, True, True, False], "image_is_flipped": True,
                "text_is_changed": True, "unit": ALL,
            }
        ),
    )  # fmt: skip
    stage = run.stage("02_evaluate", "t", seed=0, prompt=ALL, options=list(PAYLOADS.values()))
    stage.figure(Figure(figsize=(1, 1)), "accuracy", ALL)
    stage.finish(evaluated=evaluated.assign(**{ALL: ALL}))
    selected = evaluated[evaluated["is_correct"]].assign(split_use=["discover", "discover", "verify"])
    run.stage("03_select_samples", "t", seed=0).finish(selected=selected)
    record = json.loads((run.folder / "run.json").read_text())
    record["parameters"]["model"] = record["model_fingerprint"] = record["versions"]["torch"] = ALL
    (run.folder / "run.json").write_text(json.dumps(record))
    return run


def test_the_report_shows_and_does_not_obey(watch, run):
    watch.page.goto(write_report(run).as_uri())
    watch.hover_and_click_everything()
    assert PAYLOADS["image"] in watch.page.locator("body").inner_text()
    loaded = "Promise.all([...document.images].map((i) => { i.loading = ''; return i.decode().then(() => 1); }))"
    assert watch.page.evaluate(loaded), "its figures are shown"
    watch.nothing_was_obeyed()


def test_a_notebooks_page_shows_and_does_not_obey(watch, run):
    """Outputs that escape, as ours do; and, behind the browser's own policy, outputs that do not."""
    table = pd.DataFrame({ALL: [ALL]}, index=[ALL])
    outputs = [
        new_output("stream", text=ALL),
        new_output("execute_result", {"text/plain": ALL, "text/html": vt.formatted(table).to_html()}),
        new_output("execute_result", {"text/plain": ALL, "text/html": table._repr_html_()}),
        new_output("error", ename=ALL, evalue=ALL, traceback=[ALL]),
        *(
            new_output("display_data", {"text/html": f"<p>{text}</p>", "text/plain": text})
            for text in PAYLOADS.values()
        ),
        *(
            new_output("display_data", {kind: PAYLOADS["image"] + PAYLOADS["script"], "text/plain": "x"})
            for kind in ("text/markdown", "text/latex", "image/svg+xml", "application/javascript", "text/vnd.mermaid")
        ),
    ]
    path = run.folder / "notebooks" / "02_evaluate.ipynb"
    path.parent.mkdir(parents=True)
    cells = [new_markdown_cell("A formula: $x^2$"), new_code_cell(repr(ALL), outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), path)
    report = write_report(run)
    watch.page.goto((report.parent / "notebooks" / "02_evaluate.html").as_uri())
    watch.hover_and_click_everything()
    assert PAYLOADS["image"] in watch.page.locator("body").inner_text()
    assert watch.page.evaluate("window.__mathjax") == 1, "formulas are typeset"
    watch.nothing_was_obeyed(MATHJAX)


@pytest.fixture(scope="module")
def hostile_app(tmp_path_factory):
    """The app, with a run whose selected pairs are named and worded as markup."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    with running_app(home, VLMTRACE_TASKS="rendered_states") as running:
        images = home / "data" / "raw"
        images.mkdir()
        pairs = make_pairs(images, 4)
        pairs["sample_id"] = [f"{text}{i}" for i, text in enumerate([ALL, *list(PAYLOADS.values())[:3]])]
        pairs["category"] = list(PAYLOADS.values())[:4]
        for column in ("clean_prompt", "corrupt_prompt"):  # as long as the model's prompts may be
            pairs[column] += f" {SHORT}"
        folder = home / "data" / "runs" / "default" / "rendered_states"
        folder.mkdir(parents=True, exist_ok=True)
        complete("selected", pairs).to_parquet(folder / "selected.parquet", index=False)
        yield running


def test_the_app_shows_and_does_not_obey(watch, hostile_app):
    page = watch.page
    page.goto(f"http://127.0.0.1:{hostile_app.port}/?token={hostile_app.token}", wait_until="commit")
    page.locator(".vt-rail-in[data-pair]").wait_for(timeout=300_000)
    assert SHORT in page.locator(".vt-pair").first.inner_text()
    titles = ["Attention", "Relevancy", "Causal graph", "Patch", "Circuit", "Answer"]
    for title in titles:
        page.locator("button:visible").filter(has_text=re.compile(f"^{title}$")).first.click()
        page.wait_for_function("![...document.querySelectorAll('[data-busy]')].some((e) => e.dataset.busy === 'true')",
                               timeout=120_000)  # fmt: skip
        page.wait_for_timeout(500)
        watch.hover_and_click_everything()
    question = page.locator("textarea[name=question-clean]")
    question.fill(f"is this {SHORT} or b?")
    question.press("Enter")
    page.wait_for_function(
        "/or b\\?$/.test(document.querySelector('.vt-rail-in').dataset.question)",
        timeout=60_000,
    )
    page.locator("input[name=file-clean]").set_input_files(
        {"name": f"{PAYLOADS['image'].replace('/', '')}.png", "mimeType": "image/png", "buffer": b"<img src=x>"}
    )
    page.locator("[data-name=error]:visible").wait_for()
    page.locator("button:visible").get_by_text("code", exact=True).first.click()
    page.wait_for_timeout(500)
    watch.hover_and_click_everything()
    watch.nothing_was_obeyed()
    assert page.evaluate("[...document.querySelectorAll('img[src=x], svg[onload]')].length") == 0


def test_a_page_elsewhere_cannot_frame_or_ask_the_app(watch, hostile_app):
    """A page of another site, opened by somebody whose browser has the app's cookie."""
    page = watch.page
    page.goto(f"http://127.0.0.1:{hostile_app.port}/login?token={hostile_app.token}", wait_until="commit")
    page.wait_for_timeout(1000)
    kernels = len(hostile_app.kernels())
    here = f"127.0.0.1:{hostile_app.port}"
    attack = f"""<!doctype html><iframe src="http://{here}/"></iframe><img src="http://{here}/voila/static/voila.js">
        <script>window.results = [];
        const note = (kind) => (value) => window.results.push([kind, String(value)]);
        fetch("http://{here}/", {{credentials: "include"}}).then((r) => r.text()).then(note("read"), note("refused"));
        fetch("http://{here}/", {{credentials: "include", mode: "no-cors"}})
            .then((r) => note("opaque")(r.type), note("refused"));
        const socket = new WebSocket("ws://{here}/api/kernels/01234567-89ab-cdef-0123-456789abcdef/channels",
            "v1.kernel.websocket.jupyter.org");
        socket.onopen = note("open"); socket.onerror = note("refused");</script>"""
    page.context.route("http://evil.example/", lambda route: route.fulfill(content_type="text/html", body=attack))
    page.goto("http://evil.example/")
    page.wait_for_function("window.results.length >= 3", timeout=30_000)
    results = dict(page.evaluate("window.results"))
    assert "read" not in results and "open" not in results, results
    assert len(hostile_app.kernels()) == kernels, "another site's page started a kernel"
