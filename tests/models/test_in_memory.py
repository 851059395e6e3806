"""A model that is in memory already: the same numbers as from files, and the user's object stays as it is."""

import copy
import json

import pandas as pd
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from fixtures.broken_folders import logits
from fixtures.pretended_devices import SECOND, place
from torch import nn
from transformers import AutoModelForImageTextToText, AutoTokenizer, BertConfig, BertModel, BlipForQuestionAnswering

import vlmtrace as vt
from vlmtrace.models.in_memory import same_weights
from vlmtrace.models.processors import load_processor


@pytest.fixture(params=["llava", "random_blip", "qwen2_5_vl"])
def name(request):
    return request.param


@pytest.fixture
def hf(model_store, name):
    """As a user has it: with a training behind it, its own hook, and gradients."""
    model = model_store.load(name).hf
    model.train().requires_grad_(True)
    return model


@pytest.fixture
def processor(model_store, name):
    return model_store.load(name).processor


def test_its_numbers_are_those_of_the_folder(hf, processor, name, model_store):
    model = vt.wrap_model(hf, processor)
    assert model.uses_fast_sweep and model.name == f"{type(hf).__name__} in memory"
    assert model.fingerprint() == model_store.shared(name).fingerprint()
    assert torch.equal(logits(model), logits(model_store.shared(name)))


def test_the_given_model_stays_as_it_is(hf, processor):
    before = {key: (value.data_ptr(), value.requires_grad) for key, value in hf.named_parameters()}
    settings = hf.config.to_dict()
    next(hf.parameters()).grad = torch.ones_like(next(hf.parameters()))
    model = vt.wrap_model(hf, processor)
    assert hf.training and all(module.training for module in hf.modules()) and not model.hf.training
    assert {key: (value.data_ptr(), value.requires_grad) for key, value in hf.named_parameters()} == before
    assert next(hf.parameters()).grad is not None and hf.config.to_dict() == settings
    assert not any(value.requires_grad for value in model.hf.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())


def test_weights_are_shared_and_not_copied(hf, processor):
    model = vt.wrap_model(hf, processor, check=False)
    theirs = {key: value.data_ptr() for key, value in hf.state_dict().items()}
    assert {key: value.data_ptr() for key, value in model.hf.state_dict().items()} == theirs
    first, before = logits(model), model.fingerprint()
    with torch.no_grad():
        for value in hf.parameters():
            value.mul_(1.1)
    assert not torch.allclose(logits(model), first) and model.fingerprint() != before


def test_tied_weights_stay_tied(model_store):
    hf = model_store.load("gemma3").hf
    copied = same_weights(hf)
    assert copied.lm_head.weight is copied.get_input_embeddings().weight
    assert copied.lm_head.weight.data_ptr() == hf.lm_head.weight.data_ptr()


def test_a_hook_that_it_carries_acts(model_store):
    loaded = model_store.load("llava")
    hf = loaded.hf
    hf.model.language_model.layers[1].mlp.register_forward_hook(lambda _module, _args, output: output * 0.5)
    expected = logits(loaded)
    found = vt.wrap_model(hf, loaded.processor)
    torch.testing.assert_close(logits(found), expected)
    assert not torch.allclose(expected, logits(model_store.shared("llava")))


def test_a_training_goes_on_where_it_stopped(model_store):
    """A step of training between two looks: what is looked at follows, and gradients come as before."""
    loaded = model_store.load("llava")
    hf = loaded.hf.train().requires_grad_(True)
    model = vt.wrap_model(hf, loaded.processor, name="in training")
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.1)
    inputs = model.encode([torch.zeros(40, 40, 3, dtype=torch.uint8)], [model.prompt_text("is it red?")])
    before = model.answer_logits(inputs)
    hf(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    after = model.answer_logits(inputs)
    assert not torch.allclose(before, after)
    with torch.no_grad():
        torch.testing.assert_close(after[0], hf.eval()(**inputs).logits[0, -1].float())


def test_sweeps_take_it(model_store, random_pairs):
    loaded = model_store.load("random_blip")
    model = vt.wrap_model(loaded.hf, loaded.processor)
    pairs = random_pairs.iloc[:2]
    found, expected = (vt.patch_modules(one, pairs, "text", modules=["mlp"]) for one in (model, loaded))
    pd.testing.assert_frame_equal(found, expected)


def test_a_processor_may_be_given_by_its_folder(model_store):
    loaded = model_store.load("llava")
    model = vt.wrap_model(loaded.hf, model_store.path("llava"), name="mine")
    assert model.name == "mine" and torch.equal(logits(model), logits(loaded))


def test_the_given_processor_stays_as_it_is(model_store, copy_of_old):
    loaded = model_store.load("llava")
    processor = load_processor(copy_of_old)
    assert processor.patch_size is None
    model = vt.wrap_model(loaded.hf, processor)
    assert processor.patch_size is None and model.processor.patch_size is not None
    torch.testing.assert_close(logits(model), logits(loaded))


@pytest.fixture
def copy_of_old(copy):
    """A processor as LLaVA had it before transformers 4.45."""
    folder = copy("llava")
    content = json.loads((folder / "processor_config.json").read_text())
    for key in ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy"):
        del content[key]
    (folder / "processor_config.json").write_text(json.dumps(content))
    return folder


def test_a_model_made_by_its_class_is_taken(model_store):
    """Its configuration names no architecture, and it was never saved."""
    loaded = model_store.shared("llava")
    config = copy.deepcopy(loaded.hf.config)
    config.architectures = None
    torch.manual_seed(0)
    hf = AutoModelForImageTextToText.from_config(config)
    assert vt.wrap_model(hf, loaded.processor).blocks.keys() == loaded.blocks.keys()


def test_attention_is_computed_as_the_family_needs_it(model_store):
    """BLIP gives attention weights with one implementation alone; transformers may choose another by itself."""
    loaded = model_store.shared("random_blip")
    hf = BlipForQuestionAnswering.from_pretrained(model_store.path("random_blip"))
    model = vt.wrap_model(hf, loaded.processor)
    assert model.hf.config._attn_implementation == "eager" and model.uses_fast_sweep
    torch.testing.assert_close(logits(model), logits(loaded))
    inputs = model.encode_image(torch.zeros(40, 40, 3, dtype=torch.uint8))
    weights = model.attention(inputs, "text_encoder", "self_attention")
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_what_accelerate_has_wrapped_is_taken(model_store):
    """Its wrappers act in the copy, on the copy's parts."""
    loaded = model_store.load("llava")
    hf = dispatch_model(loaded.hf, {"": "cpu"}, force_hooks=True)
    model = vt.wrap_model(hf, loaded.processor)
    assert model.uses_fast_sweep and torch.equal(logits(model), logits(model_store.shared("llava")))
    assert "forward" in model.hf.lm_head.__dict__ and model.hf.lm_head.forward.args[0] is model.hf.lm_head


def test_weights_in_host_memory_or_on_the_disk_are_told(model_store):
    loaded = model_store.load("llava")
    hf = cpu_offload(loaded.hf, "cpu")
    hf.hf_device_map = {"": "cpu"}
    said = r"not in memory.*device_map put them on the disk.*vt.load_model, which takes"
    with pytest.raises(vt.VlmtraceError, match=said):
        vt.wrap_model(hf, loaded.processor)


# What is refused


TINY_BERT = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)


class Peft(nn.Module):
    __module__ = "peft.tuners.lora.layer"


def wrapped(kind, hf):
    return type(kind, (nn.Module,), {})()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda hf: wrapped("DataParallel", hf), "not the DataParallel around one: give model.module"),
        (lambda hf: wrapped("OptimizedModule", hf), "give model._orig_mod"),
        (lambda hf: setattr(hf.model.language_model.layers[0].self_attn, "adapter", Peft()), "merge_and_unload"),
        (lambda hf: hf.model.language_model, "is a LlavaModel|is a LlamaModel"),
        (lambda hf: "tiny-llava", "takes a transformers model.*not str.*vt.load_model"),
        (lambda hf: hf.to("meta"), "not in memory.*on the device meta"),
        (lambda hf: hf.model.language_model.rotary_emb.to("meta"), "not in memory.*rotary_emb.inv_freq"),
        (lambda hf: hf.model.vision_tower.to(torch.bfloat16), "several number types.*bfloat16 in model.vision_tower"),
        (lambda hf: hf.to(torch.bfloat16).lm_head.float(), "several number types.*float32 in lm_head.weight"),
        (lambda hf: hf.model.language_model.layers[1].half(), "several number types.*float16 in .*layers.1"),
        (lambda hf: hf.to(torch.float8_e4m3fn), "as float8_e4m3fn, in which nothing can be computed"),
        (lambda hf: place(hf.model.language_model.layers[1], SECOND), "several devices.*lm_head.weight on cpu"),
        (lambda hf: nn.Linear(2, 2), "takes a transformers model.*not Linear"),
        (lambda hf: BertModel(TINY_BERT), "is a BertModel"),
        (lambda hf: hf.lm_head.weight.data.view(-1)[3].fill_(float("nan")), "not finite"),
        (lambda hf: hf.resize_token_embeddings(100), "has ids up to"),
    ],
)  # fmt: skip
def test_what_is_no_whole_model_is_one_sentence(model_store, change, said):
    loaded = model_store.load("llava")
    changed = change(loaded.hf)
    whole = isinstance(changed, str) or not any(changed is part for part in list(loaded.hf.modules())[1:])
    is_language_model = changed is loaded.hf.model.language_model
    given = changed if isinstance(changed, (str, nn.Module)) and (whole or is_language_model) else loaded.hf
    with pytest.raises(vt.VlmtraceError, match=said) as caught:
        vt.wrap_model(given, loaded.processor)
    assert "\n" not in str(caught.value)


def test_a_processor_that_is_none_is_one_sentence(model_store):
    loaded = model_store.shared("llava")
    for given, said in (
        (AutoTokenizer.from_pretrained(model_store.path("llava")), "has no tokenizer beside"),
        ("/no/such/folder", "There is no directory /no/such/folder"),
        (model_store.shared("qwen2_5_vl").processor, "one checkpoint|tokenizer|self-check|processor"),
    ):
        with pytest.raises(vt.VlmtraceError, match=said):
            vt.wrap_model(loaded.hf, given)
