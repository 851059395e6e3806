"""Which modules a notebook's tables come from: as its imports say, through front doors, without what only draws."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook, writes

from vlmtrace.pipeline.dependencies import code_digest, modules_of, modules_used_by
from vlmtrace.pipeline.stages import stages


@pytest.fixture
def notebook(tmp_path):
    def made(*cells):
        path = tmp_path / "notebook.ipynb"
        path.write_text(writes(new_notebook(cells=[new_code_cell(cell) for cell in cells])))
        return path

    return made


def test_a_front_door_leads_to_the_module_behind_it(notebook):
    used = modules_used_by(notebook("from vlmtrace.methods.circuits import head_table"))
    assert "methods.circuits.heads" in used
    assert "methods.circuits.faithfulness" not in used, "what the cell does not import decides about nothing"


def test_names_of_vt_are_followed(notebook):
    used = modules_used_by(notebook("import vlmtrace as vt", "%matplotlib inline\nvt.evaluate(model, pairs)"))
    assert {"methods.evaluation.answers", "core.schema", "models.blip", "models.sweep.blip"} <= used
    assert not {name for name in used if name.startswith(("tasks", "display", "methods.lens"))}


def test_what_only_draws_decides_about_no_table(notebook):
    path = notebook(
        "from vlmtrace import plots\nfrom vlmtrace.methods.patching import module_explorer\nplots.head_map(t)"
    )
    assert modules_used_by(path) == set()
    assert "methods.patching.explorers" in modules_used_by(path, drawing=True)


def test_data_sets_and_families_count_as_a_whole_since_they_declare_themselves(notebook):
    used = modules_used_by(notebook("import vlmtrace as vt\nvt.load_pairs('mit_states')"))
    assert {name for name in modules_of() if name.startswith("tasks")} <= used


@pytest.mark.parametrize("name", [name for name, spec in stages().items() if spec.writes])
def test_every_stage_that_writes_depends_on_the_code_that_computes(name):
    used = modules_used_by(stages()[name].notebook)
    assert any(module.startswith(("methods.", "tasks")) for module in used), (
        f"nothing decides about the tables of {name}"
    )


def test_a_digest_changes_with_the_text(tmp_path):
    (tmp_path / "core").mkdir()
    for name in ("__init__.py", "core/__init__.py", "core/a.py"):
        (tmp_path / name).write_text("")
    before = code_digest({"core.a"}, tmp_path)
    (tmp_path / "core/a.py").write_text("x = 1\n")
    assert code_digest({"core.a"}, tmp_path) != before
