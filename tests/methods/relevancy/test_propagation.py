"""Relevancy against cases worked by hand and against one run, one backward and whole matrices for each token."""

import copy

import numpy as np
import pytest
import torch
from fixtures.families import THROUGHOUT
from PIL import Image

import vlmtrace as vt
from vlmtrace.methods.relevancy import propagation
from vlmtrace.methods.relevancy.propagation import _gradients, attention_graph, relevancy
from vlmtrace.methods.relevancy.randomization import relevancy_control
from vlmtrace.methods.relevancy.rules import bimodal_relevancy, normalised, self_attention_relevancy
from vlmtrace.models import Site
from vlmtrace.models.hooks import attach_hooks

PROMPT = "is this square striped or dotted?"
WORDS = ("red", "circle", "blue")
#: Why the vision encoder of some families is left out.
REFUSED = {
    "qwen2_vl": "keeps its attention weights",
    "qwen2_5_vl": "keeps its attention weights",
    "qwen3_vl": "keeps its attention weights",
    "blip2": "stand for no particular patches",
    "instructblip": "stand for no particular patches",
}


@pytest.fixture(scope="module", params=["random_blip", *THROUGHOUT])
def model(request, model_store):
    found = copy.copy(model_store.shared(request.param))
    found.name = request.param
    return found


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 36, 3), dtype=np.uint8))


def given(model):
    return [model.answer_token(word) for word in WORDS]


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def as_layer(weight):
    """Attention of 1/2 everywhere in two heads, and gradients that make of it a mean of `weight`; the second head's
    are negative, so that half of the mean must come from what is cut off."""
    return torch.full((2, *weight.shape), 0.5), torch.stack([4 * weight, -weight - 1])


# The rules ------------------------------------------------------------


def test_two_layers_of_self_attention_by_hand():
    """Ā₁ = [[2, 0], [2, 0]] and Ā₂ = [[0, 0], [1, 1]]: R = [[3, 0], [2, 1]], then + Ā₂R = [[0, 0], [5, 1]]."""
    attentions = [tensor([1, 0], [0.5, 0.5])[None], tensor([1, 0], [0.25, 0.75])[None]]
    gradients = [tensor([2, 0], [4, -2])[None], tensor([0, 3], [4, 4 / 3])[None]]
    found = self_attention_relevancy(attentions, gradients)
    torch.testing.assert_close(found, tensor([3, 0], [7, 2]))
    torch.testing.assert_close(self_attention_relevancy(attentions, gradients, tensor([0, 1])), tensor([7, 2]))


def test_two_layers_with_cross_attention_by_hand():
    """Layer 1: Ā = [[0, 0], [1, 0]], Ā to q = diag(1, 2). Layer 2: Ā = Ā to q = [[0, 1], [0, 0]].

    R^qq = [[1, 0], [3, 1]], so R̄^qq = [[1, 0], [1, 1]]; q has 1 and 2 from a third sequence of one position.
    Layer 1: R^ss = R̄^ss = [[1, 0], [1, 1]]; R^sq = [[1, 1], [0, 1]]·[[1, 0], [2, 2]] = [[3, 2], [2, 2]]; R^sx = 1, 4.
    Layer 2: R^ss = [[2, 1], [1, 1]], R̄^ss = [[1.5, 0.5], [1, 1]]; R^sq = [[5, 4], [2, 2]] by eq. 7, and eq. 10 adds
    [[1.5, 1], [0.5, 1]]·[[1, 1], [0, 0]]; R^sx = 5, 4 as by eq. 7, and our extension of eq. 11 adds 2, 0.
    """
    inside = [as_layer(tensor([0, 0], [1, 0])), as_layer(tensor([0, 1], [0, 0]))]
    across = [as_layer(tensor([1, 0], [0, 2])), as_layer(tensor([0, 1], [0, 0]))]
    unzipped = [list(part) for layers in (inside, across) for part in zip(*layers, strict=True)]
    own, other, third = bimodal_relevancy(*unzipped, tensor([1, 0], [3, 1]), tensor([1], [2]))
    torch.testing.assert_close(own, tensor([2, 1], [1, 1]))
    torch.testing.assert_close(other, tensor([6.5, 5.5], [2.5, 2.5]))
    torch.testing.assert_close(third, tensor([7], [4]))


def test_the_rule_for_a_third_sequence_is_ours_and_for_x_equal_to_s_it_is_the_papers_eq_11():
    """R^ss + Ā R^qs after one layer without self-attention, from R^ss = 1 (the authors' `apply_mm_attention_rules`)."""
    generator = torch.Generator().manual_seed(0)
    across, q_from_s = torch.rand(1, 3, 2, generator=generator), torch.rand(2, 3, generator=generator)
    none = torch.zeros(1, 3, 3)
    own, _, third = bimodal_relevancy([none], [none], [across], [torch.ones(1, 3, 2)], torch.eye(2), q_from_s)
    torch.testing.assert_close(own + third, torch.eye(3) + across[0] @ q_from_s)
    text = propagation.__doc__
    assert "R^sx ← R^sx + Ā R^qx                               (ours)" in text and "R^ss ← R^ss + Ā R^qs" in text


def test_without_gradients_relevancy_is_the_identity():
    attention, none = torch.rand(3, 2, 5, 5).softmax(-1), torch.zeros(3, 2, 5, 5)
    assert torch.equal(self_attention_relevancy(list(attention), list(none)), torch.eye(5))
    cross = [torch.rand(2, 5, 4).softmax(-1) for _ in range(3)], [torch.zeros(2, 5, 4)] * 3
    own, other, third = bimodal_relevancy(list(attention), list(none), *cross, torch.eye(4), torch.ones(4, 1))
    assert torch.equal(own, torch.eye(5)) and not other.any() and not third.any()


def test_rows_of_normalised_relevancy_sum_to_two_or_stay():
    found = normalised(torch.eye(3) + tensor([0, 2, 6], [0, 0, 0], [1, 1, 0]))
    torch.testing.assert_close(found, torch.eye(3) + tensor([0, 0.25, 0.75], [0, 0, 0], [0.5, 0.5, 0]))


# Whole models ------------------------------------------------------------


def attention_sites(model, with_vision):
    return [
        Site(block.name, module, layer)
        for block in model.blocks.values()
        if with_vision or block.name != "vision_encoder"
        for module in block.attention_modules
        for layer in range(block.n_layers)
    ]


def naive(model, inputs, ids, step, sites):
    """Weighted attention of one token, from a forward and a backward pass of its own through trainable weights."""
    kept = {}

    def keep(site):
        def hook(_module, _args, output):
            output[1].retain_grad()
            kept[site] = output[1]

        return hook

    handles = [model.attention_module(site).register_forward_hook(keep(site)) for site in sites]
    model.hf.requires_grad_(True)
    try:
        with model.eager():
            logits = model.answer_logits(model.extend(inputs, ids[:step]))
        logits[0, ids[step]].backward()
        weighted = {site: (kept[site] * kept[site].grad).clamp(min=0).mean(1).detach() for site in sites}
        return weighted, logits[0, ids[step]].item()
    finally:
        model.hf.zero_grad(set_to_none=True)
        model.hf.requires_grad_(False)
        for handle in handles:
            handle.remove()


def whole(model, weighted, block, module="self_attention"):
    """All layers of Ā of the only pair: (tile, layer, query, key)."""
    layers = range(model.blocks[block].n_layers)
    return torch.stack([weighted[Site(block, module, layer)] for layer in layers], dim=1).double()


def product(layers):
    found = torch.eye(layers.shape[-1], dtype=torch.float64)
    for layer in layers:
        found = found + layer @ found
    return found


def expected_maps(model, weighted, inputs):
    """image, prompt, previous of the last token, and through the vision encoder (tile, position, position) or None."""
    sees = (
        "self_attention" in model.blocks["vision_encoder"].attention_modules
        and Site("vision_encoder", "self_attention", 0) in weighted
    )
    vision = torch.stack([product(tile) for tile in whole(model, weighted, "vision_encoder")]) if sees else None
    block = model.head_block.name
    if model.image_module == "self_attention":
        row = product(whole(model, weighted, block)[0])[-1]
        row[-1] -= 1
        n, at = inputs["input_ids"].shape[1], model.image_positions(inputs, block)
        return row[:n][at], row[:n][~at], row[n:], vision
    parts = {
        name: [whole(model, weighted, name, module)[0] for module in ("self_attention", "cross_attention")]
        for name in (block, "text_decoder")
    }
    eye = torch.eye
    own, image = eye(parts[block][0].shape[-1]).double(), 0
    for inside, across in zip(*parts[block], strict=True):
        own, image = own + inside @ own, image + (inside @ image if torch.is_tensor(image) else 0)
        image = image + normalised(own).mT @ across
    answer, prompt, through = eye(parts["text_decoder"][0].shape[-1]).double(), 0, 0
    for inside, across in zip(*parts["text_decoder"], strict=True):
        answer = answer + inside @ answer
        prompt = prompt + (inside @ prompt if torch.is_tensor(prompt) else 0)
        prompt = prompt + normalised(answer).mT @ across @ normalised(own)
        through = through + (inside @ through if torch.is_tensor(through) else 0) + across @ image
    answer[-1, -1] -= 1
    return through[-1], prompt[-1], answer[-1, 1:], vision


def test_maps_equal_those_of_a_run_for_each_token(model, picture):
    inputs, ids = model.encode([picture], [model.prompt_text(PROMPT)]), given(model)
    found = relevancy(model, picture, PROMPT, ids, steps_at_once=2)
    assert (found.refused is None) == (model.name not in REFUSED)
    sites = attention_sites(model, found.vision is not None)
    is_text = ~found.tokens["is_image"].to_numpy()
    close = dict(rtol=2e-3, atol=1e-5)
    for step in range(3):
        weighted, logit = naive(model, inputs, ids, step, sites)
        image, prompt, previous, vision = expected_maps(model, weighted, inputs)
        assert image.max() > 1e-4 and prompt.max() > 1e-4, "nothing is relevant: this proves nothing"
        np.testing.assert_allclose(found.answer["logit"][step], logit, atol=1e-4)
        np.testing.assert_allclose(found.image[step], image, **close)
        np.testing.assert_allclose(found.prompt[step, is_text], prompt, **close)
        np.testing.assert_allclose(found.previous[step, :step], previous, **close)
        assert not found.previous[step, step:].any()
        if vision is not None:
            patches = torch.as_tensor(model.token_patches(inputs)).double()
            rest = vision - torch.eye(vision.shape[-1])
            brought = torch.block_diag(*rest)
            np.testing.assert_allclose(found.vision[step], patches[patches.sum(1) > 0].mean(0) @ brought, **close)
            spread = torch.block_diag(*normalised(vision))
            np.testing.assert_allclose(
                found.joined[step], image @ patches @ (spread / spread.sum(1, keepdim=True)), **close
            )


def test_gradients_are_those_of_each_token_alone(model, picture):
    """No token's gradient holds another's: one at a time, in any number at once, and a second time."""
    inputs, ids = model.encode([picture], [model.prompt_text(PROMPT)]), given(model)
    with attention_graph(model, inputs, ids, False) as (logits, weights):
        alone = [torch.autograd.grad(logit, list(weights.values()), retain_graph=True) for logit in logits]
        ((_, together),) = _gradients(logits, weights, 3)
    for step, found in enumerate(alone):
        for gradient, expected in zip(together.values(), found, strict=True):
            torch.testing.assert_close(gradient[step], expected, rtol=1e-3, atol=1e-5)


def test_attention_weights_are_the_models_own(model, picture):
    inputs, ids = model.encode([picture], [model.prompt_text(PROMPT)]), given(model)
    vision = "self_attention" in model.blocks["vision_encoder"].attention_modules
    with attention_graph(model, inputs, ids, vision) as (_, weights):
        weights = {site: value.detach() for site, value in weights.items()}
    for block in model.blocks.values():
        for module in block.attention_modules:
            own = model.attention(model.extend(inputs, ids[:-1]), block.name, module)
            found = torch.stack([weights[Site(block.name, module, layer)] for layer in range(block.n_layers)])
            torch.testing.assert_close(found, own)
            torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))


def test_nothing_is_left_on_the_model(model, picture, monkeypatch):
    def state():
        parts = model.hf.modules()
        return [
            (len(part._forward_hooks), len(part._forward_pre_hooks), sorted(part.__dict__), sorted(part._buffers))
            for part in parts
        ]

    before, weights = state(), model.fingerprint()
    first, second = (relevancy(model, picture, PROMPT, given(model), steps_at_once=n) for n in (1, 3))
    for name in ("image", "prompt", "previous", "vision", "joined"):
        pair = getattr(first, name), getattr(second, name)
        if pair[0] is not None:
            np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-6)
    again = relevancy(model, picture, PROMPT, given(model), steps_at_once=3)
    np.testing.assert_array_equal(again.image, second.image)
    assert state() == before and model.fingerprint() == weights
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.hf.parameters())

    def fail(*_args):
        raise RuntimeError("in the middle of a run")

    ids = given(model)
    monkeypatch.setattr(model, "extend", fail)
    with pytest.raises(RuntimeError, match="in the middle of a run"):
        relevancy(model, picture, PROMPT, ids)
    assert state() == before


def test_what_the_joined_map_shows_is_what_the_image_map_had(model, picture):
    found = relevancy(model, picture, PROMPT, given(model))
    if found.joined is None:
        assert found.vision is None and REFUSED[model.name] in found.refused
        assert set(found.table()["kind"]) == {"image", "prompt", "answer"}
        return
    placed = model.token_patches(model.encode([picture], [model.prompt_text(PROMPT)])).sum(1) > 0
    np.testing.assert_allclose(found.joined.sum(1), found.image[:, placed].sum(1), rtol=1e-4)
    n = len(model.image_cells(picture, model.encode_image(picture), "vision_encoder"))
    assert found.joined.shape == found.vision.shape == (3, n)


def test_token_patches_are_those_whose_change_changes_the_token(model, picture):
    inputs = model.encode([picture], [model.prompt_text(PROMPT)])
    patches = model.token_patches(inputs)
    if patches is None:
        assert "stand for no particular patches" in REFUSED[model.name]
        return
    np.testing.assert_allclose(patches.sum(1), (patches.sum(1) > 0.5).astype(float), atol=1e-6)
    block = model.blocks["vision_encoder"]
    point = model.hook_point(Site("vision_encoder", "residual", block.n_layers - 1))
    positions = [0, 1, patches.shape[1] // 2, patches.shape[1] - 1]
    with torch.no_grad():
        before = model.image_embeddings(inputs)
        for position in positions:

            def push(value, position=position):
                value = value.clone()
                # Not the same for all: a norm would take that away.
                value[:, position] += torch.linspace(-1, 2, value.shape[-1]) ** 3
                return value

            with attach_hooks([(point, push)], 1):
                moved = (model.image_embeddings(inputs) - before)[0].abs().amax(-1).numpy() > 1e-4
            np.testing.assert_array_equal(moved, patches[:, position] > 0)


# Words, tables, refusals ------------------------------------------------------------


def test_sub_tokens_become_words(model, picture):
    found = relevancy(model, picture, PROMPT, given(model))
    words = found.words()
    asked = [word for word in words[words["step"] == 0]["word"] if word in "is this square striped or dotted ?".split()]
    assert asked == "is this square striped or dotted ?".split()
    text = ~found.tokens["is_image"].to_numpy()
    np.testing.assert_allclose(
        words.groupby("step")["relevance"].sum(), np.nansum(found.prompt[:, text], axis=1), rtol=1e-6
    )


def test_sub_tokens_of_an_answer_become_words(random_blip, picture):
    ids = random_blip.tokenizer("striped dotted", add_special_tokens=False).input_ids
    answer = relevancy(random_blip, picture, PROMPT, ids).answer
    assert list(answer["token"]) == ["strip", "##ed", "dott", "##ed"]
    assert list(answer["word"]) == ["striped", "striped", "dotted", "dotted"]
    assert list(answer["word_index"]) == [0, 0, 1, 1]


def test_tables_hold_what_the_arrays_hold(random_blip, picture):
    found = relevancy(random_blip, picture, PROMPT, given(random_blip))
    table, shares = found.table(), found.shares()
    sizes = table.groupby(["step", "kind"]).size().unstack(fill_value=0)
    n = len(found.tokens)
    assert sizes["prompt"].tolist() == [n] * 3 and sizes["answer"].tolist() == [0, 1, 2]
    assert sizes["image"].tolist() == sizes["joined"].tolist() == [17] * 3
    row = table[(table["step"] == 2) & (table["kind"] == "prompt") & (table["position"] == 4)].iloc[0]
    assert (row["token"], row["word"], row["relevance"]) == ("strip", "striped", found.prompt[2, 4])
    earlier = table[(table["step"] == 2) & (table["kind"] == "answer")]
    assert earlier["word"].tolist() == ["red", "circle"]
    total = found.image.sum(1) + found.prompt.sum(1) + found.previous.sum(1)
    np.testing.assert_allclose(shares["image_share"], found.image.sum(1) / total)


def test_the_models_own_answer_is_the_default(random_blip, picture):
    ids = random_blip.answer_tokens(random_blip.encode([picture], [PROMPT]), max_new_tokens=2)
    assert ids
    assert relevancy(random_blip, picture, PROMPT, max_new_tokens=2).answer["token_id"].tolist() == ids


def test_bad_options_get_a_sentence(random_blip, picture):
    with pytest.raises(vt.VlmtraceError, match="steps_at_once must be a whole number from 1"):
        relevancy(random_blip, picture, PROMPT, steps_at_once=0)
    with pytest.raises(vt.VlmtraceError, match=r"Token 999999 does not exist: those of .* are 0 to "):
        relevancy(random_blip, picture, PROMPT, [999_999])
    with pytest.raises(vt.VlmtraceError, match="with nothing: give the tokens of an answer"):
        relevancy(random_blip, picture, PROMPT, [])
    assert "was not asked for" in relevancy(random_blip, picture, PROMPT, vision=False).refused


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_the_control_with_nothing_randomized_agrees_wholly(name, model_store, random_pairs):
    model, pair = model_store.shared(name), random_pairs.iloc[0]
    same = relevancy_control(model, pair["clean_image"], pair["clean_prompt"], top_layers=0).dropna()
    other = relevancy_control(model, pair["clean_image"], pair["clean_prompt"]).dropna()
    assert len(same) and np.allclose(same["spearman"], 1), "maps of equal models differ"
    assert other["spearman"].min() < 0.9, "maps of unlike models are the same"
