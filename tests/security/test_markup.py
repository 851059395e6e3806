"""HTML, JavaScript and templates in data: shown as they are in tables, pages, the report and widgets, never obeyed.

That nothing runs in a real browser either is tested in tests/end_to_end/browser.
"""

import ast
import html
import json
import re
from html.parser import HTMLParser

import ipywidgets
import nbformat
import pandas as pd
import pytest
from fixtures.contract import complete
from fixtures.payloads import ALL, PAYLOADS
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import vlmtrace as vt
from vlmtrace import app
from vlmtrace.core import paths
from vlmtrace.display.figure_explorer import Sentence
from vlmtrace.display.session import Session
from vlmtrace.pipeline import open_run, write_report
from vlmtrace.pipeline.notebook_pages import notebook_pages
from vlmtrace.pipeline.report_pairs import EXPLORER
from vlmtrace.tasks import TASKS


class Obeyed(HTMLParser):
    """What of a page a browser would obey: tags that do something, handlers, addresses that run or lead elsewhere."""

    def __init__(self, page, expected_scripts=0):
        super().__init__()
        self.found, self.scripts = [], 0
        self.feed(page)
        if self.scripts != expected_scripts:
            self.found.append(f"{self.scripts} scripts instead of {expected_scripts}")

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        if tag in ("iframe", "object", "embed", "base", "link", "form", "frame", "svg"):
            self.found.append(tag)
        for name, value in attributes:
            value = value or ""
            # Below this machine's own address a pair's name is only asked for, and has no sign that would end it.
            is_own = re.fullmatch(re.escape(EXPLORER) + r"#[\w.~%+=&-]*", value)
            leads = name in ("src", "href", "srcset", "action", "style") and "evil.example" in value and not is_own
            runs = name.startswith("on") or re.match(r"\s*(javascript|vbscript|data:text)", value, re.IGNORECASE)
            if leads or runs:
                self.found.append(f"{tag} {name}={value}")


def obeyed(page, scripts=0):
    return Obeyed(page, scripts).found


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_check_itself_sees_what_is_obeyed(name):
    text = f'<p title="{PAYLOADS[name]}">{PAYLOADS[name]}</p>'
    is_harmless = name in ("link", "template", "formula", "entity", "single quotes")
    assert bool(obeyed(text)) != is_harmless


# Tables and sentences in notebooks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_formatted_table_shows_words_as_they_are(name):
    text = PAYLOADS[name]
    table = pd.DataFrame({"share": [0.5, None], text: [text, "x"]}, index=pd.Index([text, "y"], name="category"))
    for shown in (vt.formatted(table), vt.formatted(table, precision=2, na_rep="").hide(), vt.formatted(table.T)):
        page = shown.to_html()
        assert not obeyed(page) and text in html.unescape(page)
    assert "0.50" in vt.formatted(table, precision=2).to_html()


def test_no_notebook_shows_a_table_unescaped():
    """pandas' `table.style` obeys words; `vt.formatted` does not."""
    for path in sorted((paths.ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.startswith("%"):
                named = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(ast.parse(cell.source))}
                assert not named & {"style", "HTML", "Markdown", "SVG", "Javascript", "to_html"}, path.name


def test_no_module_makes_html_of_data_by_hand():
    """Widgets that take HTML get constant words; the rest goes through `html.escape` or a template that escapes."""
    makers = []
    for path in sorted((paths.ROOT / "vlmtrace").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in ("HTML", "HTMLMath", "Markdown", "Markup", "Javascript", "SVG", "to_html"):
                    makers.append(path.relative_to(paths.ROOT / "vlmtrace").as_posix())
    assert set(makers) <= {"display/view.py"}, makers


def test_the_notes_of_views_are_constant():
    """`View.note` is HTML: it is written in a class, and never made from data."""
    from vlmtrace.app.tabs import declared_views

    for view in declared_views():
        assert isinstance(vars(view).get("note", ""), str) and not obeyed(view.note)


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_sentence_shows_words_as_they_are(name):
    page = Sentence(PAYLOADS[name])._repr_html_()
    assert not obeyed(page) and PAYLOADS[name] in html.unescape(page)


# Scripts of views ---------------------------------------------------------------------------------------------------

SCRIPTS = sorted((paths.ROOT / "vlmtrace").rglob("*.js"))

#: Ways by which a script turns a text into markup or code.
MAKES_MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\s*\(|new Function|srcdoc|createContextualFragment"
    r"|DOMParser|setHTML|\.html\s*\(|setTimeout\s*\(\s*[\"'`]|import\s*\(|fetch\s*\(|XMLHttpRequest|WebSocket|https?://(?!www\.w3\.org/)"
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(paths.ROOT / "vlmtrace").as_posix())
def test_no_script_makes_markup_of_a_text_or_asks_another_machine(path):
    found = MAKES_MARKUP.findall(path.read_text())
    assert len(SCRIPTS) >= 6 and not found


# Widgets ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_session(random_blip, random_pairs):
    """A model, and pairs whose names and words are markup."""
    pairs = random_pairs.head(2).copy()
    pairs["sample_id"] = [ALL, "second"]
    pairs["category"] = ALL
    pairs["clean_prompt"] = f"is this circle red or blue? {PAYLOADS['image']}"
    pairs["corrupt_prompt"] = f"is this circle red or gray? {PAYLOADS['image']}"
    return Session(random_blip, pairs)


@pytest.mark.medium
def test_what_widgets_get_of_data_is_text(hostile_session):
    """What reaches the browser is JSON, which the scripts put into the page as text; HTML widgets hold none."""
    view = app.Ask(hostile_session)
    assert view.frame.about.startswith(ALL)
    assert json.loads(json.dumps(view.canvas.state))["pairs"][0][0] == ALL
    tabs = app.explorer(hostile_session)
    found, boxes = [], [tabs.box]
    while boxes:
        box = boxes.pop()
        boxes += getattr(box, "children", ())
        found += [box] if isinstance(box, (ipywidgets.HTML, ipywidgets.HTMLMath)) else []
    assert found, "the notes of views are HTML"
    assert not [box for box in found if "__pwned" in box.value]


@pytest.mark.medium
@pytest.mark.parametrize(
    "prompt", ["\"]})\nimport os\nos.system('x')\n#", '""" + exec("1") + """', "\\", "'\\'", "\u2028x"]
)
def test_the_code_of_a_view_holds_data_as_literals(hostile_session, prompt):
    view = app.Ask(hostile_session)
    view.session.example.pair["clean_prompt"] = prompt
    tree = ast.parse(view.code())
    calls = [
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert sorted(calls) == ["answer", "load_model", "top"]
    (pair,) = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    assert ast.literal_eval(pair.value)["clean_prompt"] == prompt


# Pages of executed notebooks ----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return open_run("r")


def page_of(run, *cells):
    path = run.folder / "notebooks" / "01_first.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    (entry,) = notebook_pages(run, run.folder / "report")
    return (run.folder / "report" / entry["page"]).read_text()


#: The scripts that a page needs: MathJax, and how it is set up.
ITS_OWN = 2


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_page_shows_printed_words_and_errors_as_they_are(run, name):
    text = PAYLOADS[name]
    table = pd.DataFrame({text: [text]})
    outputs = [
        new_output("stream", text=text),
        new_output("execute_result", {"text/plain": text}),
        new_output("execute_result", {"text/plain": repr(text), "text/html": table._repr_html_()}),
        new_output("execute_result", {"text/plain": "", "text/html": vt.formatted(table).to_html()}),
        new_output("error", ename=text, evalue=text, traceback=[text]),
    ]
    page = page_of(run, new_code_cell(f"{text!r}", outputs=outputs))
    assert not obeyed(page, ITS_OWN)
    assert html.unescape(page).count(text) >= 5


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/markdown", "text/latex", "application/javascript",
                                  "text/vnd.mermaid", "application/vnd.jupyter.widget-view+json"])  # fmt: skip
def test_outputs_that_could_do_something_are_left_out_of_a_page(run, kind):
    attack = "<script>window.__pwned=1</script>" if "markdown" not in kind else PAYLOADS["image"]
    content = {"model_id": attack} if "json" in kind else f"<p>x</p>{attack}"
    page = page_of(run, new_code_cell("1", outputs=[new_output("display_data", {kind: content, "text/plain": "said"})]))
    assert "__pwned" not in page and not obeyed(page, ITS_OWN)


def test_a_page_runs_nothing_but_its_formulas(run):
    """What an output could still smuggle in is refused by the browser, which is told so before anything else."""
    attack = new_output("display_data", {"text/html": PAYLOADS["image"], "text/plain": ""})
    page = page_of(run, new_markdown_cell("$x$"), new_code_cell("1", outputs=[attack]))
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    rules = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    assert "'unsafe-inline'" not in rules["script-src"] and rules["default-src"] == ["'none'"]
    assert all(source.startswith(("'unsafe-eval'", "https://cdnjs.cloudflare.com/ajax/libs/mathjax/2.7.7/"))
               for source in rules["script-src"])  # fmt: skip
    assert page.index("Content-Security-Policy") < page.index("<script") < page.index("__pwned")
    asked = set(re.findall(r'(?:src|href|import)\s*[=(]?\s*"(https?://[^"]+)"', page))
    assert asked == {"https://cdnjs.cloudflare.com/ajax/libs/mathjax/2.7.7/MathJax.js?config=TeX-AMS_CHTML-full,Safe"}


# The report ---------------------------------------------------------------------------------------------------------


def hostile_run(text):
    """A run whose tables and record hold a text wherever a text may stand."""
    run = open_run("r")
    evaluated = pd.DataFrame(
        {
            "sample_id": [f"{text}{i}" for i in range(4)],
            "category": [text, text, "shape", "shape"],
            "correct_first": [True, False, True, False],
            "clean_prompt": text,
            "corrupt_prompt": text,
            "correct_answer": text,
            "incorrect_answer": f"not {text}",
            "generated_answer": text,
            "is_correct": [True, True, True, False],
            "image_is_flipped": True,
            "text_is_changed": True,
            "unit": text,
        }
    )
    stage = run.stage("02_evaluate", "t", seed=0, prompt=text, options=[text, text])
    stage.figure(Figure(figsize=(1, 1)), "accuracy", text)
    stage.note(source=text)
    evaluated = complete("evaluated", evaluated)
    evaluated[text] = text
    stage.finish(evaluated=evaluated)
    selected = evaluated[evaluated["is_correct"]].assign(split_use=["discover", "discover", "verify"])
    run.stage("03_select_samples", "t", seed=0).finish(selected=selected)
    record = json.loads((run.folder / "run.json").read_text())
    record["parameters"]["model"] = text
    record["model_fingerprint"] = text
    record["versions"]["torch"] = text
    (run.folder / "run.json").write_text(json.dumps(record))
    return run


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_report_shows_words_as_they_are(run, name):
    page = write_report(hostile_run(PAYLOADS[name])).read_text()
    assert not obeyed(page)
    assert "55535947" not in page, "the template's product was computed"  # too long for a date or a version
    shown = html.unescape(page)
    assert shown.count(PAYLOADS[name]) >= 4, "the caption, the model, a version, a parameter"
    assert "script-src 'none'" in page.split("<title>")[0], "the browser is told first that nothing runs here"


def test_names_of_other_runs_and_tables_are_shown_as_they_are(run):
    hostile_run("x")
    other = run.folder.parent / "<img src=x onerror=alert(1)>" / "report"
    other.mkdir(parents=True)
    (other / "index.html").write_text("")
    pd.DataFrame({"a": [1]}).to_parquet(run.folder / "<img src=x onerror=alert(1)>.parquet")
    assert not obeyed(write_report(run).read_text())


def test_a_tasks_name_is_plain():
    assert all(re.fullmatch(r"[a-z0-9_]+", task) for task in TASKS)
