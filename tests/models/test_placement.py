"""Device maps: what cannot be carried out is one sentence, and what can lies where it says."""

import pytest
import torch

import vlmtrace as vt
from vlmtrace.models.placement import check_not_offloaded, check_places, find_device, resolved
from vlmtrace.models.weight_values import is_offloaded

PARTS = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}


@pytest.fixture(scope="module")
def hf(model_store):
    return model_store.shared("llava").hf


@pytest.mark.parametrize(
    ("device_map", "sentence"),
    [
        ({"": "cpu", "model.vison_tower": "cpu"}, "names 'model.vison_tower'.*write model.vision_tower"),
        ({"": "cpu", "model.vision": "disk"}, "names 'model.vision'.*write model.vision_tower"),
        ({"": "cpu", "encoder": "disk"}, "its parts are model, model.vision_tower.*lm_head"),
        (PARTS, "gives no device to model.language_model of"),
        (
            {"model.vision_tower": "cpu"},
            "gives no device to model.multi_modal_projector, model.language_model, lm_head",
        ),
        ({"": "cuda:7"}, "puts the model on 'cuda:7'. The device 'cuda:7' cannot be used here: choose cpu"),
        ({"": 77}, "puts the model on '77', and this machine has [0-9]+ GPUs, counted from 0"),
        ({"": -1}, "puts the model on '-1', and this machine has"),
        ({"lm_head": "gpu", "": "cpu"}, "puts lm_head on 'gpu'.*cannot be used here"),
        ({"": None}, "puts the model on 'None', which is no device"),
        ({"": True}, "puts the model on 'True', which is no device"),
        ({"": "meta"}, "puts the model on 'meta'.*holds no numbers"),
    ],
)
def test_a_map_that_cannot_be_carried_out_is_one_sentence(model_store, device_map, sentence):
    with pytest.raises(vt.VlmtraceError, match=sentence) as caught:
        vt.load_model(model_store.path("llava"), device_map=device_map)
    assert "\n" not in str(caught.value) and "checkpoint" not in str(caught.value)


def test_a_device_that_holds_no_numbers_is_refused(model_store):
    with pytest.raises(vt.VlmtraceError, match="'meta' holds no numbers"):
        vt.load_model(model_store.path("llava"), device="meta")
    with pytest.raises(vt.VlmtraceError, match="'cuda:77' cannot be used here"):
        find_device("cuda:77")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("apart", [{"": "cpu", "lm_head": "disk"}, {"model": "disk", "lm_head": "cpu"}])
def test_one_weight_lies_in_one_place(model_store, apart):
    with pytest.raises(vt.VlmtraceError, match=r"lm_head.weight of .* \(tied weights\): give them the same device"):
        vt.load_model(model_store.path("gemma3"), device_map=apart)


@pytest.mark.parametrize("device_map", [{"": "disk"}, {"": "cpu", "model.language_model": "disk"}])
def test_quantized_weights_stay_where_they_are_computed_with(model_store, device_map):
    with pytest.raises(vt.VlmtraceError, match=r"on the disk, and quantized weights \(bitsandbytes-4bit\) stay"):
        vt.load_model(model_store.path("llava"), device_map=device_map, quantization="bitsandbytes-4bit")


def test_host_memory_only_keeps_weights_beside_a_gpu():
    check_not_offloaded({"": "cpu"}, "it", "8 bit")
    check_not_offloaded({"model": 0, "lm_head": 1}, "it", "8 bit")
    with pytest.raises(vt.VlmtraceError, match="puts lm_head of it on the CPU"):
        check_not_offloaded({"model": 0, "lm_head": "cpu"}, "it", "8 bit")


def test_a_map_of_parts_beside_each_other_stays_as_it_is(hf):
    given = PARTS | {"model.language_model": torch.device("cpu")}
    assert resolved(given, hf, "model.language_model", "it") == PARTS | {"model.language_model": "cpu"}
    assert resolved({"": "cpu"}, hf, "model.language_model", "it") == {"": "cpu"}
    assert check_places({"": "disk"}) == {"": "disk"}


def test_of_a_part_within_another_each_weight_has_one_place(hf):
    given = {"": "cpu", "model.language_model.layers.1": "disk"}
    found = resolved(given, hf, "model.language_model", "it")
    for key in hf.state_dict():
        around = [part for part in found if key == part or key.startswith(f"{part}.")]
        assert len(around) == 1
        assert found[around[0]] == ("disk" if ".language_model.layers.1." in key else "cpu")


def test_what_is_read_beside_layers_stays_in_memory(hf):
    found = resolved({"": "disk"}, hf, "model.language_model", "it")
    kept = {key for key in hf.state_dict() if any(key.startswith(p) and at == "cpu" for p, at in found.items())}
    assert any("class_embedding" in key for key in kept) and any("position_embedding" in key for key in kept)
    assert not any(".layers." in key or "embed_tokens" in key or key.startswith("lm_head") for key in kept)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["llava_next", "idefics3", "glm4v", "step3p7", "chameleon", "gemma4_shared"])
def test_a_vision_encoder_on_the_disk_computes_as_in_memory(model_store, name):
    """In transformers itself each of these fails in another way: it reads weights that were not fetched."""
    whole = model_store.shared(name)
    parts = [n for n, _ in whole.hf.named_children()] + [f"model.{n}" for n, _ in whole.hf.model.named_children()]
    vision = next(part for part in parts if part.split(".")[-1].startswith(("vi", "vq")))
    apart = vt.load_model(model_store.path(name), device_map={"": "cpu", vision: "disk"})
    assert is_offloaded(apart.hf) and apart.fingerprint() == whole.fingerprint()
    inputs = whole.encode_image(torch.randint(0, 255, (40, 40, 3), dtype=torch.uint8))
    torch.testing.assert_close(apart.answer_logits(inputs), whole.answer_logits(inputs), atol=1e-5, rtol=1e-5)
