"""Methods that give edges a score: the magnitude of an edge's mean effect on the logit difference."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from vlmtrace.benchmarks.circuits.registry import Scoring, circuit_method
from vlmtrace.methods.edges.circuits import edge_scores
from vlmtrace.methods.edges.estimates import attribute_edges
from vlmtrace.methods.edges.listing import edges
from vlmtrace.methods.edges.path_patching import patch_edges
from vlmtrace.methods.edges.search import acdc
from vlmtrace.models import VLM

#: Growths of the distance from which an edge stays, as shares of the answer.
ACDC_THRESHOLDS = (0.003, 0.01, 0.03, 0.1, 0.3)


def _magnitudes(effects: pd.DataFrame) -> pd.DataFrame:
    scores = edge_scores(effects)[["sender", "receiver", "score"]]
    return scores.assign(score=scores["score"].abs())


@circuit_method("exact edges")
def exact_edges(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """Path patching of every edge: one clean output in the corrupt run."""
    return _magnitudes(patch_edges(model, pairs, corruption))


@circuit_method("exact edges, noising")
def exact_edges_noising(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The same the other way round: one corrupt output in the clean run."""
    return _magnitudes(patch_edges(model, pairs, corruption, direction="noising"))


def _estimate(method: str) -> Scoring:
    def estimated(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
        return _magnitudes(attribute_edges(model, pairs, corruption, method))

    return estimated


def _register(name: str, what: str, make: Callable[[str], Scoring] = _estimate) -> None:
    function = make(name)
    function.__doc__ = what
    circuit_method(name)(function)


_register("EAP", "Edge attribution patching: one gradient, in the corrupt run.")
_register("computed-receivers", "EAP with what the receiver gives computed.")
_register("clean-corrupted", "EAP with gradients of the clean and the corrupt run.")
_register("EAP-IG-inputs", "EAP with five gradients between the embeddings of both runs.")
_register("EAP-IG-activations", "EAP with five gradients between what the sender's module gives in both runs.")


@circuit_method("ACDC", most_pairs=1)
def acdc_thresholds(model: VLM, pairs: pd.DataFrame, corruption: str) -> pd.DataFrame:
    """The largest of five thresholds at which an edge stays, on one pair.

    ACDC runs each pair for nearly every edge. So it is given one pair, and the search at a threshold begins with what
    the one at the threshold before has left.
    """
    score = edges(model)[["sender", "receiver"]].astype(str).assign(score=0.0).set_index(["sender", "receiver"])
    left = None
    for threshold in ACDC_THRESHOLDS:
        left = acdc(model, pairs, threshold, corruption, left)
        if left.empty:
            break
        score.loc[list(zip(left["sender"], left["receiver"], strict=True)), "score"] = threshold
    return score.reset_index()
