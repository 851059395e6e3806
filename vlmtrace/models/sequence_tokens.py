"""What stands at each position of a decoder-only model: words of the prompt, image tokens, and what processors add."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.patch_layout import UnknownLayout
from vlmtrace.models.types import Inputs, Token
from vlmtrace.models.vlm import VLM

#: How tokenizers write the blank before a word, and that a token continues one.
BLANKS, CONTINUES = "Ġ▁", "##"
#: Characters that would not be seen, and what is shown for them.
VISIBLE = str.maketrans({"\n": "⏎", "\r": "⏎", "\t": "⇥"})


def language_tokens(model: VLM, prompt: str, inputs: Inputs, images: Sequence[Token] | None = None) -> list[Token]:
    """What stands at each position of the language model.

    Args:
        model: with visual tokens
        prompt: as `prompt_text` gives it
        inputs: of one pair
        images: what stands at the image tokens, in order; None: those of one image, by row and column

    Returns:
        one token per position; spans are those of the prompt's words
    """
    ids = inputs["input_ids"][0].tolist()
    tokenizer = model.tokenizer
    # A model may have rows of its vocabulary that its tokenizer knows nothing of.
    known = zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    texts = [f"[{token}]" if text is None else text for token, text in known]
    encoded = tokenizer(prompt, return_offsets_mapping=True, **model.tokenizer_options(prompt))
    # The processor has put tokens in and around the image's place; all others are those of the prompt, in order.
    spans: dict[int, tuple[int, int]] = {}
    for a, b, size in SequenceMatcher(None, encoded.input_ids, ids, autojunk=False).get_matching_blocks():
        spans |= {b + i: tuple(encoded["offset_mapping"][a + i]) for i in range(size)}
    is_image = model.is_image(inputs)[0].tolist()
    if images is None:
        images = [Token(name, role="image") for name in image_names(model, inputs, sum(is_image))]
    if len(images) != sum(is_image):
        raise VlmtraceError(
            f"{model.name} has {sum(is_image)} image tokens for this prompt, and its images alone have {len(images)}: "
            "bring the images to one size."
        )
    shown = iter(images)
    special = set(tokenizer.all_special_tokens)
    found, part = [], 1
    for i, text in enumerate(texts):
        if is_image[i]:
            found.append(next(shown))
            continue
        span = spans.get(i, (0, 0))
        stands_for = prompt[slice(*span)] if i in spans else tokenizer.convert_tokens_to_string([text])
        name = text if text in special else readable(text, stands_for)
        part = part + 1 if name != text and spans.get(i - 1) == span else 1
        if part > 1:
            name += f"'{part}"  # one more of the tokens of a character
        own = i not in spans or text in special - {tokenizer.unk_token}
        found.append(Token(name, span, "last" if i == len(ids) - 1 else name if own else None))
    return found


def readable(text: str, stands_for: str) -> str:
    r"""A token's text, or the characters that it stands for where a tokenizer writes them in another way.

    Tokenizers of bytes write a line break as "Ċ" and other scripts as bytes ("çº¢").

    Args:
        text: as the tokenizer writes it
        stands_for: those characters

    >>> readable("Ġred", " red"), readable("Ċ", "\n"), readable("çº¢", "红")
    ('Ġred', '⏎', '红')
    """
    if text.lstrip(BLANKS).removeprefix(CONTINUES).casefold() in stands_for.casefold() or "�" in stands_for:
        return text.translate(VISIBLE)
    return stands_for.strip(" ").translate(VISIBLE) or text


def image_names(model: VLM, inputs: Inputs, n: int) -> list[str]:
    """Image tokens by "row,column", tiles one below the other; by their number where they form no such grid."""
    family, config = model.family, model.hf.config
    if isinstance(family.layout, UnknownLayout):
        return [str(i) for i in range(n)]
    tiles, rows, columns = family.layout.grid(config, inputs)
    side = 0 if family.square_side is None else family.square_side(config)
    if side and family.pack is None and family.pooled is None and tiles * (rows // side) * (columns // side) == n:
        return [f"{i // (columns // side)},{i % (columns // side)}" for i in range(n)]
    return list(map(str, range(n)))


def vision_tokens(model: VLM, inputs: Inputs) -> list[Token]:
    """What stands at each position of the vision encoder, for inputs of one pair; tiles one below the other."""
    layout = model.family.layout
    _, rows, _ = layout.grid(model.hf.config, inputs)
    return [
        Token(layout.elsewhere, role=layout.elsewhere)
        if tile < 0
        else Token(f"{tile * rows + row},{column}", role="image")
        for tile, row, column in layout.positions(model.hf, inputs).tolist()
    ]
