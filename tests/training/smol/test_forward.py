"""Packed questions give the numbers that each of them gives alone, in the model's own forward pass."""

import numpy as np
import pytest
import torch
from fixtures import tiny_smol
from PIL import Image

from vlmtrace.training.smol.assembled import assemble
from vlmtrace.training.smol.forward import answer_logits, is_right, visible
from vlmtrace.training.smol.stream import ABOUT_IMAGE, NOBODY, Encoder, packed

ASKED = [("Is this circle red or blue?", "red"), ("What color is it?", "green"), ("How many?", "two")]
TOLD = [("The circle is red.", "Is this circle red or blue?", "red"), ("The star is plain.", "Is it?", "plain")]


@pytest.fixture(scope="module")
def assembled():
    return assemble(tiny_smol.language_model(), tiny_smol.tokenizer())


@pytest.fixture(scope="module")
def batch(assembled):
    encoder = Encoder(assembled[1].tokenizer)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    about = [[encoder.about_image(*one) for one in ASKED], [encoder.about_image(*ASKED[1])]]
    return packed(pixels, about, [encoder.told(*one) for one in TOLD], encoder)


def _alone(model, processor, prompt, answer, image=None, told=""):
    """Logits before each token of the answer and its end, of the chat template's text and the answer."""
    content = [{"type": "image"}] if image is not None else []
    content.append({"type": "text", "text": told + prompt})
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = processor(images=image, text=text + answer, return_tensors="pt", add_special_tokens=False)
    n = len(processor.tokenizer(answer, add_special_tokens=False).input_ids)
    return model(**given).logits[0, -n - 1 :]


@torch.no_grad()
def test_every_question_is_answered_as_if_it_stood_alone(assembled, batch):
    model, processor = assembled
    logits = answer_logits(model, batch, Encoder(processor.tokenizer))
    images = [Image.fromarray(pixels.numpy()) for pixels in batch.pixels]
    alone = [_alone(model, processor, prompt, answer, images[0]) for prompt, answer in ASKED]
    alone.append(_alone(model, processor, *ASKED[1], images[1]))
    alone += [_alone(model, processor, prompt, answer, told=f"{told} ") for told, prompt, answer in TOLD]
    difference = (logits - torch.cat(alone)).abs().max()
    assert difference < 1e-4, f"packed and single questions differ by {difference}"


def test_targets_are_the_answers_and_their_ends(assembled, batch):
    tokens = assembled[1].tokenizer
    answers = [answer for _, answer in (*ASKED, ASKED[1])] + [answer for *_, answer in TOLD]
    found = [tokens.decode(batch.target[batch.question == number]) for number in range(len(answers))]
    assert found == [f"{answer}<|im_end|>" for answer in answers]


def test_no_loss_is_taken_at_an_image_token(assembled, batch):
    first = len(Encoder(assembled[1].tokenizer).start)
    with_image = batch.at[:, 0] < len(batch.pixels)
    assert with_image.any()
    assert (batch.at[with_image, 1] >= first + 64).all(), "a target follows on an image token"
    assert ((batch.kind == ABOUT_IMAGE) == with_image).all()


def test_no_question_sees_another_or_padding(batch):
    seen = visible(batch.owner)[:, 0]
    owner = batch.owner
    for row in range(len(owner)):
        for place in range(owner.shape[1]):
            keys = owner[row, seen[row, place]]
            allowed = {-1, int(owner[row, place])}
            assert set(keys.tolist()) <= allowed, f"place {place} of row {row} sees {set(keys.tolist())}"
        assert not seen[row, owner[row] != NOBODY][:, owner[row] == NOBODY].any()


def test_an_answer_is_right_only_with_all_of_its_tokens(batch):
    logits = torch.nn.functional.one_hot(batch.target, int(batch.target.max()) + 1).float()
    assert is_right(logits, batch).all()
    last = int((batch.question == 1).nonzero()[-1])
    logits[last] = logits[last].roll(1)
    assert is_right(logits, batch).tolist() == [True, False, True, True, True, True]
