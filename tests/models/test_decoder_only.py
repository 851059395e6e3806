"""Decoder-only models: prompts, answers and roles in every kind of tokenizer; what is refused; what loading checks."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.processing_utils import ProcessorMixin

import vlmtrace as vt
from vlmtrace.display.aggregation import patch_grids
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import Readout, self_check
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.families import families
from vlmtrace.models.processors import NoVideo, load_processor

#: Kinds of prompts and tokenizers: the family, the first token of the answer "red", and that of "striped".
PROMPTS = {
    "llava": ("▁red", "▁striped"),
    "llava_two_layers": ("red", "strip"),
    "llava_onevision": ("r", "s"),
    "gemma3": ("r", "s"),
    "paligemma": ("r", "s"),
    "idefics3": ("Ġred", "Ġstriped"),
    "aya_vision": ("r", "s"),
    "blip2": ("Ġred", "Ġstriped"),
    "instructblip": ("▁red", "▁striped"),
}


@pytest.fixture(scope="module", params=PROMPTS)
def prompted(request, model_store):
    return request.param, model_store.shared(request.param)


@pytest.fixture(scope="module")
def llava(model_store):
    return model_store.load("llava")


def roles(model, pairs, row):
    table = token_table(model, pairs.iloc[row], "language_model", run_inputs(model, pairs.iloc[[row]], "clean"))
    return table.groupby("token_role", sort=False)["token"].agg(list).to_dict()


def word(model, tokens):
    return model.tokenizer.convert_tokens_to_string(tokens).strip()


def test_roles_are_those_of_the_prompts_words(prompted, random_pairs):
    _, model = prompted
    for row in (0, 1, 2):
        pair, found = random_pairs.iloc[row], roles(model, random_pairs, row)
        assert word(model, found["correct"]) == pair["correct_answer"]
        assert word(model, found["incorrect"]) == pair["incorrect_answer"]
        assert word(model, found["or"]) == "or"
        assert "?" in word(model, found.get("?", found["last"]))
        assert len(found["last"]) == 1 and len(found["image"]) >= 4
    assert word(model, roles(model, random_pairs, 0)["noun"]) == "circle"


def test_an_answers_first_token_is_the_one_the_model_goes_on_with(prompted):
    """After "ASSISTANT:" comes a space, after a line or a chat template's token none."""
    name, model = prompted
    for answer, expected in zip(("red", "striped"), PROMPTS[name], strict=True):
        token = model.tokenizer.convert_ids_to_tokens(model.answer_token(answer))
        assert token == expected or (len(expected) == 1 and token.startswith(expected))


def test_options_that_share_their_first_token_are_refused(llava):
    with pytest.raises(vt.VlmtraceError, match=r"'red' and 'red' share their first token"):
        llava.answer_ids(["red"], ["red"])
    with pytest.raises(vt.VlmtraceError, match=r"'' cannot be written in tokens"):
        llava.answer_token(" ".strip())


def test_counting_tokens_agrees_with_encoding(prompted, random_pairs):
    _, model = prompted
    counted, encoded = [], []
    for prompt in ("is this circle red or blue?", "is the girl or the dog kicking the ball?"):
        counted.append(model.count_tokens(prompt))
        encoded.append(model.encode([Image.new("RGB", (40, 40))], [model.prompt_text(prompt)])["input_ids"].shape[1])
    assert counted[1] - counted[0] == encoded[1] - encoded[0] > 0


def test_a_chat_template_writes_the_only_start_token(prompted, random_pairs):
    _, model = prompted
    ids = run_inputs(model, random_pairs.iloc[[0]], "clean")["input_ids"][0].tolist()
    assert ids.count(model.tokenizer.bos_token_id) <= 1


def test_evaluate_takes_pairs_of_unlike_length(llava, random_pairs):
    table = vt.evaluate(llava, random_pairs.iloc[:3])
    assert len(table) == 3 and table["clean_input"].str.contains("<image>").all()
    clean = run_inputs(llava, random_pairs.iloc[[1]], "clean")
    ids = llava.answer_ids(["striped"], ["dotted"])
    with torch.no_grad():
        alone = Readout.of(llava.answer_logits(clean), ids)
    assert table["clean_logit_diff"].iloc[1] == pytest.approx(alone.logit_diff.item(), abs=1e-4)


def test_maps_of_the_image_follow_the_patches_not_their_order(model_store, random_pairs):
    """Qwen2.5-VL sees patches square by square, and squares window by window."""
    model = model_store.shared("qwen2_5_vl")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    tokens = model.tokens("vision_encoder", "", inputs)
    rows, columns = model.patch_grid(inputs)
    assert [token.text for token in tokens][:3] == ["0,0", "0,1", "1,0"]
    effects = pd.DataFrame({"token": [token.text for token in tokens], "token_role": "image", "layer": 0})
    effects["position"] = range(len(tokens))
    effects["patching_effect"] = [
        int(text.split(",")[0]) * columns + int(text.split(",")[1]) for text in effects["token"]
    ]
    grid = patch_grids(effects, (rows, columns))[0]
    assert (grid == np.arange(rows * columns).reshape(rows, columns)).all()


# What is refused ------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"model_type": "git", "architectures": ["GitForCausalLM"], "num_image_with_embedding": 6},
            "trained on several frames of a video",
        ),
        ({"model_type": "pi0", "architectures": ["PI0ForConditionalGeneration"]}, "moves a robot"),
        (
            {
                "model_type": "blip-2",
                "architectures": ["Blip2ForConditionalGeneration"],
                "text_config": {"model_type": "bart", "is_encoder_decoder": True},
            },
            "language model bart is not known",
        ),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "which vlmtrace does not know"),
        ({"model_type": "llava", "architectures": ["LlavaModel"]}, "which vlmtrace does not know"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path, config, sentence):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        vt.VlmtraceError,
        match=rf"is a {config['architectures'][0]}.*{sentence}.*families_table.. lists the [0-9]+ types",
    ):
        vt.load_model(tmp_path)


def test_a_prompt_without_a_place_for_the_image_is_refused(llava):
    with pytest.raises(vt.VlmtraceError, match=r"must hold <image> once.*prompt_text"):
        llava.encode([Image.new("RGB", (40, 40))], ["is this red or blue?"])


@pytest.mark.parametrize("kind", ["llava", "florence2", "donut", "tiny-blip"])
def test_every_prompt_of_a_batch_needs_its_image(model_store, kind):
    model = vt.load_model(kind) if kind == "tiny-blip" else model_store.shared(kind)
    image = Image.new("RGB", (40, 40))
    text = model.prompt_text("is this red?")
    with pytest.raises(vt.VlmtraceError, match="nothing to encode: give one prompt at least, and its image"):
        model.encode([], [])
    with pytest.raises(vt.VlmtraceError, match="2 images are given for 1 prompt: give each prompt its image"):
        model.encode([image, image], [text])
    with pytest.raises(vt.VlmtraceError, match="1 image is given for 2 prompts"):
        model.encode([image], [text, text])
    with pytest.raises(vt.VlmtraceError, match="0 images are given for 1 prompt"):
        model.encode([], [text])


def test_prompts_of_unlike_length_share_no_batch(llava):
    texts = [llava.prompt_text(prompt) for prompt in ("is this red?", "is the girl or the dog kicking the ball?")]
    with pytest.raises(vt.VlmtraceError, match="unlike length cannot share a batch"):
        llava.encode([Image.new("RGB", (40, 40))] * 2, texts)


def test_a_chat_template_without_images_is_refused(llava):
    model = DecoderOnly("llava", llava.hf, AutoProcessor.from_pretrained(llava.name))
    model.processor.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(vt.VlmtraceError, match="does not hold it and one image"):
        model.prompt_text("is this red?")


# What loading checks ------------------------------------------------------------


def test_a_sweep_that_is_off_is_refused(llava, monkeypatch):
    right = DecoderOnly.sweep

    def wrong(self, *args, **options):
        readout = right(self, *args, **options)
        return Readout(readout.correct + 0.1, readout.incorrect, readout.log_normalizer)

    monkeypatch.setattr(DecoderOnly, "sweep", wrong)
    with pytest.raises(vt.VlmtraceError, match=r"not supported: a patch of it gives logits that differ by 0\.1"):
        self_check(llava)


def test_a_readout_that_is_off_is_refused(llava, monkeypatch):
    right = DecoderOnly.read
    monkeypatch.setattr(DecoderOnly, "read", lambda self, hidden: 1.1 * right(self, hidden))
    with pytest.raises(vt.VlmtraceError, match="readout of the last layer differs"):
        self_check(llava)


def test_what_happens_between_layers_is_not_overlooked(llava):
    """As the deep stack of a family that is not known to have one."""
    handle = llava.text.layers[1].register_forward_pre_hook(lambda _module, args: (args[0] + 0.1, *args[1:]))
    try:
        with pytest.raises(vt.VlmtraceError, match="input of text layer 1 is not the output of the one before"):
            self_check(llava)
    finally:
        handle.remove()


def test_a_vision_encoder_of_unknown_order_is_not_offered(llava):
    family = replace(llava.family, vision_types=())
    assert list(DecoderOnly("other", llava.hf, llava.processor, family).blocks) == ["language_model"]


# Processors ------------------------------------------------------------


def test_video_parts_are_left_out_and_everything_is_put_back(model_store):
    before = (
        ProcessorMixin.check_argument_for_proper_class,
        AutoVideoProcessor.from_pretrained,
        processing_smolvlm.num2words,
    )
    processor = load_processor(model_store.path("smolvlm"), families()["smolvlm"].processor_context)
    after = (
        ProcessorMixin.check_argument_for_proper_class,
        AutoVideoProcessor.from_pretrained,
        processing_smolvlm.num2words,
    )
    assert before == after
    if isinstance(processor.video_processor, NoVideo):
        with pytest.raises(vt.VlmtraceError, match="needs torchvision: pass images"):
            processor.video_processor([])


def test_tokenizers_without_offsets_are_refused(monkeypatch):
    class Slow:
        tokenizer = type("SlowTokenizer", (), {"is_fast": False})()

    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_args, **_options: Slow())
    with pytest.raises(vt.VlmtraceError, match=r"SlowTokenizer.*save it as a fast tokenizer"):
        load_processor("some-model")


def test_tokens_of_bytes_are_shown_as_the_characters_that_they_stand_for(prompted, random_pairs):
    """Tokenizers of bytes write a line break as "Ċ", and 红 as "çº¢": nobody can read that in a figure."""
    name, model = prompted
    pair = random_pairs.iloc[[0]].assign(clean_prompt="Look:\nis it 红 or blue?")
    table = token_table(model, pair.iloc[0], "language_model", run_inputs(model, pair, "clean"))
    shown = "".join(table.loc[table["token_role"] != "image", "token"])
    bytes_of_it = {"Ċ", "çº", "<0x", "\n"}
    assert not [text for text in bytes_of_it if text in shown], f"{name} shows {shown!r}"


def test_parts_of_a_character_have_names_of_their_own(model_store, random_pairs):
    """A figure that reads 红红红 where the prompt says 红 would be taken for three words."""
    model = model_store.shared("idefics3")
    pair = random_pairs.iloc[[0]].assign(clean_prompt="is it 红 or blue?")
    table = token_table(model, pair.iloc[0], "language_model", run_inputs(model, pair, "clean"))
    assert [text for text in table["token"] if "红" in text] == ["红", "红'2", "红'3"]
