"""What is the same whatever is masked is computed once, and changes no answer."""

import numpy as np
import pytest
import torch
from PIL import Image

from vlmtrace.methods.explanation.token_masking import MaskableQuestion, mask_tokens

PROMPT = "is this square striped or dotted?"
#: Whose language side is given the image embeddings, and one whose later layers read the image again.
KINDS = ("random_blip", "llava", "llava_next", "gemma3", "paligemma", "qwen3_vl", "blip2")


@pytest.fixture(scope="module", params=KINDS)
def model(request, model_store):
    return model_store.shared(request.param)


def test_the_image_is_seen_once_and_answers_are_those_of_whole_runs(model, monkeypatch):
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 36, 3), dtype=np.uint8))
    ids = [model.answer_token("red"), model.answer_token("blue")]
    seen, whole = [], model.image_embeddings
    monkeypatch.setattr(model, "image_embeddings", lambda inputs: seen.append(inputs) or whole(inputs))
    asked = MaskableQuestion(model, picture, PROMPT, ids, 1)
    sets = [(), (1,), (0, len(asked.tokens) - 2)]
    chances = [chance for chosen in sets for chance in asked.answers([chosen])[1]]
    if model.injects_image_features_later:
        assert not seen, "later layers read the image again: no embeddings stand for it"
    else:
        assert len(seen) == 1
    plain = []
    for chosen in sets:
        masked = np.zeros((1, len(asked.tokens)), dtype=bool)
        masked[0, list(chosen)] = True
        with torch.no_grad(), mask_tokens(model, asked.inputs, asked.tokens, masked):
            plain.append(float(model.answer_logits(asked.inputs).softmax(-1)[0, asked.target_id]))
    np.testing.assert_allclose(chances, plain, atol=1e-6)
