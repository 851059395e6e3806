"""Evaluation answers with the model's own numbers, whatever the batch, and sets bad rows aside by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.schema import check_written
from vlmtrace.methods.evaluation.usable import PAIR_STEP, TEXT_STEP


@pytest.fixture(scope="module")
def evaluated(random_blip, random_pairs):
    return vt.evaluate(random_blip, random_pairs)


def test_logit_diff_is_the_models_own(random_blip, random_pairs, evaluated):
    """An independent forward: transformers' own BlipForQuestionAnswering.forward, its logits caught at the LM head."""
    hf, row = random_blip.hf, evaluated.iloc[2]
    inputs = random_blip.processor(
        images=Image.open(row["corrupt_image"]), text=row["clean_input"], return_tensors="pt"
    )
    caught = []
    handle = hf.text_decoder.cls.register_forward_hook(lambda *args: caught.append(args[2]))
    start = torch.tensor([[hf.config.text_config.bos_token_id]])
    with torch.no_grad():
        hf(**inputs, decoder_input_ids=start)
    handle.remove()
    logits = caught[0][0, 0]
    expected = logits[row["correct_token_id"]] - logits[row["incorrect_token_id"]]
    assert row["image_logit_diff"] == pytest.approx(expected.item(), abs=1e-4)
    assert row["image_p_correct"] == pytest.approx(logits.softmax(-1)[row["correct_token_id"]].item(), abs=1e-5)


def test_pairs_of_images_alone_have_no_text_corruption(random_blip, random_pairs, evaluated):
    """Equal prompts: the text run would be the clean run. Its columns are missing, the others are what they were."""
    alone = random_pairs["sample_id"].isin(random_pairs["sample_id"][:3])
    prompts = random_pairs["corrupt_prompt"].where(~alone, random_pairs["clean_prompt"])
    with pytest.warns(UserWarning, match="3 of 8 pairs are pairs of images alone .*text corruption are empty"):
        mixed = vt.evaluate(random_blip, random_pairs.assign(corrupt_prompt=prompts))
    of_text = ["text_logit_diff", "text_is_changed", "text_generated_answer", "text_contrast_token_id"]
    assert mixed.loc[:2, of_text].isna().all(axis=None) and mixed.loc[3:, of_text].notna().all(axis=None)
    np.testing.assert_allclose(mixed["image_logit_diff"], evaluated["image_logit_diff"], atol=1e-5)
    np.testing.assert_allclose(mixed["text_logit_diff"][3:], evaluated["text_logit_diff"][3:], atol=1e-5)
    check_written("evaluated", mixed)
    with pytest.warns(UserWarning, match="8 of 8 pairs"):
        none = vt.evaluate(random_blip, random_pairs.assign(corrupt_prompt=random_pairs["clean_prompt"]))
    assert set(none) == set(evaluated) and none[of_text].isna().all(axis=None)
    counted = vt.accuracy_table(mixed, by=["task"]).set_index("measure")["n"].to_dict()
    assert counted == {"clean": 8, "image_flipped": 8, "text_changed": 5, "both_sides": 8}
    assert "text_changed" not in set(vt.accuracy_table(none)["measure"])


def test_text_corruption_alone_needs_two_prompts(random_blip, random_pairs):
    prompts = [random_pairs["clean_prompt"][0], *random_pairs["corrupt_prompt"][1:]]
    with pytest.warns(UserWarning, match="1 of 8 pairs are set aside:\n  pair-0: the clean and the corrupt prompt are"):
        table = vt.evaluate(random_blip, random_pairs.assign(corrupt_prompt=prompts), corruptions=("text",))
    assert table["sample_id"].tolist() == random_pairs["sample_id"][1:].tolist()
    same = random_pairs.assign(corrupt_prompt=random_pairs["clean_prompt"])
    with pytest.warns(UserWarning), pytest.raises(vt.VlmtraceError, match="None of the 8 pairs can be used"):
        vt.evaluate(random_blip, same, corruptions=("text",))


def test_generated_answer_is_the_models_own(random_blip, evaluated):
    row = evaluated.iloc[0]
    inputs = random_blip.processor(images=Image.open(row["clean_image"]), text=row["clean_input"], return_tensors="pt")
    ids = random_blip.hf.generate(**inputs, max_new_tokens=8, do_sample=False)
    own = ids[0, 1:]  # behind the start token
    assert row["generated_answer"] == random_blip.processor.decode(own, skip_special_tokens=True).strip()


def test_batches_of_unlike_lengths_change_no_number(random_blip, random_pairs, evaluated):
    alone = pd.concat([vt.evaluate(random_blip, random_pairs.iloc[[i]]) for i in range(8)], ignore_index=True)
    for column in evaluated:
        if evaluated[column].dtype == float or column.endswith(("logit_diff", "p_correct", "p_incorrect")):
            np.testing.assert_allclose(evaluated[column], alone[column], atol=1e-5, err_msg=column)
        else:
            assert list(evaluated[column].astype(str)) == list(alone[column].astype(str)), column


def test_rows_that_cannot_be_used_are_set_aside_with_the_reason(random_blip, random_pairs, tmp_path):
    pairs = random_pairs.copy()
    whole = Path(pairs.loc[2, "clean_image"]).read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.png").write_text("<html>not found</html>")
    pairs.loc[0, "clean_image"] = str(tmp_path / "missing.png")
    pairs.loc[1, "corrupt_image"] = str(tmp_path / "truncated.png")
    pairs.loc[2, "corrupt_image"] = str(tmp_path / "page.png")
    pairs.loc[3, "corrupt_prompt"] = "is this person feeling striped or calm?"
    pairs.loc[4, "correct_answer"] = "xylophone"
    pairs.loc[5, ["correct_answer", "incorrect_answer"]] = ["Red", "red"]
    usable, set_aside = vt.check_pairs(random_blip, pairs)
    assert list(usable["sample_id"]) == ["pair-3", "pair-6", "pair-7"]
    steps = set_aside.set_index("sample_id")["step"]
    assert steps.pop("pair-3") == TEXT_STEP, "image corruption needs no corrupt prompt"
    assert set(steps) == {PAIR_STEP}
    reasons = dict(zip(set_aside["sample_id"], set_aside["reason"], strict=True))
    for i, words in enumerate(
        [
            "missing.png does not exist",
            "truncated.png cannot be read",
            "page.png cannot be read",
            "tokens",
            "xylophone",
            "the same tokens",
        ]
    ):
        assert words in reasons[f"pair-{i}"], reasons[f"pair-{i}"]
    with (
        pytest.warns(UserWarning, match="5 of 8 pairs are set aside"),
        pytest.warns(UserWarning, match="1 of 3 pairs cannot be used with text corruption"),
    ):
        assert len(vt.evaluate(random_blip, pairs)) == 3
    with pytest.raises(vt.VlmtraceError, match="None of the 1 pairs can be used"), pytest.warns(UserWarning):
        vt.evaluate(random_blip, pairs.iloc[[0]])


def test_accuracy_table_by_hand():
    table = pd.DataFrame(
        {
            "task": "t",
            "category": ["a"] * 4,
            "is_correct": [True, True, True, False],
            "image_is_flipped": [True, True, False, True],
            "text_is_changed": [True] * 4,
        }
    )
    accuracy = vt.accuracy_table(table).set_index("measure")
    assert accuracy["accuracy"].to_dict() == {
        "clean": 0.75,
        "image_flipped": 0.75,
        "text_changed": 1.0,
        "both_sides": 0.5,
    }
    # Wilson's interval for 3 of 4 at 95 %: centre (p + z²/2n) / (1 + z²/n), worked by hand with z = 1.96.
    assert accuracy.loc["clean", "ci_low"] == pytest.approx(0.3006, abs=1e-3)
    assert accuracy.loc["clean", "ci_high"] == pytest.approx(0.9544, abs=1e-3)


def test_a_mask_that_later_stages_cannot_use_sets_its_pair_aside(random_blip, random_pairs, tmp_path):
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    masks = random_pairs["clean_object_mask"].tolist()
    masks[0], masks[1], masks[2] = str(tmp_path / "gone.png"), str(tmp_path / "small.png"), None
    usable, set_aside = vt.check_pairs(random_blip, random_pairs.assign(clean_object_mask=masks))
    assert set_aside["sample_id"].tolist() == ["pair-0", "pair-1"] and len(usable) == len(random_pairs) - 2
    assert "does not exist" in set_aside["reason"][0] and "10 × 10 pixels" in set_aside["reason"][1]


def test_a_pair_of_one_image_has_no_image_corruption(random_blip, random_pairs, tmp_path):
    """The same file, or the same pixels in another: no effect of such a pair would be a number."""
    Image.open(random_pairs["clean_image"][1]).save(tmp_path / "copy.bmp")
    images = [random_pairs["clean_image"][0], str(tmp_path / "copy.bmp"), *random_pairs["corrupt_image"][2:]]
    pairs = random_pairs.assign(corrupt_image=images)
    for corruptions in (["image"], ["image", "text"]):
        usable, aside = vt.check_pairs(random_blip, pairs, corruptions)
        assert aside["sample_id"].tolist() == ["pair-0", "pair-1"] and len(usable) == 6
        assert set(aside["reason"]) == {"the clean and the corrupt image are the same, so there is no image corruption"}
    assert vt.check_pairs(random_blip, pairs, ["text"])[1].empty, "the corrupt image is not run"


def test_check_pairs_sets_aside_what_has_no_text_corruption_where_there_is_no_other(random_blip, random_pairs):
    pairs = random_pairs.assign(corrupt_prompt=random_pairs["clean_prompt"])
    usable, aside = vt.check_pairs(random_blip, pairs, ["text"])
    assert usable.empty and set(aside["reason"]) == {
        "the clean and the corrupt prompt are the same, so there is no text corruption"
    }
    assert vt.check_pairs(random_blip, pairs)[1].empty, "it is a pair of images alone"


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_what_stands_for_an_image_belongs_to_no_answer_and_no_prompt(model_store, random_pairs, family):
    model = model_store.shared(family)
    place = model.image_placeholder
    for prefix in (place, f"The {place} is", place.upper()):
        with pytest.raises(
            vt.VlmtraceError, match=r"None of the 8 pairs .*\(answer_prefix\) cannot be given: .* holds .*: leave"
        ):
            vt.evaluate(model, random_pairs, answer_prefix=prefix)
    with pytest.raises(vt.VlmtraceError, match=r"The answer .* holds .*: leave it out"):
        vt.evaluate(model, random_pairs.assign(correct_answer=place))
    with pytest.raises(vt.VlmtraceError, match=r"The prompt 'is .*' holds .*: leave it out"):
        vt.evaluate(model, random_pairs, instruction=place)
