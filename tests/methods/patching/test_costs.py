"""What patching costs: counted beforehand, and counted by torch while it runs."""

import pandas as pd
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
)

import vlmtrace as vt
from vlmtrace.benchmarks import random_llava
from vlmtrace.benchmarks.calls import calls_of
from vlmtrace.benchmarks.measure import count_operations, peak_memory
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.patching import PUBLISHED_SIZES, model_sizes, patch_heads, patch_modules, patching_costs

SIGLIP = dict(
    hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, patch_size=14
)  # fmt: skip


def llava():
    vision = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                              projection_dim=768, image_size=336, patch_size=14)  # fmt: skip
    text = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                       vocab_size=32064)  # fmt: skip
    return LlavaForConditionalGeneration, LlavaConfig(vision_config=vision, text_config=text)


def qwen():
    text = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False)  # fmt: skip
    vision = dict(depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420, out_hidden_size=3584)
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def smolvlm():
    text = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
                       vocab_size=49155, tie_word_embeddings=False, pad_token_id=2)  # fmt: skip
    vision = dict(SIGLIP, image_size=384)
    config = Idefics3Config(vision_config=vision, text_config=text, scale_factor=3, pad_token_id=2)
    return Idefics3ForConditionalGeneration, config


def paligemma():
    text = GemmaConfig(hidden_size=2048, intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8,
                       num_key_value_heads=1, head_dim=256, vocab_size=257216, tie_word_embeddings=True)  # fmt: skip
    vision = SiglipVisionConfig(**SIGLIP, image_size=224, projection_dim=2048, vision_use_head=False)
    return PaliGemmaForConditionalGeneration, PaliGemmaConfig(
        vision_config=vision, text_config=text, projection_dim=2048, hidden_size=2048
    )


MADE = {"llava-1.5-7b": llava, "qwen2.5-vl-7b": qwen, "smolvlm": smolvlm, "paligemma-3b": paligemma}


def count(module):
    return sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_published_sizes_are_those_of_the_class_with_the_published_configuration(name):
    kind, config = MADE[name]()
    with torch.device("meta"):
        hf = kind(config)
    hf.tie_weights()
    sizes, language = PUBLISHED_SIZES[name], hf.model.text_model if name == "smolvlm" else hf.model.language_model
    layer, text = language.layers[0], hf.config.get_text_config()
    attention = layer.self_attn
    vision = next(
        getattr(hf.model, path) for path in ("vision_tower", "visual", "vision_model") if hasattr(hf.model, path)
    )
    assert sizes.parameters == count(hf) and sizes.vision_parameters == count(vision)
    assert (sizes.layers, sizes.layer_parameters) == (len(language.layers), count(layer))
    assert sizes.projections == sum(
        one.weight.numel() for one in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    assert (sizes.width, sizes.heads, sizes.inner) == (
        text.hidden_size, text.num_attention_heads, text.intermediate_size,
    )  # fmt: skip
    assert sizes.attention_width == attention.o_proj.in_features and sizes.key_width == attention.k_proj.out_features
    assert sizes.vocabulary == text.vocab_size


@pytest.fixture(scope="module")
def pair():
    return vt.load_pairs("rendered_states", n=1, seed=0)


@pytest.fixture(scope="module")
def model():
    return random_llava()


@pytest.fixture(scope="module")
def costs(model, pair):
    table = token_table(model, pair.iloc[0].to_dict(), "language_model", run_inputs(model, pair, "clean"))
    option = int(table.loc[table["token_role"] == "correct", "position"].max())
    return patching_costs(model_sizes(model, pair), after_option=len(table) - option).set_index("call")


@pytest.mark.medium
def test_operations_are_those_that_torch_counts(model, pair, costs):
    for call, work in calls_of(model, pair).items():
        # The attention of the vision encoder is not counted, and gradients stop below the embeddings.
        assert count_operations(work) == pytest.approx(costs.loc[call, "operations"], rel=0.1), call


@pytest.mark.medium
def test_operations_of_patches_at_every_position_are_those_that_torch_counts(model, pair, costs):
    whole = {
        "patch_heads": lambda: patch_heads(model, pair),
        "patch_modules": lambda: patch_modules(model, pair, blocks=["language_model"]),
    }
    for call, work in whole.items():
        assert count_operations(work) == pytest.approx(costs.loc[call, "operations"], rel=0.1), call


def test_counted_effects_are_the_rows_of_the_tables(model, pair, costs):
    for call, work in calls_of(model, pair).items():
        assert len(work()) == costs.loc[call, "effects"], call


def test_memory_is_near_the_peak_of_a_sweep_with_one_patched_state(model, pair, costs):
    calls = calls_of(model, pair, memory_gb=1e-6)
    for call in ("attribute_heads", 'patch_modules, "last"', 'patch_heads, "correct"'):
        assert peak_memory(calls[call]) / 1e9 == pytest.approx(costs.loc[call, "least_gb"], rel=0.2), call


@pytest.mark.parametrize("name", ["tiny-llava", "random"])
def test_edges_are_counted_as_they_are_listed(name, model, pair):
    model = model if name == "random" else vt.load_model(name)
    assert model_sizes(model, pair).n_edges == len(vt.edges(model))


def test_where_positions_see_later_ones_every_patch_costs_the_whole_sequence(model, pair):
    sizes = model_sizes(model, pair)
    assert not sizes.looks_ahead and PUBLISHED_SIZES["paligemma-3b"].looks_ahead
    ahead = sizes._replace(looks_ahead=True)
    assert ahead.patches_operations(1, 1) == sizes.patches_operations(1, sizes.positions)
    assert ahead.least_gb(1, 4) == sizes.least_gb(sizes.positions, 4)


def test_half_precision_halves_what_is_kept():
    sizes = PUBLISHED_SIZES["llava-1.5-7b"]
    for gigabytes in (sizes.weights_gb, sizes.runs_gb, sizes.gradients_gb):
        assert gigabytes(4) == 2 * gigabytes(2)
    assert sizes.weights_gb(2) == pytest.approx(14.1, abs=0.05)


def test_a_model_of_another_kind_is_refused_with_a_sentence(pair):
    with pytest.raises(VlmtraceError, match="tiny-blip is no decoder-only model"):
        model_sizes(vt.load_model("tiny-blip"), pair)


def test_costs_are_listed_from_the_cheapest_on():
    for sizes in PUBLISHED_SIZES.values():
        passes = patching_costs(sizes)["passes"]
        assert isinstance(passes, pd.Series) and passes.iloc[0] == 1 and passes.max() == passes.iloc[-1]
