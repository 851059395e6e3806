"""BLIP for visual question answering, whose question encoder looks at the image by cross-attention."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "blip",
        "BLIP VQA",
        "BlipForQuestionAnswering",
        since="0.1.0",
        image_tokens="none: cross-attention",
        handled="answers come from a decoder of their own, which can be patched, too",
        interface="vlmtrace.models.blip:Blip",
        loader="BlipForQuestionAnswering",
        # The fast sweep computes attention as the eager implementation does.
        load_options={"attn_implementation": "eager"},
        vision_types=("blip_vision_model",),
        one_image="its question encoder looks at one image by cross-attention",
    )
]
