"""The report agrees with the tables of its run."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from fixtures.contract import complete
from matplotlib.figure import Figure

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits.faithfulness import circuit_claims
from vlmtrace.pipeline.report import number, percent, write_report
from vlmtrace.pipeline.runs import open_run

CELLS = [("t", "image"), ("t", "text")]


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def make_heads(important=(True, True, False)):
    """Three heads in two cells: the first helps, the second works against the answer, the third does nothing."""
    head = {"block": "text_encoder", "module": "cross_attention", "layer": 1, "head": range(3), "n": 8}
    effect = np.array([0.5, -0.2, 0.0])
    numbers = {"mean_effect": effect, "ci_low": effect - 0.1, "ci_high": effect + 0.1, "is_important": important}
    numbers |= {"p_value": 0.01}
    cells = [pd.DataFrame({"task": t, "corruption": c, **head, **numbers, "is_important_2sd": False}) for t, c in CELLS]
    return pd.concat(cells, ignore_index=True)


def make_curves(ranked_clean=0.8, ranked_corrupt=0.1, n=8):
    """Eight pairs; one head clean or corrupt brings the given effects, a random head 0.2 and 0.7."""
    rows = []
    for task, corruption in CELLS:
        for direction, ranked, random in (("sufficiency", ranked_clean, 0.2), ("necessity", ranked_corrupt, 0.7)):
            for pair in range(n):
                common = {"task": task, "corruption": corruption, "direction": direction, "sample_id": f"p{pair}"}
                jitter = 0.01 * (pair - (n - 1) / 2)
                for k in (0, 1):
                    rows.append({**common, "order": "ranked", "draw": 0, "k": k, "patching_effect": ranked + jitter})
                    for draw, shift in enumerate((-0.1, 0.1)):
                        effect = random + shift + jitter
                        rows.append({**common, "order": "random", "draw": draw, "k": k, "patching_effect": effect})
    return pd.DataFrame(rows)


# The claim


def test_a_circuit_that_beats_random_heads_is_said_to_hold():
    claims = circuit_claims(make_heads(), make_curves())
    assert list(claims["k"]) == [1, 1], "heads that work against the answer are no part of the circuit"
    assert list(claims["n"]) == [8, 8] and claims["holds"].all()
    row = claims.iloc[0]
    means = row[["clean", "clean_random", "corrupt", "corrupt_random"]].astype(float)
    np.testing.assert_allclose(means, [0.8, 0.2, 0.1, 0.7], atol=1e-12)
    assert row["clean_low"] < 0.8 < row["clean_high"] and row["clean_high"] - row["clean_low"] < 0.05


@pytest.mark.parametrize(
    ("ranked_clean", "ranked_corrupt"),
    [(0.2, 0.1), (0.1, 0.1), (0.8, 0.7), (0.8, 0.9)],
    ids=["as random when clean", "worse when clean", "as random when corrupt", "worse when corrupt"],
)
def test_a_circuit_that_fails_on_either_side_does_not_hold(ranked_clean, ranked_corrupt):
    assert not circuit_claims(make_heads(), make_curves(ranked_clean, ranked_corrupt))["holds"].any()


def test_no_important_head_is_no_circuit():
    claims = circuit_claims(make_heads(important=False), make_curves())
    assert list(claims["k"]) == [0, 0] and not claims["holds"].any()


def test_a_size_that_was_not_run_is_a_sentence():
    with pytest.raises(VlmtraceError, match="no circuit of 1 heads for t/image"):
        circuit_claims(make_heads(), make_curves().query("k != 1"))


# The page


def finished_run(heads=None, curves=None, figures=True, prompt="Is this <b>circle</b> red or blue?"):
    """A run with the tables that the report reads, few rows each."""
    run = open_run("r")
    evaluated = pd.DataFrame(
        {
            "sample_id": ["a", "b", "c", "d"],
            "category": ["color", "color", "shape", "shape"],
            "correct_first": [True, False, True, False],
            "clean_prompt": prompt,
            "corrupt_prompt": "Is this circle green or pink?",
            "correct_answer": "red",
            "incorrect_answer": "blue",
            "is_correct": [True, True, True, False],
            "image_is_flipped": [True, False, True, True],
            "text_is_changed": True,
        }
    )
    stage = run.stage("02_evaluate", "t", seed=4)
    if figures:
        stage.figure(Figure(figsize=(1, 1)), "accuracy", 'A caption with "quotes" & more.')
    evaluated = complete("evaluated", evaluated)
    stage.finish(evaluated=evaluated)
    selected = evaluated[evaluated["is_correct"]].assign(split_use=["discover", "discover", "verify"])
    run.stage("03_select_samples", "t", seed=4).finish(selected=selected)
    universal = pd.DataFrame(
        {"block": "text_encoder", "module": "cross_attention", "layer": [1, 1], "head": [0, 1], "n_cells": [2, 2]}
    ).assign(cells="t/image, t/text", is_universal=[True, False], mean_effect=[0.5, -0.2], sign=["+", "-"])
    heads = complete("heads", make_heads() if heads is None else heads)
    universal = complete("universal_heads", universal)
    tables = {"heads": heads, "universal_heads": universal, "faithfulness": make_curves() if curves is None else curves}
    run.stage("06_circuit_analysis", tasks=["t"], seed=4).finish(**tables)
    return run


def text_of(page):
    """The page without its marks, blanks folded."""
    body = page.split("<main>")[1]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", body.replace("</t", " </t"))))


def test_numbers_of_the_tables_stand_on_the_page():
    text = text_of(write_report(finished_run()).read_text())
    assert "answers 50 % (worst category) to 100 % (best category) of the clean questions correctly, in 1 task." in text
    assert "t color 2 100 % 50 % 100 % 50 %" in text and "t shape 2 50 % 100 % 100 % 50 %" in text
    assert "t 4 3 2 1" in text, "evaluated, selected, discover, verify"
    assert "Of 3 attention heads, 2 are important" in text
    assert "1 is important in all of these cases: cross-attention 1.0" in text
    assert "Under image corruption, 2 heads are important in every task: cross-attention 1.0 (0.50)" in text
    assert "t image 8 2 1 0 cross-attention 1.0 0.50 [0.40, 0.60]" in text
    assert "t image 1 8 0.80" in text and "0.20" in text and "yes" in text


@pytest.mark.parametrize(
    ("curves", "sentence"),
    [
        (
            make_curves(),
            "in every task and under every corruption, the important heads restore the answer better than random heads",
        ),
        (
            make_curves(ranked_clean=0.1),
            "the claim holds in 0 of 2 combinations of task and corruption. It fails for t (image), t (text).",
        ),
    ],
    ids=["holds", "fails"],
)
def test_the_verdict_follows_from_the_numbers(curves, sentence):
    assert sentence in text_of(write_report(finished_run(curves=curves)).read_text())


def test_what_tables_contain_is_shown_and_never_obeyed():
    page = write_report(finished_run(prompt="Is <script>alert(1)</script> red or blue?")).read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_every_link_leads_somewhere():
    run = finished_run()
    path = write_report(run)
    links = re.findall(r'(?:src|href)="([^"#]+)"', path.read_text())
    assert {"../figures/t-accuracy.png", "../figures/t-accuracy.pdf", "../heads.parquet", "../run.json"} <= set(links)
    for link in links:
        assert (path.parent / link).exists(), f"{link} is not there"


def test_a_run_half_way_is_reported_as_far_as_it_went():
    run = open_run("r")
    run.stage("01_preprocess", "t", seed=0).finish(pairs=complete("pairs", pd.DataFrame({"sample_id": ["a"]})))
    text = text_of(write_report(run).read_text())
    assert "01_preprocess" in text and "Universal heads" not in text


def test_explorers_are_on_the_page_with_or_without_the_pipeline():
    for run in (finished_run(), open_run("explored")):
        stage = run.stage("07_causal_tracing", seed=0)
        stage.figure(Figure(figsize=(1, 1)), "noise-curve", "As noise grows.")
        stage.finish(causal_tracing=complete("causal_tracing", pd.DataFrame({"sample_id": ["a"]})))
        page = write_report(run)
        assert "Single images, open questions" in text_of(page.read_text())
        assert "causal tracing" in text_of(page.read_text()) and "../figures/noise-curve.png" in page.read_text()
    assert "../../r/report/index.html" in page.read_text(), "other runs are linked"
    assert "Which heads carry the answer" not in page.read_text() and "What was asked" not in page.read_text()


def test_a_run_that_is_not_there_is_a_sentence():
    with pytest.raises(VlmtraceError, match="Run 'r' has no finished stage to report"):
        write_report(open_run("r"))


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 %"), (1, "100 %"), (0.004, "0.4 %"), (1.755, "176 %"), (-0.2, "−20 %"), (0.0001, "0 %"), (0.996, "99.6 %")],
)
def test_shares_are_said_in_percent(value, said):
    assert percent(value) == said


def test_numbers_have_a_true_minus_sign():
    assert (number(-0.256), number(1.0), number(float("nan"))) == ("−0.26", "1.00", "–")
    assert number(-0.001) == "0.00", "0 has no sign"
