"""Videos that are one image, shown several times, for models whose processors take nothing but videos.

transformers prepares videos with torchvision only. Frames need no more than an image does, so where torchvision is
missing they are prepared by Pillow, with the settings of the model's own video processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image
from transformers import BlipImageProcessorPil
from transformers.image_processing_utils import BatchFeature

from vlmtrace.models.model_folders import read_json
from vlmtrace.models.processors import NoVideo

#: Where `save_pretrained` has written the settings of a video processor, the newest place first.
SETTINGS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")

#: Of these settings, those that decide what becomes of a frame.
READ = (
    "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
    "do_convert_rgb",
)  # fmt: skip


class StillFrames(NoVideo):
    """Prepares a list of frames as one video, each as an image is prepared for BLIP.

    Attributes:
        images: what prepares a frame
    """

    model_input_names = ("pixel_values",)

    def __init__(self, **settings: Any):
        """Take the settings of a video processor; what it lacks is as in InstructBLIP-Video's.

        Args:
            **settings: as its file names them
        """
        self.images = BlipImageProcessorPil(**{name: settings[name] for name in READ if settings.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        """Settings are those of what prepares a frame."""
        if name == "images" or name not in READ:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(self.images, name)

    def __call__(self, videos: Sequence[Image.Image], return_tensors: str | None = None, **_options: Any) -> Any:
        """Frames of one video -> pixel_values (1, frame, channel, height, width)."""
        frames = self.images(list(videos), return_tensors="pt")["pixel_values"]
        return BatchFeature({"pixel_values": frames[None]}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """The settings, as a video processor's file holds them."""
        return {name: value for name, value in self.images.to_dict().items() if name in READ}

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_options: Any) -> StillFrames:
        """With the settings that a processor's folder holds."""
        for file in SETTINGS:
            held = read_json(Path(folder) / file)
            held = held.get("video_processor", {}) if file == SETTINGS[0] else held
            if held:
                return cls(**held)
        return cls()


@contextlib.contextmanager
def with_still_frames() -> Iterator[None]:
    """While this is entered, processors are built with `StillFrames` as their video processor."""
    auto = import_module("transformers.models.auto.video_processing_auto").AutoVideoProcessor
    with patch.object(auto, "from_pretrained", StillFrames.from_pretrained):
        yield
