"""Weights: those that the folder holds, all of them, and numbers every one."""

import re
import shutil

import pytest
import torch
import transformers
from fixtures.broken_folders import LFS_POINTER, change_weights, logits, refusal, set_entry
from fixtures.families import FAMILIES

import vlmtrace as vt
from vlmtrace.models.weights import stored_tensors

LAYER = "model.language_model.layers.{}.mlp.up_proj.weight"


def test_a_folder_without_any_tensor_is_refused(copy):
    folder = copy("llava")
    change_weights(folder, lambda tensors: tensors.clear())
    assert "hold no tensor" in refusal(folder)


def test_missing_tensors_are_named(copy):
    folder = copy("llava")
    gone = [LAYER.format(0), LAYER.format(2)]
    change_weights(folder, lambda tensors: [tensors.pop(file_name(tensors, key)) for key in gone])
    assert f"2 tensors are missing: {gone[0]}, {gone[1]}" in refusal(folder)


def file_name(tensors, key):
    """The name under which a file holds a tensor of the model: some prefixes differ."""
    return next(name for name in tensors if name.endswith(key.split("language_model.")[-1]))


@pytest.mark.parametrize(("layers", "fault"), [(4, "9 tensors are missing"), (2, "9 tensors are not expected")])
def test_more_or_fewer_layers_than_weights_are_refused(copy, layers, fault):
    folder = copy("llava")
    set_entry("config.json", ("text_config", "num_hidden_layers"), layers)(folder)
    said = refusal(folder)
    assert fault in said and f"layers.{min(layers, 3)}." in said and "and 6 more" in said


def test_a_tensor_of_another_shape_is_named_with_both_shapes(copy):
    folder = copy("llava")
    change_weights(folder, lambda tensors: tensors.update({k: t.T for k, t in tensors.items() if "0.mlp.up_proj" in k}))
    assert f"1 tensor is of another shape: {LAYER.format(0)} with 32 × 48 where 48 × 32 is expected" in refusal(folder)


def test_the_other_familys_config_is_refused(copy, model_store):
    folder = copy("llava")
    shutil.copy(model_store.path("qwen2_5_vl") / "config.json", folder)
    assert "are not those of the model that config.json describes" in refusal(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("text_config", "hidden_size"), 10**9),
        (("text_config", "vocab_size"), 10**9),
        (("vision_config", "image_size"), 100_000),
        (("vision_config", "intermediate_size"), 10**12),
    ],
)
def test_what_has_no_weights_takes_no_memory(copy, path, value, monkeypatch):
    folder = copy("llava")
    set_entry("config.json", path, value)(folder)
    monkeypatch.setattr("vlmtrace.models.loading.load_weights", None)  # it is refused before
    said = refusal(folder)
    assert "describes a model of" in said or "No model can be made of config.json" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_refused_by_its_tensors_name(copy, value):
    folder = copy("llava")
    change_weights(folder, lambda tensors: tensors[file_name(tensors, LAYER.format(1))].view(-1)[5].fill_(value))
    assert f"1 of the tensors of {folder} hold numbers that are not finite ({LAYER.format(1)})" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_numbers_are_refused(copy, dtype):
    folder = copy("llava")
    change_weights(
        folder, lambda tensors: tensors.update({k: t.to(dtype) for k, t in tensors.items() if "up_proj" in k})
    )
    assert "as quantized checkpoints do" in refusal(folder)


@pytest.mark.parametrize("content", ["empty", "half", "pointer", "page"])
def test_a_broken_file_is_told_by_its_name_and_sort(copy, content):
    folder = copy("llava")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    page = b"<!DOCTYPE html><html></html>" * 9
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "pointer": LFS_POINTER, "page": page}[content])
    said = refusal(folder)
    assert said.startswith(f"model.safetensors of {folder} cannot be read as safetensors (SafetensorError")
    assert ("git lfs pull" in said) == (content == "pointer") and ("web page" in said) == (content == "page")


def test_a_tensor_under_two_names_is_refused(copy):
    folder = copy("llava")
    change_weights(folder, lambda tensors: tensors.update(twice(tensors, LAYER.format(1))))
    said = refusal(folder)
    assert f"hold {LAYER.format(1)} twice, as " in said


def twice(tensors, key):
    """The tensor under the other of its two names, with other numbers."""
    today, older = key, key.replace("model.language_model", "language_model.model")
    held = file_name(tensors, key)
    return {older if held == today else today: tensors[held] + 1}


#: What a text model of experts takes over from one without.
SIZES = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
bos_token_id eos_token_id pad_token_id max_position_embeddings""".split()


def moe_folder(copy):
    """InternVL with a language model of experts."""
    folder = copy("internvl")
    config = transformers.AutoConfig.from_pretrained(folder)
    sizes = {name: getattr(config.text_config, name) for name in SIZES}
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1)
    config.text_config = transformers.Qwen3MoeConfig(**sizes, **experts)
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def test_a_language_model_of_experts_is_loaded(copy):
    vt.load_model(moe_folder(copy))


@pytest.mark.parametrize("change", ["one gone", "another shape"])
def test_experts_that_cannot_be_put_together_are_told_by_the_tensor_that_they_make(copy, change):
    """In files each expert has tensors of its own, in memory all are in one."""
    folder = moe_folder(copy)

    def damage(tensors):
        key = next(name for name in sorted(tensors) if "experts.1.up_proj" in name)
        if change == "one gone":
            tensors.pop(key)
        else:
            tensors[key] = tensors[key][:-1].clone()

    change_weights(folder, damage)
    said = refusal(folder)
    assert "experts" in said and "CONVERSION" not in said and "report" not in said


# What is right


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_may_be_missing_and_no_other(copy, tied):
    folder = copy("qwen2_5_vl")
    change_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    set_entry("config.json", ("tie_word_embeddings",), tied)(folder)
    set_entry("config.json", ("text_config", "tie_word_embeddings"), tied)(folder)
    if tied:
        model = vt.load_model(folder)
        assert model.hf.lm_head.weight is model.hf.get_input_embeddings().weight
    else:
        assert "1 tensor is missing: lm_head.weight" in refusal(folder)


def test_a_head_that_is_said_to_be_tied_and_is_another_is_the_files(copy, model_store):
    """The files decide what the model is: tying them would throw away the head that was saved."""
    folder = copy("gemma3")
    tied = model_store.shared("gemma3")
    key = next(key for key in stored_tensors(folder, "x") if key.endswith("embed_tokens.weight"))
    head = "lm_head.weight"

    def change(tensors):
        tensors[head] = tensors[key] + torch.linspace(0, 1, tensors[key].shape[1])

    change_weights(folder, change)
    model = vt.load_model(folder)
    assert not torch.allclose(model.hf.lm_head.weight, model.hf.get_input_embeddings().weight)
    assert not torch.allclose(logits(model), logits(tied))


def test_tensors_that_nothing_reads_may_be_there(copy, model_store):
    folder = copy("llava")
    extra = {
        "vision_tower.vision_model.head.probe": torch.ones(1, 1, 16),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    change_weights(folder, lambda tensors: tensors.update(extra))
    torch.testing.assert_close(logits(vt.load_model(folder)), logits(model_store.shared("llava")))


def test_half_precision_in_the_file_is_what_is_loaded(copy):
    folder = copy("llava")
    change_weights(folder, lambda tensors: tensors.update({k: t.bfloat16() for k, t in tensors.items()}))
    assert {held.dtype for held in stored_tensors(folder, "x").values()} == {"BF16"}
    assert all(torch.equal(p, p.bfloat16().float()) for p in vt.load_model(folder).hf.parameters())


def test_shards_are_read_together(copy, model_store):
    whole, folder = stored_tensors(model_store.path("llava"), "x"), copy("llava")
    (folder / "model.safetensors").unlink()
    model_store.load("llava").hf.save_pretrained(folder, max_shard_size="50KB")
    assert not (folder / "model.safetensors").exists()
    assert stored_tensors(folder, "x") == whole


# Every family


def lose_one(tensors, key):
    tensors.pop(key)


def rename_one(tensors, key):
    tensors[f"{key}_of_another"] = tensors.pop(key)


def cut_one(tensors, key):
    tensors[key] = tensors[key][..., :-1].clone()


def spoil_one(tensors, key):
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[0] = float("nan")


#: Every seventh in `make test`, all in `make test-slow`.
DRAWN = [pytest.param(name, marks=pytest.mark.slow if i % 7 else pytest.mark.medium) for i, name in enumerate(FAMILIES)]


@pytest.mark.parametrize("name", DRAWN)
def test_of_every_family_nothing_is_drawn_left_out_or_nan(copy, name):
    """One tensor of the language model in four ways: whatever transformers makes of a family's files on the way."""
    folder = copy(name)
    whole = (folder / "model.safetensors").read_bytes()
    stored = stored_tensors(folder, name)
    matrices = [key for key, held in stored.items() if len(held.shape) == 2 and min(held.shape) > 1]
    key = sorted(key for key in matrices if re.search(r"\.1\..*(down_proj|fc2|w2|dense|out_proj|o_proj)", key))[0]
    for change in (lose_one, rename_one, cut_one, spoil_one):
        change_weights(folder, lambda tensors, change=change: change(tensors, key))
        said = refusal(folder)
        assert re.search("missing|not expected|another shape|not finite|cannot be put together", said), (key, said)
        (folder / "model.safetensors").write_bytes(whole)
