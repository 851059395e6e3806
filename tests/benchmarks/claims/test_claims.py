"""Numbers, verdicts and the table of claims, on cases worked by hand; every claim runs on a bundled model."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from vlmtrace.benchmarks.claims import __main__ as command
from vlmtrace.benchmarks.claims.__main__ import measured
from vlmtrace.benchmarks.claims.material import Material, Number, number
from vlmtrace.benchmarks.claims.registry import CLAIMS, INTERPRET, LLAVA, NEO, NOTICE
from vlmtrace.benchmarks.claims.report import FAILS, HOLDS, OPEN, Found, claims_size, claims_table, verdict
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json, write_json
from vlmtrace.core.paths import ROOT
from vlmtrace.methods.explanation.search import NoGraph


def of(value, low=np.nan, high=np.nan, what="measured"):
    return Number(what, value, low, high, 9)


def test_a_mean_counts_each_unit_once():
    found = number("measured", [1.0, 3.0, 10.0, np.nan], ["a", "a", "b", "b"])
    assert found.value == 6.0 and found.n == 2


def test_shares_of_yes_and_no_have_an_interval_even_where_all_are_no():
    found = number("measured", [0.0] * 10, share=True)
    # Wilson's upper end for 0 of n is z² / (n + z²).
    assert found.low == pytest.approx(0, abs=1e-12) and found.high == pytest.approx(3.8415 / 13.8415, abs=1e-4)


def test_intervals_of_shares_stay_between_0_and_1():
    found = number("measured", [0.0, 0.0, 0.0, 0.9], share=True)
    assert found.low == 0 and 0.225 < found.high <= 1
    assert number("measured", [0.0, 0.0, 0.0, 0.9]).low < 0


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_no_value_is_missing(values):
    assert np.isnan(number("measured", values).value)


@pytest.mark.parametrize(
    ("mine", "control", "expected"),
    [
        ((0.5, 0.4, 0.6), (0.2, 0.1, 0.3), HOLDS),
        ((0.5, 0.25, 0.6), (0.2, 0.1, 0.3), OPEN),
        ((0.05, 0.01, 0.09), (0.2, 0.1, 0.3), FAILS),
        ((0.5, 0.4, 0.6), (0.2,), HOLDS),
        ((np.nan,), (0.2, 0.1, 0.3), OPEN),
    ],
)
@pytest.mark.parametrize("larger", [True, False])
def test_a_claim_holds_where_intervals_do_not_overlap(mine, control, expected, larger):
    claim = CLAIMS["object's tokens" if larger else "relevancy"]
    sign = 1 if larger else -1
    mine, control = ([sign * value for value in ends] for ends in (mine, control))
    mine, control = ([one[0], *sorted(one[1:])] for one in (mine, control))
    assert verdict(claim, [of(*mine), of(*control, what=claim.against)]) == expected


def test_without_its_control_a_claim_is_compared_with_0():
    claim = CLAIMS["visual and textual"]
    assert verdict(claim, [of(0.5, 0.3, 0.7)]) == HOLDS and verdict(claim, [of(0.1, -0.1, 0.3)]) == OPEN


def test_all_four_systems_and_the_tokens_are_there():
    assert {claim.paper for claim in CLAIMS.values()} == {LLAVA, NEO, NOTICE, INTERPRET}
    for claim in CLAIMS.values():
        assert (ROOT / "notebooks" / f"{claim.notebook}.ipynb").is_file(), claim


@pytest.fixture
def written(tmp_path):
    rows = [vars(of(0.25, 0.13, 0.5)), vars(of(0.0625, what="as many others"))]
    rows = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    content = [
        {"name": "tiny-blip", "n": 8, "seed": 3, "fingerprint": "abc", "claims": {"object's tokens": rows}},
        {"name": "mine", "n": 9, "seed": 0, "claims": {}},
    ]
    write_json({"models": content}, tmp_path / "claims.json")
    return tmp_path / "claims.json"


def test_the_table_says_what_the_file_holds(written):
    found = Found(written)
    (line,) = (line for line in claims_table(found).splitlines() if "object's own tokens" in line)
    assert "**holds**<br>25 % [13, 50]<br>as many others: 6 % | not measured |" in line, line
    assert claims_size(found).splitlines()[2:] == [
        "| tiny-blip | 8 | 9 | – | 3 | `abc` |",
        "| mine | 9 | – | – | 0 | – |",
    ]


def test_what_was_not_measured_is_not_what_cannot_be_asked(tmp_path):
    """A BLIP has no decoder-only claims, and of a decoder's claims some may be left out."""
    rows = [{**vars(of(0.5)), "low": None, "high": None}]
    content = [
        {"name": "encoder", "n": 8, "seed": 0, "claims": {"fetched": rows}},
        {"name": "decoder", "n": 8, "seed": 0, "claims": {"few heads": rows}},
    ]
    write_json({"models": content}, tmp_path / "claims.json")
    lines = claims_table(Found(tmp_path / "claims.json")).splitlines()
    cells = {
        claim.name: next(line for line in lines if claim.text in line).split(" | ")[1:3] for claim in CLAIMS.values()
    }
    assert cells["deep heads"] == ["–", "not measured"] and cells["one head"] == ["not measured", "not measured"]
    assert cells["fetched"][1] == "not measured" and "50 %" in cells["fetched"][0] and "50 %" in cells["few heads"][1]


def test_every_row_names_the_notebook_and_what_measures_it_there(written):
    rows = [line for line in claims_table(Found(written)).splitlines() if line.startswith("| **")]
    for claim, row in zip(CLAIMS.values(), rows, strict=True):
        source = (ROOT / "notebooks" / f"{claim.notebook}.ipynb").read_text()
        assert re.search(rf"\b{claim.call}\b", source), f"{claim.notebook} does not use {claim.call}"
        last = row.split(" | ")[-1]
        assert f"<notebooks/{claim.notebook}>" in last and claim.call in last, row


@pytest.mark.parametrize("content", ["[]", '{"models": 3}', '{"models": [{"name": "a", "n": 1}]}'])
def test_another_file_is_a_sentence(tmp_path, content):
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(VlmtraceError, match="is not what make claims writes: run it again"):
        Found(tmp_path / "claims.json")


@pytest.mark.medium
@pytest.mark.parametrize("name", ["tiny-blip", "tiny-llava"])
def test_every_claim_has_its_control_and_is_not_measured_twice(tmp_path, name, monkeypatch):
    found = measured(name, 12, 0, tmp_path)
    asked = {claim.name for claim in CLAIMS.values() if name == "tiny-llava" or not claim.decoder_only}
    assert set(found["claims"]) == asked
    for claim, rows in found["claims"].items():
        names = [row["what"] for row in rows]
        assert names[0] == "measured" and (CLAIMS[claim].against in names or claim == "visual and textual"), names
        for row in rows:
            ends = [row[key] for key in ("low", "value", "high") if row[key] is not None]
            assert ends == sorted(ends), f"{claim}: {row}"
    assert read_json(tmp_path / f"{name}.json") == found
    monkeypatch.setattr(Material, "pairs", lambda self, task: pytest.fail("asked again"))
    monkeypatch.setattr(Material, "answered", property(lambda self: pytest.fail("asked again")))
    assert measured(name, 12, 0, tmp_path) == found


@pytest.mark.medium
def test_what_was_measured_otherwise_is_not_taken(tmp_path, monkeypatch):
    write_json(
        {"name": "tiny-blip", "n": 12, "seed": 1, "fingerprint": "another", "claims": {"fetched": []}},
        tmp_path / "tiny-blip.json",
    )
    monkeypatch.setattr("vlmtrace.benchmarks.claims.__main__.CLAIMS", {"fetched": CLAIMS["fetched"]})
    assert measured("tiny-blip", 12, 1, tmp_path)["claims"]["fetched"] != []


def column(name, n=8, seed=0, fingerprint="abc", **claims):
    about, code = {"name": name, "n": n, "seed": seed, "fingerprint": fingerprint}, dict.fromkeys(claims, "today's")
    return about | {"claims": claims, "code": code}


@pytest.fixture
def page(tmp_path):
    tiny = [column("tiny-blip", fetched=["a"]), column("tiny-llava", fetched=["b"])]
    write_json({"models": [tiny[1], column("gone", n=12), tiny[0]]}, tmp_path / "page.json")
    return tmp_path / "page.json"


@pytest.fixture
def known(monkeypatch):
    """Two models that can be loaded, with weights of one fingerprint; nothing was measured with other code."""
    monkeypatch.setattr(command, "code_of", lambda claim: "today's")
    monkeypatch.setattr(command, "bundled_models", lambda: ["tiny-blip", "tiny-llava"])
    monkeypatch.setattr(command, "load_model", lambda name: SimpleNamespace(fingerprint=lambda: "abc"))


def test_a_column_measured_apart_takes_its_place_beside_the_others(page, known):
    mine = column("mine", n=16, fetched=["c"])
    found = command.renewed([mine], page)
    assert [(one["name"], one["n"]) for one in found] == [
        ("tiny-blip", 8),
        ("tiny-llava", 8),
        ("gone", 12),
        ("mine", 16),
    ]
    assert found[-1] == mine and found[0]["claims"] == {"fetched": ["a"]}
    write_json({"models": found}, page)
    more = column("mine", n=16, **{"one head": ["e"]})
    assert command.renewed([more], page)[-1] == column("mine", n=16, **{"one head": ["e"], "fetched": ["c"]})
    again = column("tiny-llava", n=96, fetched=["d"])
    write_json({"models": found}, page)
    found = command.renewed([again], page)
    assert [one["name"] for one in found] == ["tiny-blip", "tiny-llava", "gone", "mine"] and found[1] == again


def test_without_a_page_there_is_one_afterwards(tmp_path):
    assert command.renewed([column("mine")], tmp_path / "none.json") == [column("mine")]


@pytest.mark.parametrize(
    ("stays", "why"),
    [
        (column("tiny-blip", seed=1), "with seed 1, not 0"),
        (column("tiny-blip", former=["a"]), "on claims that are no longer asked"),
        (column("tiny-blip", fingerprint="other"), "on other weights than it has now"),
    ],
)
def test_a_column_that_fits_no_more_does_not_stay(tmp_path, known, stays, why):
    write_json({"models": [stays]}, tmp_path / "page.json")
    with pytest.raises(VlmtraceError, match=f"tiny-blip was measured {why}: measure it again"):
        command.refuse_outdated(["mine"], 0, tmp_path / "page.json")
    command.refuse_outdated(["tiny-blip"], 0, tmp_path / "page.json")
    assert command.renewed([column("tiny-blip")], tmp_path / "page.json") == [column("tiny-blip")]


@pytest.fixture
def run(page, known, monkeypatch, tmp_path):
    """The command, on claims that are measured at once."""

    def measured_at_once(name, n, seed, folder, without, again):
        return column(name, n, seed, **{claim: [] for claim in ("one head", "fetched") if claim not in without})

    monkeypatch.setattr(command, "measured", measured_at_once)
    monkeypatch.setattr(command, "claims_table", lambda found: "the table")
    for name, value in {"FOLDER": tmp_path / "bench", "DOCS": page}.items():
        monkeypatch.setattr(command, name, value)
    return lambda *options, **env: CliRunner().invoke(command.main, options, env=env)


def test_only_where_it_is_asked_for_the_page_is_renewed(run, page, tmp_path):
    before = page.read_text()
    # make hands on what is not set as an empty value.
    found = run(VLMTRACE_MODELS="mine", VLMTRACE_PAIRS="", VLMTRACE_DOCS="", VLMTRACE_WITHOUT="")
    assert found.output == "the table\n" and page.read_text() == before
    assert [one["n"] for one in read_json(tmp_path / "bench" / "claims.json")["models"]] == [48]
    assert run("--models=mine", "--pairs=16", "--docs", "--without=one head").exit_code == 0
    assert read_json(page)["models"][-1] == column("mine", 16, fetched=[])


def test_a_page_that_could_not_be_renewed_is_refused_before_anything_is_measured(run, page, monkeypatch):
    write_json({"models": [column("tiny-blip", seed=1)]}, page)
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("hours of measuring would be lost"))
    found = run("--models", "mine", "--docs")
    assert found.exit_code == 1 and "measured with seed 1, not 0" in found.output


def test_a_claim_that_is_unknown_cannot_be_left_out(run):
    found = run("--without", "one head; two heads")
    assert found.exit_code == 1 and "two heads" in found.output and "Traceback" not in found.output


TINY = ("tiny-blip", "tiny-llava")


@pytest.fixture(scope="module")
def shown():
    """What the page shows: by (claim, model) the numbers by name, and the verdicts."""
    found = Found(ROOT / "docs" / "measured" / "claims.json")
    assert found.models == [*TINY, "smol-llava"] and not re.search(r"\bnan\b", claims_table(found))
    of = {key: {one.what: one for one in rows} for key, rows in found.numbers.items()}
    return of, {key: verdict(CLAIMS[key[0]], rows) for key, rows in found.numbers.items()}


def percent(one):
    value, low, high = (f"{100 * end:.0f}".replace("-0", "0") for end in (one.value, one.low, one.high))
    return f"{value} % [{low}, {high}]"


def sentences():
    text = (ROOT / "docs" / "claims.md").read_text().split("## What this says")[1]
    return " ".join(text.split())


def test_the_page_quotes_the_numbers_of_its_table(shown):
    of, _ = shown
    for claim, model, what in (
        ("few heads", "tiny-llava", "measured"),
        ("few heads", "smol-llava", "measured"),
        ("deep heads", "smol-llava", "measured"),
        ("deep heads", "smol-llava", "norm computed anew"),
        ("colors in tokens", "tiny-llava", "measured"),
        ("colors in tokens", "tiny-llava", "shuffled image"),
        ("names in tokens", "smol-llava", "measured"),
        ("object's tokens", "smol-llava", "measured"),
        ("fetched", "tiny-llava", "from the options"),
        ("fetched", "smol-llava", "from the options"),
    ):
        quoted = percent(of[claim, model][what]).replace("-", "−")
        assert quoted in sentences(), (claim, model, quoted)


def test_the_page_says_what_was_measured_of_heads_that_write(shown):
    of, said = shown
    for model in ("tiny-llava", "smol-llava"):
        assert said["few heads", model] == HOLDS and said["shared heads", model] == OPEN
        assert said["visual and textual", model] == HOLDS
        deep = of["deep heads", model]
        assert deep["norm computed anew"].high < deep["share of the layers"].value
        rank, most = (of["visual and textual", model][what] for what in ("measured", "as reliable as can be"))
        quoted = f"{rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}] where {most.value:.2f} is expected"
        assert quoted.replace("0.", ".") in sentences() and (rank.high < most.value) == (model == "smol-llava")
    assert said["deep heads", "tiny-llava"] == FAILS and said["deep heads", "smol-llava"] == HOLDS
    assert (few := of["few heads", "smol-llava"]["measured"]).n == 8 and few.note.startswith("14 of 270 heads")


def test_the_page_says_what_was_measured_of_words_in_tokens(shown):
    of, said = shown
    for model in ("tiny-llava", "smol-llava"):
        assert said["names in tokens", model] == OPEN == said["colors in tokens", model]
    colors = of["colors in tokens", "tiny-llava"]
    assert colors["measured"].low < colors["tokens elsewhere"].high
    assert of["colors in tokens", "smol-llava"]["measured"].value == 0
    for claim in ("colors in tokens", "names in tokens"):
        blank = of[claim, "smol-llava"]["blank image"]
        assert blank.value == 0 and f"{100 * blank.high:.0f} %" in sentences() and blank.n == 8
        assert of[claim, "smol-llava"]["another image"].value == of[claim, "smol-llava"]["shuffled image"].value == 0
    assert colors["shuffled image"].high > colors["measured"].low


def test_the_page_says_what_was_measured_of_an_objects_tokens(shown):
    of, _ = shown
    for model in (*TINY, "smol-llava"):
        alone, beside = of["object's tokens", model], of["tokens beside it", model]
        assert alone["measured"].value == (0 if model in TINY else pytest.approx(1 / 12, abs=1e-4))
        assert alone["as many others"].value == 0 == beside["as many others"].value
        assert 0.63 < beside["measured"].value < 0.68


def test_the_page_says_what_was_measured_of_knocked_out_attention(shown):
    of, said = shown
    for model, cost in (("tiny-blip", "2"), ("tiny-llava", "2"), ("smol-llava", "1")):
        mine = of["fetched", model]["measured"]
        assert said["fetched", model] == OPEN and f"{-100 * mine.value:.0f}" == cost and mine.low < 0 < mine.high
    tiny, smol = of["fetched", "tiny-llava"], of["fetched", "smol-llava"]
    assert tiny["from the options"].high < tiny["from the background"].low
    assert tiny["from the options"].note.endswith("1 layer around 0")
    assert smol["from the options"].high < 0 and smol["from the options"].high > smol["from the background"].low
    assert smol["from the options"].note.endswith("6 layers around 22")
    for found, quoted in ((tiny, "−32 % [−42, −21]"), (smol, "−50 % [−76, −24]")):
        words = found["from all other words"]
        numbers = (f"−{-100 * number:.0f}" for number in (words.value, words.low, words.high))
        assert "{} % [{}, {}]".format(*numbers) == quoted and quoted in sentences()
        assert words.high < found["from the background"].low, "not surely more than from the background"
    asked = [found["from the question's words"] for found in (tiny, smol)]
    assert asked[0].high < tiny["from the background"].low and asked[1].high > 0
    for one in asked:
        numbers = (f"{100 * number:.0f}".replace("-", "−") for number in (one.value, one.low, one.high))
        assert "{} % [{}, {}]".format(*numbers) in sentences()


def test_the_page_says_what_was_measured_of_modules_and_heads(shown):
    of, said = shown
    for model in (*TINY, "smol-llava"):
        assert said["attention before mlp", model] == HOLDS
    quoted = [
        f"{100 * of['attention before mlp', model][what].value:.0f} %"
        for model in (*TINY, "smol-llava")
        for what in ("measured", "mlp")
    ]
    assert (
        "{} against {} (tiny-blip), {} against {} (tiny-llava) and {} against {} (smol-llava".format(*quoted)
        in sentences()
    )
    assert of["attention before mlp", "smol-llava"]["measured"].note == "self attention 29 at last"
    assert said["one head", "smol-llava"] == HOLDS
    assert of["one head", "smol-llava"]["measured"].note == "self attention 29.0"
    assert "the first: 29.0" in of["few heads", "smol-llava"]["measured"].note
    for claim in ("universal heads", "causal graphs"):
        assert (claim, "smol-llava") not in of
    for one in of["one head", "smol-llava"]["measured"], of["one head", "smol-llava"]["number 2"]:
        assert percent(one).replace("-", "−") in sentences()
    for model in TINY:
        assert said["one head", model] == OPEN and said["universal heads", model] == OPEN
        universal = of["universal heads", model]
        assert universal["measured"].value == 0 == universal["by chance"].value
        assert f"{100 * of['one head', model]['measured'].value:.0f} % ({model})" in sentences()


def test_the_page_says_what_was_measured_of_relevancy_and_causal_graphs(shown):
    of, said = shown
    for model in TINY:
        assert said["relevancy", model] == HOLDS and said["causal graphs", model] == OPEN
    assert said["relevancy", "smol-llava"] == HOLDS
    for one in of["relevancy", "smol-llava"].values():
        assert percent(one) in sentences(), "the page says another number than was measured"


@pytest.mark.medium
def test_answers_without_any_graph_are_counted(monkeypatch):
    from vlmtrace.benchmarks.claims import explained

    def refused(*_given, **_options):
        raise error

    monkeypatch.setattr(explained, "explain", refused)
    error = NoGraph("No head of layer 3 has a graph.")
    measured, random, blind = explained.causal_graphs(Material("tiny-blip", 12))
    assert measured.value == 0 and measured.n > 0
    assert (random.n, blind.n) == (measured.n, measured.n), "controls are of other answers than what they refute"
    assert random.value == blind.value == 0 and "at least" in blind.note
    error = VlmtraceError("The image cannot be read.")
    with pytest.raises(VlmtraceError, match="cannot be read"):
        explained.causal_graphs(Material("tiny-blip", 12))
