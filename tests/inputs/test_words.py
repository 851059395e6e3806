"""Words are found in any script where they stand, and never inside another word."""

import unicodedata

import numpy as np
import pytest

from vlmtrace.inputs.token_roles import joined_words, role_spans
from vlmtrace.inputs.words import find_word, folded
from vlmtrace.models import Token
from vlmtrace.tasks.building.token_replacement import cased_as, symmetric_token_replacement

DECOMPOSED = {form: unicodedata.normalize("NFD", form) for form in ("café", "빨강")}


@pytest.mark.parametrize(
    ("prompt", "word", "found"),
    [
        ("这是红色还是蓝色？", "红色", ["红色"]),
        ("这是红色还是蓝色？", "蓝色", ["蓝色"]),
        ("これは赤ですか、青ですか？", "赤", ["赤"]),
        ("レッドですかブルーですか", "レッド", ["レッド"]),
        ("นี่คือสีแดงหรือสีน้ำเงิน", "สีแดง", ["สีแดง"]),
        ("빨강인가요 파랑인가요?", "빨강", ["빨강"]),
        ("هل هو أحمر أم أزرق؟", "أحمر", ["أحمر"]),
        ("האם זה אדום או כחול?", "כחול", ["כחול"]),
        ("STRASSE or Weg?", "straße", ["STRASSE"]),
        ("Straße or weg?", "STRASSE", ["Straße"]),
        ("don’t or do?", "don't", ["don’t"]),
        ("the dog's or the cat’s?", "cat", ["cat"]),
        ("is it ❤️ or 💙?", "❤", ["❤️"]),
        ("red色 or 蓝blue？", "blue", ["blue"]),
        ("a\nred\tblue", "red", ["red"]),
        ("is it blue or blue-green?", "blue", ["blue"]),
        ("is it blue or blue-green?", "blue-green", ["blue-green"]),
        ("a left-turn or right-turn sign?", "left", ["left"]),
        (f"{DECOMPOSED['café']} or thé?", "café", [DECOMPOSED["café"]]),
        ("café or thé?", DECOMPOSED["café"], ["café"]),
        (f"{DECOMPOSED['빨강']}인가요?", "빨강", [DECOMPOSED["빨강"]]),
    ],
)
def test_words_are_found_in_every_script(prompt, word, found):
    assert [prompt[start:end] for start, end in find_word(prompt, word)] == found


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a hundred?", "red"),
        ("ブレッドですか", "レッド"),  # bread, not red
        ("진빨강인가요?", "빨강"),  # dark red
        (f"{DECOMPOSED['café']}?", "cafe"),
        ("कमी?", "कम"),  # a vowel sign goes on with the word
        ("الأحمر", "أحمر"),
        ("is it 👍🏽?", "👍"),
        ("is it 👩‍🚀?", "👩"),
        ("13 of them?", "3"),
        ("a_b", "b"),
        ("anything", ""),
        ("Straße", "s"),
    ],
)
def test_parts_of_words_are_none(prompt, word):
    assert find_word(prompt, word) == []


def test_an_option_within_the_other_has_its_own_role():
    """红 is red, 粉红 is pink."""
    roles = role_spans("这是粉红还是红？", {"correct_answer": "红", "incorrect_answer": "粉红"})
    assert roles == {"correct": [(6, 7)], "incorrect": [(2, 4)]}


@pytest.mark.parametrize("options", [("红", "粉红"), ("粉红", "红")])
def test_replacement_works_where_no_blanks_are(options):
    pool = ["橙", "黄", "紫色", "绿色"]
    corrupt = symmetric_token_replacement("这是粉红还是红？", options, pool, len, np.random.default_rng(0))
    assert len(corrupt) == 8 and corrupt[:2] == "这是" and corrupt[4:6] == "还是" and corrupt[7] == "？"
    assert corrupt[2:4] in ("紫色", "绿色") and corrupt[6] in ("橙", "黄"), corrupt


def test_tokens_of_a_script_without_blanks_are_no_single_word():
    tokens = [Token("这是", (0, 2)), Token("红色", (2, 4)), Token("red", (4, 7)), Token("ish", (7, 10))]
    table = joined_words(tokens, "这是红色reddish"[:10])
    assert table["word_index"].tolist() == [0, 1, 2, 2], table


def test_a_capital_i_with_a_dot_is_the_letter_i():
    assert folded("İstanbul") == folded("istanbul") == folded("ISTANBUL")
    assert find_word("Is it İstanbul or Izmir?", "istanbul") == [(6, 14)]
    assert find_word("Is it istanbul or izmir?", "İstanbul") == [(6, 14)]
    assert cased_as("İzmir", "ankara") == "izmir"
