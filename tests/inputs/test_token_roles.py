"""Token roles come from offsets; prompts and answers are found as whole words."""

import pandas as pd
import pytest

from vlmtrace.inputs.batching import choose_positions
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.token_roles import find_word, role_spans, token_table


def roles(model, pairs, row, block="text_encoder"):
    pair = pairs.iloc[row]
    return token_table(model, pair, block, run_inputs(model, pairs.iloc[[row]], "clean"))


def test_roles_of_a_prompt_with_split_options(random_blip, random_pairs):
    table = roles(random_blip, random_pairs, 1)
    assert list(table["token"]) == [
        "[CLS]",
        "is",
        "this",
        "square",
        "strip",
        "##ed",
        "or",
        "dott",
        "##ed",
        "?",
        "[SEP]",
    ]
    expected = [
        "[CLS]",
        "is",
        "this",
        "other",
        "correct",
        "correct",
        "or",
        "incorrect",
        "incorrect",
        "?",
        "[SEP]",
    ]
    assert list(table["token_role"]) == expected
    assert list(table["position"]) == list(range(11))


def test_word_columns_name_their_tokens(random_blip, random_pairs):
    table = roles(random_blip, random_pairs, 0).set_index("token")
    assert table.loc["circle", "token_role"] == "noun"
    assert table.loc["blue", "token_role"] == "incorrect"


def test_image_positions_are_the_patch_grid_row_by_row(random_blip, random_pairs):
    table = roles(random_blip, random_pairs, 0, "vision_encoder")
    assert len(table) == 1 + 4 * 4
    assert list(table["token"][:6]) == ["[CLS]", "0,0", "0,1", "0,2", "0,3", "1,0"]
    assert set(table["token_role"][1:]) == {"image"}


def test_decoder_has_one_position(random_blip, random_pairs):
    table = roles(random_blip, random_pairs, 0, "text_decoder")
    assert table.to_dict("records") == [{"position": 0, "token": "[DEC]", "token_role": "last"}]


@pytest.mark.parametrize(
    ("word", "spans"),
    [("man", [(7, 10)]), ("woman", [(18, 23)]), ("MAN", [(7, 10)]), ("wo", []), ("kicking", [(24, 31)])],
)
def test_find_word_ignores_parts_of_words(word, spans):
    assert find_word("Is the man or the woman kicking?", word) == spans


def test_missing_word_columns_are_no_role():
    pair = {"correct_answer": "red", "incorrect_answer": "blue", "noun": float("nan")}
    assert role_spans("is it red or blue?", pair) == {"correct": [(6, 9)], "incorrect": [(13, 17)]}


def test_which_positions_are_text_depends_on_the_block():
    table = pd.DataFrame({"position": [0, 1, 2], "token_role": ["special", "image", "noun"]})
    assert choose_positions(table, "text", "language_model")["position"].tolist() == [0, 2]
    assert choose_positions(table, "text", "vision_encoder").empty
    with pytest.raises(TypeError, match="block"):
        choose_positions(table, "text")
