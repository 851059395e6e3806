"""A figure and its controls: what is shown in a notebook, and how faults are said."""

from pathlib import Path

import nbformat
import pytest
from fixtures.figures import Screen
from nbclient import NotebookClient

from vlmtrace.display import figure_explorer


@pytest.fixture
def screen(monkeypatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(figure_explorer, "display", screen.display)
    return screen


def test_faults_in_a_callback_are_said_too(screen):
    def draw(figure, number):
        figure.suptitle(f"{1 / number}")

    found = figure_explorer.FigureExplorer(draw, {"number": figure_explorer.slider("number", 3)})
    with pytest.raises(ZeroDivisionError):  # at first it is raised, so that a notebook under papermill stops
        found._ipython_display_()
    found.controls["number"].value = 1
    found._ipython_display_()
    found.controls["number"].value = 0
    assert repr(screen.shown[-1]) == "These settings cannot be drawn: ZeroDivisionError: division by zero"


def test_sentences_are_escaped():
    assert "&lt;b&gt;" in figure_explorer.Sentence("<b>")._repr_html_()


NOTEBOOK = """
from vlmtrace.display.figure_explorer import FigureExplorer, slider
def draw(figure, number):
    figure.suptitle(str(number))
found = FigureExplorer(draw, {"number": slider("number", 3)})
found
"""


@pytest.mark.medium
def test_picture_of_a_notebook_is_an_output_that_controls_replace(tmp_path):
    cells = [NOTEBOOK, "found.controls['number'].value = 2", "found.figure()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    root = Path(__file__).parents[2]
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(root)}}).execute()
    first, second, third = (cell.outputs for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in first[0].data
    assert len(first) == 2 and second == [], "the picture must be replaced in the explorer's own cell"
    assert first[1].data["image/png"].strip() == third[0].data["image/png"].strip(), "not the picture of number 2"
