"""The notebooks: their form, and all six of them run on a handful of pairs."""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from fixtures.contract import assert_keeps_contract

from vlmtrace.core import paths
from vlmtrace.core.schema import written_by
from vlmtrace.pipeline.parameters import declared_parameters
from vlmtrace.pipeline.stages import EXPLORERS, STAGES

FOLDER = paths.ROOT / "notebooks"
ROAD = list(STAGES)
NOTEBOOKS = [*STAGES, *EXPLORERS, "09_explorer"]
TASK = "rendered_states"
SAMPLES = 24

#: The tables of the pipeline's notebooks.
TABLES = [table for name in STAGES for table in written_by(name)]


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


# Form


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
    tasks = set() if name in EXPLORERS else {"tasks" if name[:2] in ("06", "09") else "task"}
    assert {"model", "samples", "seed", "run", "device"} | tasks <= set(parameters)
    first = ("tiny-llava", "tiny-llava") if name.startswith("08") else ("tiny-blip", "default")
    assert (parameters["model"], parameters["run"], parameters["seed"]) == (*first, 0)
    (cell,) = [cell for cell in code(name) if "parameters" in cell.metadata.get("tags", [])]
    lines = cell.source.splitlines()
    assert len(lines) == len(parameters) and all("  # " in line for line in lines), "one literal a line, with a comment"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_parameter_is_left_unused_or_overwritten(name):
    parameters = set(declared_parameters(FOLDER / f"{name}.ipynb"))
    trees = [ast.parse(cell.source) for cell in code(name) if "parameters" not in cell.metadata.get("tags", [])]
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    # No model runs in 03; make passes both to every notebook all the same.
    allowed = {"model", "device"} if name.startswith("03") else set()
    assert parameters - used <= allowed
    # A loop over tasks in 06 may use the name task, which is no parameter there.
    overwritten = {node.id for node in names if isinstance(node.ctx, ast.Store)} & parameters
    assert not overwritten, f"running cells of {name} twice would break: {overwritten}"


# Execution


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A home with the whole road walked for one task of the bundled model on a few pairs, as make does it."""
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    (home / "data" / "models").symlink_to(paths.MODELS)
    for name in ROAD:
        task = ["-p", f"tasks={TASK}"] if name.startswith("06") else ["--task", TASK]
        further = ["-p", f"samples={SAMPLES}"] if name.startswith("01") else []
        further += ["-p", "n_random=2"] if name.startswith("06") else []
        command = [sys.executable, "-m", "vlmtrace", "run", FOLDER / f"{name}.ipynb", "--run", "smoke", *task, *further]
        done = run(home, command)
        assert done.returncode == 0, f"{name} failed:\n{done.stdout}{done.stderr}"
    return home


def run(home, command):
    environment = {**os.environ, "VLMTRACE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=paths.ROOT, env=environment)


def table(home, name):
    folder = home / "data" / "runs" / "smoke"
    path = folder / f"{name}.parquet"
    return pd.read_parquet(path if path.exists() else folder / TASK / f"{name}.parquet")


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_keep_the_contract(walked, name):
    assert_keeps_contract(name, table(walked, name))


def test_as_many_pairs_come_in_as_were_asked_for(walked):
    assert len(table(walked, "pairs")) == len(table(walked, "evaluated")) == SAMPLES
    selected = set(table(walked, "selected")["sample_id"])
    assert selected and selected <= set(table(walked, "evaluated")["sample_id"])
    for name in ("module_patching", "head_patching"):
        assert set(table(walked, name)["sample_id"]) == selected, f"{name} has other pairs than were selected"


def test_effects_are_finite_and_differ_from_0(walked):
    for name in ("module_patching", "head_patching"):
        effects = table(walked, name)
        for corruption in ("image", "text"):
            values = effects.loc[effects["corruption"] == corruption, "patching_effect"]
            assert np.isfinite(values).all() and values.abs().max() > 0.1, f"{name}, {corruption}"


def test_the_last_residual_of_the_answer_decoder_restores_the_clean_answer(walked):
    effects = table(walked, "module_patching").query("block == 'text_decoder' and module == 'residual'")
    last = effects[effects["layer"] == effects["layer"].max()]
    assert len(last) and np.allclose(last["patching_effect"], 1, atol=1e-3)


def test_text_corruption_leaves_the_vision_encoder_alone(walked):
    effects = table(walked, "module_patching").query("block == 'vision_encoder' and corruption == 'text'")
    assert len(effects) and (effects["patching_effect"] == 0).all()


def test_heads_are_found_on_the_pairs_kept_for_it(walked):
    selected, heads = table(walked, "selected"), table(walked, "heads")
    assert set(heads["n"]) == {(selected["split_use"] == "discover").sum()}
    curves = table(walked, "faithfulness")
    assert set(curves["sample_id"]) == set(selected.loc[selected["split_use"] == "verify", "sample_id"])


def test_every_notebook_shows_pictures_and_leaves_them_as_files(walked):
    folder = walked / "data" / "runs" / "smoke"
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures == {path.stem for path in (folder / "figures").glob("*.pdf")}
    record = json.loads((folder / "run.json").read_text())
    for key, entry in record["stages"].items():
        names = {figure["name"] for figure in entry["figures"]}
        assert names and names <= figures, f"{key} has no picture"
        assert all(figure["caption"] for figure in entry["figures"])


def test_executed_notebooks_hold_no_dead_controls_of_bars(walked):
    for path in (walked / "data" / "runs" / "smoke" / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                assert "%|" not in output.get("data", {}).get("text/plain", ""), f"{path.name}: a bar in {cell.id}"


def test_parts_are_gone_and_the_report_is_there(walked):
    folder = walked / "data" / "runs" / "smoke"
    assert not list(folder.glob(".parts/*"))
    page = (folder / "report" / "index.html").read_text()
    for link in re.findall(r'(?:src|href)="([^"#:]+)"', page):
        assert (folder / "report" / link).exists(), f"the report links to {link}, which is not there"


def test_another_seed_in_the_same_run_is_refused(walked):
    command = [sys.executable, "-m", "vlmtrace", "run", FOLDER / "02_evaluate.ipynb", "--run", "smoke", "--task", TASK]
    before = (walked / "data/runs/smoke/run.json").read_bytes()
    done = run(walked, [*command, "-p", "seed=1"])
    assert done.returncode == 1
    assert "Run 'smoke' was made with seed 0" in done.stderr and "choose another run" in done.stderr
    assert "Traceback" not in done.stderr and (walked / "data/runs/smoke/run.json").read_bytes() == before
