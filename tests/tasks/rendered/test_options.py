"""Options and replacements are drawn for the tokenizer in use; those of the bundled one stay what they were."""

import hashlib

import pytest

import vlmtrace as vt
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.tasks import rendered
from vlmtrace.tasks.rendered import pairs
from vlmtrace.tasks.rendered.options import replacer_for
from vlmtrace.tasks.rendered.words import EMOTIONS, OPTIONS, TASKS, n_tokens, replacements

#: Words that a pretended tokenizer splits, as that of SmolLM2 does; all others are one token each.
PIECES = {"checkered": 3, "zigzag": 3, "disgusted": 2}


def count(prompt: str) -> int:
    """Tokens of a prompt under the pretended tokenizer."""
    return sum(PIECES.get(word.strip("?,."), 1) for word in prompt.split())


@pytest.fixture(autouse=True)
def _raw(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RAW", tmp_path)


def of_both(task, n=84):
    return [
        [pairs.sample(task, 0, index, "test", replacer) for index in range(n)]
        for replacer in (None, replacer_for(count))
    ]


def test_every_pair_has_as_many_tokens_or_no_replacement():
    for task in TASKS:
        before, after = of_both(task)
        unlike = [pair for pair in before if count(pair.clean_prompt) != count(pair.corrupt_prompt)]
        assert unlike or task == "rendered_svo", "the pretended tokenizer changes nothing here"
        for pair in after:
            assert count(pair.clean_prompt) == count(pair.corrupt_prompt), pair.corrupt_prompt
            alone = pair.clean_prompt == pair.corrupt_prompt
            assert alone == (pair.options[0] == "disgusted"), f"{pair.options}: {pair.corrupt_prompt}"
            if not alone:
                assert replacements(OPTIONS[task][pair.category], pair.options, lambda word: PIECES.get(word, 1))


def test_scenes_are_drawn_anew_only_where_the_options_cannot_be_replaced():
    for task in TASKS:
        for first, second in zip(*of_both(task), strict=True):
            if second.of_tokenizer:
                assert not replacements(OPTIONS[task][first.category], first.options, lambda word: PIECES.get(word, 1))
                assert first.options[0] == second.options[0], "the correct answer is kept where it can be"
                continue
            assert first.options == second.options and first.clean == second.clean and first.corrupt == second.corrupt
            assert first.clean_prompt == second.clean_prompt


def test_other_options_have_names_and_files_of_their_own(tmp_path):
    def digests():
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*.png")}

    rendered.load("rendered_faces", n=28, seed=0)
    before = digests()
    table = rendered.load("rendered_faces", n=28, seed=0, model=count)
    assert before.items() <= digests().items(), "pictures of pairs for another tokenizer were changed"
    plain = {f"rendered_faces-test-0-{index:05d}" for index in range(28)}
    others = table[~table["sample_id"].isin(plain)]
    assert len(others) > 0, "this test needs options that cannot be replaced"
    for row in others.itertuples():
        assert f"{row.correct_answer}-{row.incorrect_answer}" in row.clean_image
        assert row.sample_id.endswith(f"-{row.correct_answer}-{row.incorrect_answer}")
    again = rendered.load("rendered_faces", n=28, seed=0, model=count)
    assert again.equals(table), "the same tokenizer gives other pairs"


@pytest.mark.parametrize("name", ["tiny-blip", "tiny-llava"])
def test_for_bundled_models_nothing_changes(name):
    model = vt.load_model(name, check=False)
    replacer = replacer_for(model)
    for task in TASKS:
        for categories in OPTIONS[task].values():
            for word in categories:
                assert replacer.length(word) == n_tokens(word), word
        assert vt.load_pairs(task, n=14, model=model).equals(vt.load_pairs(task, n=14)), task


def test_pictures_are_asked_about_in_words_of_as_many_tokens():
    """Of the colors `red` alone is split: no other word can take its place."""
    split = vt.load_pairs("rendered_pictures", n=60, model=lambda prompt: len(prompt.split()) + prompt.count(" red"))
    color = split[split["category"] == "color"]
    red = color["clean_prompt"].str.contains(" red")
    assert red.any() and (images_alone(color) == red).all()


def test_a_model_that_draws_prompts_takes_the_pairs_of_the_bundled_tokenizer():
    class Draws:
        draws_prompts = True

    assert replacer_for(Draws()) is None and replacer_for(None) is None
    assert len(EMOTIONS) == 7
