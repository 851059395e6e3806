"""Families whose language model gets image features in more than one place: where that is, and what follows from it."""

import pytest
from PIL import Image

from vlmtrace.models import Site

LANGUAGE = "language_model"


@pytest.fixture(scope="module")
def picture():
    return Image.radial_gradient("L").resize((64, 64)).convert("RGB")


@pytest.mark.parametrize("name", ["granite4_vision", "granite_docling", "cohere_compass"])
def test_features_are_added_where_the_family_says(model_store, picture, name):
    """Between two layers the stream changes at image tokens there, and nowhere else."""
    model = model_store.shared(name)
    inputs = model.encode([picture], [model.prompt_text("is this a or b?")])
    trace, is_image = model.trace(inputs), model.is_image(inputs)
    found = []
    for layer, call in enumerate(trace.calls[1:]):
        change = (call.hidden - trace[LANGUAGE, "residual", layer]).abs().amax(-1)
        assert (change[~is_image] == 0).all()
        assert (change[is_image] > 0).all() or (change[is_image] == 0).all()
        found += [layer] if change.any() else []
    assert found == [layer for layer in range(len(trace.calls)) if model.adds_image_features_after(layer)]
    assert found and model.injects_image_features_later


def test_granite_offers_the_vision_layers_that_it_reads(model_store):
    """Not those that the setting of the LLaVA family says, which its configuration has as well."""
    model = model_store.shared("granite4_vision")
    assert model.hf.config.vision_feature_layer == -2 and len(model.vision_layers) == 3
    assert model.blocks["vision_encoder"].n_layers == 3


def test_embeddings_of_each_layer_hold_the_image_too(model_store, picture):
    """What Gemma 4 gives each layer is made of what enters the first one, so an image reaches all of them."""
    model = model_store.shared("gemma4_shared")
    assert model.injects_image_features_later and not model_store.shared("gemma4").injects_image_features_later
    given = []
    for image in (picture, Image.new("RGB", picture.size)):
        inputs = model.encode([image], [model.prompt_text("is this a or b?")])
        calls = model.trace(inputs, [Site(LANGUAGE, "residual", 0)]).calls
        given.append([call.options["per_layer_input"] for call in calls])
    is_image = model.is_image(inputs)
    for one, other in zip(*given, strict=True):
        change = (one - other).abs().amax(-1)
        assert change[is_image].min() > 1e-3 and change[~is_image].max() == 0
