"""The page on statistics shows what its script prints, and only methods that hold their level better."""

import importlib.util

import pytest

from vlmtrace.core.paths import ROOT

PAGE = ROOT / "docs" / "statistics.md"


def rows_of_page(first: str) -> dict[tuple[str, str], dict[str, float]]:
    """By source of the effects and n, the numbers of the table whose header begins so."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[start:]]
    table = cells[: next((i for i, line in enumerate(lines[start:]) if not line.startswith("|")), len(cells))]
    return {(row[0], row[1]): dict(zip(table[0][2:], map(float, row[2:]), strict=True)) for row in table[2:]}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("simulate_statistics", ROOT / "docs" / "simulate_statistics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.medium
def test_the_page_shows_what_the_script_prints(script, monkeypatch):
    monkeypatch.setattr(script, "N_UNITS", (6, 20))
    monkeypatch.setattr(script, "N_SAMPLES", 3000)
    monkeypatch.setattr(script, "N_BOOT", 1000)
    found = script.held_levels({"normal": script.normal, "skewed": script.skewed})
    for table, first in zip(found, ("| effects | n | percentile", "| effects | n | sign flips"), strict=True):
        page = rows_of_page(first)
        for row in table.to_dict("records"):
            shown = page[row["effects"], str(row["n"])]
            for name, value in shown.items():
                mine = row[name.replace(", .05", ", 0.05").replace(", .005", ", 0.005")]
                assert value == pytest.approx(mine, abs=0.025), (
                    f"{PAGE.name}: {name} of {row['effects']}, n = {row['n']}"
                )


def test_the_page_claims_what_its_tables_show():
    for (effects, n), row in rows_of_page("| effects | n | percentile").items():
        assert row["bootstrap-t"] >= 0.93 and row["bootstrap-t"] > max(row["percentile"], row["BCa"]), (effects, n)
    for (effects, n), row in rows_of_page("| effects | n | sign flips").items():
        assert row["bootstrap-t, .05"] <= 0.07, (effects, n)
        if effects != "normal" and int(n) >= 10:
            assert row["bootstrap-t, .05"] < row["sign flips, .05"], (effects, n)
