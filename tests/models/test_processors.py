"""Processors where torchvision or another package is missing: they do without it where that can be, or name it."""

import contextlib
import json

import pytest
from fixtures.families import FAMILIES
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

import vlmtrace as vt
from vlmtrace.models import processors
from vlmtrace.models.processors import load_processor, missing_package

without_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")


@without_torchvision
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


@without_torchvision
@pytest.mark.parametrize("name", ["mistral3", "llava_next_video", "qwen2_vl"])
def test_what_can_be_prepared_with_pillow_is(model_store, name):
    """Pixtral's processor and those that read videos ask for torchvision, but need it for no image."""
    model = model_store.shared(name)
    assert type(model.processor.image_processor).__name__.endswith("Pil")


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (
            ImportError("Package `num2words` is required to run it. Install it with `pip install num2words`."),
            "num2words",
        ),
        (ImportError("\nThis requires the SentencePiece library but it was not found."), "sentencepiece"),
        (ImportError("\nThis requires the PyAv library. You can install it with:\n```\npip install av\n```"), "av"),
        (ImportError("\nThis requires the OpenCV library:\n```\npip install opencv-python\n```"), "opencv-python"),
        (ImportError("\nThis requires the protobuf library but it was not found."), "protobuf"),
        (ImportError("This requires soundfile and soxr: `pip install transformers[audio]`."), "transformers[audio]"),
        (ModuleNotFoundError("No module named 'mistral_common'", name="mistral_common.tokens"), "mistral_common"),
        (ImportError("No module named 'ftfy'"), "ftfy"),
        (
            ValueError("You need to have sentencepiece or tiktoken installed to convert a slow tokenizer."),
            "sentencepiece",
        ),
        (ValueError("Please make sure that you have `torchvision` installed."), "torchvision"),
    ],
)
def test_the_package_that_is_missing_is_the_one_that_is_named(monkeypatch, error, package):
    def missing(*_args, **_options):
        raise error

    monkeypatch.setattr(AutoProcessor, "from_pretrained", missing)
    monkeypatch.setattr(processors, "find_spec", lambda name: None)
    with pytest.raises(vt.VlmtraceError) as caught:
        load_processor("some-model")
    assert str(caught.value).startswith("The processor of some-model ") and f"pip install {package}" in str(
        caught.value
    )
    assert "torchvision" not in str(caught.value) or package == "torchvision"
    monkeypatch.setattr(processors, "find_spec", lambda name: object())
    assert package == "transformers[audio]" or missing_package(error) is None, (
        "it is installed: another thing is at fault"
    )


def test_what_is_no_missing_package_is_not_called_one():
    assert missing_package(ValueError("Unrecognized image processor in the folder.")) is None
    assert missing_package(KeyError("num2words")) is None and missing_package(None) is None


@pytest.mark.parametrize("has_torchvision", [True, False])
def test_a_family_does_without_its_package_whether_torchvision_is_there_or_not(monkeypatch, has_torchvision):
    entered = []

    @contextlib.contextmanager
    def context():
        entered.append(True)
        yield

    monkeypatch.setattr(processors, "is_torchvision_available", lambda: has_torchvision)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_args, **_options: object())
    monkeypatch.setattr(processors, "check_fast", lambda *_args: None)
    load_processor("some-model", context)
    assert entered
