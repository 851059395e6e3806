"""How well estimates rank edges and inputs of nodes against their exact effects, on every rendered task.

Run it from the repository: `python docs/measure_edge_estimates.py`. It takes some minutes for each model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import pandas as pd

import vlmtrace as vt

TASKS = ("rendered_states", "rendered_faces", "rendered_svo")
EDGES = ("EAP", "computed-receivers", "clean-corrupted", "EAP-IG-inputs", "EAP-IG-activations")
NODES = ("AtP", "QK-fix", "AtP*")


def agreement(exact: Callable, estimate: Callable, methods: tuple[str, ...], top: int, **given: object) -> pd.DataFrame:
    """How well each method ranks, by corruption: the columns of `vt.edge_agreement`, and method."""
    found = []
    for corruption in ("image", "text"):
        truth = exact(corruption=corruption, **given)
        for method in methods:
            guess = estimate(corruption=corruption, method=method, **given)
            found.append(vt.edge_agreement(truth, guess, top=top).assign(method=method))
    return pd.concat(found)


def main() -> None:
    """Print the tables of the page on edges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["tiny-blip", "tiny-llava"])
    parser.add_argument("-n", type=int, default=6, help="pairs of each task, after selection")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--of", nargs="+", choices=("edges", "nodes"), default=("edges", "nodes"))
    given = parser.parse_args()
    for what, methods, top in (("edges", EDGES, 100), ("nodes", NODES, 20)):
        if what not in given.of:
            continue
        print(f"\n{what}, top {top}: Spearman of magnitudes, overlap\n")
        print("| model | task | corruption | of | by chance | " + " | ".join(methods) + " |")
        print("| --- " * (5 + len(methods)) + "|")
        for name in given.models:
            model = vt.load_model(name)
            for task in given.tasks:
                pairs = vt.select_samples(vt.evaluate(model, vt.load_pairs(task, n=4 * given.n))).head(given.n)
                if what == "edges":
                    exact, estimate = partial(vt.patch_edges, model, pairs), partial(vt.attribute_edges, model, pairs)
                else:
                    estimate = partial(vt.attribute_nodes, model, pairs)
                    exact = partial(estimate, method="exact")
                found = agreement(exact, estimate, methods, top)
                for corruption, mine in found.groupby("corruption"):
                    mine = mine.set_index("method").loc[list(methods)]
                    cells = [f"{one.spearman_magnitude:.2f}, {one.overlap:.0%}" for one in mine.itertuples()]
                    first = mine.iloc[0]
                    front = f"{name} | `{task}` | {corruption} | {first.n_edges} | {first.overlap_by_chance:.0%}"
                    print(f"| {front} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
