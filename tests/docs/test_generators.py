"""Generated parts of the documentation: notebooks as pages, drawings of the package, pages of the API."""

import importlib
import inspect
import re
from types import ModuleType

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import vlmtrace
from vlmtrace.core.errors import VlmtraceError

WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def widget(model_id):
    return new_output("display_data", data={WIDGET: {"model_id": model_id}, "text/plain": "VBox()"})


def test_notebooks_as_pages():
    from generators.notebooks import page_of

    states = {
        "box": {"state": {"children": ["IPY_MODEL_one", "IPY_MODEL_two"]}},
        "one": {"state": {"description": "pair"}},
        "two": {"state": {"description": "layer"}},
        "view": {"state": {}},
    }
    picture = new_output("display_data", data={"image/png": "AAAA", "text/plain": "<Figure>"})
    cell = new_code_cell(
        'root = "/home/me/vlmtrace/data/raw"',
        outputs=[
            widget("box"),
            widget("view"),
            picture,
            new_output("stream", name="stderr", text="/tmp/ipykernel_1/2.py:3: UserWarning: few pairs\n"),
            new_output("stream", text="Report: /home/me/vlmtrace/data/runs/default/report/index.html\n"),
            new_output("stream", text="  \n"),
        ],
    )
    text = new_markdown_cell("# 1 · Title\n\n[method](../docs/methods/patching.md), [next](02_evaluate.ipynb)")
    notebook = new_notebook(cells=[text, cell], metadata={"widgets": {STATE: {"state": states}}})
    page = page_of(notebook)
    assert nbformat.validate(page) is None and "widgets" not in page.metadata
    assert page.cells[0].source.endswith("[method](../methods/patching.md), [next](02_evaluate.ipynb)")
    box, view, shown, warning, report = page.cells[1].outputs
    assert "controls (pair, layer)" in box["data"]["text/markdown"]
    assert "explorer-patch.png" in view["data"]["text/markdown"]
    assert shown == picture
    assert warning["text"] == "UserWarning: few pairs\n"
    assert report["text"] == "Report: data/runs/default/report/index.html\n"
    assert page.cells[1].source == 'root = "data/raw"'
    assert len(notebook.cells[1].outputs) == 6, "the notebook itself stays as it was"


@pytest.mark.parametrize("text", ["data/runs/x", "see https://example.org/data/x", "and/or", "1/2 of data"])
def test_paths_within_the_repository_stay(text):
    from generators.notebooks import clean_text

    assert clean_text(text) == text


def test_executed_copies_are_found(tmp_path):
    from generators.notebooks import executed, needs_llava, parameters_of, sources

    folder = tmp_path / "run" / "notebooks"
    folder.mkdir(parents=True)
    names = [path.name for path in sources()]
    assert names[0] == "00_five_minutes.ipynb" and names[-1] == "15_planted_prior.ipynb"
    (folder / "rendered_states-01_preprocess.ipynb").touch()
    (folder / "06_circuit_analysis.ipynb").touch()
    found = [executed(path, tmp_path / "run") is not None for path in sources()]
    assert [name[:2] for name, there in zip(names, found, strict=True) if there] == ["01", "06"]
    assert [path.name for path in sources() if needs_llava(path)] == ["08_visual_lens.ipynb"]
    assert {"model", "task", "samples", "seed"} <= parameters_of(sources()[1])


@pytest.mark.medium
def test_the_house_is_drawn_from_the_imports():
    from generators import house

    graph = house.between(house.room)
    rooms = house.order(graph, list(house.ROOMS))
    for room, others in graph.items():
        assert all(rooms.index(room) < rooms.index(other) for other in others), f"{room} is drawn below what it imports"
    assert graph["methods"]["core"] > 10 and not graph["core"]
    svg = house.house()
    assert svg.count("<path d=") == sum(map(len, graph.values())) + 1  # and the tip of an arrow
    assert all(f">{room}</text>" in svg for room in rooms)
    methods = house.methods()
    assert all(f">{room}</text>" in methods for room in house.between(house.method))


def test_rooms_in_a_circle_cannot_be_drawn():
    from collections import Counter
    from graphlib import CycleError

    from generators import house

    with pytest.raises(CycleError):
        house.order({"a": Counter(["b"]), "b": Counter(["a"])}, ["a", "b"])


def test_every_exported_name_is_in_the_api(tmp_path):
    from generators import api

    api.write(tmp_path / "api")
    text = "\n".join(path.read_text() for path in (tmp_path / "api").glob("*.rst"))
    documented = re.findall(r"^\.\. (?:autofunction|autoclass|py:data):: ([\w.]+)$", text, flags=re.MULTILINE)
    assert len(documented) == len(set(documented)), "a name is documented twice"
    objects = {id(resolve(name)) for name in documented}
    for module in ("vlmtrace", *api.ROOMS):
        room = importlib.import_module(module)
        for name in room.__all__:
            value = getattr(room, name)
            if not isinstance(value, ModuleType):
                assert f"{module}.{name}" in documented or id(value) in objects, f"{module}.{name} is not documented"
    assert all(f"   {module}\n" in (tmp_path / "api" / "index.rst").read_text() for module in api.ROOMS)


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_rooms_of_the_api_are_those_of_the_package():
    from generators import api

    with_interface = {f"vlmtrace.{path.parent.name}" for path in vlmtrace_folder().glob("*/__init__.pyi")} | {
        f"vlmtrace.methods.{path.parent.name}" for path in vlmtrace_folder().glob("methods/*/__init__.pyi")
    }
    assert with_interface <= set(api.ROOMS), f"without a page: {with_interface - set(api.ROOMS)}"


def vlmtrace_folder():
    from pathlib import Path

    return Path(inspect.getfile(vlmtrace)).parent


def test_fields_that_a_class_describes():
    from generators.api import described_fields

    class Described:
        """One line.

        Attributes:
            first: of them
            second, third: in one line
            fourth (int): with a type

        Raises:
            ValueError: never
        """

    assert described_fields(Described) == ["first", "second", "third", "fourth"]
    assert described_fields(VlmtraceError) == []


def test_parts_that_pages_ask_for(tmp_path):
    from generators import reference

    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- generated: sources -->\n\nEnd\n")
    reference.write(tmp_path)
    assert "- **MIT-States**" in page.read_text() and page.read_text().endswith("\n\nEnd\n")
    page.write_text("<!-- generated: nonsense -->\n")
    with pytest.raises(KeyError, match="nonsense"):
        reference.write(tmp_path)


def test_sources_and_families_are_complete():
    from generators import reference

    from vlmtrace.models.families import families, unsupported_families
    from vlmtrace.tasks import declared

    sources, shown = reference.sources(), reference.families()
    for task in declared().values():
        if task.kind == "published":
            for part in ("name", "url", "licence", "citation"):
                assert getattr(task.source, part) in sources, f"the page of data sets lacks the {part} of {task.name}"
    for family in [*families().values(), *unsupported_families().values()]:
        assert family.name in shown
