"""The report agrees with the tables of its run."""

import html
import re

import pandas as pd
import pytest
from fixtures.contract import complete
from fixtures.finished_run import finished_run, make_curves, make_heads, make_subsets
from fixtures.readable import UNREADABLE
from matplotlib.figure import Figure

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.report import write_report
from vlmtrace.pipeline.report_pairs import EXPLORER
from vlmtrace.pipeline.runs import open_run


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


# The page


def text_of(page):
    """The page without its marks, blanks folded."""
    body = page.split("<main>")[1]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", body.replace("</t", " </t"))))


def test_numbers_of_the_tables_stand_on_the_page():
    text = text_of(write_report(finished_run()).read_text())
    assert "answers 50 % (worst category) to 100 % (best category) of the clean questions correctly, in 1 task." in text
    assert "t color 2 100 % 50 % 100 % 50 %" in text and "t shape 2 50 % 100 % 100 % 50 %" in text
    assert "t 4 3 2 1" in text, "evaluated, selected, discover, verify"
    assert "Of the 3 attention heads of the text encoder, 2 are important" in text
    assert "Heads of other blocks were not tested." in text
    # In both cells the same two of three heads: chance puts 3 · 2/3 · 2/3 = 1.33 heads into both.
    assert "2 are important in all 2 cases, where chance would put 1.33." in text
    assert "all tasks, both corruptions important in all 2 2 1.33" in text
    row = r"t image 8 6 2 1 0.123 [\d.–]+ 1 cross-attention 1.0"
    assert re.search(row, text), "pairs, units, important, negative, detectable, largest missed, NOTICE rule"
    ends = r"[−\d.]+ [\d.]+"
    assert re.search(rf"t image computed 1 8 8 {ends} 0.90", text) and "yes" in text, "LD without and with all heads"


def test_what_text_corruption_leaves_out_is_said_by_category():
    assert "Text corruption leaves out" not in text_of(write_report(finished_run()).read_text())
    text = text_of(write_report(finished_run(prompt="Is this circle green or pink?")).read_text())
    assert "Text corruption leaves out pairs" in text and "color: 0 of 2; of t, shape: 0 of 2." in text


def test_heads_of_other_blocks_are_told_where_they_were_patched():
    run = finished_run()
    head = {"module": "self_attention", "layer": 0, "corruption": "image"}
    rows = [("text_decoder", "denoising", 0.1), ("text_decoder", "noising", 0.3), ("text_encoder", "denoising", 9.0)]
    table = pd.DataFrame(
        [
            {**head, "block": block, "direction": way, "head": h, "sample_id": pair, "patching_effect": effect + shift}
            for block, way, effect in [*rows, ("text_encoder", "noising", 9.0)]
            for h in range(4)
            for pair, shift in (("a", 0.0), ("b", 0.1))
        ]
    )
    run.stage("05_head_patching", "t", seed=4).finish(whole_heads=complete("whole_heads", table))
    text = text_of(write_report(run).read_text())
    # Four heads of .1 and .2 (pair b) sum to .4 and .8, of .3 and .4 to 1.2 and 1.6; the text encoder is not "other".
    assert "Heads of other blocks were looked at without a test." in text and "not tested" not in text
    assert "at all of its positions at once, on 2 discover pairs and without a test" in text
    assert "text decoder image 4 0.60 1.40" in text
    assert "text encoder image 4" not in text, "the block that reads the question is no other block"


@pytest.mark.parametrize(
    ("curves", "subsets", "sentences"),
    [
        (
            make_curves(),
            make_subsets(),
            [
                "the important heads are sufficient in 2 of 2 combinations of task and corruption, necessary in 2 of 2,"
                " complete in 2 of 2 and minimal in 2 of 2 . All four hold for t, image; t, text.",
                "necessary (at most 20 % is left) in 2 of 2 , and partly in 0",
            ],
        ),
        (
            make_curves(sufficiency=0.32, left=0.6),
            make_subsets(without=0.6),
            [
                "the important heads are sufficient in 0 of 2 combinations of task and corruption, necessary in 0 of 2,"
                " complete in 0 of 2 and minimal in 2 of 2 . All four hold nowhere.",
                "restore 32 % (lowest) to 32 % (highest) of what all heads restore.",
                "Without them 60 % to 60 % is left",
            ],
        ),
    ],
    ids=["a circuit", "a third"],
)
def test_the_verdict_follows_from_the_numbers(curves, subsets, sentences):
    text = text_of(write_report(finished_run(curves=curves, subsets=subsets)).read_text())
    text = text.replace(" .", ".").replace(" ,", ",")
    for sentence in sentences:
        assert sentence.replace(" .", ".").replace(" ,", ",") in text, sentence


def test_heads_that_beat_random_ones_and_restore_an_eighth_get_no_yes():
    """The case of the default run: .12 restored, .90 left."""
    curves = make_curves(sufficiency=0.32, left=0.6)
    for direction, share in (("sufficiency", 0.12), ("necessity", 0.9)):
        ranked = (curves["direction"] == direction) & (curves["order"] == "ranked") & (curves["k"] == 1)
        random = (curves["direction"] == direction) & (curves["order"] == "random")
        curves.loc[ranked, "logit_diff"] += 4 * (share - (0.32 if direction == "sufficiency" else 0.6))
        curves.loc[random, "logit_diff"] += 4 * ((0.02 - 0.2) if direction == "sufficiency" else (0.98 - 0.7))
    page = write_report(finished_run(curves=curves, subsets=make_subsets(without=0.9))).read_text()
    text = text_of(page)
    assert re.search(
        r"t image computed 1 8 8 [−\d.]+ [\d.]+ 0.12 \[[^]]+\] no 0.90 \[[^]]+\] no 0.02 0.98 better", text
    ), "no and no"
    assert "is lost without them" not in page and "hold nowhere" in text
    section = page.split('id="faithful"')[1].split("Complete and minimal?")[0]
    assert 'class="yes"' not in section, "better than random is no yes"


def test_what_tables_contain_is_shown_and_never_obeyed():
    page = write_report(finished_run(prompt="Is <script>alert(1)</script> red or blue?")).read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_every_link_leads_somewhere():
    run = finished_run()
    path = write_report(run)
    links = re.findall(r'(?:src|href)="([^"]+)"', path.read_text())
    assert {"../figures/t-accuracy.png", "../figures/t-accuracy.pdf", "../heads.parquet", "../run.json"} <= set(links)
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in path.read_text(), f"{link} is not there"
        elif not link.startswith(("data:image/png;base64,", EXPLORER)):
            assert (path.parent / link).exists(), f"{link} is not there"
    assert f"{EXPLORER}#pair=a&amp;view=patch" in links, "every pair is a link to the explorer"


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


# The first screen


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *((text, True) for text in ("-0.00", "−0.000 of", "6.95e-08", "−0", "1e-5")),
        *((text, False) for text in ("−0.05", "0.00", "1.0e", "a1e5f0", "test-0-00001", "−1")),
    ],
)
def test_unreadable_numbers_are_recognized(text, found):
    assert bool(UNREADABLE.search(text)) == found


def test_no_number_on_the_page_has_an_exponent_or_a_signed_zero():
    heads = make_heads()
    heads["mean_effect"] = heads["mean_effect"] - 1e-12
    heads["p_value"] = heads["q_value"] = 6.95e-08
    text = text_of(write_report(finished_run(heads=heads, curves=make_curves(sufficiency=-1e-9))).read_text())
    assert not UNREADABLE.findall(text)


def test_findings_come_first_with_their_numbers_and_a_verdict():
    page = write_report(finished_run()).read_text()
    text = text_of(page)
    assert page.index('id="findings"') < page.index('id="short"')
    # The curves restore .9 on eight pairs; both corruptions alike, so that neither is told apart from the other.
    assert "One cross-attention head (1.0) brings back 0.50 [0.50, 0.50] of the gap in t" in text
    assert "Not told apart from: one cross-attention head (1.0), t, text corruption 0.50 [0.50, 0.50]." in text
    assert (
        "Verdict. The important heads are a circuit, sufficient, necessary, complete and minimal, in t, image" in text
    )
    assert "How these findings were chosen, and all 2 that were compared" in text


def test_a_page_says_which_kinds_were_compared_and_why_regions_were_not():
    run = finished_run()
    assert "Four kinds of intervention are compared" in text_of(write_report(run).read_text())
    rows = [
        {"sample_id": pair, "block": "language_model", "module": "residual", "token_role": "object"} for pair in "abc"
    ]
    run.stage("04_module_patching", "t", seed=4).finish(regions=complete("regions", pd.DataFrame(rows)))
    text = text_of(write_report(run).read_text())
    assert "Three kinds of intervention are compared" in text and "a region of the image after" not in text
    assert "Regions of the image are not compared: they were patched in the language model, whose own layers" in text


def test_a_run_without_a_finding_says_so():
    heads = make_heads(important=(False, False, False))
    text = text_of(write_report(finished_run(heads=heads, curves=make_curves(k=1))).read_text())
    assert "brings back" not in text
    assert "No circuit: in no case does an important head help the answer." in text
