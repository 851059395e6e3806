"""Images made smaller, or of one size, before a model's own processor prepares them."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class ImageSizing:
    """What is done to an image before a model's own processor.

    Models that take images at their own size (Qwen, LLaVA-NeXT, InternVL, …) make as many image tokens of an image as
    it has room for. So both numbers bound memory and time there; and images of one size give sequences of one length.

    Attributes:
        max_pixels: an image of more is made smaller, in its own shape; None: it stays
        size: width and height that every image is resampled to, whatever its shape; None: it keeps its own
    """

    max_pixels: int | None = None
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        """For records; "" where nothing is done.

        >>> str(ImageSizing(90_000)), str(ImageSizing(size=(448, 336))), str(ImageSizing())
        ('max_pixels=90000', 'image_size=448x336', '')
        """
        words = [f"max_pixels={self.max_pixels}"] if self.max_pixels else []
        words += [f"image_size={self.size[0]}x{self.size[1]}"] if self.size else []
        return ", ".join(words)

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that an image of a size gets.

        >>> ImageSizing(10_000).fitted((400, 100)), ImageSizing(10_000).fitted((50, 50))
        ((200, 50), (50, 50))
        >>> ImageSizing(100).fitted((10_000, 1))
        (100, 1)
        >>> ImageSizing(1_000, (100, 40)).fitted((7, 9))
        (50, 20)
        """
        width, height = self.size or size
        if not self.max_pixels or width * height <= self.max_pixels:
            return width, height
        scale = sqrt(self.max_pixels / (width * height))
        # A strip keeps one pixel of its short side, and no more of its long one than the bound then leaves.
        short = max(1, int(min(width, height) * scale))
        long = min(int(max(width, height) * scale), self.max_pixels // short)
        return (long, short) if width > height else (short, long)

    def apply(self, image: Image.Image, processor: Any) -> Image.Image:
        """The image as the processor is to get it, resampled with the processor's own filter.

        Args:
            image: in RGB
            processor: of images
        """
        size = self.fitted(image.size)
        if size == image.size:
            return image
        resample = getattr(processor, "resample", None)
        return image.resize(size, Image.Resampling.BICUBIC if resample is None else Image.Resampling(int(resample)))
