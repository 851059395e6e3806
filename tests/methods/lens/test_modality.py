"""Images against sentences: agreement by hand, ablated heads replaced by their mean."""

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.methods.lens.contributions import lens_contributions, top_heads
from vlmtrace.methods.lens.decomposition import lens_of
from vlmtrace.methods.lens.modality import ablate_heads, ablation_table, agreement, random_heads, shared_heads
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
    found = agreement(table_of(visual), table_of(textual_values), k=2, n_boot=50).set_index("compared")
    # Ranks 0 … 7 with the first and the last swapped: 1 − 6 · (49 + 49) / (8 · 63).
    assert found.loc["visual, textual", "spearman"] == pytest.approx(1 - 6 * 98 / (8 * 63))
    assert found.loc["visual, textual", "shared"] == 1 and found["shared_by_chance"].unique() == [0.5]
    assert found.loc["visual, halves", "spearman"] == 1
    assert shared_heads(table_of(visual), table_of(textual_values), k=2) == [(1, 2)]
    assert top_heads(visual.mean(0), 2) == [(1, 3), (1, 2)]


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
