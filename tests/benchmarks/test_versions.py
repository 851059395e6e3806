"""Two versions are timed in processes of their own, each on its own package."""

import shutil

import pytest

from vlmtrace.benchmarks import tables, version_child, versions
from vlmtrace.benchmarks.version_child import ROWS, make_inputs
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import ROOT

ROW = "tiny-blip, sets of heads"


@pytest.fixture(scope="module")
def other_checkout(tmp_path_factory):
    """This package in another folder, without head sets, and with an effect that is 1 too large."""
    folder = tmp_path_factory.mktemp("other") / "checkout"
    shutil.copytree(ROOT / "vlmtrace", folder / "vlmtrace", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(ROOT / "data" / "models")
    sweeps = folder / "vlmtrace" / "methods" / "patching" / "sweeps.py"
    text = sweeps.read_text()
    ends = ", head_plan(model, modules), positions, memory_gb, contrast, direction)"
    assert text.count(ends) == 1, "the end of patch_heads"
    text = text.replace(ends, ends + ".assign(logit_diff=lambda table: table['logit_diff'] + 1)")
    sweeps.write_text(text.replace("def patch_head_sets(", "def patch_sets_of_heads("))
    return folder


@pytest.mark.slow
def test_versions_take_turns_and_their_numbers_are_compared(other_checkout, tmp_path):
    rows = ["tiny-blip, heads at all positions", ROW]
    make_inputs(rows, tmp_path)
    found = versions.compare(other_checkout, rows, tmp_path, turns=1)
    heads = found[rows[0]]
    assert heads["patches"] > 200 and heads["times_faster"] > 0
    assert heads["largest_difference"] == pytest.approx(1, abs=1e-4), "each side runs its own package"
    assert 0 < heads["before_share"] < 1 and heads["before_published"] > 1
    assert "patch_head_sets" in found[ROW]["left_out"], "what one version lacks is said"
    table = tables.versions_table(found)
    assert "left out: checkout" in table and rows[0] in table


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(VlmtraceError, match="There is no package vlmtrace"):
        versions.compare(tmp_path, [ROW], tmp_path)


def test_a_process_that_ends_is_a_sentence(tmp_path, monkeypatch):
    broken = tmp_path / "vlmtrace"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit(3)")
    with pytest.raises(VlmtraceError, match="has ended"):
        versions.compare(tmp_path, [ROW], tmp_path)


def test_rows_are_known():
    for row in (row for rows in ROWS.values() for row in rows):
        model, _, work = row.partition(", ")
        assert model in ("tiny-blip", "tiny-llava", *version_child.MADE), row
        assert work in ("whole road", *version_child.HEADS, *version_child.WAYS), row
