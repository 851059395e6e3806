"""Processors for still images: loaded with the model's own settings, whether or not torchvision is installed.

Several families also read video, and transformers prepares video with torchvision only. Their processors therefore do
not load without it, although images need nothing but Pillow. Here a stand-in takes the place of the video processor
while the processor is built. Where images themselves are prepared with torchvision alone, a sentence says so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tokenizers import Tokenizer
from transformers import AutoProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PushToHubMixin, is_torchvision_available

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.failures import explained, reason

#: What to do about a processor that is broken.
PROCESSOR = "take the processor of the same checkpoint, as save_pretrained writes it, or download it again"


#: What transformers names where it can prepare images with torchvision alone.
TORCHVISION = "torchvision"

#: How transformers and Python say that a package is missing, each with the package's name.
MISSING = (
    r"pip install (?:-U |--upgrade )?[`'\"]?(?P<name>[A-Za-z][\w-]*(?:\.\w+)?(?:\[\w+\])?)",
    r"[Nn]o module named '(?P<name>\w+)",
    r"(?:requires|need to have) (?:the )?[`'\"]?(?P<name>[A-Za-z][\w-]*)[`'\"]?,? (?:library|package|or |installed)",
    r"(?i)(?P<name>torchvision)",
)

#: Packages that pip knows by another name than Python does.
PYTHON_NAMES = {"pillow": "PIL", "opencv-python": "cv2", "protobuf": "google.protobuf", "scikit-learn": "sklearn"}


class NoVideo(PushToHubMixin):
    """Stands where a processor expects a video processor; asking it for a video raises."""

    model_input_names: tuple[str, ...] = ()
    num_frames = fps = None
    # What processors of MiniCPM-V and ERNIE read of it when they are built and saved.
    slice_mode, downsample_mode, font = False, "16x", ""
    _auto_class = None

    def __call__(self, *_args: Any, **_options: Any) -> Any:
        """Refuse."""
        raise VlmtraceError("Videos are not supported, and preparing them needs torchvision: pass images.")

    def to_dict(self) -> dict[str, Any]:
        """Nothing: a processor is saved without it."""
        return {}


@contextlib.contextmanager
def without_video() -> Iterator[None]:
    """While this is entered, processors are built without their video processor; afterwards all is as it was."""
    check = ProcessorMixin.check_argument_for_proper_class

    def check_all_but_video(processor: ProcessorMixin, name: str, argument: Any) -> Any:
        return type(argument) if isinstance(argument, NoVideo) else check(processor, name, argument)

    def no_video(*_args: Any, **_options: Any) -> NoVideo:
        return NoVideo()

    auto = import_module("transformers.models.auto.video_processing_auto").AutoVideoProcessor
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(ProcessorMixin, "check_argument_for_proper_class", check_all_but_video))
        stack.enter_context(patch.object(auto, "from_pretrained", no_video))
        yield


def load_processor(
    path: str | Path,
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    name: str | None = None,
) -> Any:
    """The processor that `save_pretrained` wrote, for images and text.

    Args:
        path: the directory
        context: entered while a processor is loaded, see `FamilySpec.processor_context`
        name: of the model, for the sentence; None: the directory's

    Returns:
        the transformers processor

    Raises:
        VlmtraceError: a file of it is broken, a package is missing that it needs for images too, or its tokenizer
            cannot tell which characters a token stands for
    """
    name = name or str(path)
    try:
        with contextlib.ExitStack() as stack:
            if not is_torchvision_available():
                stack.enter_context(without_video())
            stack.enter_context(context())
            stack.enter_context(explained(f"The processor of {name} cannot be loaded", PROCESSOR))
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except VlmtraceError as error:
        cause = error.__cause__
        package = missing_package(cause)
        if package == TORCHVISION:
            raise VlmtraceError(
                f"The processor of {name} prepares images with torchvision, which is not installed: pip install "
                "torchvision, in the version that belongs to the installed torch."
            ) from cause
        if package is not None:
            raise VlmtraceError(
                f"The processor of {name} needs the package {package}, which is not installed: pip install {package}."
            ) from cause
        if isinstance(cause, ImportError):
            raise VlmtraceError(
                f"The processor of {name} needs a package that is not installed ({reason(cause)}): install it."
            ) from cause
        file = Path(path) / "tokenizer.json"
        if file.exists():  # the tokenizer is a part of the processor: say so where it is the one that is broken
            with explained(f"The tokenizer of {name} cannot be loaded", PROCESSOR):
                Tokenizer.from_file(str(file))
        raise
    check_fast(processor, name)
    return processor


def missing_package(error: BaseException | None) -> str | None:
    """The name for pip of the package for lack of which something failed; None if it failed for another reason.

    >>> missing_package(ImportError("Package `not-there` is required. Install it with `pip install not-there`."))
    'not-there'
    >>> missing_package(ImportError("Package `torch` is required. Install it with `pip install torch`.")) is None
    True
    >>> missing_package(ValueError("The processor is of no known type.")) is None
    True
    """
    if not isinstance(error, ImportError | ValueError):
        return None
    if isinstance(error, ModuleNotFoundError) and error.name:
        found = error.name.partition(".")[0]
    else:
        text = str(error)
        found = next((match["name"] for one in MISSING if (match := re.search(one, text))), "")
    names = {python.partition(".")[0]: pip for pip, python in PYTHON_NAMES.items()}  # of imports
    package = names.get(found, found if found.startswith("transformers[") else found.lower())
    return package if package and not _is_there(package) else None


def _is_there(package: str) -> bool:
    """Whether a package is installed, by its name for pip; one with parts of its own ("a[b]") may lack some."""
    if "[" in package:
        return False
    try:
        return find_spec(PYTHON_NAMES.get(package, package.replace("-", "_"))) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def check_fast(processor: Any, name: str) -> None:
    """Raise if a processor's tokenizer cannot tell which characters a token stands for.

    Args:
        processor: of transformers
        name: of the model, for the sentence
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if not getattr(tokenizer, "is_fast", False):
        raise VlmtraceError(
            f"The tokenizer of {name} ({type(tokenizer).__name__}) does not say which characters a token stands for: "
            "save it as a fast tokenizer (tokenizer.json)."
        )
