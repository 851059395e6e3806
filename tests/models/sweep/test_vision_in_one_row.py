"""A vision encoder that takes all images of a batch as one sequence gets few at once, and gives the same."""

import pytest
import torch

from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Patches
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.sweep import reference, vision_patches


@pytest.mark.medium
def test_states_of_pixtral_run_a_few_at_a_time(model_store, random_pairs, monkeypatch):
    model = model_store.shared("pixtral")
    pair = random_pairs.iloc[[0]]
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", "image"))
    clean, corrupt = model.trace(clean), model.trace(inputs)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    n = clean["vision_encoder", "residual", 0].shape[1]
    positions = torch.arange(n)[None]
    patches = Patches("vision_encoder", ["residual"] * n, [0] * n, [None] * n, positions)

    lengths = []
    point = HookPoint(model.layer_module("vision_encoder", 1), is_input=True)
    monkeypatch.setattr(vision_patches, "IN_ONE_ROW", 3 * n)
    with attach_hooks([(point, lambda stream: lengths.append(stream.shape[1]))]):
        fast = model.sweep(clean, corrupt, inputs, patches, ids, memory=2**30)
    assert max(lengths) == 3 * n and sum(lengths) == n * n
    slow = reference.sweep(model, clean, inputs, patches, ids)
    torch.testing.assert_close(fast.correct, slow.correct, atol=1e-4, rtol=0)
