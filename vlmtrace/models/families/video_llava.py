"""Video-LLaVA: an encoder each for images and for videos, of which images take the first."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "video_llava",
        "Video-LLaVA",
        "VideoLlavaForConditionalGeneration",
        image_tokens="one per patch",
        handled="for images; the encoder of videos is not run",
        vision="model.image_tower",
        caps_logits=False,
    )
]
