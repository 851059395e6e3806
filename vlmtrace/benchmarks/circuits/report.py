"""What the benchmark found, as a file for the documentation and as its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.circuits.registry import Method
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json, write_atomically
from vlmtrace.core.stats import mean_interval

#: What tells the figures of a file apart.
KEYS = ["method", "model", "kind", "corruption", "of", "truth"]

#: The figures themselves: means over seeds, and the standard deviation of the area between seeds.
FIGURES = ["n", "n_true", "auc", "auc_sd", "precision", "covered", "joint", "joint_size", "seconds"]


def collected(found: pd.DataFrame, methods: Sequence[Method], n_pairs: int) -> dict[str, Any]:
    """What is kept of a run of the benchmark.

    Args:
        found: from `runs.measure`
        methods: that were measured
        n_pairs: for each seed

    Returns:
        pairs, seeds, methods (name, what, most_pairs), columns and rows of figures
    """
    grouped = found.groupby(KEYS, sort=False)
    means = grouped[[name for name in FIGURES if name != "auc_sd"]].mean()
    means["auc_sd"] = grouped["auc"].std(ddof=1)
    rows = means.reset_index()[[*KEYS, *FIGURES]].round(4).astype(object)
    return {
        "pairs": n_pairs,
        "seeds": int(found["seed"].nunique()),
        "methods": [[one.name, one.what, one.most_pairs] for one in methods],
        "columns": [*KEYS, *FIGURES],
        "rows": rows.where(rows.notna(), None).to_numpy().tolist(),
    }


def write_collected(content: dict[str, Any], path: Path) -> None:
    """Write what is kept as JSON, a line for each row.

    Args:
        content: from `collected`
        path: of the file
    """
    parts = {name: json.dumps(value) for name, value in content.items() if name not in ("methods", "rows")}
    for name in ("methods", "rows"):
        parts[name] = "[\n" + ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in content[name]) + "\n ]"
    text = "{\n" + ",\n".join(f' "{name}": {value}' for name, value in parts.items()) + "\n}\n"
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Found:
    """What is kept of a run of the benchmark.

    Attributes:
        pairs: for each seed
        seeds: how many
        methods: what each does, in the order of the rows
        most_pairs: of those that were given fewer pairs, how many
        rows: a table of `KEYS` and `FIGURES`
    """

    def __init__(self, path: Path):
        """Read it.

        Args:
            path: of the file

        Raises:
            VlmtraceError: it is no such file
        """
        try:
            content = read_json(path)
            self.pairs, self.seeds = int(content["pairs"]), int(content["seeds"])
            self.methods = {name: what for name, what, _ in content["methods"]}
            self.most_pairs = {name: most for name, _, most in content["methods"] if most is not None}
            self.rows = pd.DataFrame(content["rows"], columns=content["columns"])
            self.rows[FIGURES] = self.rows[FIGURES].astype(float)
        except (KeyError, TypeError, ValueError) as error:
            raise VlmtraceError(f"{path} is not what make circuit-benchmark writes: run it again.") from error

    def of(self, of: str, truth: str = "carrying") -> pd.DataFrame:
        """Rows of one kind, methods in their order.

        Args:
            of: "edges", "nodes" or "heads"
            truth: see `runs.TRUTHS`
        """
        chosen = self.rows[(self.rows["of"] == of) & (self.rows["truth"] == truth)]
        return chosen.assign(method=pd.Categorical(chosen["method"], list(self.methods)))

    def summary(self, of: str, figure: str, truth: str = "carrying") -> pd.DataFrame:
        """Mean and 95 % interval over models of each method that has the figure.

        Models are the units: seeds and corruptions of a model are averaged first. See `core.stats.mean_interval`. A
        method that has no such figure on a model is averaged over the others.

        Args:
            of: "edges", "nodes" or "heads"
            figure: one of `FIGURES`
            truth: see `runs.TRUTHS`

        Returns:
            by method: mean, low, high (within 0 and 1), n (models that it has the figure on), and of (models that some
            method has it on)
        """
        by_model = self.of(of, truth).groupby(["model", "method"], observed=True)[figure].mean().unstack("method")
        by_model = by_model.dropna(how="all").dropna(axis=1, how="all")
        rows = {}
        for name, values in by_model.items():
            known = values.dropna().to_numpy()
            (low,), (high,) = mean_interval(known)
            rows[name] = (known.mean(), np.maximum(low, 0), np.minimum(high, 1), len(known), len(by_model))
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "n", "of"])


def edges_table(found: Found) -> str:
    """Methods that score edges.

    Args:
        found: of a run
    """
    area, precision = found.summary("edges", "auc"), found.summary("edges", "precision")
    whole, seconds = found.summary("edges", "auc", "whole"), found.summary("edges", "seconds")
    rows = []
    for name in area.index:
        cells = [_with_interval(area.loc[name]), _with_interval(precision.loc[name])]
        rows.append([name, *cells, f"{whole.loc[name, 'mean']:.3f}", f"{seconds.loc[name, 'mean']:.2g}"])
    return _markdown(["method", "AUC", "precision", "AUC, whole circuit", "seconds a pair"], rows)


def nodes_table(found: Found) -> str:
    """All methods, by what they say of nodes and of heads.

    Args:
        found: of a run
    """
    shown = {(of, figure): found.summary(of, figure) for of in ("nodes", "heads") for figure in ("auc", "precision")}
    heads = found.of("heads").groupby("method", observed=True)[["covered", "seconds"]].mean()
    rows = []
    for name, row in heads.iterrows():
        cells = [_with_interval(table.loc[name]) if name in table.index else "–" for table in shown.values()]
        rows.append([name, *cells, f"{row['covered']:.0%}", f"{row['seconds']:.2g}"])
    header = ["method", "AUC, nodes", "precision, nodes", "AUC, heads", "precision, heads"]
    return _markdown([*header, "true heads scored", "seconds a pair"], rows)


def backup_table(found: Found) -> str:
    """What methods say of two heads that back each other up, by model.

    Args:
        found: of a run
    """
    rows = found.of("heads").dropna(subset=["joint"])
    models = list(dict.fromkeys(rows["model"]))
    table = rows.pivot_table(index="method", columns="model", values=["joint", "joint_size"], observed=True)
    lines = []
    for name, row in table.iterrows():
        shares = [_number(row["joint", model], ".0%") for model in models]
        lines.append([name, *shares, *(_number(row["joint_size", model], ".3f") for model in models)])
    header = [*(f"found in {model}" for model in models), *(f"score in {model}" for model in models)]
    return _markdown(["method", *header], lines)


def kinds_table(found: Found) -> str:
    """Area over heads by kind of circuit, corruption and architecture.

    Args:
        found: of a run
    """
    rows = found.of("heads")
    rows = rows.assign(architecture=rows["model"].str.rpartition("-")[2])
    by = ("kind", "corruption", "architecture")
    parts = [rows.groupby(["method", column], observed=True)["auc"].mean().unstack() for column in by]
    table = pd.concat(parts, axis=1)
    columns = [*dict.fromkeys(rows["kind"]), *dict.fromkeys(rows["corruption"]), *dict.fromkeys(rows["architecture"])]
    lines = [[name, *(_number(table.loc[name, column], ".2f") for column in columns)] for name in table.index]
    return _markdown(["AUC, heads", *columns], lines)


def methods_table(found: Found) -> str:
    """What each method does.

    Args:
        found: of a run
    """
    rows = [[name, what, str(found.most_pairs.get(name, found.pairs))] for name, what in found.methods.items()]
    return _markdown(["method", "what its score is", "pairs"], rows)


def sizes(found: Found) -> str:
    """How much was measured, in a sentence.

    Args:
        found: of a run
    """
    models = found.rows["model"].nunique()
    spread = found.of("heads").loc[found.of("heads")["method"] != "random", "auc_sd"]
    between = (
        f" Between seeds, the area over heads of one method on one model differs by a standard deviation of "
        f"{spread.mean():.3f} on average, and of {spread.max():.2f} at most."
        if found.seeds > 1
        else ""
    )
    return f"{models} models, {found.seeds} seeds of {found.pairs} pairs, both corruptions.{between}"


def _with_interval(row: pd.Series) -> str:
    ends = [] if np.isnan(row["low"]) else [f"{row['low']:.2f}–{row['high']:.2f}"]
    if row["n"] < row["of"]:
        ends.append(f"{row['n']:.0f} of {row['of']:.0f} models")
    return f"{row['mean']:.3f}" + (f" ({', '.join(ends)})" if ends else "")


def _number(value: float, form: str) -> str:
    return "–" if np.isnan(value) else format(value, form)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
