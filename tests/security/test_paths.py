"""Names that become paths, and links in folders: nothing outside is written, replaced or deleted."""

import os
import shutil
import subprocess

import pandas as pd
import pytest
from click.testing import CliRunner
from fixtures.image_server import picture
from matplotlib.figure import Figure

from vlmtrace.app import server
from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_atomically
from vlmtrace.display.view import View
from vlmtrace.pipeline import open_run, write_report
from vlmtrace.pipeline.notebooks import run_notebook
from vlmtrace.tasks import load_pairs, load_questions
from vlmtrace.tasks.building.image_files import image_files
from vlmtrace.tasks.download.images import download_images

#: Names that lead out of a folder, by any reading of them.
OUTWARD = [
    "../outside", "..", ".", "/outside", "a/../../outside", "..\\outside", "a/b", "\0", "a\0b", "~", "~/outside",
    "%2e%2e/outside", "C:\\outside", "-rf", ".hidden", "a\nb", "../outside/../../outside",
]  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A place for runs with something outside it; afterwards, what is outside is as it was."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    (home / "runs").mkdir(parents=True)
    monkeypatch.setattr(paths, "RUNS", home / "runs")
    monkeypatch.chdir(home)
    yield home / "runs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "outside"]
    assert [path.name for path in outside.iterdir()] == ["precious.txt"]
    assert (outside / "precious.txt").read_text() == "precious"
    assert [path.name for path in home.iterdir()] == ["runs"]


@pytest.mark.parametrize("name", OUTWARD, ids=repr)
def test_a_runs_name_is_no_path(runs, name):
    with pytest.raises(VlmtraceError, match="A run cannot be called"):
        open_run(name)
    assert not list(runs.iterdir())


@pytest.mark.parametrize("name", OUTWARD, ids=repr)
def test_a_runs_name_in_beside_is_no_path(runs, name):
    run = open_run("here")
    run.stage("02_evaluate", "t", seed=0).finish()
    with pytest.raises(VlmtraceError, match="cannot be called"):
        write_report(run, beside=name)


@pytest.mark.parametrize("name", OUTWARD, ids=repr)
def test_a_tasks_name_is_no_path(name):
    for load in (load_pairs, load_questions):
        with pytest.raises(VlmtraceError, match=r"[Uu]nknown|no task|no data set"):
            load(name, 1)


@pytest.mark.parametrize("name", [name for name in OUTWARD if set(name) & set("/\\")], ids=repr)
def test_names_of_tasks_tables_and_figures_stay_in_the_run(runs, name):
    pytest.importorskip("vlmtrace.pipeline.records")  # which checks them
    run = open_run("here")
    table = pd.DataFrame({"sample_id": ["a"]})
    for act in (
        lambda: run.path("selected", name),
        lambda: run.path(name),
        lambda: run.executed_notebook("01_preprocess", name),
        lambda: run.stage("02_evaluate", name).finish(pairs=table),
        lambda: run.stage("02_evaluate", "t").figure(Figure(), name),
        lambda: run.stage("02_evaluate", "t").read(name),
    ):
        with pytest.raises(VlmtraceError):
            act()


@pytest.mark.parametrize("name", [name for name in OUTWARD if "/" in name], ids=repr)
def test_a_notebooks_task_is_looked_at_before_anything_is_written(runs, name):
    pytest.importorskip("vlmtrace.pipeline.records")
    notebook = paths.ROOT / "notebooks" / "01_preprocess.ipynb"
    with pytest.raises(VlmtraceError):
        run_notebook(notebook, {"run": "here", "task": name})


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "/x", "a\0b", "..\\x", ".x", "x" * 200, "a\nb", "~/x", ""])
def test_a_downloaded_images_name_is_no_path(tmp_path, name):
    with pytest.raises(VlmtraceError, match="cannot be kept"):
        download_images({name: "http://example.org/a.png"}, tmp_path / "images")
    assert not list(tmp_path.iterdir())


def test_an_exported_file_has_no_path_in_its_name():
    class Named(View):
        name = "view"
        table = pd.DataFrame({"a": [1]})

        def __init__(self, sample_id):
            self.session = type("S", (), {"example": type("E", (), {"name": sample_id})})

    for sample_id in ("../../x", "/etc/passwd", "..\\x", "a\nb", "a\0b", "C:x", '"><img>', "x" * 500):
        name, content = Named(sample_id).export("csv")
        assert name.startswith("view-") and name.endswith(".csv") and content == b"a\n1\n"
        assert not set(name) & set('/\\\n\0:"<>') and len(name) < 150, name


# Links --------------------------------------------------------------------------------------------------------------


def test_a_linked_file_is_replaced_and_not_written_through(runs, tmp_path):
    link = runs / "table.csv"
    link.symlink_to(tmp_path / "outside" / "precious.txt")
    with write_atomically(link) as temporary:
        temporary.write_text("new")
    assert not link.is_symlink() and link.read_text() == "new"


def test_linked_parts_of_a_run_are_not_emptied(runs, tmp_path):
    run = open_run("here")
    (run.folder / ".parts").mkdir(parents=True)
    (run.folder / ".parts" / "t-02_evaluate").symlink_to(tmp_path / "outside")
    run.stage("02_evaluate", "t", seed=0).finish()


def test_a_link_in_a_folder_of_images_is_read_once_and_never_deleted(tmp_path):
    """A linked folder of photographs is what people have; a link that leads in a circle ends."""
    outside = tmp_path / "photographs"
    outside.mkdir()
    (outside / "a.png").write_bytes(picture())
    (outside / "notes.txt").write_text("no image")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "linked").symlink_to(outside)
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere.png").symlink_to(tmp_path / "missing.png")
    (folder / "passwords.png").symlink_to("/etc/passwd")
    found = image_files(folder)
    assert [path.name for path in found] == ["a.png", "passwords.png"]
    assert sorted(path.name for path in outside.iterdir()) == ["a.png", "notes.txt"]


def make_clean(folder, run):
    shutil.copy(paths.ROOT / "Makefile", folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "VLMTRACE_"))}
    return subprocess.run(["make", "clean", f"RUN={run}"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("link", ["data/runs/mine", "data/raw/rendered_states", "docs/_build", "src/__pycache__"])
def test_make_clean_removes_a_link_and_not_what_it_leads_to(tmp_path, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    checkout = tmp_path / "checkout"
    (checkout / link).parent.mkdir(parents=True)
    (checkout / link).symlink_to(outside)
    done = make_clean(checkout, "mine")
    assert done.returncode == 0, done.stderr
    assert (outside / "precious.txt").read_text() == "precious"


#: What RUN may be given as, to delete or to do something else.
RUNS = ["../..", "..", ".", "/", "", " ", "a b", "x/../../..", "*", "$(touch owned)", "`touch owned`", "x; touch owned",
        "-rf", "x\ntouch owned", "~"]  # fmt: skip


@pytest.mark.parametrize("run", RUNS, ids=repr)
def test_make_clean_deletes_no_other_folder(tmp_path, run):
    for name in ("data/runs/keep", "data/models/keep", "keep"):
        (tmp_path / name).mkdir(parents=True)
    done = make_clean(tmp_path, run)
    assert done.returncode != 0 or not run.strip(), "an empty name means the run default"
    for name in ("data/runs/keep", "data/models/keep", "keep"):
        assert (tmp_path / name).is_dir()
    assert not list(tmp_path.rglob("owned"))


def test_the_apps_notebook_stays_in_its_run(runs, monkeypatch):
    monkeypatch.setattr("vlmtrace.app.voila_server.serve", lambda *_: pytest.fail("the app was started"))
    for name in OUTWARD:
        if "\0" in name:
            continue  # no command line can hold it
        done = CliRunner().invoke(server.main, [f"--run={name}", "--model=tiny-blip", "--port=18999"])
        assert done.exit_code != 0 and "cannot be called" in done.output, f"{name!r}: {done.output}"
