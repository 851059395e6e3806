"""Models with random weights, and pairs of random images: everything that the tests need and nothing downloaded."""

import numpy as np
import pandas as pd
import pytest
from fixtures.models import WORDS, scramble
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

import vlmtrace as vt


@pytest.fixture(scope="session")
def random_blip_dir(tmp_path_factory):
    """A BLIP of 3 vision, 3 text layers with 4 heads and random weights, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("models") / "random-blip"
    vocabulary = folder.parent / "vocab.txt"
    words = list(dict.fromkeys(WORDS))
    vocabulary.write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab=str(vocabulary), do_lower_case=True)
    text = dict(
        vocab_size=len(words),
        hidden_size=48,
        encoder_hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=40,
        bos_token_id=words.index("[DEC]"),
        eos_token_id=words.index("[SEP]"),
        sep_token_id=words.index("[SEP]"),
        pad_token_id=0,
    )
    vision = dict(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    scramble(model, seed=0)
    model.save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_blip(random_blip_dir):
    return vt.load_model(random_blip_dir)


@pytest.fixture(scope="session")
def random_pairs(tmp_path_factory) -> pd.DataFrame:
    """Eight pairs of noise images with prompts of three lengths."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    prompts = [
        ("is this circle red or blue?", "is this circle green or yellow?", "red", "blue", "color"),
        (
            "is this square striped or dotted?",
            "is this square spotted or hatched?",
            "striped",
            "dotted",
            "texture",
        ),
        (
            "is the girl or the dog kicking the ball?",
            "is the boy or the person kicking the ball?",
            "girl",
            "dog",
            "subject",
        ),
        (
            "is this person feeling happy or sad?",
            "is this person feeling angry or calm?",
            "happy",
            "sad",
            "emotion",
        ),
    ]
    rows = []
    for i in range(8):
        clean_prompt, corrupt_prompt, correct, incorrect, category = prompts[i % 4]
        images = []
        for side in ("clean", "corrupt"):
            path = folder / f"{i}-{side}.png"
            Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)
            images.append(str(path))
        masks = []
        for columns in (slice(4, 18), slice(20, 32)):
            mask = np.zeros((40, 36), dtype=np.uint8)
            mask[8:30, columns] = 255
            path = folder / f"{i}-mask-{columns.start}.png"
            Image.fromarray(mask).save(path)
            masks.append(str(path))
        rows.append(
            dict(
                sample_id=f"pair-{i}",
                task="random",
                category=category,
                clean_image=images[0],
                corrupt_image=images[1],
                clean_prompt=clean_prompt,
                corrupt_prompt=corrupt_prompt,
                correct_answer=correct,
                incorrect_answer=incorrect,
                correct_first=True,
                clean_object_mask=masks[0],
                clean_distractor_mask=masks[1],
                noun="circle" if category == "color" else None,
            )
        )
    return pd.DataFrame(rows)
