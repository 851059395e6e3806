"""What notebook 15 found in models with a planted prior, and in their controls, as a table in Markdown.

Execute notebook 15 first, with each model in a run of its own, such as

    python -m vlmtrace run notebooks/15_planted_prior.ipynb --run skewed-llava -p model=skewed-llava

and then name the runs: `python docs/measure_planted_prior.py skewed-llava even-llava`. With --docs, what was found is
also written into docs/measured, from which docs/methods/prior.md has its table; rows of other models stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from generators.prior import MEASURED, priors_table

import vlmtrace as vt
from vlmtrace.core.files import read_json, write_json
from vlmtrace.pipeline import open_run

SIDES = ("shown", "usual")


def found_in(name: str) -> dict[str, Any]:
    """What the tables of a run say.

    Args:
        name: of the run

    Returns:
        model, pairs, n_tried, priors, top, ahead (by layer, the share of pairs of which the shown color stays ahead
        from there on), steered (by side), and others (right answers to other questions, before and after)
    """
    run = open_run(name)
    scores, early, steered = (run.table(table) for table in ("option_scores", "early_answers", "steered"))
    priors = vt.find_priors(scores, by=["category", "noun"])
    columns = ["category", "noun", "option", "n", "share", "share_low", "share_high", "q_value"]
    means = vt.early_means(early)
    shown = means[(means["category"] == "shown") & (means["block"] == means["block"].iloc[-1])]
    table = vt.steering_table(steered)
    turned, others = [], []
    for side in SIDES:
        asked = table[table["category"].str.startswith(f"{side}, ")]
        chosen = asked[["block", "layer", "factor"]].iloc[0]
        mine = table[(table["category"] == side) & (table["layer"] == chosen["layer"])].set_index("direction")
        for direction in mine.index:
            row = mine.loc[direction]
            turned.append({"side": side, "direction": direction, "layer": int(chosen["layer"])})
            turned[-1] |= {"factor": chosen["factor"], "n_right": row["n_right"]}
            turned[-1] |= {key: row[key] for key in ("turned", "turned_low", "turned_high")}
        for row in asked[asked["direction"] == "difference"].itertuples():
            task = row.category.removeprefix(f"{side}, ")
            others.append({"side": side, "task": task, "before": row.before, "after": row.after})
    return {
        "model": Path(str(run.record()["parameters"]["model"])).name,
        "pairs": int(scores.loc[scores["category"] == "shown, picture", "sample_id"].nunique()),
        "n_tried": len(priors),
        "priors": _rows(priors.loc[priors["is_prior"], columns]),
        "top": _rows(priors.nlargest(1, "share")[columns])[0],
        "ahead": [[int(row.layer), round(float(row.turned), 4)] for row in shown.itertuples()],
        "steered": [_plain(row) for row in turned],
        "others": [_plain(row) for row in others],
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_plain(row) for row in table.to_dict("records")]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them, to four digits."""
    return {key: value if isinstance(value, str) else _number(value) for key, value in row.items()}


def _number(value: float) -> float | int | None:
    if pd.isna(value):
        return None
    return int(value) if float(value).is_integer() else round(float(value), 4)


def main() -> None:
    """Print a row for each run, and keep it where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="runs in which notebook 15 was executed")
    parser.add_argument("--docs", action="store_true", help="renew their rows of docs/measured/planted_prior.json")
    given = parser.parse_args()
    found = [found_in(name) for name in given.runs]
    print(priors_table(found))
    if given.docs:
        rows = {one["model"]: one for one in [*(read_json(MEASURED) if MEASURED.is_file() else []), *found]}
        write_json([rows[name] for name in sorted(rows)], MEASURED)


if __name__ == "__main__":
    main()
