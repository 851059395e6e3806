"""T5Gemma 2: an encoder reads image and prompt, and a decoder's attention sees itself and the encoder at once."""

from vlmtrace.models.families.spec import FamilySpec, StackSpec
from vlmtrace.models.patch_layout import UnknownLayout

FAMILIES = [
    FamilySpec(
        "t5gemma2",
        "T5Gemma 2",
        "T5Gemma2ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="an encoder that reads image and prompt; the decoder's self-attention looks at the prompt, too",
        interface="vlmtrace.models.encoder_decoder:EncoderDecoder",
        vision_types=(),
        prompt_start="{image}",
        one_image="in an encoder-decoder positions are not told apart by image",
        chats=False,
        layout=UnknownLayout(),
        square_side=None,
        stacks={
            "text_encoder": StackSpec(
                "model.encoder.text_model.layers",
                {"mlp": "mlp", "self_attention": "self_attn.o_proj"},
                lambda config: config.encoder.text_config.num_attention_heads,
            ),
            # Its attention joins what it has of itself and of the encoder, and gives weights of both apart.
            "text_decoder": StackSpec(
                "model.decoder.layers",
                {"mlp": "mlp", "self_attention": "self_attn.o_proj"},
                lambda config: config.decoder.num_attention_heads,
                gives_weights=False,
            ),
        },
    )
]
