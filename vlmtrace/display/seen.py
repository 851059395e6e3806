"""The image exactly as a model receives it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from vlmtrace.models import VLM, Inputs
from vlmtrace.models.image_shares import tiles_of_images


def as_seen(model: VLM, images: Any, inputs: Inputs) -> Image.Image:
    """Draw what a model is given of some images: tiles one below the other.

    The processor's normalization is undone, its resizing, cropping and padding are not.

    Args:
        model: whose processor made the inputs
        images: an image, or several
        inputs: made of them
    """
    tiles = tiles_of_images(model, images, inputs)
    processor = model.processor.image_processor
    if getattr(processor, "do_normalize", True):
        mean, std = (np.reshape(getattr(processor, f"image_{name}"), (3, 1, 1)) for name in ("mean", "std"))
        tiles = tiles * std + mean
    pixels = np.concatenate(list(tiles), axis=1).transpose(1, 2, 0)
    # Without rescaling to 0 … 1 the model is given 0 … 255.
    scale = 255 if getattr(processor, "do_rescale", True) else 1
    return Image.fromarray(np.rint(np.clip(pixels * scale, 0, 255)).astype(np.uint8))
