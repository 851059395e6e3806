"""Attention to a shared prefix and to each state's own keys is attention to all keys, however it is computed."""

import pytest
import torch
import torch.nn.functional as F

from vlmtrace.models.sweep import shared_prefix
from vlmtrace.models.sweep.kept_keys import Prefix, Recorder
from vlmtrace.models.sweep.shared_prefix import attend

PAIRS, STATES, KEY_HEADS, SHARED, SIZE = 2, 3, 2, 2, 8


def recorded(length, generator, dtype=torch.float32):
    recorder = Recorder()
    shape = (PAIRS, KEY_HEADS, length, SIZE)
    recorder.update(*(torch.randn(shape, generator=generator).to(dtype) for _ in range(2)))
    return recorder


def masks(length, before):
    """By name: what each of the rows from `before` on sees."""
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    window = causal & torch.ones(length, length, dtype=torch.bool).triu(-3)
    added = torch.zeros(length, length).masked_fill(~causal, torch.finfo(torch.float32).min)
    of_pairs = torch.stack([causal, window])[:, None]
    every = {"causal": causal[None, None], "window": window[None, None], "added": added[None, None], "pairs": of_pairs}
    return {name: mask[:, :, before:] for name, mask in every.items()} | {"none": None}


def expected(query, key, value, prefix, mask, softcap, scale):
    """Every state with a copy of the prefix's keys, one softmax over all of them."""
    keys, values = (
        torch.cat([part.repeat_interleave(STATES, 0), own], 2).repeat_interleave(SHARED, 1).double()
        for part, own in ((prefix.key, key), (prefix.value, value))
    )
    scores = query.double() @ keys.mT * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        mask = mask if len(mask) == 1 else mask.repeat_interleave(STATES, 0)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) @ values).transpose(1, 2)


@pytest.mark.parametrize("before", [0, 6])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("kind", ["causal", "window", "added", "pairs", "none"])
def test_attention_is_that_over_all_keys(monkeypatch, kind, softcap, rows, before):
    generator = torch.Generator().manual_seed(0)
    own = 4
    mask = masks(before + own, before)[kind]
    mask = mask if mask is None else mask[:, :, -rows:]
    key, value = (torch.randn(PAIRS * STATES, KEY_HEADS, own, SIZE, generator=generator) for _ in range(2))
    query = torch.randn(PAIRS * STATES, KEY_HEADS * SHARED, rows, SIZE, generator=generator)
    is_seen = kind in ("causal", "added", "none")
    prefix = Prefix(recorded(before + own, generator), before, is_seen, is_causal=kind in ("causal", "added"))
    monkeypatch.setattr(shared_prefix, "_current", type("Current", (), {"get": staticmethod(lambda: prefix)}))
    found, weights = attend(None, query, key, value, mask, scaling=0.7, softcap=softcap)
    assert weights is None
    wanted = expected(query, key, value, prefix, mask, softcap, 0.7).float()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_causal_block_of_own_keys_needs_no_mask(monkeypatch, rows):
    """One query head for each key head: the fused attention is told that it is causal."""
    generator = torch.Generator().manual_seed(1)
    key, value = (torch.randn(PAIRS * STATES, KEY_HEADS, 4, SIZE, generator=generator) for _ in range(2))
    query = torch.randn(PAIRS * STATES, KEY_HEADS, rows, SIZE, generator=generator)
    prefix = Prefix(recorded(9, generator), 5, is_seen=True, is_causal=True)
    monkeypatch.setattr(shared_prefix, "_current", type("Current", (), {"get": staticmethod(lambda: prefix)}))
    mask = masks(9, 5)["causal"][:, :, -rows:]
    found, _ = attend(None, query, key, value, mask)
    keys, values = (
        torch.cat([part.repeat_interleave(STATES, 0), mine], 2)
        for part, mine in ((prefix.key, key), (prefix.value, value))
    )
    wanted = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_seen", [False, True], ids=["all scores", "merged"])
def test_in_bfloat16_scores_are_weighed_in_float32(monkeypatch, is_seen):
    generator = torch.Generator().manual_seed(2)
    key, value = (torch.randn(PAIRS * STATES, KEY_HEADS, 4, SIZE, generator=generator).bfloat16() for _ in range(2))
    query = torch.randn(PAIRS * STATES, KEY_HEADS * SHARED, 4, SIZE, generator=generator).bfloat16()
    prefix = Prefix(recorded(300, generator, torch.bfloat16), 296, is_seen=is_seen)
    monkeypatch.setattr(shared_prefix, "_current", type("Current", (), {"get": staticmethod(lambda: prefix)}))
    mask = masks(300, 296)["causal"]
    found, _ = attend(None, query, key, value, mask)
    wanted = expected(query, key, value, prefix, mask, None, SIZE**-0.5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, atol=2e-2, rtol=2e-2)


class Expands:
    """Attention that caches what keys and values are made of, as multi-head latent attention does."""

    def __init__(self, generator):
        self.to_keys, self.to_values = (torch.randn(3, KEY_HEADS, size, generator=generator) for size in (SIZE, 5))

    def expand_kv(self, latent, _rotated):
        keys, values = (torch.einsum("bote,ekf->bktf", latent, to) for to in (self.to_keys, self.to_values))
        return keys, values


@pytest.mark.parametrize("before", [0, 6])
def test_latent_attention_expands_what_was_kept(monkeypatch, before):
    """Values narrower than keys."""
    generator = torch.Generator().manual_seed(3)
    module, kept = Expands(generator), Recorder()
    latent = torch.randn(PAIRS, 1, before + 4, 3, generator=generator)
    kept.update(latent, latent)
    own = torch.randn(PAIRS * STATES, 1, 4, 3, generator=generator)
    key, value = module.expand_kv(own, own)
    query = torch.randn(PAIRS * STATES, KEY_HEADS, 4, SIZE, generator=generator)
    prefix = Prefix(kept, before, is_seen=True)
    monkeypatch.setattr(shared_prefix, "_current", type("Current", (), {"get": staticmethod(lambda: prefix)}))
    mask = masks(before + 4, before)["causal"]
    found, _ = attend(module, query, key, value, mask)
    first = latent[:, :, :before].repeat_interleave(STATES, 0)
    keys, values = module.expand_kv(*[torch.cat([first, own], 2)] * 2)
    wanted = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("before", [0, 6])
@pytest.mark.parametrize("is_seen", [False, True], ids=["all scores", "merged"])
def test_a_sink_takes_its_share_of_the_weights(monkeypatch, is_seen, before):
    generator = torch.Generator().manual_seed(4)
    key, value = (torch.randn(PAIRS * STATES, KEY_HEADS, 4, SIZE, generator=generator) for _ in range(2))
    query = torch.randn(PAIRS * STATES, KEY_HEADS * SHARED, 4, SIZE, generator=generator)
    sinks = torch.randn(KEY_HEADS * SHARED, generator=generator)
    prefix = Prefix(recorded(before + 4, generator), before, is_seen=is_seen)
    monkeypatch.setattr(shared_prefix, "_current", type("Current", (), {"get": staticmethod(lambda: prefix)}))
    mask = masks(before + 4, before)["causal"]
    found, _ = attend(None, query, key, value, mask, s_aux=sinks)
    keys, values = (
        torch.cat([part.repeat_interleave(STATES, 0), mine], 2).repeat_interleave(SHARED, 1)
        for part, mine in ((prefix.key, key), (prefix.value, value))
    )
    scores = (query @ keys.mT * SIZE**-0.5).masked_fill(~mask, -torch.inf)
    beside = sinks[None, :, None, None].expand(*scores.shape[:-1], 1)
    weights = torch.cat([scores, beside], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(found, (weights @ values).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_an_image_is_all_that_cross_attention_attends_to(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    kept = recorded(7, generator)
    query = torch.randn(PAIRS * STATES, KEY_HEADS * SHARED, 4, SIZE, generator=generator)
    prefix = Prefix.of_image(kept, STATES)
    key, value = prefix.update(torch.zeros(0), torch.zeros(0))  # whatever the layer has made itself
    monkeypatch.setattr(shared_prefix, "_current", type("Current", (), {"get": staticmethod(lambda: prefix)}))
    hidden = torch.zeros(PAIRS, 1, 4, 7)
    hidden[1, :, :, 5:] = torch.finfo(torch.float32).min
    found, _ = attend(None, query, key, value, hidden)
    keys, values = (part.repeat_interleave(STATES, 0).repeat_interleave(SHARED, 1) for part in (kept.key, kept.value))
    wanted = F.scaled_dot_product_attention(query, keys, values, attn_mask=hidden.repeat_interleave(STATES, 0))
    torch.testing.assert_close(found, wanted.transpose(1, 2), atol=1e-5, rtol=1e-5)
