"""Whether a processor fits its model: settings that old checkpoints lack, and those that no model can have been given.

What can be told without running the model is told here; `check_prompts` is for the chat template.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from PIL import Image

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.failures import ONE_CHECKPOINT, explained
from vlmtrace.models.processors import PROCESSOR
from vlmtrace.models.vlm import VLM

#: Pixels along a side, and in all where a processor counts them, beyond which no image encoder is known to go.
LONGEST_SIDE, MOST_PIXELS = 4096, 10_000_000

#: A prompt that every change of letters, signs or blanks alters.
PROBE = 'Is "this" a RED ball & b\'s, or not?'

#: The tokens that an image encoder puts before the patches.
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def complete_processor(processor: Any, config: Any, written: dict[str, Any]) -> None:
    """Set what processors did not hold before transformers 4.45 or lack for another reason, from the configuration.

    They say how many tokens an image has: by the patches' size, the features that are selected, and whether the encoder
    has a class token; or by the queries. What the processor's files say is left as it is.

    Args:
        processor: of transformers; it is changed
        config: the model's transformers configuration
        written: what processor_config.json holds
    """
    frames = getattr(processor, "video_processor", None)
    if not hasattr(processor, "image_processor") and hasattr(frames, "image_mean"):
        processor.image_processor = frames  # of a processor of videos alone: an image is prepared as a frame is
    vision: Any = getattr(config, "vision_config", None)
    patch, side = getattr(vision, "patch_size", None), getattr(vision, "image_size", None)

    def complete(entry: str, value: Any, whatever_the_default: bool = False) -> None:
        """Set an entry that the files do not hold; the default of a class may be right for one checkpoint alone."""
        lacking = hasattr(processor, entry) and written.get(entry) is None
        if value is not None and lacking and (whatever_the_default or getattr(processor, entry) is None):
            setattr(processor, entry, value)

    is_pixtral = type(processor).__name__ == "PixtralProcessor"  # in others these may be multiples of the patches' size
    # ViP-LLaVA's model drops the class token in any case, and its configuration does not say so.
    selects = "default" if getattr(config, "model_type", "") == "vipllava" else None
    complete("vision_feature_select_strategy", getattr(config, "vision_feature_select_strategy", selects))
    complete("patch_size", patch, is_pixtral)
    complete("spatial_merge_size", getattr(config, "spatial_merge_size", None), is_pixtral)
    complete("num_additional_image_tokens", CLASS_TOKENS.get(str(getattr(vision, "model_type", ""))), True)
    complete("num_query_tokens", getattr(config, "num_query_tokens", None))
    complete("num_image_tokens", getattr(config, "latent_query_num", None), True)
    if isinstance(patch, int) and isinstance(side, int):
        complete("num_image_tokens", (side // patch) ** 2, True)


def check_image_processor(processor: Any, name: str) -> None:
    """Refuse settings with which no image can be prepared, or only one that no model was trained on.

    Args:
        processor: of transformers
        name: of the model, for the sentence

    Raises:
        VlmtraceError: a mean, standard deviation, scale or size is impossible
    """
    images = getattr(processor, "image_processor", None)
    if images is None:
        raise VlmtraceError(f"The processor of {name} prepares no images: {PROCESSOR}.")

    def refuse_unless(right: bool, setting: str, value: Any, expected: str) -> None:
        if not right:
            raise VlmtraceError(
                f"The image processor of {name} has {setting} = {value!r}, where {expected} is expected: {PROCESSOR}."
            )

    for setting in ("do_resize", "do_rescale", "do_normalize"):
        value = getattr(images, setting, None)
        said = isinstance(value, bool) or (value is None and getattr(type(images), setting, None) is None)
        refuse_unless(said, setting, value, "true or false")
    if getattr(images, "do_resize", False):
        resample: Any = getattr(images, "resample", None)
        refuse_unless(resample in (None, *Image.Resampling), "resample", resample, "a whole number from 0 to 5")
    # Some take mean and deviation from the image itself, and have no such settings.
    if getattr(images, "do_normalize", False) and hasattr(type(images), "image_mean"):
        mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
        refuse_unless(_three(mean, lambda x: True), "image_mean", mean, "three numbers")
        refuse_unless(_three(std, lambda x: x > 0), "image_std", std, "three numbers above 0")
    if getattr(images, "do_rescale", False):
        factor: Any = getattr(images, "rescale_factor", None)
        refuse_unless(_number(factor) and factor > 0, "rescale_factor", factor, "a number above 0")
    # Processors of dynamic resolution count pixels, and most of them call these numbers by the names of edges.
    counts = hasattr(images, "merge_size")
    for setting in ("size", "crop_size", "max_image_size"):
        for key, value in _sizes(getattr(images, setting, None)):
            most: float = MOST_PIXELS if counts or key.endswith("_pixels") else LONGEST_SIDE
            if most == MOST_PIXELS and key in ("longest_edge", "max_pixels"):
                most = math.inf  # an image has no more pixels than its file
            right = type(value) is int and 1 <= value <= most
            refuse_unless(right, f"{setting}.{key}", value, f"a whole number from 1 to {most}")
    size, crop = dict(_sizes(getattr(images, "size", None))), dict(_sizes(getattr(images, "crop_size", None)))
    if getattr(images, "do_center_crop", False) and "shortest_edge" in size and crop:
        # A larger crop would put a black border around every image.
        least = max(crop.values())
        edge = size["shortest_edge"]
        refuse_unless(edge >= least, "size.shortest_edge", edge, f"a whole number of at least {least}, its crop,")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _three(value: Any, right: Any) -> bool:
    """Whether three numbers are given, or one for all three channels."""
    values = [value] * 3 if _number(value) else list(value) if isinstance(value, list | tuple) else []
    return len(values) == 3 and all(_number(part) and right(part) for part in values)


def _sizes(value: Any) -> Iterable[tuple[str, Any]]:
    return [] if value is None or isinstance(value, int | str | list) else list(dict(value).items())


def _n_words(hf: Any) -> int:
    """How many tokens have an embedding; where an image encoder stands in front of a text decoder, the decoder's."""
    reads = hf.decoder if hf.config.model_type == "vision-encoder-decoder" else hf
    words = reads.get_input_embeddings()
    # IDEFICS keeps those of the tokens that it added to its language model's vocabulary beside the others.
    return words.weight.shape[0] + getattr(words, "num_additional_embeddings", 0)


def check_tokenizer(processor: Any, hf: Any, written: dict[str, Any], name: str) -> None:
    """Refuse a tokenizer that is not the model's, as far as its ids tell.

    Args:
        processor: of transformers
        hf: the transformers model
        written: what config.json holds; what it leaves out transformers fills with numbers of any model
        name: of the model, for the sentence

    Raises:
        VlmtraceError: an id has no embedding, or that of the image, the start or the separator is another token's
    """
    tokenizer, config = processor.tokenizer, hf.config
    n_rows = _n_words(hf)
    # Padding is never used: its token may lack an embedding, as where somebody has added one to train with.
    highest = max((id for id in tokenizer.get_vocab().values() if id != tokenizer.pad_token_id), default=-1)
    if highest >= n_rows:
        raise VlmtraceError(
            f"The tokenizer of {name} has ids up to {highest}, but the model has embeddings of {n_rows} tokens: "
            f"{ONE_CHECKPOINT}."
        )
    image = getattr(config, "image_token_id", None)
    if image is not None and image not in tokenizer.added_tokens_decoder:
        token = tokenizer.convert_ids_to_tokens(image) if type(image) is int and 0 <= image <= highest else None
        if token is None or token != getattr(processor, "image_token", None):  # Fuyu's is a word like any other
            raise VlmtraceError(
                f"The image's token has the id {image} in config.json of {name}, but in its tokenizer this is "
                f"{'no token' if token is None else f'the word {token!r}'}: {ONE_CHECKPOINT}."
            )
    start = (written.get("text_config") or {}).get("bos_token_id") if image is not None else None
    if type(start) is int and 0 <= start <= highest and start not in tokenizer.added_tokens_decoder:
        raise VlmtraceError(
            f"The start of a text has the id {start} in config.json of {name}, but in its tokenizer this is the word "
            f"{tokenizer.convert_ids_to_tokens(start)!r}: {ONE_CHECKPOINT}."
        )
    # BLIP's answers end with it; other language models have a number for it that nothing uses.
    separator = getattr(getattr(config, "text_config", None), "sep_token_id", None)
    if config.model_type == "blip" and separator is not None and separator != tokenizer.sep_token_id:
        raise VlmtraceError(
            f"The separator has the id {separator} in config.json of {name}, and {tokenizer.sep_token_id} in its "
            f"tokenizer: {ONE_CHECKPOINT}."
        )


def check_stop_ids(model: VLM) -> None:
    """Refuse ids of the tokens that end an answer which are no tokens of the model.

    Raises:
        VlmtraceError: an id is impossible
    """
    n_rows = _n_words(model.hf)
    with explained(f"The tokens that end an answer of {model.name} cannot be told", "correct generation_config.json"):
        stop = model.stop_ids
        wrong = [token for token in stop if type(token) is not int or not 0 <= token < n_rows]
    if wrong:
        raise VlmtraceError(
            f"{wrong[0]!r} is said to end an answer of {model.name} (eos_token_id), but no token has this id: correct "
            "generation_config.json and config.json."
        )


def check_sizing(model: VLM) -> None:
    """Refuse a size of images that the model's processor cannot take, or that makes more tokens than it has places.

    Args:
        model: just loaded, with the options that it was loaded with

    Raises:
        VlmtraceError: an image of this size cannot be prepared
    """
    sizing = model.load_options.sizing
    if sizing.size is None:
        return
    try:
        with explained("its processor fails", "choose another"):
            model.encode_image(Image.new("RGB", sizing.size))
    except VlmtraceError as error:
        why = str(error.__cause__ or error).strip().rstrip(".")
        raise VlmtraceError(f"{sizing} cannot be used with {model.name} ({why}): choose another.") from error


def check_prompts(model: VLM) -> None:
    """Refuse a chat template that does not put every prompt as it is, and once, beside one image.

    Args:
        model: just loaded

    Raises:
        VlmtraceError: the template cannot be used
    """
    remedy = "use a processor with a chat template for one image and one question"
    with explained(f"The chat template of {model.name} cannot be used", remedy):
        text = model.prompt_text(PROBE)
        if text.count(PROBE) != 1:
            raise VlmtraceError(
                f"The chat template of {model.name} makes {text!r} of the prompt {PROBE!r}, which does not hold it "
                f"once and as it is: {remedy}."
            )
    with explained(f"The tokenizer of {model.name} cannot be used", PROCESSOR):
        first = model.tokenizer(text, **model.tokenizer_options(text)).input_ids[:2]
        if len(first) == 2 and first[0] == first[1] and first[0] in model.tokenizer.added_tokens_decoder:
            start = model.tokenizer.convert_ids_to_tokens(first[0])
            raise VlmtraceError(
                f"Prompts of {model.name} start with {start} twice, by chat template and tokenizer: give the "
                "tokenizer its bos_token, as in the checkpoint's tokenizer_config.json."
            )
    asked = model.family.chats and model.has_visual_tokens and "{image}" in model.family.prompt_start
    if asked and not getattr(model.processor, "chat_template", None):
        bare = model.prompt_text("What is it?")
        warn(
            f"{model.name} has no chat template, and is asked bare prompts, such as {bare!r}: if it was trained to "
            "answer in a chat, put the chat_template.jinja of its checkpoint beside its tokenizer."
        )
    if "strftime_now" in str(getattr(model.processor, "chat_template", "")):
        warn(f"The chat template of {model.name} writes the date into every prompt: results of other days differ.")
