"""PaddleOCR-VL: images of any size, whose patches come row by row and are taken together in squares at the end."""

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchList

FAMILIES = [
    FamilySpec(
        "paddleocr_vl",
        "PaddleOCR-VL",
        "PaddleOCRVLForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="positions along three axes, images of any size",
        vision="model.visual",
        vision_types=("paddleocr_vl_vision",),
        # It lists them image by image, which is no tensor.
        vision_attention_weights=False,
        prompt_start="<|IMAGE_START|>{image}<|IMAGE_END|>",
        several_images=True,
        layout=PatchList(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
    )
]
