"""Every notebook, executed once on a handful of pairs: its tables, its pictures, and the report.

The runs are those of fixtures/notebook_runs.py: all notebooks on one bundled model, and 01 to 06 on the other one, too.
"""

import re

import numpy as np
import pytest
from fixtures.contract import assert_keeps_contract
from fixtures.notebook_runs import NOTEBOOKS, SAMPLES, TASK, python_in
from fixtures.readable import unreadable_in

from vlmtrace.app.tabs import declared_views
from vlmtrace.core.schema import TABLES, written_by
from vlmtrace.pipeline.notebooks import WIDGET

PIPELINE = ("01_preprocess", "02_evaluate", "03_select_samples", "04_module_patching", "05_head_patching",
            "06_circuit_analysis")  # fmt: skip

#: Notebook -> the fixture of the run in which it is executed.
EXECUTED_IN = {
    **dict.fromkeys(
        (
            "00_five_minutes",
            *PIPELINE,
            "07_causal_tracing",
            "09_explorer",
            "10_edge_circuits",
            "11_language_prior",
            "12_case_study_verbs",
            "13_real_checkpoint",
            "14_when_methods_disagree",
            "15_planted_prior",
        ),
        "tiny_blip_run",
    ),
    "08_visual_lens": "lens_run",
}

#: Notebooks that leave it to the reader what to try: by a click, or with sentences of his own.
WITHOUT_EXERCISES = ("00_five_minutes", "09_explorer", "15_planted_prior")

pytestmark = pytest.mark.medium


@pytest.fixture(params=["tiny_blip_run", "tiny_llava_run"])
def run(request):
    """A run of notebooks 01 to 06."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def run_of(request):
    """The run in which a notebook was executed, by the notebook's name."""
    return lambda notebook: request.getfixturevalue(EXECUTED_IN[notebook])


# Every notebook -----------------------------------------------------------------------------------------------------


def test_every_notebook_is_executed_here():
    assert set(EXECUTED_IN) == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("notebook", EXECUTED_IN)
def test_a_notebook_is_executed_to_its_end(run_of, notebook):
    cells = run_of(notebook).executed()[notebook].cells
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("notebook", [name for name in EXECUTED_IN if name not in WITHOUT_EXERCISES])
def test_every_solution_of_an_exercise_runs_and_shows_something(run_of, notebook):
    cells = run_of(notebook).executed()[notebook].cells
    of_solutions = [cell for cell in cells if cell.get("id", "").startswith("solution-")]
    assert len(of_solutions) >= 2, f"{notebook} has fewer than two exercises with a solution"
    for cell in of_solutions:
        assert cell.outputs, f"{cell.id} of {notebook} shows nothing:\n{cell.source}"


def outputs(notebook):
    """What the cells of an executed notebook show, by MIME type."""
    return [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("notebook", EXECUTED_IN)
def test_no_number_in_a_notebook_has_an_exponent_or_a_signed_zero(run_of, notebook):
    assert unreadable_in(run_of(notebook).executed()[notebook]) == {}


@pytest.mark.parametrize("notebook", [name for name in EXECUTED_IN if name != "09_explorer"])
def test_a_notebook_shows_a_picture(run_of, notebook):
    shown = outputs(run_of(notebook).executed()[notebook])
    assert any("image/png" in data for data in shown), f"{notebook} shows no picture"


def test_the_explorer_is_shown_with_a_tab_for_every_view(tiny_blip_run):
    shown = outputs(tiny_blip_run.executed()["09_explorer"])
    (explorer,) = [data["text/plain"] for data in shown if WIDGET in data]
    assert "Explorer of" in explorer and len(explorer) < 1000
    for view in declared_views():
        assert repr(view.title) in explorer, f"the explorer has no tab {view.title!r}"


@pytest.mark.parametrize("notebook", EXECUTED_IN)
def test_an_executed_notebook_holds_no_progress_bars(run_of, notebook):
    for cell in run_of(notebook).executed()[notebook].cells:
        for output in cell.get("outputs", []):
            assert "%|" not in output.get("data", {}).get("text/plain", ""), f"a progress bar stays in {cell.id}"


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.notebook])
def test_a_table_keeps_the_contract(run_of, table):
    assert_keeps_contract(table, run_of(TABLES[table].notebook).table(table))


@pytest.mark.parametrize("fixture", ["tiny_blip_run", "lens_run"])
def test_every_picture_is_left_as_a_file_with_a_caption(request, fixture):
    run = request.getfixturevalue(fixture)
    figures = {path.stem for path in (run.folder / "figures").glob("*.png")}
    assert figures == {path.stem for path in (run.folder / "figures").glob("*.pdf")}
    for stage, entry in run.record()["stages"].items():
        names = {figure["name"] for figure in entry["figures"]}
        assert names, f"{stage} has no picture"
        assert names <= figures, f"{stage} names pictures that are not there"
        assert all(figure["caption"] for figure in entry["figures"]), f"{stage} has a picture without a caption"


@pytest.mark.parametrize("fixture", ["tiny_blip_run", "lens_run"])
def test_the_report_is_whole_and_no_checkpoint_is_left(request, fixture):
    run = request.getfixturevalue(fixture)
    assert not list(run.folder.glob(".parts/*"))
    page = (run.folder / "report" / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"#:]+)"', page)
    assert links
    for link in links:
        assert (run.folder / "report" / link).exists(), f"the report links to {link}, which is not there"


# Notebooks 01 to 06 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [table for notebook in PIPELINE for table in written_by(notebook)])
def test_a_table_of_the_pipeline_keeps_the_contract(run, table):
    assert_keeps_contract(table, run.table(table))


def test_as_many_pairs_come_in_as_were_asked_for(run):
    assert len(run.table("pairs")) == len(run.table("evaluated")) == SAMPLES
    selected = set(run.table("selected")["sample_id"])
    assert selected and selected <= set(run.table("evaluated")["sample_id"])
    for name in ("module_patching", "head_patching"):
        assert set(run.table(name)["sample_id"]) == selected, f"{name} has other pairs than were selected"


def test_effects_are_finite_and_differ_from_0(run):
    for name in ("module_patching", "head_patching"):
        effects = run.table(name)
        for corruption in ("image", "text"):
            values = effects.loc[effects["corruption"] == corruption, "patching_effect"]
            assert np.isfinite(values).all() and values.abs().max() > 0.1, f"{name}, {corruption}"


def test_the_last_residual_of_the_answering_block_restores_the_clean_answer(run):
    effects = run.table("module_patching").query("block in ('text_decoder', 'language_model') and module == 'residual'")
    highest = effects[effects["layer"] == effects["layer"].max()]
    is_read = highest["position"] == highest.groupby("sample_id")["position"].transform("max")
    assert is_read.any() and np.allclose(highest.loc[is_read, "patching_effect"], 1, atol=1e-3)
    assert np.allclose(highest.loc[~is_read, "patching_effect"], 0, atol=1e-3), "nothing reads these positions"


def test_text_corruption_leaves_the_vision_encoder_alone(run):
    effects = run.table("module_patching").query("block == 'vision_encoder' and corruption == 'text'")
    assert len(effects) and (effects["patching_effect"] == 0).all()


def test_heads_are_found_on_the_pairs_kept_for_it(run):
    selected, heads = run.table("selected"), run.table("heads")
    assert set(heads["n"]) == {(selected["split_use"] == "discover").sum()}
    curves = run.table("faithfulness")
    assert set(curves["sample_id"]) == set(selected.loc[selected["split_use"] == "verify", "sample_id"])


def test_another_seed_in_the_same_run_is_refused(tiny_blip_run):
    record = tiny_blip_run.folder / "run.json"
    before = record.read_bytes()
    notebook = NOTEBOOKS / "02_evaluate.ipynb"
    command = ["-m", "vlmtrace", "run", notebook, "--run", tiny_blip_run.name, "--task", TASK, "-p", "seed=1"]
    done = python_in(tiny_blip_run.home, *command)
    assert done.returncode == 1
    assert f"Run '{tiny_blip_run.name}' was made with seed 0" in done.stderr and "choose another run" in done.stderr
    assert "Traceback" not in done.stderr and record.read_bytes() == before


def test_the_report_compares_two_models(tiny_llava_run):
    page = (tiny_llava_run.folder / "report" / "index.html").read_text()
    assert 'id="beside"' in page and "Comparison with tiny-blip" in page
    assert (tiny_llava_run.folder / "figures" / "comparison.png").is_file()


# Where image tokens are too many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", PIPELINE)
def test_a_notebook_goes_on_where_image_tokens_are_patched_by_region(text_positions_run, notebook):
    executed = text_positions_run.executed()[notebook]
    counts = [cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    assert unreadable_in(executed) == {}


def test_patches_at_the_text_leave_out_image_tokens_and_say_so(text_positions_run):
    at_image = {"module_patching": "Image tokens are patched by region", "head_patching": "heads are patched by region"}
    for name, said in at_image.items():
        notebook = {"module_patching": "04_module_patching", "head_patching": "05_head_patching"}[name]
        table = text_positions_run.table(name)
        assert "image" not in set(table["token_role"]) and {"last", "correct"} <= set(table["token_role"])
        assert set(table["block"]) == {"language_model"}
        texts = [output.get("text", "") for cell in text_positions_run.executed()[notebook].cells
                 for output in cell.get("outputs", [])]  # fmt: skip
        shown = "".join(texts)
        assert "every position of the text, as asked." in shown and said in shown
        assert re.search(r"sites with the largest estimates: mean size of the effect \d\.\d+ exactly", shown)
    assert set(text_positions_run.table("regions")["module"]) == {"residual"}
    captions = [figure["caption"] for stage in text_positions_run.record()["stages"].values()
                for figure in stage["figures"]]  # fmt: skip
    assert any("summed over the positions of the text" in caption for caption in captions)
