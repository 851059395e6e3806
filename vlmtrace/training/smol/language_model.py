"""SmolLM2 from a GGUF file, its 4-bit weights as plain numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import first_line
from vlmtrace.training.smol.assembled import OF_THE_FILE


def read_gguf(file: Path) -> tuple[LlamaForCausalLM, Any]:
    """The language model of a GGUF file in float32, and its tokenizer.

    Args:
        file: the file

    Raises:
        VlmtraceError: the package gguf is not installed, or transformers cannot read the file
    """
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise VlmtraceError(
                f"Reading {file.name} needs the package {package}, which is not installed: run pip install -e "
                '".[smol]".'
            )
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever the file makes of it
        raise VlmtraceError(f"{file.name} cannot be read as GGUF ({first_line(error)}).") from error
    # transformers refuses to save a model that came from GGUF, although its weights are plain numbers by now.
    config = {name: value for name, value in quantized.config.to_dict().items() if name not in OF_THE_FILE}
    language = LlamaForCausalLM(LlamaConfig(**config))
    language.load_state_dict(quantized.state_dict())
    return language.eval(), tokenizer
