"""How many edges there are, counted by hand; and what is said of a model whose edges are not known."""

import pytest

from vlmtrace.core.errors import NotForThisModel
from vlmtrace.models.edges.wiring import edges_of, senders_of


def test_edges_of_blip_are_as_many_as_a_count_by_hand(bundled):
    """By layer l of L, with H heads of either attention, and what has been written before each module."""
    model, _ = bundled("tiny-blip")
    blocks = [model.blocks[name] for name in ("text_encoder", "text_decoder")]
    n_layers, heads = blocks[0].n_layers, blocks[0].heads_at(0)
    written = 2 * heads + 1  # by a layer: heads of self- and of cross-attention, and an mlp
    total = 0
    for start, looked_at in ((1, 1), (0, 1 + n_layers * written)):  # the prompt and the image; no input, the question
        for before in (start + layer * written for layer in range(n_layers)):
            total += 3 * heads * before + heads * (before + heads) + 2 * heads * looked_at + before + 2 * heads
    assert len(edges_of(model)) == total + n_layers * written
    assert len(senders_of(model)) == 2 + 2 * n_layers * written


def test_edges_of_a_decoder_are_as_many_as_a_count_by_hand(bundled):
    model, _ = bundled("tiny-llava")
    block = model.blocks["language_model"]
    heads = block.heads_at(0)
    before = [2 + layer * (heads + 1) for layer in range(block.n_layers)]
    read = sum(3 * heads * n + n + heads for n in before)
    assert len(edges_of(model)) == read + before[-1] + heads + 1


def test_a_model_whose_edges_are_not_known_says_why(random_blip, monkeypatch):
    monkeypatch.setattr(random_blip, "nodes_unsupported_reason", lambda: "layers of its own")
    with pytest.raises(NotForThisModel, match="has no edges here, because of layers of its own: use patch_heads"):
        edges_of(random_blip)
