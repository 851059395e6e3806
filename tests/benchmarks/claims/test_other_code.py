"""What other code has measured is kept, named, and measured anew only where that is asked for."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from vlmtrace.benchmarks.claims import __main__ as command
from vlmtrace.benchmarks.claims.material import Number
from vlmtrace.benchmarks.claims.registry import CLAIMS
from vlmtrace.core.files import read_json, write_json

ASKED = ("fetched", "one head")


@pytest.fixture
def code(monkeypatch, tmp_path):
    """Two claims of a model that is there at once: `today` is the digest of the code, `measured` what was measured."""
    state = SimpleNamespace(today="first", measured=[], folder=tmp_path / "bench", page=tmp_path / "page.json")

    def of(name):
        def measure(material):
            state.measured.append(name)
            return [Number("measured", len(state.measured), 0.0, 1.0, 9)]

        return SimpleNamespace(name=name, decoder_only=False, measure=measure)

    material = SimpleNamespace(model=SimpleNamespace(fingerprint=lambda: "abc", has_visual_tokens=False))
    replaced = {
        "CLAIMS": {name: of(name) for name in ASKED},
        "Material": lambda *_: material,
        "code_of": lambda claim: state.today,
        "claims_table": lambda found: "the table",
        "FOLDER": state.folder,
        "DOCS": state.page,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(command, name, value)
    state.run = lambda *options: CliRunner().invoke(command.main, ["--models", "mine", *options])
    return state


def test_what_other_code_has_measured_is_kept_and_named(code):
    assert "other code" not in code.run().output and code.measured == list(ASKED)
    assert read_json(code.folder / "mine.json")["code"] == dict.fromkeys(ASKED, "first")
    code.today = "second"
    said = code.run().output
    assert code.measured == list(ASKED), "hours of measuring that nobody asked for"
    assert "mine: measured with other code than today's" in said and "fetched; one head. Pass AGAIN=1" in said
    assert read_json(code.folder / "mine.json")["code"] == dict.fromkeys(ASKED, "first")


def test_what_other_code_has_measured_is_measured_anew_where_that_is_asked_for(code):
    code.run()
    code.today = "second"
    assert "fetched. Pass AGAIN=1" in code.run("--again", "--without", "fetched").output
    assert code.measured == [*ASKED, "one head"]
    kept = read_json(code.folder / "mine.json")
    assert kept["code"] == {"fetched": "first", "one head": "second"}
    assert [kept["claims"][name][0]["value"] for name in ASKED] == [1, 3]
    assert "other code" not in code.run("--again").output and code.measured == [*ASKED, "one head", "fetched"]
    code.run("--again")
    assert len(code.measured) == 4, "measured again with the same code"


def test_numbers_without_a_digest_are_named_on_the_page_too(code):
    about = {"name": "mine", "n": 48, "seed": 0, "fingerprint": "abc"}
    write_json({"models": [about | {"claims": {"fetched": []}}]}, code.page)
    said = code.run("--docs", "--without", "fetched").output
    assert "mine: measured with other code than today's, or it was not noted with which: fetched." in said
    (column,) = read_json(code.page)["models"]
    assert set(column["claims"]) == set(ASKED) and column["code"] == {"one head": "first"}
    code.today = "second"
    code.run("--docs", "--without", "fetched")
    assert read_json(code.page)["models"][0]["code"] == {"one head": "first"}


def test_the_code_of_a_claim_is_what_computes_its_numbers():
    from vlmtrace.benchmarks.claims.__main__ import code_of, modules_behind

    behind = modules_behind("benchmarks.claims.image_tokens", drawing=False)
    assert {"benchmarks.claims.material", "methods.knockout.attention_knockout", "models.blip"} <= behind
    assert not any(name.startswith(("app", "display", "pipeline")) for name in behind)
    digests = {name: code_of(CLAIMS[name]) for name in ("fetched", "one head", "object's tokens")}
    assert digests["fetched"] == digests["object's tokens"] != digests["one head"]
