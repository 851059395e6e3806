"""Which tokens are measured: the ones that the model gives, against the answer that the corrupt run gives."""

import pandas as pd
import pytest
import torch
from fixtures.asked import with_options

import vlmtrace as vt
from vlmtrace.inputs import run_inputs
from vlmtrace.inputs.answers import Answers, chosen_variant, find_answers, read_answers, variants
from vlmtrace.inputs.corruption import with_instruction
from vlmtrace.inputs.given_answers import GivenAnswers
from vlmtrace.models.vlm import inputs_of_pair


@pytest.fixture(scope="module")
def tiny():
    return vt.load_model("tiny-blip", check=False)


@pytest.fixture(scope="module")
def states():
    return vt.load_pairs("rendered_states", n=6)


def saying(model, inputs, token):
    """A run of one pair that says this token."""
    return GivenAnswers(model, inputs, torch.nn.functional.one_hot(torch.tensor([token]), len(model.tokenizer)).float())


def test_the_token_that_the_model_gives_is_measured(model_store, random_pairs):
    """Without its blank `red` is another token: where a run says that one, its logit is the answer's."""
    model = model_store.shared("llava")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    ways = {way[0]: way for way in variants(model, "red") if len(way) == 1}
    assert len(ways) == 2, f"one word, {len(ways)} tokens: this test needs two"
    for token, way in ways.items():
        given = saying(model, inputs, token)
        assert chosen_variant(model, "red", given, 0) == way
        assert chosen_variant(model, "Red", given, 0) == way, "the table's capital decides nothing"


def test_under_text_corruption_the_corrupt_runs_own_answer_is_the_contrast(tiny, states):
    """No run gives the incorrect option there: the model says 'neither', and 0 and 1 are to mean what runs say."""
    evaluated = vt.evaluate(tiny, states)
    neither = evaluated["text_generated_answer"] == "neither"
    assert neither.mean() > 0.5, "this test needs a model that says that neither option is right"
    assert (evaluated.loc[neither, "text_contrast_token"] == "neither").all()
    assert (evaluated.loc[neither, "text_logit_diff"] < 0).all(), "a run prefers the answer that it gives"
    assert (evaluated["text_options_logit_diff"] > evaluated["text_logit_diff"]).all()
    for contrast, column in (("answer", "text_logit_diff"), ("options", "text_options_logit_diff")):
        effects = vt.patch_modules(
            tiny, states, "text", blocks=["text_decoder"], modules=["residual"], contrast=contrast
        )
        last = effects[effects["layer"] == effects["layer"].max()]
        assert last["patching_effect"].round(4).eq(1).all(), "the decoder's last layer is the whole clean answer"
        clean = "clean_text_logit_diff" if contrast == "answer" else "clean_logit_diff"
        gaps = evaluated[clean] - evaluated[column]
        assert last["logit_diff"].to_numpy() == pytest.approx(gaps.to_numpy(), abs=1e-3)
        names = ["neither"] if contrast == "answer" else evaluated["incorrect_answer"].unique().tolist()
        assert set(last["contrast_token"]) <= set(names) | set(evaluated["text_contrast_token"])


def test_where_the_corrupt_run_gives_the_correct_answer_the_other_option_is_the_contrast(tiny, states):
    pair = states.iloc[[0]]
    inputs = run_inputs(tiny, pair, "clean")
    given = saying(tiny, inputs, tiny.answer_token(pair["correct_answer"].iloc[0]))
    options = pair["correct_answer"].iloc[0], pair["incorrect_answer"].iloc[0]
    found = find_answers(tiny, options, given, given, 0, "text")
    assert found.contrast == tuple(tiny.spell_answer(options[1]))


def test_the_correct_answer_in_another_writing_is_no_contrast(model_store, random_pairs):
    """The clean run says `red` with a blank before it, the corrupt run without: that is the same answer."""
    model = model_store.shared("llava")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    first, second = (way for way in variants(model, "red") if len(way) == 1)
    clean, corrupt = (saying(model, inputs, way[0]) for way in (first, second))
    found = find_answers(model, ("red", "blue"), clean, corrupt, 0, "text")
    assert found.correct == first
    assert found.contrast in variants(model, "blue")


def test_the_correct_answer_in_a_writing_of_more_tokens_is_no_contrast(model_store, random_pairs):
    """The clean run says `red` in one token, the corrupt run `RED` in several: what it begins with is no contrast."""
    model = model_store.shared("llava")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    ways = variants(model, "red")
    long = next(way for way in ways if len(way) > 1 and way[:1] not in ways)
    clean, corrupt = (saying(model, inputs, way[0]) for way in (ways[0], long))
    for said, is_the_answer in ((long, True), ((long[0], ways[0][0]), False)):
        corrupt._ids, corrupt._asked = [list(said)], 99
        found = find_answers(model, ("red", "blue"), clean, corrupt, 0, "text")
        assert found.correct == ways[0]
        assert found.contrast in (variants(model, "blue") if is_the_answer else [long[:1]])


def test_options_that_share_a_first_token_are_told_apart(model_store, random_pairs):
    model = model_store.shared("llava")
    pair = random_pairs.iloc[[0]].assign(
        clean_prompt="is this circle red ball or red dog?",
        corrupt_prompt="is this circle red dog or red ball?",
        correct_answer="red ball",
        incorrect_answer="red dog",
    )
    evaluated = vt.evaluate(model, pair)
    assert evaluated["correct_token_id"].iloc[0] == evaluated["incorrect_token_id"].iloc[0]
    assert evaluated["clean_p_correct"].iloc[0] != evaluated["clean_p_incorrect"].iloc[0]
    same = pair.assign(incorrect_answer="Red ball")
    _, set_aside = vt.check_pairs(model, same)
    assert "same tokens" in set_aside["reason"].iloc[0]


def test_settings_of_generation_do_not_decide_what_is_judged(model_store, random_pairs):
    """A repetition penalty, beams and suppressed tokens let `generate` of transformers say another word."""
    model = model_store.shared("llava")
    plain = vt.evaluate(model, random_pairs.iloc[:2])
    settings = model.hf.generation_config
    before = settings.to_dict()
    first = model.greedy_ids(run_inputs(model, random_pairs.iloc[[0]], "clean"), 1)[0]
    try:
        settings.update(repetition_penalty=50.0, num_beams=3, suppress_tokens=first)
        again = vt.evaluate(model, random_pairs.iloc[:2])
    finally:
        settings.update(**{name: before.get(name) for name in ("repetition_penalty", "num_beams", "suppress_tokens")})
    pd.testing.assert_frame_equal(plain, again)
    logits = model.answer_logits(run_inputs(model, random_pairs.iloc[[0]], "clean"))
    assert first == [int(logits.argmax())], "the answer is the argmax of the logits that are measured"


@pytest.mark.parametrize("name", ["llava", "random_blip"])
def test_an_image_is_encoded_no_more_often_than_the_model_asks(model_store, random_pairs, name, monkeypatch):
    """BLIP answers from embeddings that are given; LLaVA encodes the image in every run, and needs no run before."""
    model, seen, steps = model_store.shared(name), [], []
    answer = model.answer_logits
    monkeypatch.setattr(model, "answer_logits", lambda *given, **how: steps.append(1) or answer(*given, **how))
    handle = model.layer_module("vision_encoder", 0).register_forward_hook(lambda *_: seen.append(1))
    try:
        model.greedy_ids(run_inputs(model, random_pairs.iloc[[0]], "clean"), 3)
    finally:
        handle.remove()
    assert len(seen) == (1 if model.skips_vision_encoder else len(steps)) > 0


def test_a_long_answer_can_be_right(model_store, random_pairs, monkeypatch):
    """An option of twelve tokens is given twelve tokens to say."""
    model = model_store.shared("llava")
    answer = " ".join(["red ball"] * 6)
    pair = random_pairs.iloc[[0]].assign(
        clean_prompt=f"is this circle {answer} or blue?",
        corrupt_prompt=f"is this circle {answer.replace('ball', 'dog')} or blue?",
        correct_answer=answer,
    )
    tokens = model.spell_answer(answer)
    assert len(tokens) > 8
    monkeypatch.setattr(model, "greedy_ids", lambda inputs, n=8, *_: [(tokens * 2)[:n]] * len(inputs["input_ids"]))
    evaluated = vt.evaluate(model, pair)
    assert evaluated["generated_answer"].iloc[0].startswith(answer)
    assert evaluated["correct_tokens"].iloc[0].split() == model.tokenizer.convert_ids_to_tokens(tokens)


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_a_batch_is_asked_as_its_pairs_are(request, model_store, random_pairs, name):
    """Answers of a batch are continued together, in steps, and read together, whatever their numbers of tokens."""
    model = request.getfixturevalue(name) if name == "random_blip" else model_store.shared(name)
    pairs = random_pairs[random_pairs["clean_prompt"] == random_pairs["clean_prompt"].iloc[0]].iloc[[0, 0]]
    pairs = pairs.assign(clean_image=[pairs["clean_image"].iloc[0], pairs["corrupt_image"].iloc[0]])
    inputs = run_inputs(model, pairs, "clean")
    given = GivenAnswers(model, inputs, model.answer_logits(inputs))
    stepwise = [given.ids(n) for n in (1, 3, 2, 5)]
    ids = model.spell_answer("red") * 3
    answers = [Answers(tuple(ids[:2]), tuple(ids[:1])), Answers(tuple(ids[:2]), tuple(ids[:3]))]
    together = read_answers(model, given, answers)
    for row in range(2):
        own = inputs_of_pair(inputs, row, 2)
        whole = model.answer_tokens(own, 5)
        assert [found[row] for found in stepwise] == [whole[:n] for n in (1, 3, 2, 5)]
        alone = read_answers(model, GivenAnswers(model, own, model.answer_logits(own)), answers[row : row + 1])
        for name in ("correct", "incorrect", "log_normalizer"):
            in_batch, of_pair = float(getattr(together, name)[row]), float(getattr(alone, name))
            assert in_batch == pytest.approx(of_pair, abs=1e-4), f"{name} of pair {row} is another in a batch"


@pytest.mark.parametrize("name", ["random_blip", "llava"])
def test_an_answer_goes_on_behind_its_prefix(request, model_store, random_pairs, name):
    model = request.getfixturevalue(name) if name == "random_blip" else model_store.shared(name)
    pairs = random_pairs.iloc[[0, 2]]
    table = vt.evaluate(model, pairs, instruction="is it there?", answer_prefix="this is the")
    assert (
        table["clean_prompt"].str.endswith("? is it there?").all() and (table["answer_prefix"] == "this is the").all()
    )
    asked = with_instruction(pairs.iloc[[0]], "is it there?")
    inputs = model.extend(run_inputs(model, asked, "clean"), model.spell_answer("this is the"))
    with torch.no_grad():
        logits = model.answer_logits(inputs)[0]
    ids = table[["correct_token_id", "incorrect_token_id"]].iloc[0].tolist()
    assert table["clean_logit_diff"].iloc[0] == pytest.approx(float(logits[ids[0]] - logits[ids[1]]), abs=1e-4)
    effects = vt.patch_heads(model, table, positions=["correct", "last"])
    assert effects["logit_diff"].abs().max() > 1e-3
    gap = table["clean_logit_diff"] - table["image_logit_diff"]
    at = effects[effects["sample_id"] == table["sample_id"].iloc[0]]
    assert (at["patching_effect"] * gap.iloc[0]).to_numpy() == pytest.approx(at["logit_diff"].to_numpy(), abs=1e-4)


def test_an_option_that_begins_the_other_is_measured_with_its_end(model_store, random_pairs):
    """ "red" contains "red ball" as long as nobody asks whether the answer ends there: it would always be ahead."""
    model = model_store.shared("llava")
    pair = with_options(random_pairs.iloc[[0]], "red ball", "red")
    red, ball = model.spell_answer("red ball")
    inputs = run_inputs(model, pair, "clean")
    given = GivenAnswers(model, inputs, model.answer_logits(inputs))
    one = find_answers(model, ("red ball", "red"), given, given, 0, "image")
    end = model.tokenizer.eos_token_id
    assert (one.correct, one.contrast) == ((red, ball), (red, end))
    behind = model.answer_logits(model.extend(inputs, [red]))[0]
    expected = float(behind[ball] - behind[end])
    assert float(read_answers(model, given, [one]).logit_diff) == pytest.approx(expected, abs=1e-4)
    scores = vt.score_options(model, pair, ["red", "red ball", "blue"]).set_index("option")["log_prob"]
    assert scores["red ball"] - scores["red"] == pytest.approx(expected, abs=1e-4)


def test_such_an_option_can_be_the_right_answer(model_store, random_pairs, monkeypatch):
    model = model_store.shared("llava")
    pair = with_options(random_pairs.iloc[[0]], "red", "red ball")
    said = model.spell_answer("red")
    monkeypatch.setattr(model, "greedy_ids", lambda inputs, n=8, *_: [said] * len(inputs["input_ids"]))
    assert vt.evaluate(model, pair, corruptions=["image"])["is_correct"].tolist() == [True]


def test_what_a_pair_answers_does_not_depend_on_the_others_of_its_batch(model_store, random_pairs):
    """A long option in the batch makes runs longer: of a pair of short ones no more is read than alone."""
    model = model_store.shared("llava")
    pairs = random_pairs[random_pairs["clean_prompt"] == random_pairs["clean_prompt"].iloc[0]].iloc[[0, 0]]
    pairs = pairs.assign(sample_id=["short", "long"], incorrect_answer=["blue", " ".join(["blue ball"] * 6)])
    together = vt.evaluate(model, pairs, corruptions=["image"])
    alone = vt.evaluate(model, pairs.iloc[[0]], corruptions=["image"])
    short, long = together["generated_answer"]
    assert long.startswith(short) and long != short, "this test needs a run that goes on"
    assert short == alone["generated_answer"].iloc[0]
