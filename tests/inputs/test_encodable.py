"""What a model cannot take is told in one sentence with its row, before a run depends on it."""

import pandas as pd
import pytest
from fixtures.families import THROUGHOUT
from fixtures.sized_pairs import QWEN, pair_of
from PIL import Image

import vlmtrace as vt
from vlmtrace.inputs.encodable import EncodingCheck, encode_questions

PROMPT = "is this circle red or blue?"
LONG = "is this " + "a or the or " * 80 + "circle red or blue?"


def with_prompts(pairs, prompt):
    return pairs.assign(clean_prompt=prompt, corrupt_prompt=prompt.replace("red or blue", "green or yellow"))


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize("size", [(8, 1700), (1700, 8)])
def test_strips_are_set_aside_with_the_processors_words(name, size, model_store, tmp_path):
    model = model_store.shared(name)
    good, strip = tmp_path / "good", tmp_path / "strip"
    good.mkdir()
    strip.mkdir()
    pairs = pd.concat([pair_of(good, (60, 40), (60, 40)), pair_of(strip, size, size, sample_id="strip")])
    usable, set_aside = vt.check_pairs(model, pairs)
    assert usable["sample_id"].tolist() == ["one"]
    (reason,) = set_aside["reason"]
    assert f"{size[0]} × {size[1]} pixels" in reason and "aspect ratio" in reason, reason
    with pytest.warns(UserWarning, match="1 of 2 pairs are set aside"):
        assert len(vt.evaluate(model, pairs)) == 1
    with pytest.raises(vt.VlmtraceError, match=r"Pair 'strip': The processor of .* cannot take an image"):
        vt.patch_modules(model, pairs[1:], positions=["last"], modules=["residual"])


@pytest.mark.parametrize("name", ["random_blip", *THROUGHOUT])
@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (3, 3), (31, 639)])
def test_small_and_narrow_images_are_taken_as_the_model_takes_them(name, size, model_store, tmp_path):
    usable, set_aside = vt.check_pairs(model_store.shared(name), pair_of(tmp_path, size, size))
    assert len(usable) == 1, set_aside["reason"].tolist()


@pytest.mark.parametrize("name", ["random_blip", "llava", "qwen2_vl", "idefics3", "blip2", "instructblip", "paligemma"])
def test_prompts_longer_than_the_models_positions_are_set_aside(name, model_store, tmp_path):
    model = model_store.shared(name)
    pairs = pair_of(tmp_path, (60, 40), (60, 40))
    both = pd.concat([pairs, with_prompts(pairs, LONG).assign(sample_id="long")])
    usable, set_aside = vt.check_pairs(model, both)
    assert usable["sample_id"].tolist() == ["one"]
    assert (
        f"more than the {model.max_positions} positions" in set_aside["reason"].iloc[0]
        or "Q-Former" in (set_aside["reason"].iloc[0])
    )
    assert len(set_aside["reason"].iloc[0]) < 300, "the sentence quotes the whole prompt"
    with pytest.raises(vt.VlmtraceError, match=r"Pair 'long': .* tokens, .*more than the"):
        vt.patch_modules(model, both[1:], positions=["last"], modules=["residual"])
    with pytest.raises(vt.VlmtraceError, match="more than the"):
        model.encode([Image.new("RGB", (60, 40))], [model.prompt_text(LONG)])


def test_an_answer_has_to_fit_behind_its_prompt(model_store, tmp_path):
    """The answer stands in the same positions as the prompt: of 8 tokens, all but the last."""
    model = model_store.shared("llava")
    image = Image.new("RGB", (60, 40))
    lengths, check = {}, EncodingCheck(model)
    for prompt in ("the " * n + PROMPT for n in range(model.max_positions)):
        try:
            check.check(image, prompt, ["red", "blue"])
        except vt.VlmtraceError as error:
            refused = str(error)
            break
        lengths[prompt] = model.encode([image], [model.prompt_text(prompt)])["input_ids"].shape[1]
    per_word = model.count_tokens(f"the {PROMPT}") - model.count_tokens(PROMPT)
    longest = max(lengths.values())
    assert longest + 7 <= model.max_positions < longest + per_word + 7, "seven tokens of eight stand behind the prompt"
    assert "an answer of up to 8 does not fit behind it" in refused, refused


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
def test_a_prompt_that_holds_the_models_placeholder_is_set_aside(name, model_store, tmp_path):
    model = model_store.shared(name)
    pairs = pair_of(tmp_path, (60, 40), (60, 40))
    bad = with_prompts(pairs, f"is this {model.image_placeholder} red or blue?").assign(sample_id="bad")
    usable, set_aside = vt.check_pairs(model, pd.concat([pairs, bad]))
    assert usable["sample_id"].tolist() == ["one"] and model.image_placeholder in set_aside["reason"].iloc[0]


@pytest.mark.parametrize("error", [ValueError("a\nb"), RuntimeError(), IndexError("x"), KeyError("y"), TypeError("z")])
def test_whatever_a_processor_raises_becomes_one_sentence(error, model_store, tmp_path):
    model = model_store.load("llava")

    def broken(**_):
        raise error

    model.processor = type("Broken", (), {"__call__": lambda self, **_: broken(), "__getattr__": lambda self, name: (
        getattr(model_store.shared("llava").processor, name))})()  # fmt: skip
    usable, set_aside = vt.check_pairs(model, pair_of(tmp_path, (60, 40), (60, 40)))
    (reason,) = set_aside["reason"]
    assert usable.empty and "\n" not in reason and "cannot take an image of 60 × 40 pixels" in reason, reason


def test_pairs_of_one_kind_are_tried_once(model_store, random_pairs, monkeypatch):
    model = model_store.shared("llava")
    encoded = []
    plain = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda *args: encoded.append(1) or plain(*args))
    pairs = pd.concat([random_pairs.assign(sample_id=random_pairs["sample_id"] + str(i)) for i in range(5)])
    assert len(vt.check_pairs(model, pairs)[0]) == 40
    lengths = {model.count_tokens(prompt) for prompt in (*pairs["clean_prompt"], *pairs["corrupt_prompt"])}
    assert len(encoded) == len(lengths), "one for each length: all images are of one size"


def test_only_the_prompts_of_the_corruptions_in_use_have_to_match(random_blip, random_pairs):
    pairs = random_pairs.copy()
    pairs.loc[0, "corrupt_prompt"] = "is this circle in the picture green or yellow?"
    assert vt.check_pairs(random_blip, pairs)[1]["sample_id"].tolist() == ["pair-0"]
    assert vt.check_pairs(random_blip, pairs, corruptions=["image"])[1].empty
    assert len(vt.evaluate(random_blip, pairs, corruptions=["image"])) == len(pairs)
    with pytest.raises(vt.VlmtraceError, match="Unknown corruption 'noise'"):
        vt.check_pairs(random_blip, pairs, corruptions=["noise"])


@pytest.mark.parametrize("function", ["causal_trace", "noise_scale", "noise_curve", "lens_contributions"])
def test_questions_that_cannot_be_asked_are_named(function, model_store, tmp_path):
    model = model_store.shared("qwen2_vl")
    for name, size in (("good", (60, 40)), ("strip", (8, 1700))):
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / f"{name}.png")
    rows = [dict(sample_id=name, category="color", image=str(tmp_path / f"{name}.png"), prompt=PROMPT)
            for name in ("good", "strip")]  # fmt: skip
    options = {"causal_trace": {"scale": 1.0}, "noise_curve": {"scale": 1.0}}.get(function, {})
    with pytest.raises(
        vt.VlmtraceError, match=r"Question 'strip': The processor of .* cannot take an image of 8 × 1700"
    ):
        getattr(vt, function)(model, pd.DataFrame(rows), **options)
    with pytest.raises(vt.VlmtraceError, match="Question 'strip'"):
        encode_questions(model, pd.DataFrame(rows))
