"""LoRA adapters: what is loaded is the model with the adapter, or nothing."""

import json
import shutil

import pytest
import torch
from fixtures.adapters import beside_layers, factors_of, write_adapter
from fixtures.broken_folders import LFS_POINTER, logits, refusal
from safetensors.torch import load_file, save_file

import vlmtrace as vt
from vlmtrace.models.adapter_files import read_adapter
from vlmtrace.models.adapters import add_adapter
from vlmtrace.pipeline.checks import check_model
from vlmtrace.pipeline.cli import is_decoder_only
from vlmtrace.pipeline.model_files import model_digest

TEXT = "model.language_model.layers.1."
LAYERS = [
    *(f"{TEXT}{part}" for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")),
    "model.multi_modal_projector.linear_2",
]


@pytest.fixture
def llava(model_store):
    return model_store.shared("llava")


@pytest.fixture
def factors(llava):
    return factors_of(llava.hf, [*LAYERS, vision_layer(llava.hf)])


def vision_layer(hf):
    return next(name for name, _ in hf.named_modules() if "vision_tower" in name and name.endswith("v_proj"))


def expected(model, factors, scale):
    with beside_layers(model.hf, factors, scale):
        return logits(model)


def check_equal(found, wanted, plain):
    assert (wanted - plain).abs().max() > 0.05, "the adapter changes too little for this test to tell"
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


# What is added


def test_a_folder_of_peft_is_its_model_with_the_adapter(model_store, llava, factors, tmp_path):
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), factors)
    model = vt.load_model(folder)
    assert model.name == str(folder) and model.uses_fast_sweep
    check_equal(logits(model), expected(llava, factors, lambda _: 16 / 4), logits(llava))


@pytest.mark.parametrize(
    ("entries", "scale"),
    [
        ({"use_rslora": True}, lambda layer: 16 / 2),
        ({"lora_alpha": 3}, lambda layer: 3 / 4),
        (
            {"alpha_pattern": {"o_proj": 2, r"mlp\..*": 32}},
            lambda layer: {"o_proj": 0.5, "down_proj": 8}.get(layer.split(".")[-1], 4),
        ),
        ({"alpha_pattern": {"proj": 2}}, lambda layer: 4),  # it is no layer's last name
    ],
)
def test_the_scale_is_the_adapters(model_store, llava, factors, tmp_path, entries, scale):
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), factors, **entries)
    check_equal(logits(vt.load_model(folder, check=False)), expected(llava, factors, scale), logits(llava))


def test_the_rank_is_that_of_each_layers_factors(model_store, llava, tmp_path):
    few, many = factors_of(llava.hf, LAYERS[:2], 2), factors_of(llava.hf, LAYERS[2:], 6, seed=1)
    folder = write_adapter(tmp_path / "a", model_store.path("llava"), few | many, rank_pattern={"o_proj": 2})
    scale = {layer: 16 / 2 for layer in few} | {layer: 16 / 6 for layer in many}
    check_equal(logits(vt.load_model(folder, check=False)), expected(llava, few | many, scale.get), logits(llava))


def test_names_of_older_versions_of_transformers_are_found(model_store, llava, factors, tmp_path):
    def older(name):
        name = name.replace("model.language_model.layers", "language_model.model.layers")
        return name.replace("model.multi_modal", "multi_modal").replace("model.vision_tower.", "vision_tower.")

    assert all(older(layer) != layer for layer in factors)
    renamed = {older(layer): pair for layer, pair in factors.items()}
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), renamed)
    check_equal(logits(vt.load_model(folder, check=False)), expected(llava, factors, lambda _: 4), logits(llava))


def test_layers_that_were_trained_whole_are_replaced(model_store, tmp_path):
    other = model_store.load("llava")
    whole = {
        key: 0.5 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        for key, value in other.hf.state_dict().items()
        if "multi_modal_projector.linear_1" in key
    }
    assert len(whole) == 2
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), {}, whole, modules_to_save=["linear_1"])
    plain = logits(other)
    other.hf.load_state_dict(whole, strict=False)
    check_equal(logits(vt.load_model(folder, check=False)), logits(other), plain)


@pytest.mark.parametrize(
    ("change", "entries", "sentence"),
    [
        (lambda a, b: (a[:0], b[:, :0]), {}, "are empty, or hold no floating-point numbers"),
        (lambda a, b: (a.to(torch.int8), b.to(torch.int8)), {}, "are empty, or hold no floating-point numbers"),
        (lambda a, b: (a, b), {"modules_to_save": ["lm_head"]}, "says that it holds lm_head whole"),
        (lambda a, b: (a, b), {"lora_alpha": float("inf")}, "gives no numbers as lora_alpha"),
    ],
)
def test_nothing_of_an_adapter_is_left_out_in_silence(model_store, factors, tmp_path, change, entries, sentence):
    changed = {layer: tuple(part.contiguous() for part in change(*pair)) for layer, pair in factors.items()}
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), changed, **entries)
    with pytest.raises(vt.VlmtraceError, match=sentence):
        vt.load_model(folder, check=False)


def test_the_bias_of_a_layer_with_factors_is_replaced(model_store, tmp_path):
    other, layer = model_store.load("llava"), "model.multi_modal_projector.linear_1"
    factors, bias = factors_of(other.hf, [layer]), torch.linspace(-1, 1, len(other.hf.get_submodule(layer).bias))
    whole = {f"{layer}.base_layer.bias": bias}
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), factors, whole, bias="lora_only")
    plain = logits(other)
    other.hf.get_submodule(layer).bias.copy_(bias)
    check_equal(logits(vt.load_model(folder, check=False)), expected(other, factors, lambda _: 4), plain)


@pytest.mark.parametrize("name", ["random_blip", "qwen2_5_vl"])
def test_other_families_take_adapters_too(model_store, name, tmp_path):
    model = model_store.shared(name)
    layers = [
        layer
        for layer, module in model.hf.named_modules()
        if isinstance(module, torch.nn.Linear) and "1." in layer and "lm_head" not in layer
    ][:6]
    factors = factors_of(model.hf, layers)
    folder = write_adapter(tmp_path / "adapter", model_store.path(name), factors)
    check_equal(logits(vt.load_model(folder)), expected(model, factors, lambda _: 4), logits(model))


def test_the_other_model_may_be_named_from_the_adapters_folder(model_store, llava, factors, tmp_path):
    shutil.copytree(model_store.path("llava"), tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", "../base", factors)
    assert vt.load_model(folder, check=False).fingerprint() != llava.fingerprint()


def test_a_tokenizer_beside_the_adapter_is_the_one_that_is_used(model_store, factors, tmp_path):
    base = model_store.path("llava")
    folder = write_adapter(tmp_path / "adapter", base, factors)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / file, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 77}))
    model = vt.load_model(folder, check=False)
    assert model.tokenizer.model_max_length == 77
    assert type(model.processor).__name__ == "LlavaProcessor"


def test_a_tokenizer_that_was_enlarged_in_training_is_refused(model_store, factors, tmp_path):
    base = model_store.path("llava")
    folder = write_adapter(tmp_path / "adapter", base, factors)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / file, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(dict(content["added_tokens"][0], id=187, content="new"))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "has ids up to 187, but the model has embeddings of 187 tokens" in refusal(folder)


# What is refused


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3', and only LORA"),
        ({"use_dora": True}, "LoRA adapter with use_dora = True"),
        ({"init_lora_weights": "pissa"}, "LoRA adapter with init_lora_weights = 'pissa'"),
        ({"trainable_token_indices": [3, 4]}, "with trainable_token_indices = [3, 4]"),
        ({"never_heard_of": 1}, "with never_heard_of = 1"),
        ({"lora_alpha": None}, "gives no numbers as lora_alpha"),
        ({"alpha_pattern": {"(": 3}}, "'(' in alpha_pattern, which is no regular expression"),
        ({"base_model_name_or_path": None}, "does not say which model it changes"),
        ({"base_model_name_or_path": "/no/such/model"}, "for the model /no/such/model, which cannot be had"),
    ],
)
def test_what_cannot_be_added_is_refused_by_its_name(model_store, factors, tmp_path, entries, said):
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), factors, **entries)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(next(k for k in t if "lora_B" in k)), "one of two factors for"),
        (lambda t: t.update({f"{k}": v[:, :-1] for k, v in t.items() if "down_proj.lora_A" in k}), "changes"),
        (lambda t: t.update({k.replace("layers.1", "layers.7"): t[k].clone() for k in list(t)}), "does not have"),
        (lambda t: t.update({k.replace("lora_A.weight", "lora_magnitude"): t[k] + 1 for k in t}), "cannot be added"),
        (lambda t: t.update({"base_model.model.lm_head.more": torch.ones(2)}), "changes lm_head.more, which the model"),
        (lambda t: [v.fill_(float("nan")) for v in t.values()], "not finite"),
        (lambda t: t.clear(), "holds no tensor"),
    ],
)  # fmt: skip
def test_a_tensor_without_a_place_is_never_left_out(model_store, factors, tmp_path, change, said):
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), factors)
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    assert said in refusal(folder)


def test_a_weight_that_is_used_twice_is_not_changed(model_store, tmp_path):
    model = model_store.shared("gemma3")
    assert model.hf.lm_head.weight is model.hf.get_input_embeddings().weight
    folder = write_adapter(tmp_path / "a", model_store.path("gemma3"), factors_of(model.hf, ["lm_head"]))
    assert "uses in two places" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: torch.nn.Parameter(weight.mul(8).to(torch.int8), requires_grad=False), "weights are quantized"),
        (lambda weight: torch.nn.Parameter(weight.to("meta")), "not all in memory"),
    ],
)
def test_weights_that_nothing_can_be_added_to_are_told(model_store, factors, tmp_path, change, said):
    hf = model_store.load("llava").hf
    hf.get_submodule(LAYERS[0]).weight = change(hf.get_submodule(LAYERS[0]).weight)
    folder = write_adapter(tmp_path / "adapter", model_store.path("llava"), factors)
    with pytest.raises(vt.VlmtraceError, match=said):
        add_adapter(hf, read_adapter(folder, "mine"), "mine")


def test_files_that_do_not_make_an_adapter_are_told(model_store, factors, tmp_path):
    base = model_store.path("llava")
    folder = write_adapter(tmp_path / "adapter", base, factors)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(LFS_POINTER)
    assert "git lfs pull" in refusal(folder)
    weights.write_bytes(whole[: len(whole) // 2])
    assert "adapter_model.safetensors of" in refusal(folder) and "cannot be read as safetensors" in refusal(folder)
    weights.rename(folder / "adapter_model.bin")
    assert "without adapter_model.safetensors (only adapter_model.bin)" in refusal(folder)
    (folder / "adapter_model.bin").rename(weights)
    shutil.copy(base / "model.safetensors", folder)
    assert "both an adapter (adapter_config.json) and the weights of a model (model.safetensors)" in refusal(folder)


def test_an_adapter_of_an_adapter_is_refused(model_store, factors, tmp_path):
    one = write_adapter(tmp_path / "one", model_store.path("llava"), factors)
    two = write_adapter(tmp_path / "two", one, factors)
    assert "which is an adapter itself" in refusal(two)
    itself = write_adapter(tmp_path / "itself", ".", factors)
    assert "cannot be had" in refusal(itself) or "is an adapter itself" in refusal(itself)


# As the model of a run


def test_make_takes_an_adapter_and_knows_when_its_model_changes(model_store, factors, tmp_path):
    base = shutil.copytree(model_store.path("llava"), tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", base, factors)
    check_model(str(folder))
    assert is_decoder_only(str(folder))
    first = model_digest(str(folder))
    assert first == model_digest(str(folder))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"note": 1}))
    assert model_digest(str(folder)) != first


# What lay apart when the adapter was trained


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("qwen3_5_moe", ("experts.1.up_proj", "experts.2.gate_proj", "layers.0.mlp.experts.0.down_proj", "q_proj")),
        ("glm4v_moe", ("experts.3.down_proj", "experts.0.gate_proj")),
        ("qianfan_ocr", ("attn.qkv",)),
        ("ernie4_5_vl_moe", ("experts.0.up_proj", "experts.1.down_proj", "experts.5.gate_proj")),
    ],
)
def test_layers_that_are_parts_of_one_tensor_now_are_changed_as_files_would_be(model_store, tmp_path, name, changed):
    base = model_store.path(name)
    file = base / "model.safetensors"
    held, generator = load_file(file), torch.Generator().manual_seed(0)
    keys = [key for key in held if key.removesuffix(".weight").endswith(changed) and held[key].ndim == 2]
    assert len(keys) >= len(changed)
    factors = {
        key.removesuffix(".weight"): (
            0.3 * torch.randn(2, held[key].shape[1], generator=generator),
            0.3 * torch.randn(held[key].shape[0], 2, generator=generator),
        )
        for key in keys
    }
    wanted = shutil.copytree(base, tmp_path / "changed")
    added = {
        key: held[key] + 16 / 2 * factors[key.removesuffix(".weight")][1] @ factors[key.removesuffix(".weight")][0]
        for key in keys
    }
    save_file(held | added, wanted / "model.safetensors", {"format": "pt"})
    expected = vt.load_model(wanted, check=False).hf.state_dict()
    found = vt.load_model(write_adapter(tmp_path / "adapter", base, factors, r=2), check=False).hf.state_dict()
    plain = model_store.shared(name).hf.state_dict()
    assert any(not torch.equal(plain[key], value) for key, value in expected.items())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-6, msg=key)


def test_changes_of_what_takes_no_part_in_answers_are_left_aside_and_told(model_store, tmp_path):
    """Cosmos 3 Edge has experts that generate images; its text layers alone are loaded."""
    whole = model_store.shared("cosmos3_edge")
    layer = "model.language_model.layers.1.self_attn.q_proj"
    factors = factors_of(whole.hf, [layer])
    unused = {f"{layer}_moe_gen": (a.clone(), b.clone()) for a, b in factors.values()}
    folder = write_adapter(tmp_path / "adapter", model_store.path("cosmos3_edge"), factors | unused)
    with pytest.warns(UserWarning, match=r"1 of the changes of .* take no part in its answers.*q_proj_moe_gen"):
        found = vt.load_model(folder, check=False)
    alone = write_adapter(tmp_path / "alone", model_store.path("cosmos3_edge"), factors)
    assert found.fingerprint() == vt.load_model(alone, check=False).fingerprint() != whole.fingerprint()
