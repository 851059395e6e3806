"""Sentences about edges and circuits of them."""

import numpy as np
import pandas as pd

from vlmtrace.methods.edges import describe_edge_circuit, describe_edge_faithfulness, describe_edges

READER, WRITER = "text_encoder.cross_attention.2.1", "text_decoder.cross_attention.3.0"


def patched(pairs="abc"):
    edges = {("image", f"{READER}.value"): 0.3, ("image", f"{READER}.key"): -0.01, (WRITER, "output"): -0.4}
    rows = [
        {"sample_id": pair, "corruption": "image", "direction": "denoising", "sender": sender, "receiver": receiver,
         "patching_effect": effect, "logit_diff": effect}
        for pair in pairs
        for (sender, receiver), effect in edges.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_strongest_edge_is_found_by_its_size():
    assert describe_edges(patched()).splitlines() == [
        "Of 3 edges 2 have a mean effect of 0.02 or more in size.",
        "The strongest leads from cross-attention 3.0 of the text decoder to the output: −0.40 (picked on "
        "these pairs).",
        "The sizes of all effects sum to 0.01 into keys and 0.30 into values of heads.",
    ]
    unlike = patched().assign(patching_effect=lambda rows: rows["patching_effect"] * rows.groupby("sample_id").ngroup())
    assert "[" not in describe_edges(unlike), "an interval on the pairs that picked the edge"
    assert describe_edges(patched().assign(patching_effect=np.nan)).startswith("No pair has an effect")


def test_a_circuit_is_read_from_the_image_to_the_output():
    circuit = patched("a").rename(columns={"patching_effect": "score"}).assign(share=0.6, share_verify=0.4)
    assert describe_edge_circuit(circuit).splitlines() == [
        "The circuit has three edges. On the pairs that it was made on it restores 0.60, on new pairs 0.40: less.",
        "Two edges of it read the image, in the text encoder: 1 by keys and 1 by values.",
        "One node writes the answer: cross-attention 3.0 of the text decoder.",
        "Two edges of the circuit work against it.",
    ]
    assert describe_edge_circuit(circuit[:0]) == "The circuit has no edge."
    assert "None of its edges reads the image" in describe_edge_circuit(circuit[2:])


def test_faithfulness_that_is_missing_is_told():
    row = {"order": ["ranked"], "n": 4, "cpr": 0.7, "cpr_low": 0.6, "cpr_high": 0.8, "cmd": 0.3, "n_edges_80": 1200.0}
    summary = pd.DataFrame(row)
    assert describe_edge_faithfulness(summary) == (
        "Edges by score, four pairs: CPR 0.70 [0.60, 0.80], CMD 0.30; the smallest size that "
        "reaches .8 has 1,200 edges."
    )
    assert "no size that was tried" in describe_edge_faithfulness(summary.assign(n_edges_80=np.nan))
    assert "not told" in describe_edge_faithfulness(summary.assign(cpr=np.nan))
    assert describe_edge_faithfulness(summary[:0]) == "No circuit was run."
