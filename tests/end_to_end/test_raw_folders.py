"""From raw folders in the published layouts: three tasks to the model's answers, one of them to the report."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from fixtures.image_server import image_server
from fixtures.raw_data import faces_from_rendered, mit_states_from_rendered, svo_from_rendered

from vlmtrace.core import paths
from vlmtrace.pipeline.stages import STAGES
from vlmtrace.tasks import declared

TASKS = ("mit_states", "facial_expressions", "svo_probes")
SAMPLES = {"mit_states": 24, "facial_expressions": 28, "svo_probes": 24}
#: From evaluated pairs on, nothing knows where they came from: one task goes on to the end.
WHOLE = "mit_states"
#: As few as leave something to discover and something to verify: this is a test of the road, not of the findings.
SELECTED = 4


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A home whose raw data have gone the whole road, as make walks it."""
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    (home / "data" / "models").symlink_to(paths.MODELS)
    raw = home / "raw"
    mit_states_from_rendered(raw / "mit_states", n=60)
    faces_from_rendered(raw / "facial_expressions", n=84)
    with image_server(raw / "served") as server:
        svo_from_rendered(raw, server.base + "file/", n=30)
        (raw / "raw").rename(raw / "svo_probes")
        for name in STAGES:
            if name.startswith("06"):
                run(home, name, "-p", f"tasks={WHOLE}", "-p", "n_random=2")
                continue
            for task in TASKS if name < "03" else [WHOLE]:
                further = {
                    "01_preprocess": {"samples": SAMPLES[task], "root": raw},
                    "03_select_samples": {"per_category": SELECTED},
                    "04_module_patching": {"samples": 2},
                }.get(name, {})
                given = [word for pair in further.items() for word in ("-p", "{}={}".format(*pair))]
                run(home, name, "--task", task, *given)
    return home


def run(home, name, *further):
    command = [sys.executable, "-m", "vlmtrace", "run", paths.ROOT / "notebooks" / f"{name}.ipynb", "--run", "raw"]
    environment = os.environ | {"VLMTRACE_HOME": str(home), "OMP_NUM_THREADS": "1", "VLMTRACE_TEST_ALLOW_LOOPBACK": "1"}
    done = subprocess.run(
        list(map(str, [*command, *further])), capture_output=True, text=True, cwd=paths.ROOT, env=environment
    )
    assert done.returncode == 0, f"{name} failed:\n{done.stdout}{done.stderr}"


def table(home, task, name):
    return pd.read_parquet(home / "data" / "runs" / "raw" / task / f"{name}.parquet")


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_used_or_set_aside_at_every_step(walked, task):
    filters, aside = table(walked, task, "filters"), table(walked, task, "set_aside")
    assert (filters["rows_in"] == filters["rows_used"] + filters["rows_set_aside"]).all()
    assert filters["rows_set_aside"].sum() == len(aside)
    assert filters["rows_used"].iloc[-1] == len(table(walked, task, "pairs")) == SAMPLES[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_model_answers_what_it_was_trained_to_answer(walked, task):
    evaluated = table(walked, task, "evaluated")
    assert evaluated["is_correct"].mean() > 0.85 and evaluated["image_is_flipped"].mean() > 0.75


def test_the_selected_pairs_are_patched(walked):
    patched, selected = table(walked, WHOLE, "head_patching"), table(walked, WHOLE, "selected")
    assert set(patched["sample_id"]) == set(selected["sample_id"])


def test_the_run_says_where_its_data_come_from(walked):
    record = json.loads((walked / "data" / "runs" / "raw" / "run.json").read_text())
    for task in TASKS:
        assert record["stages"][f"{task}/01_preprocess"]["source"] == declared()[task].source.record()
    assert (walked / "data" / "runs" / "raw" / "report" / "index.html").is_file()
