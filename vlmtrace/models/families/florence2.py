"""Florence-2: image tokens in front of the words that BART's encoder reads; its decoder answers."""

from vlmtrace.models.families.spec import FamilySpec, StackSpec
from vlmtrace.models.patch_layout import UnknownLayout

FAMILIES = [
    FamilySpec(
        "florence2",
        "Florence-2",
        "Florence2ForConditionalGeneration",
        image_tokens="one per place of the last vision stage, and one for all of it",
        handled="an encoder that reads image and prompt, and a decoder that answers",
        interface="vlmtrace.models.encoder_decoder:EncoderDecoder",
        vision_types=(),
        # The processor itself puts the image's tokens in front of the prompt.
        prompt_start="",
        one_image="its processor puts the tokens of one image in front of the prompt",
        layout=UnknownLayout(),
        square_side=None,
        stacks={
            "text_encoder": StackSpec(
                "model.language_model.encoder.layers",
                {"mlp": "fc2", "self_attention": "self_attn.out_proj"},
                lambda config: config.text_config.encoder_attention_heads,
            ),
            "text_decoder": StackSpec(
                "model.language_model.decoder.layers",
                {
                    "mlp": "fc2",
                    "self_attention": "self_attn.out_proj",
                    "cross_attention": "encoder_attn.out_proj",
                },
                lambda config: config.text_config.decoder_attention_heads,
            ),
        },
    )
]
