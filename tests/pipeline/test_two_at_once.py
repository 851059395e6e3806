"""Two processes on one run, and faults between two: right, or one sentence, with the tables of one of them whole."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import pandas as pd
import pytest
from fixtures.contract import complete

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked
from vlmtrace.models import VLM
from vlmtrace.pipeline import model_files, notebooks
from vlmtrace.pipeline.checkpoints import Checkpoints, file_digest
from vlmtrace.pipeline.model_files import content_digest, model_digest
from vlmtrace.pipeline.runs import open_run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "data/runs")
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "MODELS", tmp_path / "data/models")
    return tmp_path


def pairs(n=3, **columns):
    return complete("pairs", pd.DataFrame({"sample_id": [f"s{i}" for i in range(n)], **columns}))


def model_called(name, **attributes):
    model = Mock(spec=VLM, revision=None, fingerprint=lambda: "f", dtype="float32", **attributes)
    model.name = name  # of a Mock, `name` says what it is called itself
    return model


def model_with(**blocks):
    counts = {name: SimpleNamespace(n_layers=layers, n_heads=heads) for name, (layers, heads) in blocks.items()}
    return model_called("tiny", blocks=counts)


# Two at once


def test_two_that_finish_one_stage_leave_tables_and_record_of_one(home):
    """Each writes two tables; whoever is last, both are its own and as the record says."""
    errors = []

    def finish(number):
        try:
            for _ in range(5):
                both = {"pairs": pairs(number), "mine": pd.DataFrame({"of": [number]})}
                open_run("r").stage("01_preprocess", "t", seed=number).finish(**both)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=finish, args=(number,)) for number in (2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    run = open_run("r")
    entry = run.record()["stages"]["t/01_preprocess"]
    number = entry["parameters"]["seed"]
    assert len(run.table("pairs", "t")) == number and run.table("mine", "t")["of"].tolist() == [number]
    assert entry["writes"] == {f"t/{name}": file_digest(run.path(name, "t")) for name in ("pairs", "mine")}
    assert not list(run.folder.rglob("*.part*"))


@pytest.mark.medium
def test_two_processes_that_finish_stages_lose_no_entry(home):
    script = (
        "import sys, pandas as pd\n"
        "from vlmtrace.pipeline.runs import open_run\n"
        "for i in range(10):\n"
        "    open_run('r').stage('01_preprocess', f't{sys.argv[1]}{i}').finish(mine=pd.DataFrame({'a': [i]}))\n"
    )
    environment = {
        **os.environ,
        "VLMTRACE_HOME": str(home),
        "PYTHONPATH": str(paths.Path(notebooks.__file__).parents[2]),
    }
    commands = [[sys.executable, "-c", script, letter] for letter in "ab"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(open_run("r").record()["stages"]) == 20


def test_a_stage_that_another_process_runs_is_one_sentence(home, tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    first = new_code_cell('run = "r"\ntask = "csv"', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[first]), tmp_path / "01_x.ipynb")
    run = open_run("r")
    with (
        locked(run.folder / ".locks" / "csv-01_x.lock"),
        pytest.raises(VlmtraceError, match=r"^\[01_x csv\] Another process runs this stage of 'r': wait until"),
    ):
        notebooks.execute(tmp_path / "01_x.ipynb", {"task": "csv"}, object)
    assert list((run.folder / "notebooks").iterdir()) == []


def test_parts_whose_folder_another_process_deletes_do_not_matter(home, monkeypatch):
    parts = Checkpoints(home / "parts", "key")
    rows = pairs()
    import shutil

    from vlmtrace.pipeline import checkpoints

    def write(table, path, **_options):
        shutil.rmtree(home / "parts")
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(checkpoints.pq, "write_table", write)
    pd.testing.assert_frame_equal(parts.put(rows, rows), rows)
    assert parts.get(rows) is None


def test_a_full_disk_stops_a_sweep_with_a_sentence_and_keeps_its_parts(home, monkeypatch):
    from vlmtrace.pipeline import checkpoints

    stage, model = open_run("r").stage("04_module_patching", "t"), model_with()
    done = []

    def patch(_, rows):
        done.extend(rows["sample_id"])
        return rows[["sample_id"]]

    original = checkpoints.pq.write_table

    def write(table, path, **options):
        if len(done) == 3:
            raise OSError(28, "No space left on device")
        original(table, path, **options)

    monkeypatch.setattr(checkpoints.pq, "write_table", write)
    with pytest.raises(VlmtraceError, match="cannot be written, because no space is left"):
        stage.resume(patch, model, pairs(), chunk=1)
    monkeypatch.undo()
    monkeypatch.setattr(paths, "RUNS", home / "data/runs")
    done.clear()
    assert len(stage.resume(patch, model, pairs(), chunk=1)) == 3 and done == ["s2"], "finished parts were lost"


# Between two stages


def test_a_table_that_was_edited_is_said_in_a_line(home, capsys):
    run = open_run("r")
    run.stage("01_preprocess", "t", seed=0).finish(pairs=pairs())
    run.stage("02_evaluate", "t", seed=0).read("pairs")
    assert "was changed" not in capsys.readouterr().out
    pairs(2).to_parquet(run.path("pairs", "t"))
    assert len(run.stage("02_evaluate", "t", seed=0).read("pairs")) == 2
    said = capsys.readouterr().out.splitlines()
    assert said == ["t/pairs was changed after t/01_preprocess wrote it, by hand or by another program."]


def test_a_deleted_table_in_between_does_not_matter_to_who_does_not_read_it(home):
    run = open_run("r")
    run.stage("01_preprocess", "t", seed=0).finish(pairs=pairs())
    stage = run.stage("02_evaluate", "t", seed=0)
    stage.read("pairs")
    stage.finish(evaluated=complete("evaluated", pairs()))
    run.path("pairs", "t").unlink()
    assert len(run.stage("03_select_samples", "t", seed=0).read("evaluated")) == 3
    with pytest.raises(VlmtraceError, match=r"There is no table .*pairs\.parquet: run the notebook that writes it"):
        run.stage("02_evaluate", "t", seed=0).read("pairs")


def test_a_record_of_what_make_made_is_not_that_of_who_came_after(home):
    """Run by hand with other parameters, a stage is no longer what make remembers."""
    run = open_run("r")
    stage = run.stage("01_preprocess", "t", seed=0)
    stage.finish(pairs=pairs())
    run.remember("t/01_preprocess", {"seed": 0})
    run.remember("t/02_evaluate", {"seed": 0})
    run.stage("01_preprocess", "t", seed=1).finish(pairs=pairs(2))
    assert run.record()["made_from"] == {"t/02_evaluate": {"seed": 0}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layer": [0, 2]}, "text_encoder of .* has 2 layers, counted from 0, and the table names layer 2"),
        ({"head": [0, 4]}, "text_encoder of .* has 4 heads, counted from 0, and the table names head 4"),
        ({"block": "language_model"}, "tiny has no block 'language_model'"),
    ],
)
def test_effects_of_another_model_are_refused(home, change, sentence):
    run, model = open_run("r"), model_with(text_encoder=(2, 4))
    table = pd.DataFrame({"sample_id": ["a", "b"], "block": "text_encoder", "layer": [0, 1], "head": [0, 3]})
    whole = complete("head_patching", table)
    run.path("head_patching", "t").parent.mkdir(parents=True)
    whole.to_parquet(run.path("head_patching", "t"))
    stage = run.stage("06_circuit_analysis", model=model)
    assert len(stage.read("head_patching", "t")) == 2
    whole.assign(**change).to_parquet(run.path("head_patching", "t"))
    with pytest.raises(VlmtraceError, match=rf"head_patching\.parquet is of another model: {sentence}"):
        stage.read("head_patching", "t")


# Models and masks under their old names


def test_a_model_is_known_by_the_content_of_its_files(home, monkeypatch):
    monkeypatch.setattr(model_files, "REMEMBERED", 4)  # these weights count as large
    folder = home / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights one")
    before, status = model_digest(str(folder)), weights.stat()
    assert model_digest(str(folder)) == before

    weights.write_bytes(b"weights two")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights.stat().st_size == status.st_size and weights.stat().st_mtime_ns == status.st_mtime_ns
    assert model_digest(str(folder)) != before, "weights of the same size and date were not noticed"

    weights.write_bytes(b"weights one")
    os.utime(weights, (2**33, 2**33))
    assert model_digest(str(folder)) == before, "a date in the future made the same weights others"
    for name in ("chat_template.jinja", "tokenizer.model", "preprocessor_config.json"):
        known = model_digest(str(folder))
        (folder / name).write_text("x")
        assert model_digest(str(folder)) != known, f"{name} was not noticed"


def test_large_weights_are_read_once(home, monkeypatch):
    monkeypatch.setattr(model_files, "REMEMBERED", 4)
    (home / "w").write_bytes(b"weights")
    read = []
    monkeypatch.setattr(model_files, "content_of", lambda path: read.append(path) or "digest")
    assert content_digest(home / "w") == content_digest(home / "w") == "digest" and len(read) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"x": 3}', "{"])
def test_a_damaged_memory_of_digests_does_not_matter(home, monkeypatch, content):
    monkeypatch.setattr(model_files, "REMEMBERED", 4)
    (home / "w").write_bytes(b"weights")
    digest = content_digest(home / "w")
    memory = home / "data/cache/model_digests.json"
    assert list(json.loads(memory.read_text())) == [str(home / "w")]
    memory.write_text(content)
    assert content_digest(home / "w") == digest


def test_parts_are_of_the_whole_model_and_of_masks(home):
    folder, mask = home / "mine", home / "mask.png"
    folder.mkdir()
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0}')
    mask.write_bytes(b"one")
    model = model_called(str(folder))
    rows, asked = pairs(clean_object_mask=str(mask)), []
    stage = open_run("r").stage("04_module_patching", "t")

    def patch(_, part):
        asked.append(len(part))
        return part[["sample_id"]]

    for change in (
        lambda: None,
        lambda: mask.write_bytes(b"two!"),
        lambda: (folder / "preprocessor_config.json").write_text('{"image_mean": 1}'),
        lambda: setattr(model, "dtype", "float16"),
    ):
        change()
        asked.clear()
        stage.resume(patch, model, rows)
        assert asked == [3], "a part of another computation was taken"
        stage.resume(patch, model, rows)
        assert asked == [3], "a part of the same computation was not found"
