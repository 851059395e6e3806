"""tiny-llava: its sizes, its prompt, and a forward pass in which all questions share the image's tokens."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    BlipForQuestionAnswering,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlmtrace.tasks.rendered.canvas import SIZE
from vlmtrace.tasks.rendered.pairs import sample
from vlmtrace.training.data import ANSWER_LENGTH, GRID, PADDING, PATCH, PATCH_CLASSES, PROMPT_LENGTH, padded
from vlmtrace.training.losses import WordHeads
from vlmtrace.training.options import check_teacher
from vlmtrace.training.tokenizer import build_tokenizer

log = logging.getLogger(__name__)

NAME, CLASS = "tiny-llava", "LlavaForConditionalGeneration"
WIDTH, HEADS, VISION_LAYERS, TEXT_LAYERS = 128, 8, 4, 4

#: Share of the minimal pairs in a batch, by what changes in them. Scenes of two things are the hard ones.
MIXTURE = {
    "color": 0.13, "shape": 0.14, "texture": 0.15, "emotion": 0.04, "subject": 0.14, "verb": 0.14, "object": 0.2,
    "count": 0.06,
}  # fmt: skip

IMAGE, USER, ASSISTANT = "<image>", "user", "assistant"

BLOCKS = f"""| vision encoder ({SIZE} × {SIZE} pixels, patches of {PATCH}: {GRID**2} patches and [CLS]) \
| {VISION_LAYERS} | {HEADS} | {WIDTH} |
| language model, the image's tokens in its sequence | {TEXT_LAYERS} | {HEADS} | {WIDTH} |"""
ALONG = (
    "The vision tower is first taught to give what tiny-blip's vision encoder gives, and then stays as it is. At\n"
    "every patch the projected token is drawn to the embeddings of the words for what is there (thing, color, shape,\n"
    "texture, emotion, verb), from the scene's masks."
)
UNSEEN = (
    "Held-out combinations never occur in training in a picture (half of the scenes in sentences are of any\n"
    "combination)"
)
LIMITS = 'Ask it through its chat template: "user: <image> … assistant:".'

#: As LLaVA-1.5 asks, in this tokenizer's words: "user: <image> question assistant:".
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:"
    "{% for part in message['content'] %} {{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """tiny-blip's words and pieces, with one token to start a sequence and none to end it."""
    words = build_tokenizer()
    words.add_tokens([USER, ASSISTANT, ":"])
    backend = words.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", words.cls_token_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=160,
    )


def processor() -> LlavaProcessor:
    """Scales images to 96 × 96 and to [-1, 1]; needs Pillow only."""
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        images,
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config() -> LlavaConfig:
    """The configuration of tiny-llava."""
    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
        hidden_act="gelu",
        initializer_factor=1.0,
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=160,
        # 1 / √width: with transformers' own 0.02 a model this narrow hardly attends to anything for a long while.
        initializer_range=WIDTH**-0.5,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.vocab[IMAGE],
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    config.initializer_range = WIDTH**-0.5  # of the projector
    return config


def build(seed: int) -> LlavaForConditionalGeneration:
    """Random weights behind a vision tower that sees what tiny-blip's vision encoder sees.

    So was LLaVA built on CLIP's: seeing is learned once, and the tower stays as it is while the rest is trained.

    Raises:
        VlmtraceError: tiny-blip has not been trained yet
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    teacher = check_teacher()
    tower = model.model.vision_tower
    _start_from(tower, teacher / "model.safetensors")
    _align(tower, BlipForQuestionAnswering.from_pretrained(teacher).vision_model.eval(), seed)
    tower.requires_grad_(False)
    return model


def load(folder: str) -> LlavaForConditionalGeneration:
    """Saved weights, the vision tower kept as it is."""
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    model.model.vision_tower.requires_grad_(False)
    return model


def patch_label_heads(model: LlavaForConditionalGeneration) -> WordHeads:
    """What predicts the label of every patch, by the embeddings of its words."""
    words = tokenizer()
    ids = {
        head: torch.tensor([words(word, add_special_tokens=False).input_ids[0] for word in classes])
        for head, classes in PATCH_CLASSES.items()
    }
    projector, embedding = model.model.multi_modal_projector, model.get_input_embeddings()
    return WordHeads(lambda embeds: projector(embeds[:, 1:]), embedding, ids)


def _align(tower: Any, teacher: Any, seed: int, steps: int = 250, n: int = 32) -> None:
    """Train the tower to give what the teacher's layers give, from which CLIP's norm behind the embeddings parts it."""
    optimizer = torch.optim.AdamW(tower.parameters(), lr=3e-4, weight_decay=0.0)
    kinds = ("rendered_states", "rendered_faces", "rendered_svo")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-4 * (1 - step / steps)
        scenes = [sample(kinds[i % 3], seed, step * n + i, "train").clean for i in range(n)]
        pictures = scaled(torch.from_numpy(np.stack([scene.render().pixels for scene in scenes])))
        with torch.no_grad():
            wanted = teacher.encoder(inputs_embeds=teacher.embeddings(pictures)).last_hidden_state
        found = tower(pixel_values=pictures).last_hidden_state
        loss = (found - wanted).square().mean() / wanted.var()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            log.info("vision tower after %d steps: unlike tiny-blip's by %.4f of its variance", step + 1, loss.item())


@torch.no_grad()
def _start_from(tower: Any, weights: Path) -> None:
    found = {
        name.removeprefix("vision_model."): value
        for name, value in load_file(weights).items()
        if name.startswith("vision_model.")
    }
    own = tower.state_dict()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in own) else ""
    renamed = {
        "embeddings.class_embedding": found["embeddings.class_embedding"].flatten(),
        "embeddings.position_embedding.weight": found["embeddings.position_embedding"][0],
        "embeddings.patch_embedding.weight": found["embeddings.patch_embedding.weight"],
    }
    for layer in range(VISION_LAYERS):
        at = f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = found[f"{at}self_attn.qkv.{kind}"].chunk(3)
            for part, value in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                renamed[f"{at}self_attn.{part}.{kind}"] = value
            renamed[f"{at}self_attn.out_proj.{kind}"] = found[f"{at}self_attn.projection.{kind}"]
            for same in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
                renamed[f"{at}{same}.{kind}"] = found[f"{at}{same}.{kind}"]
    # CLIP adds no bias to its patches; it moves into their positions.
    positions = renamed["embeddings.position_embedding.weight"].clone()
    positions[1:] += found["embeddings.patch_embedding.bias"]
    renamed["embeddings.position_embedding.weight"] = positions
    missing = tower.load_state_dict({prefix + name: value for name, value in renamed.items()}, strict=False)
    if missing.unexpected_keys:
        raise RuntimeError(f"tiny-blip's vision encoder does not fit: {missing.unexpected_keys[:3]}")


@cache
def encode_prompt(prompt: str) -> list[int]:
    """A question and "assistant", padded on the left: the sequence so far is "[CLS] user: <image> …"."""
    ids = tokenizer()(f"{prompt} {ASSISTANT}", add_special_tokens=False).input_ids
    return padded(ids, PROMPT_LENGTH, left=True)


@cache
def encode_answer(answer: str) -> list[int]:
    """A colon, the answer and [SEP], padded."""
    ids = tokenizer()(f":{answer}", add_special_tokens=False).input_ids
    return padded([*ids, tokenizer().eos_token_id], ANSWER_LENGTH)


def scaled(pixels: Tensor) -> Tensor:
    """(B, 3, 96, 96) in [-1, 1] from (B, 96, 96, 3) uint8."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def embed_images(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """(B, 1 + 64, width) from (B, 96, 96, 3) uint8: what the vision tower hands to the projector, [CLS] first."""
    return model.model.vision_tower(pixel_values=scaled(pixels)).last_hidden_state


def answer_logits(model: LlavaForConditionalGeneration, image_embeds: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
    """Logits (B, Q, answer - 1, vocabulary) of Q questions about each image.

    The same numbers as the model's own forward pass, but all questions follow one copy of the image's tokens: each
    sees the image and itself, and is at the positions that it would have alone.
    """
    images, questions, _ = prompt.shape
    embed = model.get_input_embeddings()
    start = torch.tensor(tokenizer()(f"{USER}:").input_ids)
    tokens = model.model.multi_modal_projector(image_embeds[:, 1:])
    segments = torch.cat([prompt, answer[..., :-1]], dim=-1)
    n_prefix, length = len(start) + tokens.shape[1], segments.shape[-1]
    real = (segments != PADDING).flatten(1)
    place = (segments != PADDING).long().cumsum(-1).flatten(1) + n_prefix - 1
    # Real tokens first: most of the padding is then cut off, and `order` leads back.
    order = (~real).long().argsort(dim=1, stable=True)[:, : int(real.sum(1).max())]
    owner = torch.arange(questions).repeat_interleave(length).expand(images, -1)
    ids, real, place, owner = (value.gather(1, order) for value in (segments.flatten(1), real, place, owner))
    stream = torch.cat([part.to(tokens.dtype) for part in (embed(start).expand(images, -1, -1), tokens, embed(ids))], 1)
    positions = torch.cat([torch.arange(n_prefix).expand(images, -1), place], dim=1)
    sees = _mask(n_prefix, real, owner)
    out = model.model.language_model(inputs_embeds=stream, attention_mask=sees, position_ids=positions, use_cache=False)
    hidden = out.last_hidden_state[:, n_prefix:]
    spread = hidden.new_zeros(images, questions * length, hidden.shape[-1])
    spread = spread.scatter(1, order[..., None].expand_as(hidden), hidden).unflatten(1, (questions, length))
    return model.lm_head(spread[:, :, prompt.shape[-1] :])


def _mask(n_prefix: int, real: Tensor, owner: Tensor) -> Tensor:
    """(B, 1, T, T) bool: causal, the prefix for all, and beyond it each question for itself.

    Args:
        n_prefix: tokens of the start and the image
        real: (B, tokens): whether a token is none of the padding
        owner: (B, tokens): which question a token belongs to
    Returns:
        whether a query (row) sees a key
    """
    count = len(real)
    keys = torch.cat([torch.ones(count, n_prefix, dtype=torch.bool), real], dim=1)
    segment = torch.cat([torch.full((count, n_prefix), -1), owner], dim=1)
    same = (segment[:, :, None] == segment[:, None]) | (segment == -1)[:, None]
    # A padded position sees itself, so that its softmax is not empty.
    seen = (same.tril() & keys[:, None]) | torch.eye(keys.shape[1], dtype=torch.bool)
    return seen[:, None]


def text_logits(model: LlavaForConditionalGeneration, prompt: Tensor, answer: Tensor) -> Tensor:
    """Logits (N, answer - 1, vocabulary) of questions without an image: (N, length) prompts, padded on the left."""
    ids = torch.cat([prompt, answer[:, :-1]], dim=1)
    real = ids != PADDING
    positions = (real.long().cumsum(-1) - 1).clamp(min=0)
    sees = _mask(0, real, torch.zeros_like(ids))
    stream = model.get_input_embeddings()(ids)
    out = model.model.language_model(inputs_embeds=stream, attention_mask=sees, position_ids=positions, use_cache=False)
    return model.lm_head(out.last_hidden_state[:, prompt.shape[1] :])


def encode_text(sentences: str, prompt: str) -> list[int]:
    """Sentences in place of the image: "[CLS] user: sentences question assistant", padded on the left."""
    ids = tokenizer()(f"{USER}: {sentences} {prompt} {ASSISTANT}").input_ids
    return padded(ids, 3 * PROMPT_LENGTH, left=True)
