"""Models with random weights, and pairs of random images: everything that the tests need and nothing downloaded."""

import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest_plugins = ["fixtures.shared", "fixtures.model_store", "fixtures.notebook_runs", "fixtures.views"]


@pytest.fixture(autouse=True)
def no_thread_of_the_package_outlives_its_test():
    """What a thread raises later would fail another test."""
    yield
    left = [
        thread.name
        for thread in threading.enumerate()
        if (getattr(getattr(thread, "_target", None), "__module__", None) or "").startswith("vlmtrace.")
    ]
    assert not left, f"threads outlive the call that started them: {left}"


@pytest.fixture(scope="session")
def random_blip_dir(model_store):
    """A BLIP of 3 vision, 3 text layers with 4 heads and random weights, as `save_pretrained` writes it."""
    return model_store.path("random_blip")


@pytest.fixture(scope="session")
def random_blip(model_store):
    return model_store.shared("random_blip")


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
