"""Families that are refused by name, with the reason."""

from vlmtrace.models.families.spec import UnsupportedFamily

UNSUPPORTED = [
    UnsupportedFamily(
        "instructblipvideo",
        "InstructBLIP-Video",
        "whose processor takes videos of four frames and no images (InstructBLIP takes images)",
    ),
    UnsupportedFamily(
        "florence2", "Florence-2", "whose language model has an encoder of its own, in which the image's tokens stand"
    ),
]
