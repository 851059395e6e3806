"""Images against sentences: agreement by hand, ablated heads replaced by their mean."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control, spearmanr

import vlmtrace as vt
from vlmtrace.methods.lens import head_ablation
from vlmtrace.methods.lens.contributions import lens_contributions, top_heads
from vlmtrace.methods.lens.head_ablation import ablate_heads, ablation_table, random_heads
from vlmtrace.methods.lens.modality import agreement, shared_heads
from vlmtrace.methods.lens.questions import lens_of
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import Site


def table_of(values):
    n, n_layers, n_heads = values.shape
    question, layer, head = (index.ravel() for index in np.indices((n, n_layers, n_heads)))
    return pd.DataFrame({"sample_id": question, "layer": layer, "head": head, "log_p_increase": values.ravel()})


def test_agreement_by_hand():
    rng = np.random.default_rng(0)
    visual = np.arange(8.0).reshape(1, 2, 4) + 0.01 * rng.standard_normal((6, 2, 4))
    textual_values = visual.copy()
    textual_values[:, 1, 3], textual_values[:, 0, 0] = visual[:, 0, 0], visual[:, 1, 3]
    found = agreement(table_of(visual), table_of(textual_values), k=2).set_index("compared")
    # Ranks 0 … 7 with the first and the last swapped: 1 − 6 · (49 + 49) / (8 · 63).
    assert found.loc["visual, textual", "spearman"] == pytest.approx(1 - 6 * 98 / (8 * 63))
    assert found.loc["visual, textual", "shared"] == 1 and found["shared_by_chance"].unique() == [0.5]
    assert found.loc["visual, halves", "spearman"] == 1
    assert shared_heads(table_of(visual), table_of(textual_values), k=2) == [(1, 2)]
    assert top_heads(visual.mean(0), 2) == [(1, 3), (1, 2)]


def noisy_questions(n: int, noise: float, seed: int, alike: bool = True) -> list[np.ndarray]:
    """Contributions of 64 heads on n questions, from images and from sentences, which share their true means or not."""
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(2, 1, 64))
    means[1] = means[0] if alike else means[1]
    return [mean + noise * generator.normal(size=(n, 64)) for mean in means]


def test_questions_about_one_image_count_once():
    tables = [table_of(v.reshape(-1, 8, 8)) for v in noisy_questions(6, 1.0, 0)]
    doubled = [
        pd.concat([t.assign(unit=t["sample_id"]), t.assign(unit=t["sample_id"], sample_id=t["sample_id"] + 100)])
        for t in tables
    ]
    once, twice = agreement(*tables), agreement(*doubled)
    assert set(twice["n_questions"]) == {12}
    columns = ["spearman", "low", "high", "ceiling", "shared"]
    pd.testing.assert_frame_equal(once[columns], twice[columns])


def test_halves_are_stepped_up_to_all_questions_over_several_splits():
    # Heads whose noise is known: the means of 12 questions correlate with those of 12 others as far as
    # their variance is not noise. Half of the questions alone correlate less.
    expected, half, found, single = [], [], [], []
    for seed in range(20):
        values = noisy_questions(12, 4.0, seed)
        others = noisy_questions(12, 4.0, seed + 1000)[0] - noisy_questions(1, 0.0, seed + 1000)[0]
        again = noisy_questions(1, 0.0, seed)[0] + others
        table = agreement(*(table_of(v.reshape(-1, 8, 8)) for v in values), n_splits=50).set_index("compared")
        found.append(table.loc["visual, halves", "spearman"])
        single.append(agreement(*(table_of(v.reshape(-1, 8, 8)) for v in values), n_splits=1, seed=seed)["spearman"][1])
        expected.append(spearmanr(values[0].mean(0), again.mean(0)).statistic)
        half.append(spearmanr(values[0][:6].mean(0), values[0][6:].mean(0)).statistic)
    assert np.mean(half) < np.mean(expected) - 0.08, "the case does not show what halving does"
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.06), "halves are not stepped up to all questions"
    assert np.std(found) < np.std(single), "several splits are no steadier than one"


def test_the_ceiling_corrects_for_noise():
    # The same heads do the same; only noise keeps their means from correlating by 1.
    tables = [
        agreement(*(table_of(v.reshape(-1, 8, 8)) for v in noisy_questions(12, 2.0, seed))).iloc[0]
        for seed in range(20)
    ]
    assert np.mean([row["spearman"] for row in tables]) < 0.8
    assert np.mean([row["corrected"] for row in tables]) == pytest.approx(1, abs=0.06)
    row = tables[0]
    halves = agreement(*(table_of(v.reshape(-1, 8, 8)) for v in noisy_questions(12, 2.0, 0)))["spearman"][1:]
    assert row["ceiling"] == pytest.approx(np.sqrt(np.prod(halves)))
    assert row["corrected"] == pytest.approx(row["spearman"] / row["ceiling"])


@pytest.mark.medium
def test_the_interval_of_a_correlation_covers_it():
    # Percentile intervals of a bootstrap cover it in about 80 %.
    drawn = [
        agreement(*(table_of(v.reshape(-1, 8, 8)) for v in noisy_means(seed)), n_splits=1).iloc[0]
        for seed in range(100)
    ]
    expected = np.mean([row["spearman"] for row in drawn])
    covered = np.mean([row["low"] <= expected <= row["high"] for row in drawn])
    assert covered >= 0.92, f"95 % intervals cover the correlation in {covered:.0%} of cases"


def noisy_means(seed: int) -> list[np.ndarray]:
    """Ten questions, always of the same true means, which are partly shared."""
    fixed = np.random.default_rng(0)
    visual, other = fixed.exponential(size=(2, 64)) ** 2
    textual = np.where(fixed.random(64) < 0.9, visual, other)
    generator = np.random.default_rng(seed + 1)
    return [mean + 1.5 * generator.normal(size=(10, 64)) for mean in (visual, textual)]


def test_ablation_differences_are_tested():
    generator = np.random.default_rng(0)
    rows = [
        {"sample_id": f"q{i}", "run": run, "heads": heads, "p_before": 0.9, "p": 0.5, "log_odds_change": change}
        for i in range(12)
        for run, loss in (("visual", 3.0), ("textual", 0.0))
        for heads, change in (("chosen", -loss + generator.normal()), ("random", generator.normal()))
    ]
    table = ablation_table(pd.DataFrame(rows)).set_index(["run", "heads"])
    differences = table.xs("chosen − random", level="heads")
    assert differences.loc["visual", "q_value"] < 0.05 < differences.loc["textual", "q_value"]
    assert differences["q_value"].to_numpy() == pytest.approx(false_discovery_control(differences["p_value"]))
    assert table.drop(differences.index.map(lambda run: (run, "chosen − random")))["q_value"].isna().all()


def test_ablated_heads_are_replaced_by_their_mean(tiny, masked):
    heads = [(0, 1), (2, 3)]
    table = ablate_heads(tiny, masked, heads, n_random=2)
    lenses = [lens_of(tiny, row, text_only="sentences") for row in masked.to_dict("records")]
    model, inputs = tiny, lenses[0].inputs
    size = lenses[0].heads.shape[-1]

    def replace(layer, head):
        mean = torch.stack([lens.heads[layer, -1, head] for lens in lenses]).mean(0)

        def put(value):
            value = value.clone()
            value[0, -1, head * size : (head + 1) * size] = mean
            return value

        return model.hook_point(Site("language_model", "self_attention", layer)), put

    with torch.no_grad(), attach_hooks([replace(*head) for head in heads]):
        p = model.answer_logits(inputs)[0].double().softmax(-1)[lenses[0].token]
    before = lenses[0].logits.double().softmax(-1)[lenses[0].token]
    one = table.query("run == 'textual' and heads == 'chosen' and sample_id == 'pair-0'").iloc[0]
    wanted = float(torch.logit(p) - torch.logit(before))
    assert one["log_odds_change"] == pytest.approx(wanted, abs=1e-3) and abs(wanted) > 1e-2
    assert one["p"] == pytest.approx(float(p), abs=1e-4)
    assert set(ablation_table(table)["heads"]) == {"chosen", "random", "chosen − random"}


def test_no_more_than_one_run_is_held_at_a_time(tiny, masked, monkeypatch):
    runs = []

    def kept_by_nobody(*arguments):
        assert sum(run() is not None for run in runs) <= 1, "runs of other questions are held"
        lens = lens_of(*arguments)
        runs.append(weakref.ref(lens))
        return lens

    monkeypatch.setattr(head_ablation, "lens_of", kept_by_nobody)
    table = ablate_heads(tiny, masked, [(0, 1)], n_random=1)
    assert len(runs) == 2 * len(masked) >= 4 and len(table) == 2 * len(runs)


def test_a_control_is_needed(tiny, masked):
    with pytest.raises(vt.VlmtraceError, match="n_random"):
        ablate_heads(tiny, masked, [(0, 1)], n_random=0)
    row = {"sample_id": "q", "run": "visual", "heads": "chosen", "p_before": 0.9, "p": 0.5, "log_odds_change": -1.0}
    with pytest.raises(vt.VlmtraceError, match="The visual run has no row of random heads"):
        ablation_table(pd.DataFrame([row]))


def test_random_heads_are_others_of_the_same_layers():
    heads = [(0, 1), (0, 2), (1, 0)]
    for drawn in random_heads(heads, 2, 4, 5):
        assert len(set(drawn)) == 3 and not set(drawn) & set(heads)
        assert [layer for layer, _ in drawn] == [0, 0, 1]
    with pytest.raises(vt.VlmtraceError, match="choose fewer"):
        random_heads([(0, 0), (0, 1), (1, 1)], 2, 2, 1)


def test_tables_of_other_questions_are_refused(tiny, masked):
    table = lens_contributions(tiny, masked.iloc[:1])
    with pytest.raises(vt.VlmtraceError, match="same questions"):
        agreement(table, table.assign(sample_id="another"))
