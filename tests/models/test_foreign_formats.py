"""Checkpoints of LLaVA's own code: the sentence names the converted repository, and nothing large is fetched before."""

import json

import pytest

import vlmtrace as vt
from vlmtrace.models.foreign_formats import AUTHORS, CONVERTED, check_format, check_repository

#: As such a config.json looks, in what tells it.
V15 = {
    "architectures": ["LlavaLlamaForCausalLM"], "hidden_size": 4096, "image_aspect_ratio": "pad",
    "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava_llama", "vocab_size": 32000,
}  # fmt: skip
V16 = V15 | {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}
ONEVISION = V16 | {
    "architectures": ["LlavaQwenForCausalLM"],
    "image_aspect_ratio": "anyres_max_9",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "model_type": "llava_qwen",
}


@pytest.mark.parametrize(
    ("config", "repository"),
    [
        (V15, "llava-hf/llava-1.5-7b-hf"),
        (V15 | {"hidden_size": 5120}, "llava-hf/llava-1.5-13b-hf"),
        (V15 | {"model_type": "llava"}, "llava-hf/llava-1.5-7b-hf"),
        (V16, "llava-hf/llava-v1.6-vicuna-7b-hf"),
        (V16 | {"hidden_size": 5120}, "llava-hf/llava-v1.6-vicuna-13b-hf"),
        (V16 | {"hidden_size": 7168}, "llava-hf/llava-v1.6-34b-hf"),
        (V16 | {"architectures": ["LlavaMistralForCausalLM"]}, "llava-hf/llava-v1.6-mistral-7b-hf"),
        (V16 | {"_name_or_path": "./checkpoints/llava-v1.6-34b"}, "llava-hf/llava-v1.6-34b-hf"),
        (ONEVISION | {"hidden_size": 896}, "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"),
        (ONEVISION | {"hidden_size": 3584}, "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ],
)
def test_the_converted_repository_is_named(tmp_path, config, repository):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(vt.VlmtraceError, match=f"the format of LLaVA's own code .* use {repository};") as caught:
        vt.load_model(tmp_path)
    assert "convert_llava_weights_to_hf.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", CONVERTED)
def test_a_folder_is_known_by_its_name_first(model):
    with pytest.raises(vt.VlmtraceError, match=f"use {CONVERTED[model]};"):
        check_format(V15, f"/models/{model}/")


@pytest.mark.parametrize(
    "config",
    [
        V15 | {"mm_projector_type": "linear"},
        V15 | {"hidden_size": 2048},
        V15 | {"hidden_size": "4096"},
        V15 | {"architectures": 5, "mm_projector_type": "linear"},
        {"mm_vision_tower": None},
    ],
)
def test_of_what_was_never_converted_no_repository_is_named(config):
    with pytest.raises(vt.VlmtraceError, match="use the one of its kind that llava-hf has on the hub"):
        check_format(config, "m")


def test_a_repository_is_refused_by_its_name_without_asking_the_hub(monkeypatch):
    monkeypatch.setattr("vlmtrace.models.hub._hub_answers", None)
    for owner, model in ((AUTHORS[0], "llava-v1.5-7b"), (AUTHORS[1], "llava-onevision-qwen2-7b-ov")):
        with pytest.raises(vt.VlmtraceError, match=f"^{owner}/{model} .* use {CONVERTED[model]},"):
            vt.load_model(f"{owner}/{model}")


def test_other_repositories_and_formats_pass():
    for repo in ("liuhaotian/something-new", "llava-hf/llava-1.5-7b-hf", "someone/llava-v1.5-7b", *CONVERTED.values()):
        check_repository(repo)
    check_format({"model_type": "llava", "text_config": {}, "vision_config": {}}, "m")
    check_format({"mm_projector_type": "mlp2x_gelu", "text_config": {}}, "fast")


def test_every_converted_repository_is_one_of_llava_hf():
    assert all(value.startswith("llava-hf/") and value.endswith("-hf") for value in CONVERTED.values())
