"""Processors that do not fit their models, and old ones that are completed."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from fixtures.broken_folders import logits, refusal, set_entry
from fixtures.families import TIERED

import vlmtrace as vt
from vlmtrace.models.processor_checks import check_image_processor

FILE = "processor_config.json"


#: What old processors lack.
LACKING = (
    *("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy", "num_image_tokens"),
    "num_query_tokens",
)


#: Families whose processors count in numbers that the configuration does not hold, and whose own are no published ones.
NOT_IN_THE_CONFIG = {"deepseek_ocr2", "unlimited_ocr", "fast_vlm"}


@pytest.mark.medium
@pytest.mark.parametrize("name", TIERED)
def test_an_old_processor_is_completed_from_the_config(name, copy, model_store):
    lacking = [key for key in LACKING if key in json.loads((model_store.path(name) / FILE).read_text())]
    if not lacking:
        return  # this family's processor holds none of them
    folder = copy(name)
    for key in lacking:
        set_entry(FILE, (key,), ...)(folder)
    try:
        model = vt.load_model(folder)
    except vt.VlmtraceError as error:
        assert name in NOT_IN_THE_CONFIG, f"{name} is not completed: {error}"
    else:
        torch.testing.assert_close(logits(model), logits(model_store.shared(name)))


@pytest.mark.parametrize(("key", "value"), [("num_additional_image_tokens", 0), ("patch_size", 7)])
def test_what_an_old_processor_says_wrongly_is_refused_not_mended(copy, key, value):
    folder = copy("llava")
    set_entry(FILE, (key,), value)(folder)
    assert "self-check" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("image_std", [0, 0.2, 0.2], "three numbers above 0"),
        ("image_std", [float("nan")] * 3, "three numbers above 0"),
        ("image_std", [0.2, 0.2], "three numbers above 0"),
        ("image_mean", [0.2], "three numbers"),
        ("image_mean", "x", "three numbers"),
        ("rescale_factor", 0, "a number above 0"),
        ("resample", "x", "a whole number from 0 to 5"),
        ("do_normalize", None, "true or false"),
        ("size", {"shortest_edge": 100_000}, "a whole number from 1 to 4096"),
        ("size", {"shortest_edge": 3}, "a whole number of at least 42, its crop,"),
        ("crop_size", {"height": 0, "width": 42}, "a whole number from 1 to 4096"),
    ],
)
def test_settings_that_are_impossible_are_refused(copy, key, value, expected):
    folder = copy("llava")
    set_entry(FILE, ("image_processor", key), value)(folder)
    said = refusal(folder)
    assert key in said and f"where {expected} is expected" in said


@pytest.mark.parametrize(
    ("size", "right"),
    [
        ({"min_pixels": 3136, "max_pixels": 12_845_056}, True),
        ({"shortest_edge": 3136, "longest_edge": 16_777_216}, True),
        ({"shortest_edge": 10**9, "longest_edge": 10**10}, False),
        ({"height": 5000, "width": 5000}, False),
        ({"height": 448, "width": 448.0}, False),
        ({"longest_edge": 2048}, True),
        (None, True),
    ],
)
def test_sizes_are_bounded_and_the_most_pixels_are_a_choice(size, right):
    counts = size is not None and ({"min_pixels", "shortest_edge"} & set(size))
    images = SimpleNamespace(size=size, **({"merge_size": 2} if counts else {}))
    with nullcontext() if right else pytest.raises(vt.VlmtraceError, match="image processor of m has size"):
        check_image_processor(SimpleNamespace(image_processor=images), "m")


# Tokenizers


def tokens(folder, change):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_tokenizer_larger_than_the_embeddings_is_refused(copy):
    folder = copy("llava")
    tokens(
        folder, lambda content: content["added_tokens"].append(dict(content["added_tokens"][0], id=187, content="new"))
    )
    assert "has ids up to 187, but the model has embeddings of 187 tokens" in refusal(folder)


def test_a_padding_token_needs_no_embedding(copy, model_store):
    folder = copy("llava")
    set_entry("tokenizer_config.json", ("pad_token",), "[PAD]")(folder)
    model = vt.load_model(folder)
    assert model.tokenizer.pad_token_id == model.hf.get_input_embeddings().num_embeddings
    torch.testing.assert_close(logits(model), logits(model_store.shared("llava")))


def test_the_other_models_tokenizer_is_refused(copy, model_store):
    for name, other in (("llava", "qwen2_5_vl"), ("qwen2_5_vl", "llava"), ("random_blip", "llava")):
        folder = copy(name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(model_store.path(other) / file, folder)
        refusal(folder)


def test_an_image_token_that_is_a_word_is_refused(copy):
    folder = copy("llava")
    set_entry("config.json", ("image_token_index",), 50)(folder)
    assert "has the id 50 in config.json" in refusal(folder) and "this is the word '" in refusal(folder)


@pytest.mark.parametrize("value", ["x", 10**9, -1, 1.5, [[2]]])
def test_an_end_of_answers_that_is_no_token_is_refused(copy, value):
    folder = copy("llava")
    set_entry("generation_config.json", ("eos_token_id",), value)(folder)
    refusal(folder)


# Chat templates

LOOP = "{% for m in messages %}USER: {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}"
END = "{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
TEXT = "{{ p['text'] }}"


def with_template(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}USER: {{ m['content'] }}{% endfor %}",
        "{% for m in messages %}USER: <image>\n{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}",
        "{{ raise_exception('A system message must come first') }}",
        "{% for m in messages %}{{ m['content'",
        "USER: ASSISTANT:",
        LOOP + END,
        LOOP + TEXT + " " + TEXT + END,
        LOOP + "{{ p['text'] | capitalize }}" + END,
        LOOP + "{{ p['text'] | upper }}" + END,
        LOOP + "{{ p['text'] | e }}" + END,
        LOOP.replace("<image>", "") + TEXT + END,
        LOOP.replace("<image>", "<image><image>") + TEXT + END,
    ],
)
def test_a_chat_template_that_does_not_tell_the_prompt_as_it_is_is_refused(copy, template):
    assert "chat template" in refusal(with_template(copy("llava"), template))


@pytest.mark.parametrize(
    "around", [("", "<think>"), ("", " "), ("", " Answer in one word."), ("Red or blue? Red. ", "")]
)
def test_a_chat_template_may_say_more_around_the_prompt(copy, around):
    model = vt.load_model(with_template(copy("llava"), around[0] + LOOP + TEXT + END + around[1]))
    assert model.prompt_text("is it?") == f"{around[0]}USER: <image>\nis it? ASSISTANT:{around[1]}"


def test_a_template_may_put_the_text_before_the_image(copy):
    model = vt.load_model(
        with_template(
            copy("llava"), "{{ messages[0]['content'][1]['text'] }}<image>{% if false %}{% endif %} ASSISTANT:"
        )
    )
    assert model.prompt_text("is it?") == "is it?<image> ASSISTANT:"


def test_a_start_token_that_is_told_twice_is_refused(copy):
    folder = copy("idefics3")
    (folder / "tokenizer_config.json").unlink()
    assert "start with <s> twice" in refusal(folder)


def test_a_template_that_writes_the_date_is_told(copy):
    folder = with_template(copy("llava"), "{{ strftime_now('%Y') }} " + LOOP + TEXT + END)
    with pytest.warns(UserWarning, match="writes the date into every prompt"):
        vt.load_model(folder)


def test_a_model_that_is_asked_bare_prompts_is_told(copy, recwarn):
    folder = copy("llava")
    vt.load_model(folder)
    assert not [one for one in recwarn if "no chat template" in str(one.message)]
    (folder / "chat_template.jinja").unlink()
    with pytest.warns(UserWarning, match=r"llava has no chat template, and is asked bare prompts, such as '<image>.n"):
        vt.load_model(folder)


@pytest.mark.parametrize("name", ["paligemma", "blip2", "random_blip"])
def test_one_that_never_had_a_template_is_not(model_store, name, recwarn):
    vt.load_model(model_store.path(name))
    assert not [one for one in recwarn if "no chat template" in str(one.message)]
