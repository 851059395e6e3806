"""What the tests of the lens share."""

import pytest
from fixtures.families import save

import vlmtrace as vt


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "families"


@pytest.fixture(scope="session")
def questions(random_pairs):
    pairs = random_pairs.iloc[[0, 1]]
    named = {"clean_image": "image", "clean_prompt": "prompt", "correct_answer": "answer"}
    return pairs.rename(columns=named)[["sample_id", "image", "prompt", "answer"]].reset_index(drop=True)


@pytest.fixture(scope="session")
def tiny(folder):
    return vt.load_model(save("llava", folder))
