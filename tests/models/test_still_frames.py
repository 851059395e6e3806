"""An image as a video of equal frames, for a processor that takes nothing but videos."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessorPil

from vlmtrace.models.families import families
from vlmtrace.models.still_frames import SETTINGS, StillFrames

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_an_image_is_shown_in_all_frames(model_store):
    model = model_store.shared("instructblipvideo")
    inputs = model.encode([PICTURE], [model.prompt_text("is this red?")])
    frames = inputs["pixel_values"]
    assert frames.shape == (1, 4, 3, 28, 28) and torch.equal(frames, frames[:, :1].expand_as(frames))
    assert model.is_image(inputs).sum() == 4 * model.hf.config.num_query_tokens
    boxes = model.image_cells(PICTURE, inputs, "vision_encoder").reshape(4, -1, 4)
    np.testing.assert_array_equal(boxes[0], boxes[3])
    assert np.isnan(boxes[0, 0]).all() and boxes[0, -1].tolist() == pytest.approx([0.5, 0.5, 1, 1], abs=0.02)


def test_frames_are_prepared_as_images_are():
    settings = dict(size={"height": 20, "width": 30}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    found = StillFrames(**settings)([PICTURE] * 2, return_tensors="pt")["pixel_values"]
    one = BlipImageProcessorPil(**settings)(PICTURE, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, one[None].expand(1, 2, -1, -1, -1))


@pytest.mark.parametrize("file", SETTINGS)
def test_settings_are_those_of_the_folder(tmp_path, file):
    said = {"size": {"height": 20, "width": 30}, "image_std": [0.5, 0.6, 0.7], "video_processor_type": "any"}
    (tmp_path / file).write_text(json.dumps({"video_processor": said} if file == SETTINGS[0] else said))
    found = StillFrames.from_pretrained(tmp_path)
    assert list(found.image_std) == [0.5, 0.6, 0.7] and dict(found.size) == {"height": 20, "width": 30}


def test_without_settings_frames_are_as_the_real_processor_has_them(tmp_path):
    found = StillFrames.from_pretrained(tmp_path)
    assert dict(found.size) == {"height": 384, "width": 384} and found.resample == 3
    assert np.round(found.image_mean, 2).tolist() == [0.48, 0.46, 0.41]


def test_one_family_takes_videos_alone():
    assert {name for name, spec in families().items() if spec.still_frames} == {"instructblipvideo"}
