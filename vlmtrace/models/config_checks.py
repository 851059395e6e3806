"""What config.json says, checked before anything is made of it: sizes, counts, and what is not supported."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmtrace.core.errors import VlmtraceError

#: Numbers of layers. Each layer has a tensor at least, and no model comes near the largest number.
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers")

MOST_LAYERS = 10_000

#: Whole numbers of at least 1, where they are given.
POSITIVE = (
    "num_hidden_layers", "depth", "hidden_size", "intermediate_size", "num_attention_heads", "num_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "image_size", "patch_size",
    "num_channels", "in_channels", "spatial_merge_size", "temporal_patch_size", "encoder_hidden_size", "window_size",
    "out_hidden_size", "embed_dim", "num_query_tokens", "downsample_factor", "mm_tokens_per_image",
)  # fmt: skip

#: The largest number that keeps a norm from dividing by zero; usual are 1e-12 to 1e-5.
LARGEST_EPSILON = 0.01

RESTORE = "restore config.json as it was saved, or download it again"


def check_config(folder: Path, name: str) -> dict[str, Any]:
    """Refuse a configuration that no model can be made of, or that would take memory or time without end.

    Args:
        folder: of the model
        name: of the model, for the sentence

    Returns:
        what config.json holds

    Raises:
        VlmtraceError: an entry is impossible, or says something that is not supported
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("transformers_weights") is not None:
        raise VlmtraceError(
            f"config.json of {name} names other weights (transformers_weights): call them model.safetensors."
        )
    # Where attention knows no positions, the width of the part of a head that would carry them is 0.
    without_positions = {path[:-1] for path, value in _entries(config) if path[-1] == "qk_rope_head_dim" and value == 0}
    for path, value in _entries(config):
        key = path[-1]
        if key == "head_dim" and value == 0 and path[:-1] in without_positions:
            continue
        expected = _expected(key, value)
        if expected:
            raise VlmtraceError(
                f"config.json of {name} has {'.'.join(path)} = {json.dumps(value)}, where {expected} is expected: "
                f"{RESTORE}."
            )
    return config


def check_layers(config: dict[str, Any], name: str, n_tensors: int) -> None:
    """Refuse more layers than there are tensors, before they are built one by one.

    Args:
        config: what config.json holds
        name: of the model, for the sentence
        n_tensors: how many its weights have

    Raises:
        VlmtraceError: there are too many
    """
    for path, value in _entries(config):
        if path[-1] in LAYERS and isinstance(value, int | float) and value > n_tensors:
            raise VlmtraceError(
                f"config.json of {name} has {'.'.join(path)} = {value}, but the weights hold {n_tensors} tensors, too "
                f"few for as many layers: {RESTORE}."
            )


def _expected(key: str, value: Any) -> str:
    """What is expected for an entry whose value is impossible; "" if it may be."""
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int | float) for number in numbers):
        return ""  # words and nothing: transformers knows what may be
    if key in POSITIVE and not all(type(number) is int and number >= 1 for number in numbers):
        return "a whole number of at least 1"
    if key in LAYERS and any(number > MOST_LAYERS for number in numbers):
        return f"at most {MOST_LAYERS}"
    if key.endswith(("_eps", "epsilon")) and not all(0 < number <= LARGEST_EPSILON for number in numbers):
        return f"a number above 0 and up to {LARGEST_EPSILON}"
    if key == "rope_theta" and (isinstance(value, bool) or not all(math.isfinite(x) and x > 0 for x in numbers)):
        return "a number above 0"
    if key == "mrope_section" and not (isinstance(value, list) and len(value) in (3, 4)):
        return "a list of three or four numbers"
    return ""


def _entries(config: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every entry, with the names under which it stands."""
    for key, value in config.items():
        yield (*above, key), value
        if isinstance(value, dict):
            yield from _entries(value, (*above, key))
