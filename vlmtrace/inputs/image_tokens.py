"""Image tokens as a whole: their mean over images."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.progress import progress
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.inputs.corruption import PREFIX, run_inputs
from vlmtrace.inputs.pictures import given_images
from vlmtrace.models import VLM


def mean_image_token(model: VLM, pairs: pd.DataFrame, batch: int = 32) -> Tensor:
    """The mean image token: over all image positions of the clean images of some pairs.

    Image tokens that are replaced by it lose what they say about their own image and keep what all images share.

    Args:
        model: embeds the images
        pairs: clean_image (or clean_images) and clean_prompt are read
        batch: images per forward pass at most

    Returns:
        (width of the image embeddings)
    """
    total, n = torch.zeros(()), 0
    # What an answer begins with says nothing of the image, and runs of unlike beginnings could not share a batch.
    pairs = pairs.drop(columns=PREFIX, errors="ignore")
    with torch.no_grad():
        images = [given_images(pair) for pair in pairs.to_dict("records")]
        batches = equal_length_batches(model, pairs["clean_prompt"], batch, images)
        for rows in progress(batches, f"mean image token of {len(pairs)} images"):
            inputs = run_inputs(model, pairs.iloc[rows], "clean")
            tokens = model.image_embeddings(inputs).float().flatten(0, 1)  # (image · position, width)
            total, n = total.to(tokens.device) + tokens.sum(0), n + len(tokens)
    return total / n
