"""What the tests of the lens share."""

import pytest

from vlmtrace.methods.lens.questions import lens_of


@pytest.fixture(scope="session")
def questions(random_pairs):
    pairs = random_pairs.iloc[[0, 1]]
    named = {"clean_image": "image", "clean_prompt": "prompt", "correct_answer": "answer"}
    return pairs.rename(columns=named)[["sample_id", "image", "prompt", "answer"]].reset_index(drop=True)


@pytest.fixture(scope="session")
def tiny(model_store):
    return model_store.shared("llava")


@pytest.fixture(scope="session")
def masked(questions, random_pairs):
    table = questions.assign(object_mask=list(random_pairs["clean_object_mask"][:2]), category="color")
    return table.assign(sentences=["the circle is red.", "the square is striped."])


@pytest.fixture(scope="session")
def lens(tiny, questions):
    return lens_of(tiny, questions.iloc[0])
