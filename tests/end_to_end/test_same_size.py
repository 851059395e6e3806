"""Photographs of two shapes go through notebooks 01 and 02 with a model that takes images at their own size."""

from pathlib import Path

import pandas as pd
import pytest
from fixtures.notebook_runs import NotebookRun, make_home
from fixtures.sized_pairs import pair_of
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def runs(shared_folders, model_store):
    """Notebook 01 with and without same_size, then 02."""
    home = shared_folders.folder("unlike sizes", make_home)
    found = {flag: NotebookRun(home, f"same-{flag}", str(model_store.path("qwen2_vl"))) for flag in (False, True)}
    shared_folders.once("notebooks on unlike sizes", lambda: execute(home, found))
    return found


def execute(home: Path, runs: dict[bool, NotebookRun]) -> None:
    folder = home / "photos"
    folder.mkdir()
    clean, other = (112, 56), (56, 112)
    pairs = [
        pair_of(folder, clean, size).assign(sample_id=name) for name, size in (("alike", clean), ("unlike", other))
    ]
    pd.concat(pairs).drop(columns=["task", "correct_first"]).to_csv(folder / "pairs.csv", index=False)
    for flag, run in runs.items():
        shared = {"task": "csv"}
        first = {**shared, "root": str(folder / "pairs.csv"), "samples": 2, "same_size": flag}
        run.execute([("01_preprocess", first), ("02_evaluate", shared)])


def test_a_pair_that_cannot_be_patched_is_set_aside_with_what_to_do(runs):
    aside = runs[False].table("set_aside", "csv")
    assert aside["row"].tolist() == ["unlike"] and "SAME_SIZE=yes" in aside["reason"].iloc[0]
    assert runs[False].table("evaluated", "csv")["sample_id"].tolist() == ["alike"]


def test_with_same_size_no_pair_is_lost(runs):
    run = runs[True]
    assert run.table("set_aside", "csv").empty
    pairs, evaluated = run.table("pairs", "csv"), run.table("evaluated", "csv")
    assert sorted(pairs["sample_id"]) == sorted(evaluated["sample_id"]) == ["alike", "unlike"]
    pairs = pairs.set_index("sample_id")
    written = run.home / pairs.loc["unlike", "corrupt_image"]
    assert written.parent == run.folder / "csv" / "images" and Image.open(written).size == (112, 56)
    assert "photos" in pairs.loc["alike", "corrupt_image"]
