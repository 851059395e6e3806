"""Tiny models of the supported families: real classes with random weights, real processors with tiny tokenizers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import transformers as hf
from conftest import scramble
from tiny_tokenizers import byte_pairs, sentence_pieces, word_pieces

from vlmtrace.models.processors import NoVideo, without_video

WIDTH, TEXT_LAYERS, HEADS, KEY_HEADS = 32, 3, 4, 2

#: The prompts that chat models were trained with, in short.
LLAVA_CHAT = (
    "{% for m in messages %}USER: {% for part in m['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for m in messages %}<|im_start|>user\n"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>user\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<boi>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
IDEFICS_CHAT = (
    "<s>{% for m in messages %}User:{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
AYA_CHAT = (
    "<s>{% for m in messages %}<|USER|>{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|END|>{% endfor %}{% if add_generation_prompt %}<|CHATBOT|>{% endif %}"
)


# Parts of models ------------------------------------------------------------


def _text(words: hf.PreTrainedTokenizerFast, **more) -> dict:
    return dict(
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        vocab_size=len(words),
        max_position_embeddings=256,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        **more,
    )


def _vision(image: int, patch: int = 14, layers: int = 2) -> dict:
    return dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=image,
        patch_size=patch,
    )


def _size(side: int) -> dict:
    return {"height": side, "width": side}


def _siglip(image: int, **more) -> hf.SiglipVisionConfig:
    return hf.SiglipVisionConfig(**_vision(image), vision_use_head=False, **more)


# Families ------------------------------------------------------------

Built = tuple[torch.nn.Module, hf.ProcessorMixin]
GRIDS = [[28, 56], [56, 28], [56, 56]]


def llava() -> Built:
    words = sentence_pieces(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_vision(42, layers=3), projection_dim=16),
        text_config=hf.LlamaConfig(**_text(words)),
        image_token_index=words.image_token_id,
        vision_feature_layer=-2,
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=_size(42))
    prepare = hf.LlavaProcessor(images, words, 14, "default", LLAVA_CHAT, num_additional_image_tokens=1)
    return hf.LlavaForConditionalGeneration(config), prepare


def llava_two_layers() -> Built:
    """With features of two vision layers side by side, and the class token among the image's tokens."""
    words = word_pieces(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_vision(28, layers=3), projection_dim=16),
        text_config=hf.LlamaConfig(**_text(words)),
        image_token_index=words.image_token_id,
        vision_feature_layer=[1, -2],
        vision_feature_select_strategy="full",
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=_size(28))
    prepare = hf.LlavaProcessor(images, words, 14, "full", None, num_additional_image_tokens=1)
    return hf.LlavaForConditionalGeneration(config), prepare


def llava_next() -> Built:
    words = sentence_pieces(image_token="<image>")
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**_vision(28, layers=3), projection_dim=16),
        text_config=hf.MistralConfig(**_text(words), sliding_window=9),
        image_token_index=words.image_token_id,
        image_grid_pinpoints=GRIDS,
    )
    images = hf.LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=_size(28), image_grid_pinpoints=GRIDS)
    prepare = hf.LlavaNextProcessor(images, words, 14, "default", num_additional_image_tokens=1)
    return hf.LlavaNextForConditionalGeneration(config), prepare


def llava_onevision() -> Built:
    words = byte_pairs("<|im_start|>", "<|im_end|>", bos=False, image_token="<image>", video_token="<video>")
    config = hf.LlavaOnevisionConfig(
        vision_config=_siglip(28),
        text_config=hf.Qwen2Config(**_text(words)),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=GRIDS,
    )
    images = hf.LlavaOnevisionImageProcessorPil(size=_size(28), image_grid_pinpoints=GRIDS)
    chat = CHATML.replace("IMAGE", "<image>\n")
    prepare = hf.LlavaOnevisionProcessor(images, words, NoVideo(), 4, "full", chat)
    return hf.LlavaOnevisionForConditionalGeneration(config), prepare


def _qwen(kind: str, layers: int = TEXT_LAYERS, patch: int = 14, **vision) -> Built:
    special = ("<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>")
    words = byte_pairs(*special, bos=False, image_token="<|image_pad|>", video_token="<|video_pad|>")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    ids = words.convert_tokens_to_ids
    sizes = dict(num_heads=2, patch_size=patch, spatial_merge_size=2, temporal_patch_size=2)
    text = dict(_text(words), num_hidden_layers=layers, head_dim=8, rope_parameters=rope)
    config = getattr(hf, f"{kind}Config")(
        vision_config=sizes | vision,
        text_config=text,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    pixels = {"shortest_edge": (4 * patch) ** 2, "longest_edge": 24 * patch**2}
    images = hf.Qwen2VLImageProcessorPil(size=pixels, patch_size=patch, merge_size=2)
    chat = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    prepare = getattr(hf, f"{kind}Processor")(images, words, NoVideo(), chat_template=chat)
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), prepare


def qwen2_vl() -> Built:
    return _qwen("Qwen2VL", depth=2, embed_dim=16, hidden_size=WIDTH, mlp_ratio=2)


def qwen2_5_vl() -> Built:
    sizes = dict(depth=2, hidden_size=16, out_hidden_size=WIDTH, intermediate_size=24)
    return _qwen("Qwen2_5_VL", **sizes, window_size=28, fullatt_block_indexes=[1])


def qwen3_vl() -> Built:
    sizes = dict(depth=3, hidden_size=16, out_hidden_size=WIDTH, intermediate_size=24, num_position_embeddings=64)
    return _qwen("Qwen3VL", layers=4, patch=16, **sizes, deepstack_visual_indexes=[0, 1])


def gemma3() -> Built:
    words = sentence_pieces(
        "<start_of_turn>", "<end_of_turn>", prefix=False, boi_token="<boi>", image_token="<img>", eoi_token="<eoi>"
    )
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
    text = dict(_text(words), num_hidden_layers=4, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=5.0)
    config = hf.Gemma3Config(
        vision_config=_siglip(56),
        text_config=hf.Gemma3TextConfig(**text, sliding_window=6, layer_types=kinds),
        mm_tokens_per_image=4,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    prepare = hf.Gemma3Processor(hf.Gemma3ImageProcessorPil(size=_size(56)), words, GEMMA_CHAT, image_seq_length=4)
    return hf.Gemma3ForConditionalGeneration(config), prepare


def _paligemma(text: Callable) -> Built:
    words = sentence_pieces(prefix=False, image_token="<image>")
    images = hf.SiglipImageProcessorPil(size=_size(42))
    images.image_seq_length = 9
    prepare = hf.PaliGemmaProcessor(images, words)  # adds tokens to the tokenizer
    config = hf.PaliGemmaConfig(
        vision_config=_siglip(42, projection_dim=WIDTH),
        text_config=text(words),
        image_token_index=words.image_token_id,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return hf.PaliGemmaForConditionalGeneration(config), prepare


def paligemma() -> Built:
    return _paligemma(lambda words: hf.GemmaConfig(**_text(words), head_dim=8))


def paligemma2() -> Built:
    more = dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=6)
    caps = dict(final_logit_softcapping=30.0, attn_logit_softcapping=50.0)
    return _paligemma(lambda words: hf.Gemma2Config(**_text(words), **more, **caps))


def _idefics(kind: str, split: bool, *video) -> Built:
    places = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
    around = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    words = byte_pairs(*around, *places, image_token="<image>", video_token="<video>")
    config = getattr(hf, f"{kind}Config")(
        vision_config=_vision(56),
        text_config=hf.LlamaConfig(**_text(words)),
        image_token_id=words.image_token_id,
        scale_factor=2,
    )
    images = getattr(hf, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, do_image_splitting=split
    )
    chat = dict(image_seq_len=4, chat_template=IDEFICS_CHAT)
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), getattr(hf, f"{kind}Processor")(
        images, words, *video, **chat
    )


def idefics3() -> Built:
    return _idefics("Idefics3", True)


def smolvlm() -> Built:
    return _idefics("SmolVLM", False, NoVideo())


def internvl() -> Built:
    named = dict(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>")
    words = byte_pairs("<|im_start|>", "<|im_end|>", bos=False, **named, video_token="<video>")
    sizes = dict(_vision(56), image_size=[56, 56], patch_size=[14, 14])
    config = hf.InternVLConfig(
        vision_config=sizes,
        text_config=hf.Qwen2Config(**_text(words)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
    )
    chat = CHATML.replace("IMAGE", "<IMG_CONTEXT>\n")
    images = hf.GotOcr2ImageProcessorPil(size=_size(56))
    prepare = hf.InternVLProcessor(images, words, NoVideo(), image_seq_length=4, chat_template=chat)
    return hf.InternVLForConditionalGeneration(config), prepare


def aya_vision() -> Built:
    marks = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
    words = byte_pairs(*marks, "<|IMG_PATCH|>", "<|USER|>", "<|END|>", "<|CHATBOT|>", image_token="<image>")
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    text = dict(_text(words), num_hidden_layers=4)
    config = hf.AyaVisionConfig(
        vision_config=_siglip(56),
        text_config=hf.Cohere2Config(**text, sliding_window=6, layer_types=kinds),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    images = hf.GotOcr2ImageProcessorPil(size=_size(56), min_patches=2, max_patches=2)
    prepare = hf.AyaVisionProcessor(images, words, 14, 56, downsample_factor=2, chat_template=AYA_CHAT)
    return hf.AyaVisionForConditionalGeneration(config), prepare


def _qformer(words: hf.PreTrainedTokenizerFast, **more) -> dict:
    return dict(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        encoder_hidden_size=16,
        cross_attention_frequency=2,
        max_position_embeddings=64,
        **more,
    )


def blip2() -> Built:
    words = byte_pairs("<image>")
    text = dict(_text(words), ffn_dim=48, word_embed_proj_dim=WIDTH)
    config = hf.Blip2Config(
        vision_config=_vision(28),
        qformer_config=_qformer(words),
        text_config=hf.OPTConfig(**text),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    prepare = hf.Blip2Processor(hf.BlipImageProcessorPil(size=_size(28)), words, num_query_tokens=4)
    return hf.Blip2ForConditionalGeneration(config), prepare


def instructblip() -> Built:
    words, asked = sentence_pieces("<image>"), word_pieces()
    config = hf.InstructBlipConfig(
        vision_config=_vision(28),
        qformer_config=_qformer(asked),
        text_config=hf.LlamaConfig(**_text(words)),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    images = hf.BlipImageProcessorPil(size=_size(28))
    prepare = hf.InstructBlipProcessor(images, words, asked, num_query_tokens=4)
    return hf.InstructBlipForConditionalGeneration(config), prepare


FAMILIES: dict[str, Callable[[], Built]] = {
    build.__name__: build
    for build in (
        llava,
        llava_two_layers,
        llava_next,
        llava_onevision,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        gemma3,
        paligemma,
        paligemma2,
        idefics3,
        smolvlm,
        internvl,
        aya_vision,
        blip2,
        instructblip,
    )
}


@cache
def save(name: str, folder: Path) -> Path:
    """Write a family's model and processor as `save_pretrained` does, once: the folder."""
    torch.manual_seed(0)
    with without_video():
        model, prepare = FAMILIES[name]()
        scramble(model, seed=1)
        model.save_pretrained(folder / name)
        prepare.save_pretrained(folder / name)
    return folder / name
