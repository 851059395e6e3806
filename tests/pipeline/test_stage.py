"""Stages: tables whole or not at all, what does not belong together is refused, parts that resume."""

import json

import matplotlib
import pandas as pd
import pytest
from fixtures.contract import complete
from fixtures.walked_stages import Counter, fake_model, go, pairs, road

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline import stage as stage_module
from vlmtrace.pipeline.runs import open_run

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


# What belongs together


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"seed": 1}, "made with seed 0 .t/01_preprocess., not 1: choose another run, or run t/01_preprocess again"),
        ({"seed": 0, "model": fake_model("f2")}, "made with model weights f1 .t/02_evaluate., not f2"),
        ({"seed": 0, "model": fake_model(name="big")}, "made with model tiny .t/02_evaluate., not big"),
    ],
)
def test_a_table_made_with_other_parameters_is_refused(parameters, sentence):
    road()
    with pytest.raises(VlmtraceError, match=sentence):
        open_run("r").stage("03_select_samples", "t", **parameters).read("evaluated")


def test_a_table_made_with_the_same_parameters_is_taken():
    road()
    stage = open_run("r").stage("03_select_samples", "t", model=fake_model(), seed=0)
    assert len(stage.read("evaluated")) == 5


def test_a_table_of_a_model_that_was_loaded_otherwise_is_refused():
    single, half = fake_model(), fake_model()
    single.loading, half.loading = "float32", "bfloat16, max_pixels=900"
    go("02_evaluate", model=single, writes={"evaluated": pairs()})
    assert len(open_run("r").stage("04_module_patching", "t", model=single).read("evaluated")) == 5
    with pytest.raises(VlmtraceError, match=r"made with a model in float32 .*, not bfloat16, max_pixels=900: choose"):
        open_run("r").stage("04_module_patching", "t", model=half).read("evaluated")


def test_parameters_that_only_one_stage_has_do_not_matter():
    road()
    assert len(open_run("r").stage("03_select_samples", "t", per_category=8).read("evaluated")) == 5


def test_a_table_made_from_an_older_table_is_refused():
    road()
    go("01_preprocess", writes={"pairs": pairs(7)}, seed=0)
    with pytest.raises(VlmtraceError, match="t/pairs has changed since t/02_evaluate read it"):
        open_run("r").stage("03_select_samples", "t", seed=0).read("evaluated")


def test_the_same_table_made_again_keeps_what_was_made_from_it():
    road()
    go("01_preprocess", writes={"pairs": pairs()}, seed=0)
    assert len(open_run("r").stage("03_select_samples", "t", seed=0).read("evaluated")) == 5


def test_another_task_with_other_parameters_does_not_matter():
    road()
    go("01_preprocess", task="u", writes={"pairs": pairs()}, seed=9)
    assert len(open_run("r").stage("03_select_samples", "t", seed=0).read("evaluated")) == 5


def test_a_table_of_ones_own_is_taken(runs_folder):
    (runs_folder / "r" / "t").mkdir(parents=True)
    pairs().to_parquet(runs_folder / "r" / "t" / "pairs.parquet")
    assert len(open_run("r").stage("02_evaluate", "t", seed=3).read("pairs")) == 5


def test_a_table_of_ones_own_that_lacks_columns_is_a_sentence(runs_folder):
    (runs_folder / "r" / "t").mkdir(parents=True)
    pairs().drop(columns="clean_prompt").to_parquet(runs_folder / "r" / "t" / "pairs.parquet")
    with pytest.raises(VlmtraceError, match=r"pairs table \(.*t/pairs\.parquet\) has no column 'clean_prompt'"):
        open_run("r").stage("02_evaluate", "t", seed=3).read("pairs")


def test_a_table_that_breaks_the_contract_is_not_written(runs_folder):
    stage = open_run("r").stage("01_preprocess", "t", seed=0)
    filters = complete("filters", pd.DataFrame({"step": ["one"]}))
    with pytest.raises(VlmtraceError, match="'correct_first' of the pairs table must hold true or false, not 'no'"):
        stage.finish(filters=filters, pairs=pairs().assign(correct_first="no"))
    assert not list(runs_folder.rglob("*.parquet")) and not (runs_folder / "r" / "run.json").is_file()


def test_a_table_that_cannot_be_written_leaves_the_old_ones(runs_folder):
    road()
    before = json.loads((runs_folder / "r" / "run.json").read_text())
    stage = open_run("r").stage("01_preprocess", "t", seed=1)
    mixed = pd.DataFrame({"column": [1, "a", object()]})
    with pytest.raises(Exception, match=r".+"):
        stage.finish(pairs=pairs(9), other=mixed)
    assert len(open_run("r").table("pairs", "t")) == 5
    assert json.loads((runs_folder / "r" / "run.json").read_text()) == before
    assert sorted(p.name for p in (runs_folder / "r" / "t").iterdir()) == ["evaluated.parquet", "pairs.parquet"]


def test_a_figure_is_saved_once_as_png_and_pdf_and_recorded(runs_folder):
    pytest.importorskip("vlmtrace.plots")
    from matplotlib import pyplot as plt

    stage = open_run("r").stage("01_preprocess", "t")
    for _ in range(2):
        figure = plt.figure(figsize=(1, 1))
        assert stage.figure(figure, "pairs", "Some pairs.") is figure
        assert plt.get_fignums() == []
    stage.finish()
    figures = sorted(p.name for p in (runs_folder / "r" / "figures").iterdir())
    assert figures == ["t-pairs.pdf", "t-pairs.png"]
    recorded = open_run("r").record()["stages"]["t/01_preprocess"]["figures"]
    assert recorded == [{"name": "t-pairs", "caption": "Some pairs."}]


# Parts that resume


def test_a_sweep_in_parts_equals_the_sweep_at_once():
    counter = Counter()
    stage = open_run("r").stage("04_module_patching", "t")
    found = stage.resume(counter.patch, fake_model(), pairs(), chunk=2, factor=3)
    assert list(found["effect"]) == [0, 3, 6, 9, 12]
    assert counter.rows == ["s0", "s1", "s2", "s3", "s4"]


def test_an_interrupted_sweep_continues_where_it_stopped(runs_folder):
    first, second = Counter(fail_at="s4"), Counter()
    with pytest.raises(KeyboardInterrupt):
        open_run("r").stage("04_module_patching", "t").resume(first.patch, fake_model(), pairs(), chunk=2)
    stage = open_run("r").stage("04_module_patching", "t")
    found = stage.resume(second.patch, fake_model(), pairs(), chunk=2)
    assert first.rows == ["s0", "s1", "s2", "s3"]
    assert second.rows == ["s4"], "finished parts were computed again"
    assert list(found["effect"]) == [0, 1, 2, 3, 4]
    stage.finish(effects=found)
    assert not list((runs_folder / "r").rglob(".parts/*/*")), "parts stay behind after the table is written"


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"factor": 2}},
        {"model": fake_model("f2")},
        {"rows": pairs().assign(value=7)},
        {"rows": pairs().iloc[::-1]},
    ],
    ids=["options", "model weights", "rows", "order"],
)
def test_parts_of_another_computation_are_not_taken(change):
    first, second = Counter(), Counter()
    stage = open_run("r").stage("04_module_patching", "t")
    stage.resume(first.patch, fake_model(), pairs(), chunk=5)
    rows = change.get("rows", pairs())
    stage.resume(second.patch, change.get("model", fake_model()), rows, chunk=5, **change.get("options", {}))
    assert second.rows == list(rows["sample_id"])


def test_parts_of_another_version_of_the_package_are_not_taken(monkeypatch):
    first, second = Counter(), Counter()
    stage = open_run("r").stage("04_module_patching", "t")
    stage.resume(first.patch, fake_model(), pairs())
    monkeypatch.setattr(stage_module, "package_digest", lambda: "edited")
    stage.resume(second.patch, fake_model(), pairs())
    assert len(second.rows) == 5


def test_an_image_replaced_under_its_name_makes_its_part_again(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    rows = pairs().assign(clean_image=str(image))
    first, second = Counter(), Counter()
    stage = open_run("r").stage("04_module_patching", "t")
    stage.resume(first.patch, fake_model(), rows)
    image.write_bytes(b"other")
    stage.resume(second.patch, fake_model(), rows)
    assert len(second.rows) == 5


def test_no_pairs_is_a_sentence():
    with pytest.raises(VlmtraceError, match="no pairs left to work on"):
        open_run("r").stage("04_module_patching", "t").resume(Counter().patch, fake_model(), pairs(0))


# Tables on disk


def doubled(model, rows, factor=2):
    CALLS.append(list(rows["sample_id"]))
    return pd.DataFrame({"sample_id": rows["sample_id"], "effect": rows["value"] * factor})


CALLS: list[list[str]] = []


def test_resume_stored_gives_the_rows_of_resume_and_computes_nothing_twice():
    CALLS.clear()
    stage = open_run("r").stage("04_module_patching", "t")
    found = stage.resume_stored(doubled, fake_model(), pairs(7), chunk=3)
    assert [len(call) for call in CALLS] == [3, 3, 1]
    pd.testing.assert_frame_equal(found.read(), stage.resume(doubled, fake_model(), pairs(7), chunk=3))
    assert len(CALLS) == 3, "parts of one are the other's"
    stage.resume_stored(doubled, fake_model(), pairs(7), chunk=3)
    assert len(CALLS) == 3
    with pytest.raises(VlmtraceError, match="no pairs left to work on"):
        stage.resume_stored(doubled, fake_model(), pairs(0))


def test_a_table_on_disk_outlives_its_parts():
    """Another process that finishes the same stage deletes the parts of both."""
    first, second = (open_run("r").stage("04_module_patching", "t") for _ in range(2))
    found = first.resume_stored(doubled, fake_model(), pairs(5), chunk=2)
    second.finish(own=second.resume(doubled, fake_model(), pairs(5), chunk=2))
    first.finish(own=found)
    assert open_run("r").table("own", "t")["effect"].tolist() == [0, 2, 4, 6, 8]


def test_scan_refuses_what_read_refuses():
    selected = complete("selected", pairs())
    go("03_select_samples", seed=0, writes={"selected": selected})
    stage = open_run("r").stage("04_module_patching", "t", seed=0)
    found = stage.scan("selected")
    pd.testing.assert_frame_equal(found.read(), stage.read("selected"))
    assert stage.reads["t/selected"] == found.digest
    with pytest.raises(VlmtraceError, match="was made with seed 0"):
        open_run("r").stage("04_module_patching", "t", seed=1).scan("selected")
    with pytest.raises(VlmtraceError, match="There is no table"):
        stage.scan("evaluated")
    selected.drop(columns="clean_prompt").to_parquet(open_run("r").path("selected", "t"))
    with pytest.raises(VlmtraceError, match="no column 'clean_prompt'"):
        stage.scan("selected")
