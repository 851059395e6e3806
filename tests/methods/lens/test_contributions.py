"""The visual lens: parts add up exactly, readings are the model's own, and planted words are found."""

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.families import THROUGHOUT
from torch import nn

import vlmtrace as vt
from vlmtrace.methods.lens.contributions import (
    head_contributions,
    head_means,
    lens_contributions,
    module_contributions,
    position_contributions,
    top_heads,
)
from vlmtrace.methods.lens.decomposition import open_lens, token_text
from vlmtrace.methods.lens.frozen_norm import FrozenNorm
from vlmtrace.methods.lens.questions import lens_of, question_inputs, right_answers, text_only_inputs
from vlmtrace.methods.lens.renormed import renormed_contributions, renormed_modules
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import Site

LANGUAGE = "language_model"
PREFIX = "red is the"


@pytest.fixture(scope="session", params=THROUGHOUT)
def family(request, model_store, questions):
    """A model, the inputs of a question after the beginning of an answer, and the lens on it."""
    model = model_store.shared(request.param)
    inputs = question_inputs(model, questions["image"][0], questions["prompt"][0], PREFIX)
    return model, inputs, open_lens(model, inputs)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


# Every family -------------------------------------------------------------------------------------------------------


def test_heads_add_up_to_what_attention_adds(family, record_property):
    model, _, lens = family
    for layer in range(model.blocks[LANGUAGE].n_layers):
        whole = lens.head_outputs(layer).sum(0) + lens.attention_bias(layer)
        off = relative(whole, lens.attention[layer, lens.at])
        record_property(f"layer {layer}", off)
        assert off < 1e-5
        assert lens.head_outputs(layer).norm(dim=-1).min() > 1e-3


def test_positions_add_up_to_their_head(family):
    model, _, lens = family
    block = model.blocks[LANGUAGE]
    for layer in range(block.n_layers):
        scale = lens.attention[layer, lens.at].norm()
        for head in range(block.n_heads):
            off = (lens.position_outputs(layer, head).sum(0) - lens.head_outputs(layer)[head]).norm() / scale
            assert off < 1e-5, f"head {layer}.{head} is off by {off:.2g}"


def test_parts_are_what_is_added_to_the_stream(family):
    """Against the stream itself, from another forward pass."""
    model, inputs, lens = family
    n = model.blocks[LANGUAGE].n_layers
    trace = model.trace(inputs, [Site(LANGUAGE, "residual", layer) for layer in range(n)])
    for layer in range(n):
        added = trace[LANGUAGE, "residual", layer][0, -1] - trace.calls[layer].hidden[0, -1]
        assert relative(lens.attention[layer, -1] + lens.mlp[layer, -1], added) < 1e-4


def test_the_last_layer_gives_the_models_own_logits(family):
    model, inputs, lens = family
    with torch.no_grad():
        logits = model.answer_logits(inputs)[0]
    torch.testing.assert_close(lens.read(lens.hidden[-1, -1:])[0], logits, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(lens.logits, logits, atol=1e-4, rtol=1e-5)
    assert lens.token == int(logits.argmax())


def test_steps_of_modules_add_up_from_the_embedding_to_the_answer(family):
    _, _, lens = family
    steps = module_contributions(lens)
    start, end = (float(lens.log_p(lens.hidden[i, lens.at], lens.token)) for i in (0, -1))
    assert end == pytest.approx(float(lens.logits.log_softmax(-1)[lens.token]), abs=1e-4)
    assert steps.sum() == pytest.approx(end - start, abs=1e-3)


def test_a_text_alone_is_read_as_the_language_model_reads_it(family, questions):
    """Against the first step of transformers' own generation."""
    model, _, _ = family
    inputs = text_only_inputs(model, "the circle is red.", questions["prompt"][0])
    assert not model.is_image(inputs).any()
    options = dict(max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
    wanted = model.hf.get_submodule(model.family.text_only).generate(**inputs, **options).logits[0][0]
    lens = open_lens(model, inputs)
    torch.testing.assert_close(lens.logits, wanted.float(), atol=1e-4, rtol=1e-5)
    assert relative(lens.head_outputs(0).sum(0) + lens.attention_bias(0), lens.attention[0, -1]) < 1e-5


def test_contributions_of_positions_and_heads_are_what_their_definition_says(family):
    """By the definition, with the norm and the unembedding written out."""
    model, _, lens = family
    layer, head, b = 1, 2, 5
    x, o = lens.hidden[layer, -1], lens.head_outputs(layer)[head]

    def log_p(vector):
        centred = vector - vector.mean() if lens.final.centred else vector
        normed = lens.final.gain * centred / lens.final.scale[-1] + lens.final.bias
        logits = model.capped(nn.functional.linear(normed, model.hf.get_output_embeddings().weight))
        return float(logits.log_softmax(-1)[b])

    assert head_contributions(lens, b)[layer, head] == pytest.approx(log_p(x + o) - log_p(x), abs=1e-4)
    found = position_contributions(lens, [(layer, head)], b)[0]
    part = lens.position_outputs(layer, head)[3]
    assert found[3] == pytest.approx(log_p(x + part) - log_p(x), abs=1e-4)
    assert np.abs(found).max() > 1e-4


# Norms --------------------------------------------------------------------------------------------------------------


def test_a_frozen_norm_is_linear_and_equals_the_norm_where_it_was_frozen():
    torch.manual_seed(0)
    at = torch.randn(4, 16) * torch.tensor([[0.01], [1.0], [30.0], [1.0]])
    norms = {"rms": nn.RMSNorm(16, eps=1e-6), "layer": nn.LayerNorm(16)}
    for name, norm in norms.items():
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        with torch.no_grad():
            norm.weight[3] = 0  # nothing passes here
            frozen = FrozenNorm.of(norm, at)
            assert frozen.centred == (name == "layer")
            torch.testing.assert_close(frozen(at), norm(at), atol=1e-5, rtol=1e-5)
            a, b = torch.randn(2, 4, 16)
            torch.testing.assert_close(frozen.linear(a + 2 * b), frozen.linear(a) + 2 * frozen.linear(b))
            wanted = at.std(-1, correction=0) if name == "layer" else at.square().mean(-1).sqrt()
            torch.testing.assert_close(frozen.scale[1:, 0], wanted[1:], atol=1e-4, rtol=1e-4)


def test_a_frozen_norm_of_zeros_is_finite():
    frozen = FrozenNorm.of(nn.RMSNorm(8), torch.zeros(2, 8))
    assert torch.isfinite(frozen(torch.ones(2, 8))).all()
    assert torch.equal(FrozenNorm.of(nn.Identity(), torch.ones(8))(torch.full((8,), 3.0)), torch.full((8,), 3.0))


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_norm_computed_anew_is_the_models_own(tiny, lens):
    """Naively: the model's own norm on the stream with each head's output, and on the final stream without it."""

    def log_p(vector):
        with torch.no_grad():
            return float(tiny.unembed(tiny.final_norm(vector[None])).log_softmax(-1)[0, lens.token])

    increase, loss = renormed_contributions(lens)
    modules, lost = renormed_modules(lens)
    final = lens.hidden[-1, lens.at]
    for layer in range(len(lens.heads)):
        entering = lens.hidden[layer, lens.at]
        for head, output in enumerate(lens.head_outputs(layer)):
            assert increase[layer, head] == pytest.approx(log_p(entering + output) - log_p(entering), abs=1e-4)
            assert loss[layer, head] == pytest.approx(log_p(final) - log_p(final - output), abs=1e-4)
        for i, output in enumerate((lens.attention[layer, lens.at], lens.mlp[layer, lens.at])):
            assert lost[layer, i] == pytest.approx(log_p(final) - log_p(final - output), abs=1e-4)
    whole = log_p(final) - log_p(lens.hidden[0, lens.at])
    assert modules.sum() == pytest.approx(whole, abs=1e-3), "the steps of modules add up under any norm"
    frozen = head_contributions(lens)
    assert np.abs(frozen - increase).max() > 1e-3, "the frozen norm says the same: this proves nothing"


def test_the_table_with_a_norm_computed_anew(tiny, questions):
    plain, both = (lens_contributions(tiny, questions, PREFIX, renormed=renormed) for renormed in (False, True))
    added = ["log_p_increase_renormed", "log_p_loss_renormed"]
    assert [*plain.columns, *added] == list(both.columns) and plain.equals(both[plain.columns])
    one = lens_of(tiny, questions.iloc[1], PREFIX)
    mine = both[(both["sample_id"] == questions["sample_id"][1]) & both["head"].notna()]
    for name, expected in zip(added, renormed_contributions(one), strict=True):
        np.testing.assert_allclose(mine[name], expected.ravel(), atol=1e-6)


def test_the_table_says_what_the_lens_says(tiny, questions):
    table = lens_contributions(tiny, questions, PREFIX)
    block = tiny.blocks[LANGUAGE]
    assert len(table) == len(questions) * (block.n_layers * (block.n_heads + 2))
    one = lens_of(tiny, questions.iloc[1], PREFIX)
    mine = table[table["sample_id"] == questions["sample_id"][1]]
    heads = mine[mine["head"].notna()]
    np.testing.assert_allclose(
        heads["log_p_increase"].to_numpy().reshape(block.n_layers, -1), head_contributions(one), atol=1e-6
    )
    wide = mine[mine["head"].isna()].pivot(index="layer", columns="module", values="log_p_increase")
    np.testing.assert_allclose(wide[["self_attention", "mlp"]], module_contributions(one), atol=1e-6)
    assert mine["token"].unique() == [token_text(tiny, one.token)]
    assert head_means(table).shape == (block.n_layers, block.n_heads)


def test_the_prefix_moves_the_answer(tiny, questions):
    plain, after = (question_inputs(tiny, *questions.loc[0, ["image", "prompt"]], prefix) for prefix in ("", PREFIX))
    ids = after["input_ids"][0].tolist()
    assert ids[: plain["input_ids"].shape[1]] == plain["input_ids"][0].tolist()
    assert tiny.tokenizer.decode(ids[plain["input_ids"].shape[1] :]).strip() == PREFIX


def test_the_strongest_heads_come_first():
    contributions = np.array([[0.1, 0.5], [0.7, -0.9]])
    assert top_heads(contributions, 3) == [(1, 0), (0, 1), (0, 0)]


def test_what_cannot_be_taken_apart_is_refused(tiny, random_blip, questions):
    with pytest.raises(vt.VlmtraceError, match="decoder-only"):
        open_lens(random_blip, {})
    inputs = question_inputs(tiny, questions["image"][0], questions["prompt"][0])
    with pytest.raises(vt.VlmtraceError, match="one question at a time"):
        open_lens(tiny, {name: torch.cat([value, value]) for name, value in inputs.items()})
    with pytest.raises(vt.VlmtraceError, match="lacks the columns image"):
        lens_contributions(tiny, pd.DataFrame({"sample_id": ["a"], "prompt": ["b"]}))
    point = tiny.hook_point(Site(LANGUAGE, "residual", 1))
    with (
        attach_hooks([(point, lambda value: value + 1)]),
        pytest.raises(vt.VlmtraceError, match="adds more to the stream"),
    ):
        open_lens(tiny, inputs)


@pytest.mark.parametrize("column", [None, "sentences"])
def test_an_answer_is_right_as_a_whole(tiny, masked, monkeypatch, column):
    """Where a tokenizer splits "pink", its first token is also that of other words."""
    said = [tiny.generate(inputs_of(tiny, row, column))[0] for row in masked.to_dict("records")]
    own = masked.assign(answer=[said[0], f"{said[1]} more"])
    assert right_answers(tiny, own, text_only=column).tolist() == [True, False]
    monkeypatch.setattr(tiny, "generate", lambda inputs: ["Pink."])
    asked = masked.assign(answer=["pink", "p"])
    assert right_answers(tiny, asked, text_only=column).tolist() == [True, False]


def inputs_of(model, row, column):
    if column is None:
        return question_inputs(model, row["image"], row["prompt"])
    return text_only_inputs(model, row[column], row["prompt"])
