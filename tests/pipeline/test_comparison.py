"""Comparison of two runs: profiles, peaks and the report's section agree with the tables."""

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_json, write_table
from vlmtrace.core.schema import TABLES
from vlmtrace.pipeline.comparison import check_comparable, compared, grounding, layer_profile, peaks
from vlmtrace.pipeline.report import write_report
from vlmtrace.pipeline.runs import open_run

LLAVA = "language_model"


def selected_from(pairs: pd.DataFrame) -> pd.DataFrame:
    """A selected table with what the contract asks for; only `split_use` and units are read."""
    kinds = {"text": "", "integer": 0, "number": 0.0, "boolean": True, "any": ""}
    missing = [column for column in TABLES["selected"].columns if not column.optional and column.name not in pairs]
    filled = pairs.assign(**{column.name: kinds[column.kind] for column in missing})
    return filled.assign(split_use=["discover", "verify"] * (len(pairs) // 2))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A run of a cross-attention model, and one of a model that reads image tokens; both of one task."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    pairs = tables.make_pairs(tmp_path, n=4)
    effects = tables.make_module_patching(pairs)
    heads, functions = tables.make_heads(n_layers=2, n_heads=6), tables.make_functions()
    heads = heads.assign(p_value=0.01, ci_low=heads["mean_effect"] - 0.1, ci_high=heads["mean_effect"] + 0.1)
    found = []
    for name, model in (("default", "tiny-blip"), ("tiny-llava", "tiny-llava")):
        run = open_run(name)
        # BLIP's answer decoder has self-attention, too, at its start token.
        decoder = effects[(effects["module"] == "self_attention") & (effects["token_role"] == "correct")]
        decoder = decoder.drop_duplicates(["sample_id", "corruption", "layer"])
        table = pd.concat([effects, decoder.assign(block="text_decoder", token_role="last", position=0)])
        if model == "tiny-llava":
            table = effects[(effects["block"] == "text_encoder") & (effects["module"] != "cross_attention")].copy()
            table["block"] = LLAVA
            table["patching_effect"] = 0.1 * table["layer"]
            table.loc[table["token_role"] == "?", "token_role"] = "image"
        write_table(table, run.path("module_patching", "rendered_states"))
        write_table(selected_from(pairs), run.path("selected", "rendered_states"))
        write_table(heads, run.path("heads"))
        write_table(functions, run.path("head_functions"))
        stage = {
            "reads": {},
            "writes": {},
            "figures": [],
            "seconds": 1.0,
            "finished": "2026-01-01T00:00",
            "parameters": {},
        }
        write_json(
            {
                "parameters": {"model": model, "seed": 0},
                "stages": {"rendered_states/04_module_patching": stage},
                "versions": {},
            },
            run.folder / "run.json",
        )
        found.append(run)
    return found


def test_profiles_sum_over_positions_and_tell_image_tokens_apart(runs):
    _, llava = runs
    profile = layer_profile(llava, ["rendered_states"])
    table = llava.table("module_patching", "rendered_states")
    assert set(profile["where"]) == {"text", "image"} and set(profile["model"]) == {"tiny-llava"}
    row = profile[(profile["where"] == "text") & (profile["layer"] == 2) & (profile["module"] == "mlp")].iloc[0]
    mine = table[(table["module"] == "mlp") & (table["layer"] == 2) & (table["corruption"] == row["corruption"])]
    one = mine[mine["sample_id"] == row["sample_id"].split("/")[1]]
    assert row["patching_effect"] == pytest.approx(one.loc[one["token_role"] != "image", "patching_effect"].sum())


def test_peaks_name_the_layer_of_the_largest_mean():
    profile = profile_of({"a": ("discover", [0.1, 0.5, 0.2]), "b": ("verify", [0.1, 0.4, 0.6])})
    profile = pd.concat([profile, profile.assign(sample_id=profile["sample_id"] + "2", unit=profile["unit"] + "2")])
    found = peaks(profile).iloc[0]
    # Layer 1 is picked on a; b measures what it does, though layer 2 is larger there.
    assert (found["layer"], found["mean"], found["n"]) == (1, 0.4, 2)
    assert found["ci_low"] == pytest.approx(0.4) and found["ci_high"] == pytest.approx(0.4)


def profile_of(pairs: dict[str, tuple[str, list[float]]]) -> pd.DataFrame:
    rows = [
        {"sample_id": pair, "unit": pair, "split_use": use, "layer": layer, "patching_effect": effect}
        for pair, (use, effects) in pairs.items()
        for layer, effect in enumerate(effects)
    ]
    return pd.DataFrame(rows).assign(model="m", corruption="image", module="mlp", where="text")


def test_the_largest_of_many_layers_is_not_measured_on_the_pairs_that_picked_it():
    # No layer has an effect: the largest of 24 means is above 0 all the same, on the pairs that picked it.
    generator = np.random.default_rng(0)
    found = [
        peaks(
            profile_of(
                {f"p{i}": (("discover", "verify")[i % 2], generator.normal(size=24).tolist()) for i in range(20)}
            )
        ).iloc[0]
        for _ in range(60)
    ]
    assert np.mean([row["mean"] for row in found]) == pytest.approx(0, abs=0.12), "the winner's effect is too large"
    assert np.mean([row["ci_low"] > 0 for row in found]) <= 0.07, "the winner's interval does not hold"


def test_peaks_count_a_unit_once():
    pairs = {
        "a": ("discover", [0.0, 1.0]),
        "b": ("verify", [0, 0.2]),
        "c": ("verify", [0, 0.6]),
        "d": ("verify", [0, 0.8]),
    }
    profile = profile_of(pairs)
    profile.loc[profile["sample_id"] == "d", "unit"] = "c"
    found = peaks(profile).iloc[0]
    assert found["mean"] == pytest.approx((0.2 + 0.7) / 2) and found["n"] == 3


def test_peaks_without_pairs_to_verify_on_are_refused():
    with pytest.raises(VlmtraceError, match="patch both"):
        peaks(profile_of({"a": ("discover", [0.0, 1.0])}))


def test_grounding_counts_important_heads_that_look_at_the_object(runs):
    blip, _ = runs
    heads, functions = blip.table("heads"), blip.table("head_functions")
    found = grounding(blip)
    key = ["block", "module", "layer", "head"]
    matter = heads[heads["is_important"] & (heads["corruption"] == "image")][key].drop_duplicates()
    named = functions[(functions["region"] == "object") & (functions["function"] == "object detection")]
    assert found["detecting"] == len(named)
    assert found["on_object"] == len(matter.merge(named[key], on=key)) <= found["important"]


def change_record(run, **changes):
    write_json(run.record() | changes, run.folder / "run.json")


def test_why_runs_cannot_be_compared_is_a_sentence(runs):
    blip, llava = runs
    assert compared(llava, "") == (None, "")
    assert compared(llava, "tiny-llava")[1].startswith("Run tiny-llava cannot be compared with itself")
    assert compared(llava, "no") == (None, "Run no has no finished stage: make it (make all), or name another run.")
    with pytest.raises(VlmtraceError, match="cannot be called"):
        compared(llava, "../x")
    (blip.folder / "head_functions.parquet").unlink()
    assert compared(llava, "default")[1] == "Run default lacks head_functions: finish it (make all RUN=default)."


def test_models_are_the_same_where_their_weights_are(runs):
    blip, llava = runs
    assert check_comparable(llava, blip) == ["rendered_states"]
    for run, folder in zip(runs, ("/one/final", "/other/final"), strict=True):
        change_record(run, parameters={"model": folder})
    assert check_comparable(llava, blip), "folders of one name may hold two models"
    change_record(blip, model_fingerprint="f")
    assert check_comparable(llava, blip)
    change_record(llava, model_fingerprint="f")
    with pytest.raises(VlmtraceError, match="are of the same model: nothing to compare"):
        check_comparable(llava, blip)
    change_record(llava, model_fingerprint="g")
    assert check_comparable(llava, blip)


@pytest.mark.medium
def test_models_that_are_called_alike_are_told_apart(runs):
    _, llava = runs
    for run, folder in zip(runs, ("/one/final", "/other/final"), strict=True):
        change_record(run, parameters={"model": folder, "seed": 0})
    section, left_out = compared(llava, "default")
    names = ["final (default)", "final (tiny-llava)"]
    assert not left_out and section["models"] == names
    assert {row["model"] for row in section["peaks"]} == set(names)
    assert [row["model"] for row in section["grounding"]] == names


@pytest.mark.medium
def test_a_report_goes_on_without_a_comparison_and_says_why(runs):
    blip, llava = runs
    table = llava.table("module_patching", "rendered_states")
    write_table(table[table["token_role"] != "correct"], blip.path("module_patching", "rendered_states"))
    page = write_report(llava, beside="default").read_text()
    assert "The comparison with run default is left out. A module_patching table with 0 blocks" in page
    assert "Comparison with" not in page and llava.record()["beside"] == "default"
    left_out = "The comparison with run default is left out"
    assert left_out in write_report(llava).read_text(), "the run is remembered"
    assert left_out not in write_report(llava, beside="").read_text()
    assert left_out not in write_report(llava).read_text(), "and forgotten"


@pytest.mark.medium
def test_the_report_has_a_section_with_the_numbers(runs):
    blip, llava = runs
    page = write_report(llava, beside="default").read_text()
    assert 'id="beside"' in page and "Comparison with tiny-blip" in page
    assert (llava.folder / "figures" / "comparison.png").is_file()
    top = peaks(pd.concat([layer_profile(run, ["rendered_states"]) for run in runs])).iloc[0]
    assert f"{top['mean']:.2f}" in page
    assert 'id="beside"' in write_report(llava).read_text(), "the run is remembered"
    assert 'id="beside"' not in write_report(blip).read_text()


def test_runs_without_a_shared_task_are_refused(runs, monkeypatch):
    from vlmtrace.pipeline import comparison as compare

    monkeypatch.setattr(compare, "patched_tasks", lambda run: [run.name])
    with pytest.raises(VlmtraceError, match="share no task"):
        compare.compare(runs[1], runs[0])
