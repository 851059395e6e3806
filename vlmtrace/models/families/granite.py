"""Granite 4 Vision and Granite Docling: image features enter at several layers of the language model."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.spec import FamilySpec

LATER = (
    "image features that enter at later layers, too (there a clean residual stream alone does not bring the clean "
    "run back), scaled logits"
)


def _scale(config: Any) -> float:
    return 1.0 / config.text_config.logits_scaling


def _granite4_entries(config: Any) -> set[int]:
    """The text layers before which features are added, less one: those behind which they are."""
    entries = {layer for _, layer in config.deepstack_layer_map} | set(config.spatial_target_layers)
    return {layer - 1 for layer in entries if layer > 0}


def _granite4_vision_layers(config: Any) -> list[int]:
    return [*(layer for layer, _ in config.deepstack_layer_map), config.spatial_vision_layer]


FAMILIES = [
    FamilySpec(
        "granite4_vision",
        "Granite 4 Vision",
        "Granite4VisionForConditionalGeneration",
        image_tokens="queries, each of which sees a window of patches; newlines between rows",
        handled=f"{LATER}; image tokens have no place in the image",
        several_images=True,
        square_side=None,
        later_image_features=_granite4_entries,
        vision_layers_read=_granite4_vision_layers,
        readout_scale=_scale,
    ),
    FamilySpec(
        "granite_docling",
        "Granite Docling",
        "GraniteDoclingForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled=f"tiles and the tokens between them, {LATER}; the fine route has no places in the image",
        text="model.text_model",
        vision="model.vision_model",
        vision_types=("granite_docling_vision",),
        several_images=True,
        square_side=lambda config: config.vision_config.scale_factor,
        later_image_features=lambda config: len(config.vision_config.deepstack_visual_indexes),
        readout_scale=_scale,
    ),
]
