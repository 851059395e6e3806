"""Inputs of types that no family describes grow with an answer as their processors' words do, or it is said."""

import warnings

import pytest
import torch
from fixtures.families import TIERED
from PIL import Image

import vlmtrace as vt
from vlmtrace.models import guessed
from vlmtrace.models.families import registry
from vlmtrace.models.families.guess import guess
from vlmtrace.models.growing_inputs import growths
from vlmtrace.models.guessed import GuessedDecoder

#: Families whose prompts are not guessed, and what is said of it.
NO_PROMPT = {
    "kosmos2": "no token that stands for the image",
    "instructblipvideo": "no token that stands for the image",
    "fuyu": "cannot take an image",
    "pp_chart2table": "does not hold it and one image",
    "qianfan_ocr": "does not hold it and one image",
}

IMAGE = Image.linear_gradient("L").convert("RGB").resize((96, 96))


@pytest.mark.medium
@pytest.mark.parametrize("name", TIERED)
def test_inputs_grow_as_the_families_say(model_store, name):
    known = model_store.shared(name)
    if known.family.norm == "":
        pytest.skip("its text layers are not guessed")
    spec = guess(known.hf.config)
    if spec is None:
        pytest.skip("of a class that transformers lists elsewhere: nothing is guessed")
    model = GuessedDecoder(name, known.hf, known.processor, spec)
    if name in NO_PROMPT:
        with pytest.raises(vt.VlmtraceError, match=NO_PROMPT[name]):
            model.encode([IMAGE], [model.prompt_text("is this red or blue?")])
        return
    inputs = known.encode([IMAGE], [known.prompt_text("is this red or blue?")])
    expected, found = known.extend(inputs, [5, 6, 7]), model.extend(inputs, [5, 6, 7])
    differ = {one for one in expected if not torch.equal(expected[one], found[one])}
    assert set(found) == set(expected) and not differ


@pytest.fixture
def unknown(model_store, monkeypatch):
    """Load one of the random models as if no family described it."""

    def load(name, check=True):
        path = model_store.path(name)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(registry, "families", dict)
            return vt.load_model(path, check=check)

    return load


@pytest.mark.medium
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", ["ernie4_5_vl_moe", "paligemma"])
def test_an_unknown_model_gives_the_answers_of_its_family(model_store, unknown, name, check):
    """ERNIE-4.5-VL is told twice of each position what it is; of PaliGemma, what is generated has a type of its own."""
    known, model = model_store.shared(name), unknown(name, check)
    inputs = known.encode([IMAGE], [known.prompt_text("is this red or blue?")])
    assert model.greedy_ids(inputs, 5) == known.greedy_ids(inputs, 5)
    with torch.no_grad():
        logits, expected = (one.answer_logits(one.extend(inputs, [5, 6, 7])) for one in (model, known))
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.medium
def test_whole_answers_of_an_unknown_model_are_patched_as_those_of_its_family(model_store, unknown, random_pairs):
    known, model = model_store.shared("ernie4_5_vl_moe"), unknown("ernie4_5_vl_moe")
    pair = random_pairs.iloc[[0]].assign(correct_answer="red circle", incorrect_answer="blue square")
    options = dict(modules=["residual"], blocks=["language_model"], positions=["last"])
    found, expected = (vt.patch_modules(one, pair, **options) for one in (model, known))
    assert expected["logit_diff"].abs().max() > 1e-3
    assert (found["logit_diff"] - expected["logit_diff"]).abs().max() < 1e-4


def test_an_answer_that_the_model_itself_would_not_go_on_with_is_refused(unknown, monkeypatch):
    """Generated tokens of ERNIE-4.5-VL are taken for an image's, and go to other experts."""
    images = lambda value, n: value.new_ones(len(value), n)  # noqa: E731
    monkeypatch.setattr(guessed, "growths", lambda *_args: {"moe_mm_token_type_ids": images})
    model = unknown("ernie4_5_vl_moe", check=False)
    inputs = model.encode([IMAGE], [model.prompt_text("is this red or blue?")])
    assert model.extend(inputs, [])["input_ids"].shape == inputs["input_ids"].shape, (
        "nothing is to be known of no token"
    )
    with pytest.raises(vt.VlmtraceError, match="where it goes on with an answer, it gives other logits"):
        model.extend(inputs, [5])


def encoder(further):
    """A processor's stand-in: a token for each word, and one further input, made of their number."""
    return lambda text: {"input_ids": torch.arange(n := len(text.split()))[None], "further": further(n)}


def grown(further, n=2):
    growth = growths("a model", encoder(further), "what is it ?", {"input_ids"})
    before = further(4)
    return growth["further"](before, n) if growth else None


def test_an_input_goes_on_with_a_constant_with_its_last_value_or_with_numbers():
    marked = lambda n: torch.tensor([[1, 1, 3, 2] + [0] * (n - 4)])  # noqa: E731
    assert grown(marked).tolist() == [[0, 0]]
    seen = lambda n: torch.tensor([0, 1])[None, None].expand(1, n, 2)  # noqa: E731
    assert grown(seen, 3).tolist() == [[[0, 1]] * 3]
    assert grown(lambda n: torch.arange(n)[None] + 7).tolist() == [[11, 12]]
    assert grown(lambda n: torch.ones(1, 3)) is None, "not one for each position"
    assert grown(lambda n: torch.ones(1, n + 2)) is None, "the question as another part of the model reads it"


@pytest.mark.parametrize(
    "further",
    [
        lambda n: torch.arange(n)[None, None].expand(3, 1, n),  # positions along three axes
        lambda n: torch.ones(1, 1, n, n),  # a mask of queries and keys
        lambda n: torch.arange(n)[None] % 3,  # nothing that is known
        lambda n: torch.arange(n).flip(0)[None],  # what is behind changes what comes before
    ],
)
def test_an_input_that_grows_otherwise_is_refused_in_a_sentence(further):
    sentence = (
        r"a model is of a type that vlmtrace does not know, and takes further for each position.*more_token_fills"
    )
    with pytest.raises(vt.VlmtraceError, match=sentence):
        grown(further)
