"""The notebooks as they are committed: clean, readable as tutorials, and with the parameters that `make` sets."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from vlmtrace.core import paths
from vlmtrace.pipeline.parameters import declared_parameters

ROOT = paths.ROOT
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))

#: Notebooks that look at the pairs of several tasks, and those that look at questions in place of tasks.
OF_SEVERAL_TASKS = {"00_five_minutes", "06_circuit_analysis", "09_explorer", "10_edge_circuits", "11_language_prior",
                    "13_real_checkpoint", "14_when_methods_disagree", "15_planted_prior"}  # fmt: skip
OF_QUESTIONS = {"07_causal_tracing", "08_visual_lens"}
#: Notebooks that draw their own pairs.
OF_OWN_PAIRS = {"12_case_study_verbs"}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def test_notebooks_are_numbered_without_a_gap():
    assert [name.partition("_")[0] for name in NOTEBOOKS] == [f"{i:02d}" for i in range(len(NOTEBOOKS))]


def test_the_first_notebook_is_short():
    assert len(read(NOTEBOOKS[0]).cells) <= 10, "whoever begins reads ten cells"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and notebook.nbformat_minor >= 5
    for cell in code(name):
        assert not cell.outputs and cell.execution_count is None, f"cell {cell.id} has outputs: clear them"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_reads_as_a_tutorial(name):
    cells = read(name).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert "**Question:**" in cells[0].source and "| reads | writes |" in cells[0].source
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "Try next" in source and "Look for" in source
    for cell in code(name):
        assert len(cell.source.splitlines()) <= 25, f"cell {cell.id} is long: move its body into the package"
    runs = re.findall("c+", "".join(cell.cell_type[0] for cell in cells))
    assert max(map(len, runs)) <= 3, "more than three cells of code in a row, without a word"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_declares_its_parameters(name):
    parameters = declared_parameters(FOLDER / f"{name}.ipynb")
    tasks = set() if name in OF_QUESTIONS | OF_OWN_PAIRS else {"tasks" if name in OF_SEVERAL_TASKS else "task"}
    assert {"model", "samples", "seed", "run", "device"} | tasks <= set(parameters)
    first = ("tiny-llava", "tiny-llava") if name == "08_visual_lens" else ("tiny-blip", "default")
    assert (parameters["model"], parameters["run"], parameters["seed"]) == (*first, 0)
    (cell,) = [cell for cell in code(name) if is_parameters(cell)]
    lines = cell.source.splitlines()
    assert len(lines) == len(parameters), "one parameter per line"
    assert all("  # " in line for line in lines), "a comment says what each parameter is"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_parameter_is_left_unused_or_overwritten(name):
    parameters = set(declared_parameters(FOLDER / f"{name}.ipynb"))
    trees = [ast.parse(cell.source) for cell in code(name) if not is_parameters(cell)]
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    # No model runs in 03; make passes both to every notebook all the same.
    allowed = {"model", "device"} if name == "03_select_samples" else set()
    assert parameters - used <= allowed, "parameters that nothing reads"
    # A loop over tasks in 06 may use the name task, which is no parameter there.
    overwritten = {node.id for node in names if isinstance(node.ctx, ast.Store)} & parameters
    assert not overwritten, f"running cells of {name} twice would break: {overwritten}"


def is_module(name):
    """Whether a dotted name is a module or a folder of modules of the package."""
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def modules_imported(source):
    """The modules of the package that a cell imports, or imports names from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else node.module for name in full]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "vlmtrace")


def is_front_door(module):
    """Whether notebooks may import a module: the package, a room with public names, figures, the table contract."""
    return (
        module in ("vlmtrace.plots", "vlmtrace.core.schema")
        or (ROOT / Path(*module.split(".")) / "__init__.pyi").is_file()
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_imports_from_front_doors_only(name):
    deep = [module for cell in code(name) for module in modules_imported(cell.source) if not is_front_door(module)]
    assert not deep, f"import from the room's front door, and add the name to its __init__.pyi: {deep}"


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("import vlmtrace as vt", True),
        ("from vlmtrace import app, plots", True),
        ("from vlmtrace.methods.circuits import head_table", True),
        ("from vlmtrace.methods import circuits", True),
        ("from vlmtrace.methods.circuits.heads import head_table", False),
        ("from vlmtrace.methods.circuits import heads", False),
        ("import vlmtrace.inputs.batching", False),
    ],
)
def test_a_module_below_a_front_door_is_found(source, allowed):
    assert all(is_front_door(module) for module in modules_imported(source)) == allowed


LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_links_to_its_papers_its_method_and_its_neighbors(name):
    cells = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    links = LINK.findall(cells[0])
    assert [link for link in links if re.match(r"https://(arxiv\.org/abs|doi\.org)/", link)], "no link to a paper"
    assert [link for link in links if link.startswith("../docs/methods/")], "no link to the method's page"
    number = NOTEBOOKS.index(name)
    neighbors = NOTEBOOKS[max(0, number - 1) : number] + NOTEBOOKS[number + 1 : number + 2]
    assert {f"{neighbor}.ipynb" for neighbor in neighbors} <= set(links)
    for link in [link for cell in cells for link in LINK.findall(cell)]:
        if "://" not in link:
            assert (FOLDER / link).is_file(), f"{link} is not there"
