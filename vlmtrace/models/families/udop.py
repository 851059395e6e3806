"""UDOP: words of a page and its image in one encoder; here, a page on which no word was recognized."""

from vlmtrace.models.families.spec import FamilySpec, StackSpec
from vlmtrace.models.patch_layout import UnknownLayout


def _stack(name: str, feed_forward: str, **attentions: str) -> StackSpec:
    return StackSpec(
        f"{name}.block",
        {"mlp": f"{feed_forward}.DenseReluDense", "self_attention": "layer.0.SelfAttention.o", **attentions},
        lambda config: config.num_heads,
        # What they give second are the biases of relative positions.
        gives_weights=False,
        mask_argument="mask",
    )


FAMILIES = [
    FamilySpec(
        "udop",
        "UDOP",
        "UdopForConditionalGeneration",
        image_tokens="one per patch; the first is left out, and the last stands at the separators",
        handled="an encoder that reads image and question, and a decoder that answers; the words of a page are not "
        "recognized, so that the model sees them as pixels alone",
        interface="vlmtrace.models.udop:Udop",
        vision_types=(),
        prompt_start="",
        one_image="its encoder reads one page",
        layout=UnknownLayout(),
        square_side=None,
        stacks={
            "text_encoder": _stack("encoder", "layer.1"),
            "text_decoder": _stack("decoder", "layer.2", cross_attention="layer.1.EncDecAttention.o"),
        },
    )
]
