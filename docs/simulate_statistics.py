"""How well intervals and tests of a mean hold their level, by simulation: the tables of docs/statistics.md.

    OMP_NUM_THREADS=1 python docs/simulate_statistics.py [--run data/runs/default]

Draws many samples of n effects whose true mean is 0, and counts how often an interval covers it and how often a test
rejects it. Effects are normal, or skewed (exponential), or drawn from what heads of a finished run do to single pairs,
centered head by head. Takes less than a minute on one core, and gives the
same tables each time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats

from vlmtrace.core.stats import mean_interval, mean_test, unit_means

N_UNITS = (6, 10, 20, 50)
N_SAMPLES = 10_000
N_BOOT = 2000
LEVEL = 0.95

Draw = Callable[[int, np.random.Generator], np.ndarray]


# Where effects come from ------------------------------------------------------------------------------------------


def normal(n: int, generator: np.random.Generator) -> np.ndarray:
    """(n, samples) of mean 0."""
    return generator.normal(size=(n, N_SAMPLES))


def skewed(n: int, generator: np.random.Generator) -> np.ndarray:
    """(n, samples) of mean 0 and skewness 2."""
    return generator.exponential(size=(n, N_SAMPLES)) - 1


def effects_of(run: Path) -> Draw | None:
    """A draw from the effects of single heads on single pairs, centered head by head; None: the run has none."""
    columns = []
    for path in sorted(run.glob("*/head_patching.parquet")):
        table = pd.read_parquet(path)
        keys = ["corruption", "sample_id", "block", "module", "layer", "head"]
        sums = table.groupby(keys)["patching_effect"].sum(min_count=1)
        for _, part in sums.groupby(level="corruption"):
            wide = part.unstack("sample_id").droplevel("corruption").dropna(axis=1)
            varied = wide[wide.std(axis=1) > 0]
            columns += list(varied.sub(varied.mean(axis=1), axis=0).to_numpy())
    if not columns:
        return None

    def draw(n: int, generator: np.random.Generator) -> np.ndarray:
        chosen = generator.integers(len(columns), size=N_SAMPLES)
        return np.stack([generator.choice(columns[which], size=n) for which in chosen], axis=1)

    return draw


# Methods that are compared ----------------------------------------------------------------------------------------


def percentile(values: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central share of resampled means (Efron and Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def bca(values: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated (Efron 1987); the acceleration of a mean has a closed form."""
    deviation = values - values.mean(0)
    spread = np.maximum((deviation**2).sum(0), 1e-300)
    acceleration = (deviation**3).sum(0) / (6 * spread**1.5)
    below = (means < values.mean(0)).mean(0) + (means == values.mean(0)).mean(0) / 2
    bias = scipy.stats.norm.ppf(np.clip(below, 1 / N_BOOT, 1 - 1 / N_BOOT))
    ordered = np.sort(means, axis=0)
    ends = []
    for z in scipy.stats.norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]):
        share = scipy.stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(ordered[(share * (N_BOOT - 1)).round().astype(int), np.arange(values.shape[1])])
    return ends[0], ends[1]


def student(values: np.ndarray) -> np.ndarray:
    """p-values of Student's t test."""
    with np.errstate(all="ignore"):
        return np.nan_to_num(scipy.stats.ttest_1samp(values, 0).pvalue, nan=1.0)


def sign_flip(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """p-values of the test by random signs."""
    signs = generator.choice([-1.0, 1.0], size=(N_BOOT, len(values)))
    reached = np.abs(signs @ values) >= np.abs(values.sum(0)) * (1 - 1e-9)
    return (reached.sum(0) + 1) / (N_BOOT + 1)


# Tables -----------------------------------------------------------------------------------------------------------


def held_levels(sources: dict[str, Draw]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coverage of 95 % intervals and size of tests at .05 and .005, one row per source and n."""
    coverage, size = [], []
    for name, draw in sources.items():
        for n in N_UNITS:
            generator = np.random.default_rng(n)
            values = draw(n, generator)
            counts = generator.multinomial(n, np.full(n, 1 / n), size=N_BOOT)
            means = counts @ values / n
            student_ends = scipy.stats.t.interval(LEVEL, n - 1, values.mean(0), scipy.stats.sem(values))
            ends = {
                "percentile": percentile(values, means),
                "BCa": bca(values, means),
                "Student": student_ends,
                "bootstrap-t": mean_interval(values, LEVEL, N_BOOT),
            }
            row = {"effects": name, "n": n}
            coverage.append(row | {key: ((low <= 0) & (high >= 0)).mean() for key, (low, high) in ends.items()})
            p_values = {
                "sign flips": sign_flip(values, generator),
                "Student": student(values),
                "bootstrap-t": mean_test(values, N_BOOT),
            }
            sizes = {f"{key}, {at:g}": (p <= at).mean() for at in (0.05, 0.005) for key, p in p_values.items()}
            size.append(row | sizes)
    return pd.DataFrame(coverage), pd.DataFrame(size)


def size_with_mirrored_pairs() -> pd.DataFrame:
    """Size of tests at .05 over couples of pairs whose effects correlate, as rows and with couples averaged."""
    rows = []
    for correlation in (0.35, 0.68):
        for couples in (10, 30):
            generator = np.random.default_rng(couples)
            shared = generator.normal(size=(couples, N_SAMPLES)) * np.sqrt(correlation)
            own = generator.normal(size=(2, couples, N_SAMPLES)) * np.sqrt(1 - correlation)
            values = np.concatenate([shared + own[0], shared + own[1]])
            units = np.tile(np.arange(couples), 2)
            row = {"correlation": f"{correlation:g}"[1:], "pairs": 2 * couples}
            row |= {"sign flips, pairs": (sign_flip(values, generator) <= 0.05).mean()}
            row |= {"bootstrap-t, pairs": (mean_test(values, N_BOOT) <= 0.05).mean()}
            averaged = unit_means(values, units)
            row |= {"sign flips, units": (sign_flip(averaged, generator) <= 0.05).mean()}
            rows.append(row | {"bootstrap-t, units": (mean_test(averaged, N_BOOT) <= 0.05).mean()})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table of docs/statistics.md."""
    shown = table.map(lambda cell: f"{cell:.3f}".lstrip("0") if isinstance(cell, float) else str(cell))
    cells = shown.to_numpy().tolist()
    lines = [list(table.columns), ["---"] * table.shape[1], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("data/runs/default"), help="folder of a finished run")
    sources: dict[str, Draw] = {"normal": normal, "skewed": skewed}
    if own := effects_of(parser.parse_args().run):
        sources["heads of the run"] = own
    coverage, size = held_levels(sources)
    print(f"Coverage of 95 % intervals, {N_SAMPLES} samples each\n\n{markdown(coverage)}\n")
    print(f"Size of tests at .05 and .005, {N_SAMPLES} samples each\n\n{markdown(size)}\n")
    print(f"Size at .05 with mirrored pairs, normal effects\n\n{markdown(size_with_mirrored_pairs())}")


if __name__ == "__main__":
    main()
