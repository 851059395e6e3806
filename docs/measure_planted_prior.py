"""What notebook 15 found in models with a planted prior, and in their controls, as a table in Markdown.

Execute notebook 15 first, with each model in a run of its own, such as

    papermill notebooks/15_planted_prior.ipynb executed.ipynb --cwd notebooks -p model skewed-llava -p run skewed-llava

and then name the runs: `python docs/measure_planted_prior.py skewed-llava even-llava`.
"""

from __future__ import annotations

import argparse

import pandas as pd

import vlmtrace as vt
from vlmtrace.pipeline import open_run

STAGE = "15_planted_prior"
SIDES = ("shown", "usual")
HEADER = (
    "run",
    "pairs",
    "priors of all combinations",
    "most probable: share",
    "`shown` stays ahead from layer (pairs)",
    "steered behind layer, factor",
    "right answers that turn (n)",
    "random directions",
    "right of the other questions: before, after",
)


def _row(name: str) -> list[str]:
    run = open_run(name)
    scores, early, steered = (run.table(table) for table in ("option_scores", "early_answers", "steered"))
    priors = vt.find_priors(scores, by=["category", "noun"])
    top = priors.nlargest(1, "share").iloc[0]
    means = vt.early_means(early)
    shown = means[(means["category"] == "shown") & (means["block"] == means["block"].iloc[-1])]
    turns = [f"{row.layer}: {row.turned:.0%}" for row in shown.itertuples() if row.turned >= 0.1]
    table = vt.steering_table(steered)
    how, turned, random, else_ = [], [], [], []
    for side in SIDES:
        others = table[table["category"].str.startswith(f"{side}, ")]
        chosen = others[["block", "layer", "factor"]].iloc[0]
        mine = table[(table["category"] == side) & (table["layer"] == chosen["layer"])].set_index("direction")
        how.append(f"{side}: {chosen['layer']}, {chosen['factor']:g}")
        turned.append(f"{side}: {_share(mine.loc['difference', 'turned'])} ({mine.loc['difference', 'n_right']:.0f})")
        random.append(f"{side}: {_share(mine.loc['random', 'turned'])}" if "random" in mine.index else "")
        for row in others[others["direction"] == "difference"].itertuples():
            else_.append(f"{row.category.replace('rendered_', '')}: {row.before:.0%}, {row.after:.0%}")
    return [
        name,
        str(scores.loc[scores["category"] == "shown, picture", "sample_id"].nunique()),
        f"{int(priors['is_prior'].sum())} of {len(priors)}",
        f"{top['option']} {top['noun']} ({top['category']}): {top['share']:.2f}",
        "; ".join(turns) or "nowhere",
        *("; ".join(part) for part in (how, turned, random, else_)),
    ]


def _share(value: float) -> str:
    return "no right answer" if pd.isna(value) else f"{value:.0%}"


def main() -> None:
    """Print a row for each run, and all priors that were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="runs in which notebook 15 was executed")
    given = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |")
    print("| --- " * len(HEADER) + "|")
    for name in given.runs:
        print("| " + " | ".join(_row(name)) + " |")
    for name in given.runs:
        priors = vt.find_priors(open_run(name).table("option_scores"), by=["category", "noun"])
        for row in priors[priors["is_prior"]].itertuples():
            print(f"{name}: {row.option} {row.noun}, {row.category}: {row.share:.2f} (q = {row.q_value:.4f})")


if __name__ == "__main__":
    main()
