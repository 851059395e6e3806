"""From raw folders to the report: three tasks in the published layouts, and what a telephone leaves."""

import pytest
from fixtures.image_server import image_server
from fixtures.notebook_runs import NotebookRun, make_home, pipeline_stages, python_in
from fixtures.raw_data import faces_from_rendered, mit_states_from_rendered, phone_folder, svo_from_rendered

from vlmtrace.tasks import declared

SAMPLES = {"mit_states": 24, "facial_expressions": 28, "svo_probes": 24}
TASKS = tuple(SAMPLES)
#: From evaluated pairs on, nothing knows where they came from: one task goes on to the end.
WHOLE = "mit_states"
#: As few as leave something to discover and something to verify: what is tested is the way, not the findings.
SELECTED = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def raw_run(shared_folders):
    """A run of the notebooks on raw folders: all tasks to 02, one of them to 06."""
    home = shared_folders.folder("raw folders", make_home)
    run = NotebookRun(home, "raw", "tiny-blip")
    shared_folders.once("notebooks on raw folders", lambda: execute_on_raw_folders(run))
    return run


def execute_on_raw_folders(run):
    raw = run.home / "raw"
    mit_states_from_rendered(raw / "mit_states", n=60)
    faces_from_rendered(raw / "facial_expressions", n=84)
    with image_server(raw / "served") as server:
        svo_from_rendered(raw, server.base + "file/", n=30)
        (raw / "raw").rename(raw / "svo_probes")
        stages = [
            stage
            for task in TASKS
            for stage in pipeline_stages(
                task,
                preprocess={"samples": SAMPLES[task], "root": raw},
                select_samples={"per_category": SELECTED},
                module_patching={"samples": 2},
            )
            if task == WHOLE or stage[0] < "03"
        ]
        run.execute(sorted(stages, key=lambda stage: stage[0]), VLMTRACE_TEST_ALLOW_LOOPBACK="1")


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_used_or_set_aside_at_every_step(raw_run, task):
    filters, aside = raw_run.table("filters", task), raw_run.table("set_aside", task)
    assert (filters["rows_in"] == filters["rows_used"] + filters["rows_set_aside"]).all()
    assert filters["rows_set_aside"].sum() == len(aside)
    assert filters["rows_used"].iloc[-1] == len(raw_run.table("pairs", task)) == SAMPLES[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_model_answers_what_it_was_trained_to_answer(raw_run, task):
    evaluated = raw_run.table("evaluated", task)
    assert evaluated["is_correct"].mean() > 0.85 and evaluated["image_is_flipped"].mean() > 0.75


def test_the_selected_pairs_are_patched(raw_run):
    patched, selected = raw_run.table("head_patching", WHOLE), raw_run.table("selected", WHOLE)
    assert set(patched["sample_id"]) == set(selected["sample_id"])


def test_the_run_says_where_its_data_come_from(raw_run):
    stages = raw_run.record()["stages"]
    for task in TASKS:
        assert stages[f"{task}/01_preprocess"]["source"] == declared()[task].source.record()
    assert (raw_run.folder / "report" / "index.html").is_file()


@pytest.fixture(scope="session")
def phone_run(shared_folders):
    """The command of the README on a telephone's folder, in a home that holds nothing but the bundled models."""
    home = shared_folders.folder("telephone", make_home)

    def execute():
        root = home / "meine Fotos für vlmtrace"
        phone_folder(root, n=300)
        asked = ("all", "--tasks=folder", f"--root={root}", "--question=Is this circle {a} or {b}?", "--samples=12")
        done = python_in(home, "-m", "vlmtrace", *asked, "--run=phone")
        assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"

    shared_folders.once("the pipeline on a telephone's folder", execute)
    return NotebookRun(home, "phone", "tiny-blip")


def test_a_telephones_folder_goes_to_a_report_with_every_file_accounted_for(phone_run):
    (root,) = phone_run.home.glob("meine Fotos*")
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    filters, aside = phone_run.table("filters", "folder"), phone_run.table("set_aside", "folder")
    assert filters["rows_in"].iloc[0] == len(files)
    assert (filters["rows_in"] == filters["rows_used"] + filters["rows_set_aside"]).all()
    pairs = phone_run.table("pairs", "folder")
    assert len(files) == len(pairs) + len(aside)
    assert {"it is a video", "it is no image: its name ends in .aae"} <= set(aside["reason"])
    evaluated = phone_run.table("evaluated", "folder")
    colors = evaluated[~evaluated["clean_prompt"].str.contains("Katze")]
    assert colors["is_correct"].mean() > 0.9, "photographs reach the model on their sides"
    assert len(phone_run.table("head_patching", "folder"))
    assert (phone_run.folder / "report" / "index.html").is_file()
