"""A tokenizer that splits words: image corruption takes every pair, and answers are measured over the whole word."""

import pandas as pd
import pytest
import torch
from fixtures.split_words import SPLIT, split_words

import vlmtrace as vt
from vlmtrace.inputs import by_corruption, run_inputs
from vlmtrace.inputs.corruption import token_mismatch
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.methods.evaluation import corruption_table, model_filters
from vlmtrace.methods.evaluation.usable import PAIR_STEP, TEXT_STEP
from vlmtrace.pipeline.findings import without_text_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return split_words(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def faces():
    """Pairs made for another tokenizer."""
    return vt.load_pairs("rendered_faces", n=14)


def test_the_model_splits_words(model):
    counts = {word: model.count_tokens(f"is it {word} here") - model.count_tokens("is it here") for word in SPLIT}
    assert all(n > 1 for n in counts.values()), counts
    assert model.count_tokens("is it happy here") - model.count_tokens("is it here") == 1


def test_pairs_made_for_another_tokenizer_keep_their_image_corruption(model, faces):
    fits = pd.Series([token_mismatch(model, pair) is None for pair in faces.to_dict("records")])
    assert 0 < fits.sum() < len(faces), "this test needs some that do not fit"
    usable, set_aside = vt.check_pairs(model, faces)
    assert usable["sample_id"].tolist() == faces["sample_id"].tolist()
    assert (~images_alone(usable)).tolist() == fits.tolist()
    assert set(set_aside["step"]) == {TEXT_STEP} and set_aside["reason"].str.contains("tokens").all()
    kept = ["clean_image", "corrupt_image", "clean_prompt", "correct_answer"]
    assert usable[kept].equals(faces[kept])
    only = vt.check_pairs(model, faces, ["text"])
    assert len(only[0]) == fits.sum() and set(only[1]["step"]) == {PAIR_STEP}
    assert len(vt.check_pairs(model, faces, ["image"])[0]) == len(faces)
    assert {name: len(part) for name, part in by_corruption(usable).items()} == {"image": 14, "text": fits.sum()}


def test_what_text_corruption_leaves_out_is_counted(model, faces):
    usable, set_aside = vt.check_pairs(model, faces)
    n = int((~images_alone(usable)).sum())
    filters = model_filters(faces, set_aside)
    assert filters[["rows_in", "rows_used", "rows_set_aside"]].to_numpy().tolist() == [[14, 14, 0], [14, n, 14 - n]]
    counts = corruption_table(usable, made=faces)
    assert counts["made"].tolist() == [2] * 7 and counts["image"].tolist() == [2] * 7
    by_hand = [
        sum(
            not alone and category == mine for alone, mine in zip(images_alone(usable), usable["category"], strict=True)
        )
        for category in counts["category"]
    ]
    assert counts["text"].tolist() == by_hand and sum(by_hand) == n
    words = f"{14 - n} of 14 pairs cannot be used with text corruption .*by category: .*disgusted 0 of 2"
    with pytest.warns(UserWarning, match=words):
        answered = vt.usable_pairs(model, faces, instruction="Say it.")
    assert answered["clean_prompt"].equals(faces["clean_prompt"]) and (~images_alone(answered)).sum() == n
    with pytest.warns(UserWarning, match=words):
        evaluated = vt.evaluate(model, faces)
    assert len(evaluated) == 14 and evaluated["image_logit_diff"].notna().all()
    assert evaluated["text_logit_diff"].notna().sum() == n
    with pytest.warns(UserWarning, match=f"{14 - n} of 14 pairs are pairs of images alone"):
        again = vt.evaluate(model, usable)
    pd.testing.assert_frame_equal(again, evaluated)
    said = {row["category"]: (row["text"], row["image"]) for row in without_text_rows(evaluated)}
    assert said["disgusted"] == (0, 2) and set(said) == set(counts.loc[counts["text"] < 2, "category"])


def test_pairs_made_for_this_tokenizer_lose_only_what_nothing_can_replace(model):
    for task in ("rendered_states", "rendered_faces"):
        pairs = vt.load_pairs(task, n=28, model=model)
        usable, set_aside = vt.check_pairs(model, pairs)
        assert set_aside.empty and len(usable) == 28, set_aside["reason"].tolist()
        alone = pairs[images_alone(pairs)]
        assert set(alone["correct_answer"]) <= {"disgusted", "checkered", "zigzag"}
        assert (task == "rendered_faces") == (len(alone) > 0) or set(alone["category"]) <= {"texture"}


@pytest.fixture(scope="module")
def alike(model, faces):
    """A pair whose options begin with the same token."""
    pair = faces.iloc[[0]].assign(
        correct_answer="zigzag", incorrect_answer="zigzig", corrupt_prompt=faces["clean_prompt"]
    )
    ids = [model.spell_answer(word) for word in ("zigzag", "zigzig")]
    assert ids[0][0] == ids[1][0] and ids[0] != ids[1]
    return pair, ids


def whole_word(model, inputs, ids):
    """log p of an answer by transformers' own forward pass, with its tokens behind the prompt."""
    longer = model.extend(inputs, ids[:-1])
    with torch.no_grad():
        logits = model.hf(**longer).logits[0, -len(ids) :].float().log_softmax(-1)
    return sum(float(logits[i, token]) for i, token in enumerate(ids))


def test_options_that_begin_alike_are_compared_over_the_whole_word(model, alike):
    pair, ids = alike
    with pytest.warns(UserWarning, match="pairs of images alone"):
        evaluated = vt.evaluate(model, pair).iloc[0]
    for run, column in (("clean", "clean_logit_diff"), ("image", "image_logit_diff")):
        inputs = run_inputs(model, pair, run)
        correct, incorrect = (whole_word(model, inputs, one) for one in ids)
        assert abs(correct - incorrect) > 1e-3, "their first tokens alone would give 0"
        assert evaluated[column] == pytest.approx(correct - incorrect, abs=1e-4)


def test_a_sweep_measures_the_whole_word(model, alike):
    """Layer 1's MLP at single positions, exchanged by hooks on the modules themselves, one answer at a time."""
    pair, ids = alike
    effects = vt.patch_modules(model, pair, "image", blocks=["language_model"], modules=["mlp"])
    effects = effects[effects["layer"] == 1].set_index("position")
    mlp = next(module for name, module in model.hf.named_modules() if name.endswith("language_model.layers.1.mlp"))
    inputs = {run: run_inputs(model, pair, run) for run in ("clean", "image")}
    corrupt = sum(sign * whole_word(model, inputs["image"], one) for sign, one in zip((1, -1), ids, strict=True))
    length = inputs["clean"]["input_ids"].shape[1]
    for position in (2, length // 2, length - 1):
        patched = 0.0
        for sign, one in zip((1, -1), ids, strict=True):
            kept = []
            keeping = mlp.register_forward_hook(
                lambda _module, _args, out, kept=kept: kept.append(out.detach().clone())
            )
            whole_word(model, inputs["clean"], one)
            keeping.remove()

            def exchange(_module, _args, out, kept=kept, position=position):
                out = out.clone()
                out[:, position] = kept[0][:, position]
                return out

            exchanging = mlp.register_forward_hook(exchange)
            patched += sign * whole_word(model, inputs["image"], one)
            exchanging.remove()
        assert effects.loc[position, "logit_diff"] == pytest.approx(patched - corrupt, abs=1e-4), position
