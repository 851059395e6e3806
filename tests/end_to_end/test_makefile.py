"""make runs what is out of date, and nothing else.

A stand-in for Python takes the place of the environment's: it writes down what make asks for and leaves the files
that a real stage would leave.
"""

import ast
import os
import re
import shutil
import subprocess
import time

import nbformat
import pytest

import vlmtrace
from vlmtrace.core import paths

STAND_IN = r"""#!/bin/bash
# python -m vlmtrace run NOTEBOOK --run R --task T … | check … | report …
set -eu
shift 2
case "$1" in
check) [[ "$*" != *wrong* ]] || { echo "Error: Unknown model 'wrong'." >&2; exit 1; }; exit 0;;
report) echo report >> log; mkdir -p "data/runs/$3/report"; touch "data/runs/$3/report/index.html"; exit 0;;
esac
name=$(basename "$2" .ipynb); run=$4; task=""
[[ "$5" != --task ]] || task=$6
echo "${name%%_*}${task:+ $task}" >> log
[[ ! -e "fail-${name%%_*}" ]] || { echo "Error: a sentence." >&2; exit 1; }
mkdir -p "data/runs/$run/$task"
case "$name" in
01*) touch "data/runs/$run/$task/pairs.parquet";;
02*) touch "data/runs/$run/$task/evaluated.parquet";;
03*) touch "data/runs/$run/$task/selected.parquet";;
04*) touch "data/runs/$run/$task/module_patching.parquet";;
05*) touch "data/runs/$run/$task/head_patching.parquet";;
06*) touch "data/runs/$run/heads.parquet" "data/runs/$run/universal_heads.parquet";;
07*) touch "data/runs/$run/causal_tracing.parquet";;
08*) touch "data/runs/$run/lens_contributions.parquet";;
09*) mkdir -p "data/runs/$run/notebooks"; touch "data/runs/$run/notebooks/09_explorer.ipynb";;
esac
echo "$*" >> arguments
"""

NOTEBOOKS = (
    "01_preprocess",
    "02_evaluate",
    "03_select_samples",
    "04_module_patching",
    "05_head_patching",
    "06_circuit_analysis",
    "07_causal_tracing",
    "08_visual_lens",
    "09_explorer",
)
ONE_TASK = ["01 a", "02 a", "03 a", "04 a", "05 a"]


@pytest.fixture
def folder(tmp_path):
    """A checkout with empty notebooks and modules, all older than anything made later."""
    shutil.copy(paths.ROOT / "Makefile", tmp_path)
    for name in (*NOTEBOOKS,):
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    for name in ("select", "patching", "circuits", "report", "evaluate", "models/blip", "tasks/schema", "plots/style"):
        path = tmp_path / "vlmtrace" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data/models/tiny-blip").mkdir(parents=True)
    (tmp_path / "data/models/tiny-blip/model.safetensors").touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).touch()
    past = time.time() - 60
    for path in tmp_path.rglob("*"):
        os.utime(path, (past, past))
    return tmp_path


def make(folder, *arguments, target="all", tasks="a", fails=False):
    """Run make; return the stages it ran, in order, and what it printed."""
    (folder / "log").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "OMP_"))}
    command = ["make", "-j1", target, f"TASKS={tasks}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    ran = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return ran, done.stdout + done.stderr


def test_the_whole_road_is_walked_once(folder):
    ran, said = make(folder)
    assert ran == [*ONE_TASK, "06", "report"]
    assert said.splitlines()[-1] == "Done. Open data/runs/default/report/index.html in a browser."
    ran, said = make(folder)
    assert ran == []
    assert said.splitlines() == [
        "Nothing to do: run default is up to date. Open data/runs/default/report/index.html in a browser."
    ]


def test_parameters_reach_the_notebooks(folder):
    make(folder, "SEED=3", "RUN=x", "SAMPLES=9", "DEVICE=cuda:0", "MODEL=some/model", tasks="a b")
    calls = (folder / "arguments").read_text().splitlines()
    shared = "-p model=some/model -p seed=3 -p device=cuda:0"
    assert calls[0] == f"run notebooks/01_preprocess.ipynb --run x --task a {shared} -p samples=9 -p root="
    assert calls[-1] == f"run notebooks/06_circuit_analysis.ipynb --run x {shared} -p tasks=a b"


def test_a_place_a_question_and_a_revision_reach_what_needs_them(folder):
    make(folder, "ROOT=/my data", "QUESTION=Is this {a} or {b}?", "REVISION=v1", tasks="folder rendered_svo")
    first = [call for call in (folder / "arguments").read_text().splitlines() if "01_preprocess" in call]
    assert first[0].endswith("-p samples= -p root=/my data -p question=Is this {a} or {b}?")
    assert first[1].endswith("-p samples="), "the rendered world asks for no place"
    assert all("-p model=tiny-blip@v1 " in call for call in (folder / "arguments").read_text().splitlines())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("SEED=1", [*ONE_TASK, "06", "report"]),
        ("MODEL=other/model", [*ONE_TASK, "06", "report"]),
        ("SAMPLES=5", [*ONE_TASK, "06", "report"]),
        ("REVISION=v1", [*ONE_TASK, "06", "report"]),
        ("ROOT=elsewhere", [*ONE_TASK, "06", "report"]),
        ("DEVICE=cuda", []),
    ],
)
def test_a_changed_parameter_makes_again_what_depends_on_it(folder, change, expected):
    make(folder)
    assert make(folder, change)[0] == expected
    assert make(folder, change)[0] == []


def test_a_further_task_runs_that_task_and_the_circuits(folder):
    make(folder, tasks="a")
    assert make(folder, tasks="a b")[0] == [stage.replace("a", "b") for stage in ONE_TASK] + ["06", "report"]
    assert make(folder, tasks="a b")[0] == []


def test_explorers_of_both_bundled_models(folder):
    ran, said = make(folder, target="explore")
    assert ran == ["07", "09", "report", "07", "08", "09", "report"], "tiny-blip's question encoder has no visual lens"
    assert "Open data/runs/default/report/index.html" in said and "Open data/runs/tiny-llava/report/index.html" in said
    assert make(folder, target="explore")[0] == []
    calls = (folder / "arguments").read_text().splitlines()
    assert [call.split()[3] for call in calls] == ["default"] * 2 + ["tiny-llava"] * 3


def test_explorers_of_a_model_of_ones_own(folder):
    assert make(folder, "MODEL=some/llava", target="explore")[0] == ["07", "08", "09", "report"]
    assert make(folder, "MODEL=Salesforce/blip-vqa-base", target="explore")[0] == ["07", "09", "report"]
    (folder / "mine").mkdir()
    (folder / "mine/config.json").write_text('{"architectures": ["BlipForQuestionAnswering"]}')
    assert make(folder, "MODEL=mine", target="explore")[0] == ["07", "09", "report"]


def test_explorers_leave_the_road_alone(folder):
    make(folder)
    make(folder, target="explore")
    assert make(folder)[0] == []


def test_another_run_stands_beside_the_first(folder):
    make(folder)
    assert make(folder, "SEED=1", "RUN=other")[0] == [*ONE_TASK, "06", "report"]
    assert make(folder)[0] == [], "the second run made the first one out of date"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("notebooks/04_module_patching.ipynb", ["04 a", "report"]),
        ("notebooks/05_head_patching.ipynb", ["05 a", "06", "report"]),
        ("vlmtrace/tasks/schema.py", [*ONE_TASK, "06", "report"]),
        ("vlmtrace/evaluate.py", [*ONE_TASK, "06", "report"]),
        ("vlmtrace/select.py", [*ONE_TASK[2:], "06", "report"]),
        ("vlmtrace/patching.py", [*ONE_TASK[3:], "06", "report"]),
        ("vlmtrace/models/blip.py", [*ONE_TASK, "06", "report"]),
        ("data/models/tiny-blip/model.safetensors", [*ONE_TASK, "06", "report"]),
        ("vlmtrace/circuits.py", ["06", "report"]),
        ("vlmtrace/plots/style.py", ["06", "report"]),
        ("vlmtrace/report.py", ["report"]),
    ],
)
def test_a_changed_source_makes_again_what_leans_on_it(folder, source, expected):
    make(folder)
    os.utime(folder / source, (time.time() + 5,) * 2)
    assert make(folder)[0] == expected


def test_a_lost_table_is_made_again(folder):
    make(folder)
    (folder / "data/runs/default/a/head_patching.parquet").unlink()
    assert make(folder)[0] == ["05 a", "06", "report"]


def test_a_run_that_stopped_continues_there(folder):
    (folder / "fail-04").touch()
    ran, said = make(folder, fails=True)
    assert ran[-1] == "04 a" and "Error: a sentence." in said
    (folder / "fail-04").unlink()
    again = make(folder)[0]
    assert again[-2:] == ["06", "report"] and "04 a" in again
    assert not {"01 a", "02 a", "03 a"} & set(again), "finished stages ran again"


def test_a_wrong_name_stops_before_anything_is_touched(folder):
    make(folder)
    for wrong in ("MODEL=wrong", "TASKS=wrong"):
        ran, said = make(folder, wrong, fails=True)
        assert ran == [] and "Error: Unknown model 'wrong'." in said
    assert make(folder)[0] == [], "a mistyped name made the run out of date"


def test_tasks_run_beside_each_other(folder):
    ran, _ = make(folder, "-j4", tasks="a b c")
    assert len(ran) == 17 and ran[-2:] == ["06", "report"]


@pytest.mark.parametrize(("arguments", "threads"), [(["JOBS=1"], os.cpu_count()), (["JOBS=1000"], 1)])
def test_stages_share_the_cores(folder, arguments, threads):
    python = folder / ".venv" / "bin" / "python"
    python.write_text(STAND_IN.replace("set -eu", 'set -eu\necho "$OMP_NUM_THREADS" > threads'))
    make(folder, *arguments)
    assert (folder / "threads").read_text() == f"{threads}\n"


def test_clean_removes_the_run_and_nothing_else(folder):
    make(folder)
    make(folder, "RUN=other")
    (folder / "data/raw/mine").mkdir(parents=True)
    make(folder, "RUN=other", target="clean")
    assert (folder / "data/runs/default/heads.parquet").exists() and not (folder / "data/runs/other").exists()
    assert (folder / "data/raw/mine").exists() and (folder / "data/models/tiny-blip/model.safetensors").exists()


@pytest.mark.parametrize("name", ["", "..", "../..", ".", "*", "a/b"])
def test_clean_refuses_what_is_no_run(folder, name):
    make(folder)
    make(folder, f"RUN={name}", target="clean", fails=True)
    assert (folder / "data/runs/default/heads.parquet").exists()


def test_help_lists_every_target(folder):
    _, said = make(folder, target="help")
    for target in ("all", "explore", "test", "test-browser", "lint", "lab", "app", "model", "clean", "help"):
        assert f"\n  {target} " in said, f"make help does not mention {target}"


#: Modules that decide about no number of a table, so that no table is made again when they change.
WITHOUT_NUMBERS = set(
    "errors files paths progress runs parts report widgets trace_widgets lens_widgets explorer explore plots "
    "tasks".split()
)

#: Modules that a notebook shows something with, without writing it to its table.
SHOWN_ONLY = {"05_head_patching": {"attribution", "circuits", "verification", "stats", "select"}}


def imported_modules(source):
    """Modules of the package that a piece of Python imports, e.g. "patching" and "models"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "vlmtrace":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlmtrace."):
            found.add(node.module.split(".")[1])
    return {name for name in found if (paths.ROOT / "vlmtrace" / name).exists() or module_file(name).exists()}


def module_file(name):
    return paths.ROOT / "vlmtrace" / f"{name}.py"


def closure(names):
    """The modules, and those that they import in turn, without those that decide about no number."""
    found, todo = set(), set(names) - WITHOUT_NUMBERS
    while todo:
        name = todo.pop()
        found.add(name)
        sources = [module_file(name)] if module_file(name).exists() else (paths.ROOT / "vlmtrace" / name).glob("*.py")
        todo |= set().union(*(imported_modules(path.read_text()) for path in sources)) - found - WITHOUT_NUMBERS
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_tables_depend_on_the_modules_that_their_notebook_leans_on(name):
    makefile = (paths.ROOT / "Makefile").read_text()
    (rule,) = re.findall(rf"notebooks/{name}\.ipynb(.*?)\n\t", makefile, re.DOTALL)
    models = re.search(r"^MODELS .*", makefile, re.MULTILINE).group()
    named = re.findall(r"sources,([\w ]+)", rule + (models if "$(MODELS)" in rule else ""))
    listed = set(" ".join(named).split())

    cells = nbformat.read(paths.ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    used = imported_modules(source)
    for public in re.findall(r"vt\.(\w+)\(", source):
        used.add(getattr(vlmtrace, public).__module__.split(".")[1])
    missing = closure(used) - listed - SHOWN_ONLY.get(name, set())
    assert not missing, f"the Makefile's rule of {name} lacks {', '.join(sorted(missing))}"
