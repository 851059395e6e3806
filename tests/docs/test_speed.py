"""The speed page shows what `make bench` wrote, and the page of costs what its script printed."""

import importlib
import json
import re

import pytest

from vlmtrace.core.paths import ROOT

PAGE = (ROOT / "docs" / "speed.md").read_text()


@pytest.fixture
def measured(tmp_path, monkeypatch):
    from generators import speed

    monkeypatch.setattr(speed, "MEASURED", tmp_path)
    return tmp_path


def test_every_table_of_the_page_is_made_from_figures():
    from generators.reference import GENERATED

    asked = re.findall(r"<!-- generated: (\w+) -->", PAGE)
    assert set(asked) == {name for name in GENERATED if name.startswith("speed_")}
    assert not re.search(r"\d ?%|\d × (slower|faster)", PAGE), "a ratio that is typed in would not be measured anew"


def test_what_was_not_measured_is_said(measured):
    from generators import speed

    assert speed.part("sweeps") == speed.versions() == speed.machine() == "Not measured yet."
    assert "No such figures are claimed" in speed.accelerator()


def test_tables_hold_the_figures(measured):
    from generators import speed

    way = {"rows": 16, "seconds": 0.1, "hooked_seconds": 0.75, "times_faster": 7.5, "largest_difference": 2e-6}
    bench = {"machine": {"threads": 2, "torch": "2.13.0"}, "ways": {"tiny-blip": {"regions": way}}}
    (measured / "bench.json").write_text(json.dumps(bench))
    step = {"name": "rate", "status": "skipped", "seconds": 3.0, "sentence": "it took longer than its 3 s"}
    accelerator = {"machine": {"device": "cuda", "card": "a card"}, "steps": [step]}
    (measured / "accelerator.json").write_text(json.dumps(accelerator))
    assert re.search(r"\| tiny-blip +\| regions +\| 16 +\| 0.1 s +\| 7.5 × +\| 2e-06", speed.part("ways"))
    assert speed.part("road") == "Not measured yet."
    assert "2 threads" in speed.machine()
    found = speed.accelerator()
    assert "one a card" in found and "skipped: it took longer" in found


def test_the_script_of_costs_finds_its_table_in_the_page():
    script = importlib.import_module("measure_costs")
    page = script.PAGE.read_text()
    table = "\n".join([script.HEADER, "| --- | --- | --- | --- | --- |", "| `new` | 1 | 2 | 3 | 4 |"])
    written = script.with_table(page, table)
    assert table in written and "| `vt.evaluate` |" not in written
    before, after = page.split(script.HEADER)
    assert written.startswith(before) and written.endswith(after[after.index("\n\n") :])
    lines = script.rows({"`call`": {"tiny-blip": (0.0123, 1000)}})
    assert lines == ["| `call` | 0.012 | 1,000 | – | – |"]
