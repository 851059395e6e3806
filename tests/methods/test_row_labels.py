"""Results depend on the rows of a table and their order, not on how pandas labels them.

A table that was filtered, sorted or put together has labels other than 0, 1, 2, …, and some of them twice.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.display import Session
from vlmtrace.inputs import with_units
from vlmtrace.methods import attention, circuits, lens, patching

pytestmark = pytest.mark.medium


@cache
def data() -> SimpleNamespace:
    """Tables of the bundled models, each made once."""
    blip, llava = vt.load_model("tiny-blip"), vt.load_model("tiny-llava")
    evaluated = vt.evaluate(blip, vt.load_pairs("rendered_states", n=20, seed=0, model=blip))
    selected = vt.select_samples(evaluated)
    few = selected.groupby("split_use").head(3).reset_index(drop=True)
    questions = vt.load_questions("rendered_open", n=3)
    heads = vt.patch_heads(blip, few).merge(few[["sample_id", "task", "split_use", "unit"]], on="sample_id")
    table = circuits.head_table(heads, n_boot=100, n_permutations=200)
    verify = few[few["split_use"] == "verify"].reset_index(drop=True)
    return SimpleNamespace(
        blip=blip,
        llava=llava,
        evaluated=evaluated,
        selected=selected,
        pairs=few.head(2),
        verify=verify,
        discover=few[few["split_use"] == "discover"].reset_index(drop=True),
        questions=questions,
        heads=heads,
        table=table,
        ranking=circuits.rank_heads(table),
        estimate=vt.attribute_heads(blip, few),
        traced=vt.causal_trace(blip, questions, draws=2, modules=["residual"]),
        contributions=vt.lens_contributions(llava, questions),
        scores=vt.score_maps(llava, questions, steps=2)[0],
        whole=pd.concat(
            [vt.patch_whole_heads(blip, few.head(2), direction=way) for way in ("denoising", "noising")],
            ignore_index=True,
        ),
        attention=attention.head_attention(blip, few.head(2)),
    )


ONE_HEAD = ("cross_attention", 1, 2)

#: By name: the table whose rows are labelled otherwise, and what is computed from it.
COMPUTED = {
    "with_units": ("evaluated", lambda d, t: with_units(t.drop(columns="unit"))),
    "check_pairs": ("pairs", lambda d, t: vt.check_pairs(d.blip, t)[0]),
    "evaluate": ("pairs", lambda d, t: vt.evaluate(d.blip, t)),
    "select_samples": ("evaluated", lambda d, t: vt.select_samples(t)),
    "select_samples, per category": ("evaluated", lambda d, t: vt.select_samples(t, per_category=2)),
    "selection_table": ("evaluated", lambda d, t: vt.selection_table(t, d.selected)),
    "selection_table, selected": ("selected", lambda d, t: vt.selection_table(d.evaluated, t)),
    "accuracy_table": ("evaluated", lambda d, t: vt.accuracy_table(t)),
    "patch_modules": ("pairs", lambda d, t: vt.patch_modules(d.blip, t, blocks=["text_decoder"])),
    "patch_heads": ("pairs", lambda d, t: vt.patch_heads(d.blip, t, corruption="text")),
    "patch_regions": ("pairs", lambda d, t: vt.patch_regions(d.blip, t, modules=["residual"])),
    "patch_head_sets": ("pairs", lambda d, t: vt.patch_head_sets(d.blip, t, [[ONE_HEAD]])),
    "patch_together": ("pairs", lambda d, t: vt.patch_together(d.blip, t, [[ONE_HEAD]])),
    "patch_whole_heads": ("pairs", lambda d, t: vt.patch_whole_heads(d.blip, t)),
    "ablate": ("pairs", lambda d, t: vt.ablate(d.blip, t, [ONE_HEAD])),
    "ablate, resample": ("pairs", lambda d, t: vt.ablate(d.blip, t, [ONE_HEAD], "resample", reference=d.selected)),
    "ablate, reference": ("selected", lambda d, t: vt.ablate(d.blip, d.pairs, [ONE_HEAD], "resample", reference=t)),
    "attribute_heads": ("pairs", lambda d, t: vt.attribute_heads(d.blip, t)),
    "attribute_modules": ("pairs", lambda d, t: vt.attribute_modules(d.blip, t, blocks=["text_decoder"])),
    "attribute_edges": ("pairs", lambda d, t: vt.attribute_edges(d.blip, t, receivers=["output"])),
    "attribute_nodes": ("pairs", lambda d, t: vt.attribute_nodes(d.blip, t, "text", receivers=["text_decoder"])),
    "knock_out_attention": ("pairs", lambda d, t: vt.knock_out_attention(d.blip, t)),
    "replace_image_tokens": ("pairs", lambda d, t: vt.replace_image_tokens(d.blip, t, reference=d.selected)),
    "replace_image_tokens, reference": ("pairs", lambda d, t: vt.replace_image_tokens(d.blip, d.pairs, reference=t)),
    "head_table": ("heads", lambda d, t: circuits.head_table(t, n_boot=100, n_permutations=200)),
    "notice_rule": ("heads", lambda d, t: circuits.notice_rule(t)),
    "ranking_agreement": ("heads", lambda d, t: vt.ranking_agreement(t, d.estimate)),
    "ranking_agreement, estimate": ("estimate", lambda d, t: vt.ranking_agreement(d.heads, t)),
    "rank_heads": ("table", lambda d, t: circuits.rank_heads(t)),
    "universality": ("table", lambda d, t: circuits.universality(t, n_permutations=50)),
    "faithfulness": (
        "verify",
        lambda d, t: circuits.faithfulness_table(d.blip, t, d.ranking, sizes=[0, 2], n_random=1),
    ),
    "faithfulness, ranking": (
        "ranking",
        lambda d, t: circuits.faithfulness_table(d.blip, d.verify, t, sizes=[0, 2], n_random=1),
    ),
    "run_circuits": ("pairs", lambda d, t: circuits.run_circuits(d.blip, t, [[ONE_HEAD]])),
    "subset_table": ("verify", lambda d, t: circuits.subset_table(d.blip, t, [ONE_HEAD, ("cross_attention", 0, 0)])),
    "smallest_set": ("discover", lambda d, t: circuits.smallest_set(d.blip, t, threshold=0.1, n_candidates=3)),
    "head_attention": ("pairs", lambda d, t: attention.head_attention(d.blip, t)),
    "head_functions": ("attention", lambda d, t: attention.head_functions(t, n_boot=50)),
    "compare_directions": ("whole", lambda d, t: patching.compare_directions(t)),
    "direction_sums": ("whole", lambda d, t: patching.direction_sums(t)),
    "noise_scale": ("questions", lambda d, t: pd.DataFrame({"scale": [vt.noise_scale(d.blip, t)]})),
    "noise_curve": ("questions", lambda d, t: vt.noise_curve(d.blip, t, levels=(0, 2), draws=2)),
    "causal_trace": (
        "questions",
        lambda d, t: vt.causal_trace(d.blip, t, draws=2, modules=["residual"], paired=False, positions=["last"]),
    ),
    "average_effects": ("traced", lambda d, t: vt.average_effects(t)),
    "later_layers": ("traced", lambda d, t: vt.later_layers(t)),
    "lens_contributions": ("questions", lambda d, t: vt.lens_contributions(d.llava, t)),
    "score_maps": ("questions", lambda d, t: pd.concat(vt.score_maps(d.llava, t, steps=2))),
    "map_table": ("scores", lambda d, t: vt.map_table(t, by="category")),
    "ablate_heads": ("questions", lambda d, t: lens.ablate_heads(d.llava, t, [(0, 1)], n_random=2)),
    "agreement": ("contributions", lambda d, t: lens.agreement(t, d.contributions, k=2, n_splits=3)),
    "word_layers": ("questions", lambda d, t: lens.word_layers(d.llava, t)),
    "Session": ("pairs", lambda d, t: Session(d.blip, t).choose(t["sample_id"].iloc[1]).frame()),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_labels_of_rows_change_nothing(name):
    made = data()
    table, compute = COMPUTED[name]
    rows = getattr(made, table)
    generator = np.random.default_rng(1)
    labels = generator.integers(0, max(2, len(rows) // 2), len(rows))  # out of order, and some twice
    expected = compute(made, rows).reset_index(drop=True)
    assert len(expected), "nothing is compared"
    found = compute(made, rows.set_axis(labels, axis=0)).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, obj=f"{name} of a table with other labels")
