"""smol-llava before its training: SmolLM2 behind tiny-llava's vision tower."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from vlmtrace.core.paths import MODELS
from vlmtrace.training.data import GRID, PATCH

#: The folder of the model whose vision tower it has.
EYES = MODELS / "tiny-llava"
#: SmolLM2's licence, as it lies beside its weights.
LICENCE = "LICENSE-SmolLM2"
#: The token of images, and SmolLM2's at the end of a turn.
IMAGE, END = "<image>", "<|im_end|>"

#: SmolLM2's turns, without the system's; the image's tokens stand before the question.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: What a configuration says of the file that it was read from.
OF_THE_FILE = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version", "architectures")


@torch.no_grad()
def assemble(language: Any, tokenizer: Any, eyes: Path = EYES) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A model of frozen halves, with a projector of which nothing is known yet.

    Args:
        language: LlamaForCausalLM, its embeddings tied; it gets a token for images
        tokenizer: its own; likewise
        eyes: folder of the model whose vision tower and image processor are taken

    Returns:
        model in float32, and processor
    """
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.image_token = IMAGE
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    # The new token's logit is that of a mean word: it is never generated, and shifts no probability to speak of.
    embedding = language.get_input_embeddings().weight
    embedding[image] = embedding[:image].mean(0)
    seeing = LlavaForConditionalGeneration.from_pretrained(eyes, dtype=torch.float32)
    text = {name: value for name, value in language.config.to_dict().items() if name not in OF_THE_FILE}
    config = LlavaConfig(
        vision_config=seeing.config.vision_config,
        text_config=LlamaConfig(**text | {"vocab_size": len(tokenizer)}),
        image_token_index=image,
        image_seq_length=GRID**2,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    end = tokenizer.convert_tokens_to_ids(END)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = LlavaProcessor(
        AutoProcessor.from_pretrained(eyes).image_processor,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return model.eval(), processor


def digest_of_eyes(model: LlavaForConditionalGeneration) -> str:
    """Identifies the weights of a vision tower: a projector is trained for one.

    Args:
        model: of `assemble`

    Returns:
        SHA-256, in hexadecimal, of names and values
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
