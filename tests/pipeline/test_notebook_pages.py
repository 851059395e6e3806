"""Executed notebooks as pages: their links lead to each other's pages, or are not there."""

import os
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.notebook_pages import notebook_pages, pages_beside
from vlmtrace.pipeline.notebooks import WIDGET
from vlmtrace.pipeline.runs import open_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return open_run("r")


def execute(run, name, text, outputs=()):
    """Leave an executed notebook in the run, older than every page."""
    path = run.folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell(text), new_code_cell("1", outputs=list(outputs))]), path)
    os.utime(path, (1, 1))
    return path


def links_of(run, name):
    """The addresses that the body of a page links to, those of its headings left out."""
    list(notebook_pages(run, run.folder / "report"))
    page = (run.folder / "report" / "notebooks" / f"{name}.html").read_text()
    return re.findall(r'<a href="([^"#]+)"', page.split("<body")[1])


def test_a_link_leads_to_the_page_of_the_same_task(run):
    execute(run, "a-01_first", "next: [2](02_second.ipynb)")
    execute(run, "a-02_second", "[1](01_first.ipynb) and [3](03_third.ipynb)")
    execute(run, "b-02_second", "[1](01_first.ipynb)")
    execute(run, "03_third", "[2](02_second.ipynb)")
    assert links_of(run, "a-01_first") == ["a-02_second.html"]
    assert links_of(run, "a-02_second") == ["a-01_first.html", "03_third.html"]
    assert links_of(run, "b-02_second") == ["a-01_first.html"], "task b has no notebook 01"
    assert links_of(run, "03_third") == ["a-02_second.html"]


def test_links_to_what_is_not_beside_the_page_become_text(run):
    execute(
        run, "01_first", "[the method](../docs/methods/x.md), [next](02_second.ipynb), [paper](https://arxiv.org/abs/1)"
    )
    assert links_of(run, "01_first") == ["https://arxiv.org/abs/1"]
    page = (run.folder / "report" / "notebooks" / "01_first.html").read_text()
    assert "the method, next," in page


def test_a_page_is_rendered_again_when_a_notebook_it_links_to_appears(run):
    execute(run, "01_first", "[next](02_second.ipynb)")
    execute(run, "04_other", "no link")
    assert links_of(run, "01_first") == []
    other = run.folder / "report" / "notebooks" / "04_other.html"
    before = other.stat().st_mtime_ns
    second = execute(run, "02_second", "the end")
    os.utime(second)
    assert links_of(run, "01_first") == ["02_second.html"]
    assert other.stat().st_mtime_ns == before, "a page was rendered again without need"


@pytest.mark.parametrize("when", [0, 2**33])
def test_a_page_follows_its_notebook_whatever_their_dates(run, when):
    notebook = execute(run, "01_first", "one")
    links_of(run, "01_first")
    page = run.folder / "report" / "notebooks" / "01_first.html"
    execute(run, "01_first", "two")
    os.utime(notebook, (when, when))
    os.utime(page, (2**32, 2**32))
    links_of(run, "01_first")
    assert "two" in page.read_text()
    before = page.stat().st_mtime_ns
    os.utime(notebook)
    links_of(run, "01_first")
    assert page.stat().st_mtime_ns == before, "a page was rendered again because of a date"


def test_controls_are_left_out_and_figures_stay(run):
    control = new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "a dropdown"})
    execute(run, "01_first", "text", [control, new_output("display_data", {"text/plain": "a figure"})])
    (entry,) = notebook_pages(run, run.folder / "report")
    page = (run.folder / "report" / entry["page"]).read_text()
    assert "a figure" in page and "a dropdown" not in page
    assert (run.folder / "report" / entry["notebook"]).is_file()


def test_pages_are_rendered_beside_what_still_runs(run, monkeypatch):
    """With the links to notebooks that are still to come, so that the report need not render them again."""
    names = ["a-01_first", "a-02_second"]
    expected = {run.folder / "notebooks" / f"{name}.ipynb": run for name in names}
    with pages_beside(expected) as finished:
        finished(execute(run, names[0], "next: [2](02_second.ipynb)"))
        finished(execute(run, names[1], "[1](01_first.ipynb)"))
    monkeypatch.setattr("vlmtrace.pipeline.notebook_pages.notebook_as_html", lambda *_: "rendered again")
    assert links_of(run, names[0]) == ["a-02_second.html"]
    assert links_of(run, names[1]) == ["a-01_first.html"]


def test_a_notebook_that_is_none_is_left_to_the_report(run):
    path = execute(run, "01_first", "text")
    path.write_text("no notebook")
    with pages_beside({path: run}) as finished:
        finished(path)
    with pytest.raises(VlmtraceError, match="is not an executed notebook"):
        list(notebook_pages(run, run.folder / "report"))
