"""NaN and infinity are named with pair and layer, at load and in every stage: never a number, never "no contrast"."""

import copy

import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.models import self_check
from vlmtrace.models.finite import check_finite


@pytest.fixture(params=["random_blip", "llava"])
def broken(request, model_store):
    """A model of which one weight of layer 1 of the block that reads the prompt is NaN."""
    whole = request.getfixturevalue("random_blip") if request.param == "random_blip" else model_store.shared("llava")
    model = copy.copy(whole)
    hf = copy.deepcopy(whole.hf)
    model.__init__(whole.name, hf, whole.processor, whole.family)
    layer = model.layer_module(model.head_block.name, 1)
    with torch.no_grad():
        next(parameter for name, parameter in layer.named_parameters() if name.endswith("weight")).flatten()[0] = (
            torch.nan
        )
    return model


WHERE = r"(self_attention|mlp|residual) of layer 1 of (text_encoder|language_model)"


def test_at_load(broken):
    with pytest.raises(vt.VlmtraceError, match=f"not finite for an image of noise: they arise in {WHERE}"):
        self_check(broken)


@pytest.mark.parametrize(
    "stage",
    [
        vt.evaluate,
        vt.patch_heads,
        vt.patch_modules,
        vt.attribute_heads,
        vt.knock_out_attention,
        lambda model, pairs: vt.patch_head_sets(model, pairs, [[]]),
    ],
)
def test_in_every_stage(broken, random_pairs, stage):
    with pytest.raises(vt.VlmtraceError, match=rf"not finite for pair 'pair-0' \(clean run\): they arise in {WHERE}"):
        stage(broken, random_pairs.iloc[:2])


@pytest.mark.parametrize("method", [vt.causal_trace, vt.noise_curve, vt.lens_contributions])
def test_in_the_methods_that_ask_questions(broken, random_pairs, method):
    if method is vt.lens_contributions and not broken.has_visual_tokens:
        pytest.skip("the lens is of decoder-only models")
    questions = pd.DataFrame(
        {
            "sample_id": ["q0"],
            "category": ["color"],
            "image": random_pairs["clean_image"].iloc[:1],
            "prompt": ["what color is this circle?"],
        }
    )
    with pytest.raises(vt.VlmtraceError, match=f"not finite for question 'q0': they arise in {WHERE}"):
        method(broken, questions)


def test_what_can_be_read_passes():
    """−∞ for a token that is never said is a number like others; a row of nothing else, NaN and +∞ are not."""
    fine = torch.tensor([[0.0, -torch.inf, 1.0]])
    assert check_finite("model", fine) is fine
    for bad in ([0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, -torch.inf]):
        with pytest.raises(vt.VlmtraceError, match="row 2 of 2"):
            check_finite("model", torch.tensor([[0.0, 0.0], bad]))
