"""The claims: who made them, what is measured here, and which notebook shows how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlmtrace.benchmarks.claims import explained, heads, image_tokens, patched
from vlmtrace.benchmarks.claims.material import Material, Number

LLAVA = "Yu and Ananiadou 2024, https://arxiv.org/abs/2411.10950"
NEO = "Neo et al. 2025, https://arxiv.org/abs/2410.07149"
NOTICE = "Golovanevsky et al. 2025 (NOTICE), https://arxiv.org/abs/2406.16320"
INTERPRET = "Stan et al. 2024 (LVLM-Interpret), https://arxiv.org/abs/2404.03118"


@dataclass(frozen=True)
class Claim:
    """One claim, and how it is measured.

    Attributes:
        name: of the claim
        paper: who made it
        text: the claim, in a sentence
        unit: what the numbers are
        measure: gives the numbers of a model: what was measured, and its controls
        notebook: that measures it
        call: the function of vlmtrace, or the view, with which the notebook does
        against: the control that could refute it, by its name
        larger: whether what is measured must be larger than that control, or smaller
        decoder_only: whether only decoder-only models can be asked
        share: whether the numbers are shares, written in percent
        is_count: whether they are counts
    """

    name: str
    paper: str
    text: str
    unit: str
    measure: Callable[[Material], list[Number]]
    notebook: str
    call: str
    against: str
    larger: bool = True
    decoder_only: bool = False
    share: bool = True
    is_count: bool = False


_ALL = (
    Claim(
        "few heads", LLAVA, "A few heads write the answer.",
        "share of all that heads add to the answer's log-probability, of the strongest 5 % of them",
        heads.few_heads, "08_visual_lens", "lens_contributions", "share of the heads", decoder_only=True,
    ),
    Claim(
        "deep heads", LLAVA, "These heads are in the deep layers.",
        "share of all that heads add, of heads in the last third of the layers",
        heads.deep_heads, "08_visual_lens", "lens_contributions", "share of the layers", decoder_only=True,
    ),
    Claim(
        "visual and textual", LLAVA, "Questions about images use the heads that questions about text use.",
        "rank correlation of heads' contributions; a random order has 0",
        heads.visual_and_textual, "08_visual_lens", "agreement", "random order", decoder_only=True, share=False,
    ),
    Claim(
        "shared heads", LLAVA, "Without these heads the answer is lost.",
        "change of the answer's log-odds where they are mean-ablated, in nats",
        heads.shared_heads_removed, "08_visual_lens", "ablate_heads", "as many random heads", larger=False,
        decoder_only=True, share=False,
    ),
    Claim(
        "important patches", LLAVA, "The patches that raise the answer's log-probability show the object.",
        "area under the ROC curve against the object's mask",
        heads.important_patches, "08_visual_lens", "score_maps", "random map", decoder_only=True, share=False,
    ),
    Claim(
        "names in tokens", NEO, "The object's name can be read from its image tokens by the logit lens.",
        "share of the object's tokens with the name among the first five words",
        image_tokens.object_words, "08_visual_lens", "word_layers", "another image", decoder_only=True,
    ),
    Claim(
        "colors in tokens", NEO, "Its color, which is the answer, can be read from them.",
        "share of the object's tokens with the color among the first five words",
        image_tokens.color_words, "08_visual_lens", "word_layers", "another image", decoder_only=True,
    ),
    Claim(
        "object's tokens", NEO, "What the model knows of the object is in the object's own tokens.",
        "share of the answers that turn where they are replaced by the mean token",
        image_tokens.object_replaced, "04_module_patching", "replace_image_tokens", "as many others",
    ),
    Claim(
        "tokens beside it", NEO, "… or in them and those beside them.",
        "share of the answers that turn where these are replaced, too",
        image_tokens.surroundings_replaced, "04_module_patching", "replace_image_tokens", "as many others",
    ),
    Claim(
        "fetched", NEO, "The last position fetches the answer from the object's tokens.",
        "share of the gap lost where it (of a BLIP: any) cannot attend to them, in the costliest window of layers",
        image_tokens.fetched, "04_module_patching", "knock_out_attention", "from the background", larger=False,
    ),
    Claim(
        "attention before mlp", NOTICE, "Attention that sees the image moves the answer, the mlp does not.",
        "share of the gap that the strongest module brings back, at the correct option or the last token",
        patched.modules, "04_module_patching", "patch_modules", "mlp",
    ),
    Claim(
        "one head", NOTICE, "Single heads carry much of the answer.",
        "share of the gap that the strongest head brings back; beside it the next four",
        patched.strongest_head, "05_head_patching", "patch_heads", "number 2",
    ),
    Claim(
        "universal heads", NOTICE, "Some heads matter in every task and corruption.",
        "number of heads that are important in all of them",
        patched.universal, "06_circuit_analysis", "universality", "by chance", share=False, is_count=True,
    ),
    Claim(
        "relevancy", INTERPRET, "Relevancy shows which image tokens the answer comes from.",
        "share of the image tokens to be replaced until half of the answer is gone, the most relevant first",
        explained.relevancy_deletes, "09_explorer", "Relevancy", "random order", larger=False,
    ),
    Claim(
        "causal graphs", INTERPRET, "Causal graphs of attention find the tokens that explain an answer.",
        "share of the answers for which they lead to tokens whose masking changes it",
        explained.causal_graphs, "09_explorer", "Causal graph", "a search without graphs",
    ),
)  # fmt: skip

CLAIMS: dict[str, Claim] = {one.name: one for one in _ALL}
