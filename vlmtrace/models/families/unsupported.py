"""Families that are refused by name, with the reason."""

from vlmtrace.models.families.spec import UnsupportedFamily

UNSUPPORTED = [
    UnsupportedFamily(
        "molmo2", "Molmo 2", "whose images only torchvision can prepare, so that it could not be checked"
    ),
    UnsupportedFamily(
        "florence2", "Florence-2", "whose language model has an encoder of its own, in which the image's tokens stand"
    ),
]
