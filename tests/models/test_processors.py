"""Processors where torchvision is missing: images are prepared without it where that can be, and else it is named."""

import json

import pytest
from fixtures.families import FAMILIES
from transformers.utils import is_torchvision_available

import vlmtrace as vt
from vlmtrace.models.processors import load_processor

pytestmark = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")


def test_an_image_processor_that_needs_torchvision_is_said_in_one_sentence(tmp_path):
    _, prepare = FAMILIES["llava"]()
    prepare.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "processor_config.json").read_text())
    # No Pillow version of it is in transformers, nor are the tests' own registered for it.
    written["image_processor"]["image_processor_type"] = "Cohere2VisionImageProcessor"
    (tmp_path / "processor_config.json").write_text(json.dumps(written))
    sentence = (
        "^The processor of mine prepares images with torchvision, which is not installed: pip install torchvision, in "
        r"the version that belongs to the installed torch\.$"
    )
    with pytest.raises(vt.VlmtraceError, match=sentence):
        load_processor(tmp_path, name="mine")


@pytest.mark.parametrize("name", ["mistral3", "llava_next_video", "qwen2_vl"])
def test_what_can_be_prepared_with_pillow_is(model_store, name):
    """Pixtral's processor and those that read videos ask for torchvision, but need it for no image."""
    model = model_store.shared(name)
    assert type(model.processor.image_processor).__name__.endswith("Pil")
