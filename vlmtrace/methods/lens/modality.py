"""The same question answered from an image and from sentences: do the same heads carry the answer?

Heads are compared by their contributions (see `contributions`). Whether the answer needs those that are strong in both
is what `head_ablation` tests.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from scipy.stats import t as t_distribution

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import UNIT
from vlmtrace.core.types import Array
from vlmtrace.methods.lens.contributions import Head, head_means, top_heads

#: By what a question is answered, in words.
RUNS = ("visual", "textual")


@checked
def agreement(
    visual: pd.DataFrame, textual: pd.DataFrame, k: Count = 5, n_splits: Count = 100, seed: Seed = 0
) -> pd.DataFrame:
    """How alike heads contribute when the same questions are answered from images and from sentences.

    Means over few questions are noisy, and noise lowers a rank correlation. How much shows in the correlation r between
    two halves of the questions, of one kind of run: by the formula of Spearman and Brown, means over all questions
    correlate with those over as many others by 2r / (1 + r), with r averaged over `n_splits` random splits. The
    geometric mean of both kinds' reliabilities is the ceiling that the correlation between the kinds can be expected to
    reach if the same heads do the same in both (Spearman 1904, https://doi.org/10.2307/1412159). It is
    exact for normal values and noise that both kinds do not share, and near it for ranks of others; from the same
    questions a correlation can lie above it.

    Args:
        visual: from `lens_contributions`, the questions asked about images
        textual: from `lens_contributions`, the same questions asked about sentences
        k: how many of the strongest heads are compared
        n_splits: how many random splits into halves
        seed: of the splits
    Returns:
        one row per comparison ("visual, textual", "visual, halves", "textual, halves"; with one question the first
        only): spearman of the heads' mean contributions (of halves by Spearman-Brown for all questions); low, high
        (95 %, by the jackknife over questions on Fisher's scale; missing for halves); ceiling and corrected (spearman /
        ceiling; both missing for halves, and where the halves do not agree at all); shared (how many of the k strongest
        heads are among the k strongest of the other; of halves the mean over splits), shared_by_chance, k, n_questions
        and n_heads
    Raises:
        VlmtraceError: the two tables are not of the same questions
    """
    found = {name: _by_question(table) for name, table in zip(RUNS, (visual, textual), strict=True)}
    if not found["visual"].index.equals(found["textual"].index):
        raise VlmtraceError("The two tables are not of the same questions: pass contributions of the same ones.")
    n_questions, unit = len(found["visual"]), _unit_of(visual)
    values = {name: wide.groupby(wide.index.map(unit)).mean().to_numpy() for name, wide in found.items()}
    n, n_heads = values["visual"].shape
    means = [values[name].mean(0) for name in RUNS]
    across = _compare(means[0], means[1], k)
    rows: list[dict[str, str | float]] = []
    if n > 1:
        across["low"], across["high"] = _jackknife_interval(values["visual"], values["textual"])
        halves = [_halves(values[name], k, n_splits, seed) for name in RUNS]
        rows += [{"compared": f"{name}, halves", **half} for name, half in zip(RUNS, halves, strict=True)]
        reliable = [half["spearman"] for half in halves]
        if min(reliable) > 0:
            across["ceiling"] = float(np.sqrt(np.prod(reliable)))
            across["corrected"] = across["spearman"] / across["ceiling"]
    rows.insert(0, {"compared": "visual, textual", **across})
    table = pd.DataFrame(rows).assign(n_questions=n_questions, n_heads=n_heads, k=k, shared_by_chance=k * k / n_heads)
    columns = ["compared", "spearman", "low", "high", "ceiling", "corrected", "k", "shared", "shared_by_chance"]
    return table.reindex(columns=[*columns, "n_questions", "n_heads"])


def _halves(values: Array, k: int, n_splits: int, seed: int) -> dict[str, float]:
    """Reliability of the mean over rows by Spearman-Brown, and heads that halves share, means over random splits."""
    rng = np.random.default_rng(seed)
    splits = [rng.permutation(len(values)) < len(values) // 2 for _ in range(n_splits)]
    compared = [_compare(values[half].mean(0), values[~half].mean(0), k) for half in splits]
    r = np.array([found["spearman"] for found in compared])
    # Of the mean r, since the formula has a pole at −1, which single splits of few heads may come close to.
    return {
        "spearman": float(2 * r.mean() / (1 + max(r.mean(), 1e-9 - 1))),
        "shared": float(np.mean([found["shared"] for found in compared])),
    }


def _jackknife_interval(a: Array, b: Array) -> tuple[float, float]:
    """95 % interval of the rank correlation of two means over the same rows, by leaving out one row at a time.

    The percentile interval of a bootstrap lies too low: resampled means are noisier than the means themselves.
    """
    n = len(a)
    left_out = [_spearman(np.delete(a, row, 0).mean(0), np.delete(b, row, 0).mean(0)) for row in range(n)]
    z, others = (np.arctanh(np.clip(r, -1 + 1e-9, 1 - 1e-9)) for r in (_spearman(a.mean(0), b.mean(0)), left_out))
    half = t_distribution.ppf(0.975, n - 1) * np.std(others) * np.sqrt(n - 1)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def _by_question(table: pd.DataFrame) -> pd.DataFrame:
    """(question, head) contributions."""
    heads = table[table["head"].notna()]
    return heads.pivot(index="sample_id", columns=["layer", "head"], values="log_p_increase").sort_index(axis=1)


def _unit_of(table: pd.DataFrame) -> pd.Series:
    """By sample_id, the unit: questions about one image are averaged first."""
    questions = table.drop_duplicates("sample_id").set_index("sample_id")
    return questions[UNIT] if UNIT in questions else questions.index.to_series()


def _spearman(a: Array, b: Array) -> float:
    return float(spearmanr(a, b).statistic)


def _compare(a: Array, b: Array, k: int) -> dict[str, float]:
    strongest = [set(np.argsort(-values, kind="stable")[:k]) for values in (a, b)]
    return {"spearman": _spearman(a, b), "shared": len(strongest[0] & strongest[1])}


@checked
def shared_heads(visual: pd.DataFrame, textual: pd.DataFrame, k: Count = 5) -> list[Head]:
    """The heads that are among the k strongest in both, by mean contribution, the strongest visual ones first.

    Args:
        visual: from `lens_contributions`, the questions asked about images
        textual: from `lens_contributions`, asked about sentences
        k: how many of the strongest are compared
    """
    strongest = [top_heads(head_means(table).to_numpy(), k) for table in (visual, textual)]
    return [head for head in strongest[0] if head in strongest[1]]
