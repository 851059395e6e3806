"""All methods on all planted models: over seeds, which draw the pairs, and both corruptions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.circuits import edge_methods, node_methods
from vlmtrace.benchmarks.circuits.registry import Method
from vlmtrace.benchmarks.circuits.scores import area_under_roc, share_among_first, share_of_largest
from vlmtrace.benchmarks.circuits.truth import Target, ranked, targets_of
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import content_of, make_folder, read_json, write_json
from vlmtrace.core.paths import MODELS
from vlmtrace.core.progress import counter
from vlmtrace.core.types import Array
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.evaluation.answers import evaluate
from vlmtrace.methods.evaluation.selection import eligible
from vlmtrace.models import VLM
from vlmtrace.models.known import FILE, KnownCircuit, known_circuit
from vlmtrace.models.loading import load_model
from vlmtrace.pipeline.dependencies import code_digest, modules_behind
from vlmtrace.training.planted.proof import color_pairs

#: These modules register the methods of this package.
REGISTERED_BY = (edge_methods, node_methods)

#: Which of the circuit count as true: those that carry something else in the corrupt run, the others of the circuit
#: left out; or all of the circuit.
TRUTHS = ("carrying", "whole")

#: Of so many times as many pairs those are taken that the model answers as a minimal pair asks.
POOL = 3


def measure(models: Sequence[str], n_seeds: int, n_pairs: int, methods: Sequence[Method], folder: Path) -> pd.DataFrame:
    """Score methods on planted models. What is done is kept: interrupted and started again, it goes on.

    Args:
        models: names of planted models
        n_seeds: the seeds 0 to n_seeds − 1 draw the pairs
        n_pairs: of each seed
        methods: to score
        folder: for what is done, one file for each model, seed and corruption

    Returns:
        one row per model, seed, corruption, method, of (see `truth.OF`) and truth (see `TRUTHS`): kind, n and n_true
        (how many are ranked and true), auc, precision (at the true size), covered (share of the true ones that the
        method gives a score), joint (share of those that back each other up among the n_true first; missing where none
        do, or they carry the same in both runs), joint_size (their mean score, as a share of the largest), seconds (of
        the processor, for one pair)

    Raises:
        VlmtraceError: a model answers too few pairs, or a method returns something else than a table of scores
    """
    code = code_digest(modules_behind("benchmarks.circuits.runs"))
    make_folder(folder)
    tables = []
    with counter(len(models) * n_seeds * len(CORRUPTIONS), f"{len(methods)} methods on planted models") as advance:
        for seed, name in product(range(n_seeds), models):
            model, known, pairs = load_model(name), known_circuit(name), None
            truth = content_of(MODELS / name / FILE)
            for corruption in CORRUPTIONS:
                path = folder / f"{name}_{seed}_{corruption}.json"
                done: dict[str, Any] = read_json(path) if path.is_file() else {}
                for method in methods:
                    key = _key(code, content_of(method.file), model.fingerprint(), truth, n_pairs)
                    if done.get(method.name, {}).get("key") != key:
                        pairs = pairs_of(model, n_pairs, seed) if pairs is None else pairs
                        rows = score_method(method, model, known, pairs, corruption)
                        done[method.name] = {"key": key, "rows": rows}
                        write_json(done, path)
                    where = {"model": name, "kind": known.kind, "seed": seed, "corruption": corruption}
                    tables.append(pd.DataFrame(done[method.name]["rows"]).assign(method=method.name, **where))
                advance(1)
    return pd.concat(tables, ignore_index=True)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def pairs_of(model: VLM, n: int, seed: int) -> pd.DataFrame:
    """Pairs that a planted model answers as a minimal pair asks.

    Args:
        model: with a planted circuit
        n: how many
        seed: of the drawing

    Raises:
        VlmtraceError: it answers too few
    """
    evaluated = evaluate(model, color_pairs(POOL * n, seed))
    pairs = evaluated[eligible(evaluated)].head(n).reset_index(drop=True)
    if len(pairs) < n:
        raise VlmtraceError(
            f"{model.name} answers {len(pairs)} of {len(evaluated)} pairs as a minimal pair asks, and {n} are needed: "
            "ask for fewer pairs, or leave this model out."
        )
    return pairs


def score_method(
    method: Method, model: VLM, known: KnownCircuit, pairs: pd.DataFrame, corruption: str
) -> list[dict[str, Any]]:
    """Rows of `measure` for one method on some pairs.

    Args:
        method: to score
        model: with a planted circuit
        known: the circuit
        pairs: a pairs table
        corruption: "image" or "text"

    Raises:
        VlmtraceError: the method returns something else than a table of scores
    """
    pairs = pairs if method.most_pairs is None else pairs.head(method.most_pairs)
    start = time.process_time()
    table = method.function(model, pairs, corruption)
    seconds = (time.process_time() - start) / len(pairs)
    targets = targets_of(model, known, corruption)
    rows = []
    for of, scores in ranked(table, targets, method.name, model.name).items():
        for truth in TRUTHS:
            row = score_rows(scores, targets[of], truth)
            if row is not None:
                rows.append({"of": of, "truth": truth, **row, "seconds": seconds})
    return rows


def score_rows(scores: Array, target: Target, truth: str) -> dict[str, Any] | None:
    """How well scores rank what is true; None where nothing is.

    Args:
        scores: (draw, n)
        target: what is true
        truth: one of `TRUTHS`
    """
    true = target.listed if truth == "whole" else target.carrying
    ranked_at = np.ones_like(true) if truth == "whole" else target.carrying | ~target.listed
    true, joint, scores = true[ranked_at], (target.joint & true)[ranked_at], scores[:, ranked_at]
    k = int(true.sum())
    if not 0 < k < len(true):
        return None
    return {
        "n": len(true),
        "n_true": k,
        "auc": float(area_under_roc(scores, true).mean()),
        "precision": float(share_among_first(scores, true, k).mean()),
        "covered": float(np.isfinite(scores[0, true]).mean()),
        "joint": float(share_among_first(scores, joint, k).mean()) if joint.any() else None,
        "joint_size": float(share_of_largest(scores, joint).mean()) if joint.any() else None,
    }
