"""Parts of the log-odds: they add up, and each run is the one that a forward pass by hand gives."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.core.schema import check_written
from vlmtrace.core.schema.prior_tables import WITHOUT
from vlmtrace.inputs.image_tokens import mean_image_token

pytestmark = pytest.mark.medium


def by_hand(model, shown, prompt, pair, **how):
    """LD of two answers of one token each, by one forward pass."""
    ids = model.answer_ids([pair["correct_answer"]], [pair["incorrect_answer"]])[0]
    with torch.no_grad():
        logits = model.answer_logits(model.encode([shown], [model.prompt_text(prompt)]), **how)[0]
    return float(logits[ids[0]] - logits[ids[1]])


@pytest.mark.parametrize("without", WITHOUT)
def test_the_parts_add_up(model, pairs, without):
    parts = check_written("log_odds_parts", vt.split_log_odds(model, pairs, without=without))
    assert parts["sample_id"].tolist() == pairs["sample_id"].tolist(), "rows are not in the order of the pairs"
    led = (pairs["category"] == "leading").to_numpy()
    assert parts.loc[~led, "words"].isna().all() and parts.loc[led, "words"].notna().all()
    total = parts["rest"] + parts["image"] + parts["words"].fillna(0)
    np.testing.assert_allclose(total, parts["log_odds"], atol=1e-4)
    one, other = parts.loc[led, "log_odds"], parts.loc[led, "log_odds_other_words"]
    alone, neither = parts.loc[led, "log_odds_no_image"], parts.loc[led, "log_odds_neither"]
    np.testing.assert_allclose(parts.loc[led, "image"], ((one - alone) + (other - neither)) / 2, atol=1e-4)
    np.testing.assert_allclose(parts.loc[led, "interaction"], one - other - alone + neither, atol=1e-4)


def test_each_run_is_a_forward_pass(model):
    """Colors are words of one token, so that logits of one position say all."""
    colors = vt.reword(vt.load_pairs("rendered_states", n=2), "The {noun} is {answer}. {question}")
    pair = colors.iloc[0].to_dict()
    everything = np.stack([np.asarray(open_image(path).convert("RGB"), dtype=float) for path in colors["clean_image"]])
    color = tuple(int(value) for value in everything.mean((0, 1, 2)).round())
    clean, blank = open_image(pair["clean_image"]), Image.new("RGB", (96, 96), color)
    mean = mean_image_token(model, colors)
    expected = {
        "blank": [by_hand(model, blank, pair[prompt], pair) for prompt in ("clean_prompt", "corrupt_prompt")],
        "corrupt": [
            by_hand(model, open_image(pair["corrupt_image"]), pair[prompt], pair)
            for prompt in ("clean_prompt", "corrupt_prompt")
        ],
    }
    inputs = model.encode([clean], [model.prompt_text(pair["clean_prompt"])])
    tokens = model.image_embeddings(inputs)
    replaced = mean.to(tokens.dtype).expand_as(tokens)
    expected["mean"] = [
        by_hand(model, clean, pair[prompt], pair, image=replaced) for prompt in ("clean_prompt", "corrupt_prompt")
    ]
    for without, (alone, neither) in expected.items():
        row = vt.split_log_odds(model, colors, without=without).iloc[0]
        found = row[["log_odds", "log_odds_other_words", "log_odds_no_image", "log_odds_neither"]].astype(float)
        kept = [by_hand(model, clean, pair[prompt], pair) for prompt in ("clean_prompt", "corrupt_prompt")]
        np.testing.assert_allclose(found, [*kept, alone, neither], atol=1e-3, err_msg=without)


def test_nothing_of_an_image_is_left_where_attention_is_cut(model, pairs):
    """Whatever image is shown, the cut run says the same; a run as it is does not."""
    exchanged = pairs.assign(clean_image=pairs["corrupt_image"], corrupt_image=pairs["clean_image"])
    found = [vt.split_log_odds(model, table, without="cut") for table in (pairs, exchanged)]
    assert (found[0]["log_odds"] - found[1]["log_odds"]).abs().min() > 0.1, "both images give the same: no proof"
    single = found[0]["log_odds_no_image"] - found[1]["log_odds_no_image"]
    assert single.abs().max() < 1e-3
    assert found[0]["answer_no_image"].tolist() == found[1]["answer_no_image"].tolist()


def test_a_bias_towards_a_word_is_no_part_of_the_image():
    """A prior that is planted in the output's bias moves the rest, and neither image nor words."""
    model = vt.load_model("tiny-blip")
    leading = vt.reword(vt.load_pairs("rendered_states", n=2), "The {noun} is {answer}. {question}")
    before = vt.split_log_odds(model, leading)
    biased = model.answer_token(leading["incorrect_answer"].iloc[0])
    (bias,) = {id(p): p for n, p in model.hf.named_parameters() if n.endswith("predictions.bias")}.values()
    with torch.no_grad():
        bias[biased] += 3
    try:
        after = vt.split_log_odds(model, leading)
    finally:
        with torch.no_grad():
            bias[biased] -= 3
    for name, expected in (("rest", -3), ("log_odds", -3), ("image", 0), ("words", 0)):
        assert after[name].iloc[0] - before[name].iloc[0] == pytest.approx(expected, abs=1e-3), name


def test_batches_do_not_matter(model, pairs):
    one = vt.split_log_odds(model, pairs, batch_size=1)
    many = vt.split_log_odds(model, pairs, batch_size=64)
    np.testing.assert_allclose(one["log_odds_no_image"], many["log_odds_no_image"], atol=1e-3)
    assert one["answer"].tolist() == many["answer"].tolist()


def test_means_are_those_of_units():
    parts = pd.DataFrame(
        {
            "sample_id": list("abc"),
            "unit": ["a", "a", "c"],
            "category": "color",
            "without": "blank",
            "log_odds": [2.0, 4.0, 6.0],
            "rest": [1.0, 1.0, 3.0],
            "image": [1.0, 3.0, 3.0],
            "words": np.nan,
        }
    )
    means = vt.log_odds_means(parts).set_index("part")
    assert means.index.tolist() == ["log_odds", "rest", "image"], "a part that all lack has no row"
    assert means["mean"].tolist() == [4.5, 2.0, 2.5] and set(means["n_units"]) == {2} and set(means["n"]) == {3}
    with pytest.raises(VlmtraceError, match="has no row"):
        vt.log_odds_means(parts.iloc[:0])
    stacked = pd.concat([parts, parts.assign(without="cut")])
    with pytest.raises(VlmtraceError, match="A pair stands twice in a group"):
        vt.log_odds_means(stacked, by=["category"])
    assert set(vt.log_odds_means(stacked)["n"]) == {3}


def test_an_unknown_way_gets_a_sentence(pairs):
    with pytest.raises(VlmtraceError, match="Unknown way to take the image away 'gray'"):
        vt.split_log_odds(vt.load_model("tiny-blip"), pairs, without="gray")
