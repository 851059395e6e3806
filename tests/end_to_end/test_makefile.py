"""The Makefile: its variables reach vlmtrace as they are, its targets are listed, and an old make understands it.

What runs again when something changes is `vlmtrace.pipeline.schedule`'s business, and tested there. A stand-in for
Python takes the place of the environment's here: it writes down what make asks for.
"""

import os
import re
import shutil
import subprocess
import time

import pytest

from vlmtrace.core import paths
from vlmtrace.pipeline.cli import TASKS

STAND_IN = r"""#!/bin/bash
echo "$*" >> log
env | grep ^VLMTRACE_ | sort > environment
[[ "$*" != *pytest* && "$*" != *torture* ]] || echo "OMP_NUM_THREADS=$OMP_NUM_THREADS" >> environment
[[ ! -e fail ]] || { echo "Error: a sentence." >&2; exit 1; }
"""

TARGETS = (
    "all explore test-fast test test-slow test-all test-browser test-cluster torture lint docs lab app model bench "
    "smol-llava train-smol-llava clean help"
).split()


@pytest.fixture
def folder(tmp_path):
    """A checkout that has been installed."""
    folder = tmp_path / "a checkout, with blanks"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(paths.ROOT / "Makefile", folder)
    for name in ("python", "ruff", "mypy", "jupyter"):
        (folder / ".venv/bin" / name).write_text(STAND_IN)
        (folder / ".venv/bin" / name).chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (folder / name).touch()
    past = time.time() - 60
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (past, past))
    return folder


def make(folder, *arguments, fails=False):
    """What the stand-in was asked for, with which variables, and what make printed."""
    for name in ("log", "environment"):
        (folder / name).unlink(missing_ok=True)
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MAKE", "OMP_", "VLMTRACE_"))}
    done = subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    log = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    lines = (folder / "environment").read_text().splitlines() if (folder / "environment").exists() else []
    return log, dict(line.split("=", 1) for line in lines), done.stdout + done.stderr


def test_the_pipeline_is_one_command(folder):
    assert make(folder, "all")[0] == ["-m vlmtrace all"]
    assert make(folder, "explore")[0] == ["-m vlmtrace explore"]


def test_variables_arrive_as_they_were_typed(folder):
    odd = {
        "MODEL": "/my models/a 'quoted' one; $HOME/ $(x) 1$2",
        "QUESTION": 'Is this {a} or {b}? "yes"',
        "ROOT": "~/my data",
        "TASKS": "csv folder",
        "REVISION": "v1",
        "DEVICE": "cuda:0",
        "BESIDE": "y",
    }
    odd |= {"DTYPE": "auto", "DEVICE_MAP": "balanced", "QUANTIZATION": "torchao-int8", "MAX_PIXELS": "9"}
    odd |= {"ATTN_IMPLEMENTATION": "eager", "IMAGE_SIZE": "448x336"}
    odd |= {"RUN": "x", "SEED": "3", "SAMPLES": "9", "JOBS": "3"}
    given = [f"{name}={value}" for name, value in odd.items()]
    _, environment, _ = make(folder, "all", *given)
    assert {name: environment[f"VLMTRACE_{name}"] for name in odd} == odd


def test_defaults_are_those_of_the_command_line(folder):
    _, environment, _ = make(folder, "all")
    assert environment["VLMTRACE_TASKS"] == TASKS
    assert environment["VLMTRACE_MODEL"] == "tiny-blip"
    assert environment["VLMTRACE_RUN"] == "", "the command line knows which run a model has"


def test_what_fails_makes_make_fail_with_its_sentence(folder):
    (folder / "fail").touch()
    _, _, said = make(folder, "all", fails=True)
    assert "Error: a sentence." in said


def test_tests_do_not_fight_for_cores(folder):
    for target in ("test-fast", "test", "test-slow", "test-all"):
        log, environment, _ = make(folder, target)
        assert "pytest" in log[0] and environment["OMP_NUM_THREADS"] == "1"


def test_clean_removes_the_run_and_nothing_else(folder):
    for name in ("data/runs/default", "data/runs/other", "data/raw/mine", "data/raw/rendered_svo", "data/models/m"):
        (folder / name).mkdir(parents=True)
    make(folder, "clean", "RUN=other")
    left = sorted(path.relative_to(folder).as_posix() for path in folder.glob("data/*/*"))
    assert left == ["data/models/m", "data/raw/mine", "data/runs/default"]
    make(folder, "clean")
    assert not (folder / "data/runs/default").exists()


@pytest.mark.parametrize("written", ["{home}", "~/a home, with blanks"])
def test_clean_removes_the_run_where_the_data_lie(folder, tmp_path, monkeypatch, written):
    home = tmp_path / "a home, with blanks"
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = ["data/models/m", "data/raw/mine", "data/runs/other"]
    for place in (folder, home):
        for name in (*kept, "data/runs/default", "data/raw/rendered_svo"):
            (place / name).mkdir(parents=True)
    make(folder, "clean", f"VLMTRACE_HOME={written.format(home=home)}")
    left = [sorted(path.relative_to(place).as_posix() for path in place.glob("data/*/*")) for place in (home, folder)]
    assert left[0] == kept and len(left[1]) == len(kept) + 2, "the checkout's own data are others"


@pytest.mark.parametrize("name", ["..", "../..", ".", "*", "a/b", "-rf"])
def test_clean_refuses_what_is_no_run(folder, name):
    (folder / "data/runs/default").mkdir(parents=True)
    _, _, said = make(folder, "clean", f"RUN={name}", fails=True)
    assert "is not the name of a run" in said and (folder / "data/runs/default").exists()


def test_help_lists_every_target_and_every_name(folder):
    said = make(folder, "help")[2]
    for target in TARGETS:
        assert f"\n  {target} " in said, f"make help does not mention {target}"
    for name in names_of_a_run(folder):
        assert f"\n  {name} " in said, f"make help does not mention {name}"


def names_of_a_run(folder):
    """All variables that are set on make's command line, those that are empty too."""
    found = re.findall(r"^([A-Z0-9_]+) *=(?!=)", (folder / "Makefile").read_text(), re.MULTILINE)
    assert {"MODEL", "REVISION", "ANSWER_PREFIX", "CLUSTER_CONFIG"} <= set(found)
    return [name for name in found if name not in ("PYTHON3", "INSTALL")]


def test_every_name_reaches_the_command(folder):
    names = names_of_a_run(folder)
    environment = make(folder, "all", *(f"{name}=1 {name}" for name in names))[1]
    assert {name: environment.get(f"VLMTRACE_{name}") for name in names} == {name: f"1 {name}" for name in names}


@pytest.mark.parametrize(
    ("newer", "since"),
    [
        (r"&:", "grouped targets: 4.3"), (r"::=|!=", "assignments: 4.0"), (r"^\.ONESHELL", "3.82"),
        (r"\.SHELLFLAGS", "3.82"), (r"\$\(file ", "4.0"), (r"\bundefine\b|\bprivate\b", "3.82"),
        (r"^define \w+ *[:?+]?=", "3.82"), (r"\$\(let |\$\(intcmp ", "4.4"),
    ],
)  # fmt: skip
def test_the_makefile_works_with_make_3_81(newer, since):
    """MacOS ships GNU make 3.81, which misreads what later versions added instead of refusing it."""
    lines = (paths.ROOT / "Makefile").read_text().splitlines()
    rules = [line for line in lines if not line.startswith(("\t", "#"))]
    found = [line for line in rules if re.search(newer, line)]
    assert not found, f"make learned this in {since}: {found}"
