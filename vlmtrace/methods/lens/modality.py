"""The same question answered from an image and from sentences: do the same heads carry the answer?

Heads are compared by their contributions (see `contributions`). Those that are strong in both are tested by mean
ablation: their outputs at the answer's position are replaced by their mean over questions, in runs on images and in
runs on sentences. As many other heads, drawn at random, are the control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from scipy.stats import false_discovery_control, spearmanr
from scipy.stats import t as t_distribution
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Natural, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT
from vlmtrace.core.types import Array
from vlmtrace.methods.lens.contributions import Head, head_means, top_heads
from vlmtrace.methods.lens.decomposition import BLOCK, Lens
from vlmtrace.methods.lens.questions import check_questions, lens_of
from vlmtrace.models import VLM, Site
from vlmtrace.models.hooks import attach_hooks

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


# Are they causal? -------------------------------------------------------------------------------------------------


@checked
@torch.no_grad()
def ablate_heads(
    model: VLM,
    questions: pd.DataFrame,
    heads: Sequence[tuple[int, int]],
    text_only: str = "sentences",
    prefix: str = "",
    n_random: Natural = 10,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Mean-ablate heads at the answer's position: how much of the answer's log-odds is left?

    The mean is taken over the runs of the same kind (images, or sentences). Random heads are drawn anew `n_random`
    times, as many as `heads`, in the same layers as often where enough others are there, and none of `heads`
    themselves.

    Args:
        model: a decoder-only model
        questions: sample_id, image, prompt, and sentences in the column `text_only`
        heads: (layer, head) of those to ablate
        text_only: the column of sentences that are read instead of the image
        prefix: the beginning of an answer, put behind every prompt
        n_random: how many sets of random heads
        seed: of the random heads
    Returns:
        one row per question, run ("visual", "textual") and set ("chosen", "random"; of random the mean over draws):
        sample_id, run, heads, p_before (of the token that the model predicts), p, log_odds_change (nats); log-odds go
        on moving where a probability is close to 1
    Raises:
        VlmtraceError: a column is missing, there is no head to ablate, or there are too few others
    """
    check_questions(questions, text_only)
    if not heads:
        raise VlmtraceError("No head to ablate: choose more of the strongest heads, so that some are shared.")
    block = model.blocks[BLOCK]
    sets = [list(heads), *random_heads(heads, block.n_layers, block.n_heads, n_random, seed)]
    unit = {row["sample_id"]: {UNIT: row[UNIT]} for row in questions.to_dict("records") if UNIT in row}
    rows = []
    with counter(2 * len(questions), f"ablating {len(heads)} heads in {len(questions)} questions") as advance:
        for run, column in zip(RUNS, (None, text_only), strict=True):
            lenses = [lens_of(model, row, prefix, column) for row in questions.to_dict("records")]
            mean = torch.stack([lens.heads[:, lens.at] for lens in lenses]).mean(0)
            for sample_id, lens in zip(questions["sample_id"], lenses, strict=True):
                before = log_odds(lens.logits, lens.token)
                after = np.array([ablated_log_odds(lens, chosen, mean) for chosen in sets])
                for name, found in (("chosen", after[:1]), ("random", after[1:])):
                    left = {"p": expit(found).mean(), "log_odds_change": found.mean() - before}
                    row = {"sample_id": sample_id, **unit.get(sample_id, {}), "run": run, "heads": name}
                    rows.append({**row, "p_before": expit(before), **left})
                advance(1)
    return pd.DataFrame(rows)


@torch.no_grad()
def ablated_log_odds(lens: Lens, heads: Sequence[tuple[int, int]], mean: Tensor) -> float:
    """Log-odds of the predicted token with some heads' outputs at the answer's position replaced.

    Args:
        lens: one run
        heads: (layer, head) of those to replace
        mean: (layer, head, width of a head), what they are replaced by
    """

    def replace(layer: int) -> Callable[[Tensor], Tensor]:
        chosen = [head for at, head in heads if at == layer]

        def put(value: Tensor) -> Tensor:
            value = value.clone()
            value.unflatten(-1, mean.shape[1:])[:, lens.at, chosen] = mean[layer, chosen].to(value.device, value.dtype)
            return value

        return put

    layers = sorted({layer for layer, _ in heads})
    points = [(lens.model.hook_point(Site(BLOCK, "self_attention", layer)), replace(layer)) for layer in layers]
    with attach_hooks(points, n_pairs=1):
        return log_odds(lens.model.answer_logits(lens.inputs)[0], lens.token)


def log_odds(logits: Tensor, token: int) -> float:
    """log(p / (1 − p)) of a token, exact where p is close to 1, too.

    Args:
        logits: (vocabulary,)
        token: the token's id
    """
    others = torch.cat([logits[:token], logits[token + 1 :]])
    return float(logits[token] - others.logsumexp(-1))


def random_heads(
    heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int, n_sets: int, seed: int = 0
) -> list[list[tuple[int, int]]]:
    """Sets of as many other heads, drawn without replacement, of the same layers as far as there are enough of them.

    Args:
        heads: (layer, head) of those that are left out
        n_layers: of the model
        n_heads: of each layer
        n_sets: how many sets
        seed: of the draws
    Raises:
        VlmtraceError: there are too few other heads
    """
    taken = set(heads)
    if 2 * len(taken) > n_layers * n_heads:
        raise VlmtraceError(f"There are not {len(taken)} other heads than these to compare with: choose fewer.")
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(n_sets):
        drawn: list[tuple[int, int]] = []
        for layer in sorted({layer for layer, _ in heads}):
            others = [(layer, head) for head in range(n_heads) if (layer, head) not in taken]
            wanted = sum(at == layer for at, _ in taken)
            drawn += [others[i] for i in rng.permutation(len(others))[:wanted]]
        rest = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        rest = [head for head in rest if head not in taken and head not in drawn]
        drawn += [rest[i] for i in rng.permutation(len(rest))[: len(taken) - len(drawn)]]
        sets.append(drawn)
    return sets


@checked
def ablation_table(ablated: pd.DataFrame, seed: Seed = 0) -> pd.DataFrame:
    """Mean change of the answer's log-odds under ablation, with 95 % intervals over questions, by run.

    Args:
        ablated: from `ablate_heads`
        seed: of the bootstrap
    Returns:
        one row per run and set of heads, and one for their difference, question by question: run, heads ("chosen",
        "random", "chosen − random"), n, log_odds_change, low, high, p_before, p; of the difference, whether it is 0:
        p_value, q_value (corrected for all runs)
    """
    rows = []
    for run, part in ablated.groupby("run", sort=False):
        unit = UNIT if UNIT in part else "sample_id"
        wide = part.pivot_table(index=unit, columns="heads", values="log_odds_change")
        wide["chosen − random"] = wide["chosen"] - wide["random"]
        p = part.groupby("heads")[["p_before", "p"]].mean()
        for name, values in wide.items():
            low, high = (float(end[0]) for end in stats.mean_interval(values, seed=seed))
            row = {"run": run, "heads": name, "n": len(values), "log_odds_change": values.mean()}
            row |= {"low": low, "high": high}
            tested = {"p_value": float(stats.mean_test(values, seed=seed)[0])}
            rows.append(row | (p.loc[name].to_dict() if name in p.index else tested))
    table = pd.DataFrame(rows)
    differences = table["p_value"].notna()
    table.loc[differences, "q_value"] = false_discovery_control(table.loc[differences, "p_value"])
    return table
