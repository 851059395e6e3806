"""Folders that hold an adapter (LoRA, as PEFT saves it) in place of a model: what they say, and of which model.

Such a folder holds the change that training made to another model, and names that model. Here its files are read and
checked; `vlmtrace.models.adapters` adds the change to the other model's weights. What would change a model in a way
that is not known here is refused by its name, never left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

#: What to do about an adapter that cannot be added here.
MERGE = "merge it where it was trained (model.merge_and_unload() of PEFT), and save the result with save_pretrained"

#: Entries that say what was trained and how, and change nothing about how the weights are added.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "megatron_core", "modules_to_save",
    "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip

#: Entries that `Adapter` holds.
READ = {"alpha_pattern", "init_lora_weights", "lora_alpha", "r", "rank_pattern", "use_rslora"}

#: Ways to begin training that leave the other model's weights as they are.
PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, as its configuration describes it.

    A layer's weight W becomes W + s·B·A, with s = alpha / rank, or alpha / √rank
    (Hu et al. 2021, https://arxiv.org/abs/2106.09685; Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).

    Attributes:
        folder: where it lies
        base: the model that it changes: a directory, or a hub id, pinned by @revision or not
        alpha: of every layer that has none of its own
        alphas: regular expression of a layer's name → its own alpha
        by_root: whether s is alpha / √rank
        whole: parts of names of layers that were trained whole, whose weights it holds
    """

    folder: Path
    base: str
    alpha: float
    alphas: Mapping[str, float]
    by_root: bool
    whole: tuple[str, ...] = ()

    def scale(self, layer: str, rank: int) -> float:
        """The factor s of a layer.

        Args:
            layer: its name, as the adapter's tensors have it
            rank: of its A and B
        """
        own = next((value for key, value in self.alphas.items() if re.fullmatch(rf"(.*\.)?({key})", layer)), self.alpha)
        return own / (rank**0.5 if self.by_root else rank)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def check_adapter_files(folder: Path, name: str) -> None:
    """Refuse a folder with an adapter that is incomplete, ambiguous, or holds more than numbers and texts.

    Args:
        folder: that holds adapter_config.json
        name: of the model, for the sentence

    Raises:
        VlmtraceError: its weights are missing or no safetensors, or whole weights lie beside them
    """
    whole = next((path.name for path in sorted(folder.glob("model*.safetensors*"))), None)
    if whole is not None:
        raise VlmtraceError(
            f"{name} holds both an adapter ({ADAPTER_CONFIG}) and the weights of a model ({whole}), and only one of "
            f"them can be meant: move {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} into a folder of their own."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        other = ", ".join(sorted(path.name for path in folder.glob("adapter_model*"))[:3])
        found = f"only {other}" if other else "none"
        raise VlmtraceError(
            f"{name} holds an adapter ({ADAPTER_CONFIG}) without {ADAPTER_WEIGHTS} ({found}), and vlmtrace reads no "
            "other file of weights, since it can carry code: save it with save_pretrained of PEFT."
        )


def read_adapter(folder: Path, name: str) -> Adapter:
    """What the configuration of an adapter says.

    Args:
        folder: that holds adapter_config.json
        name: of the model, for the sentence

    Returns:
        the adapter

    Raises:
        VlmtraceError: it names no other model, or would change it in a way that is not known here
    """
    content = read_json(folder / ADAPTER_CONFIG)
    if not isinstance(content, dict):
        raise VlmtraceError(f"{ADAPTER_CONFIG} of {name} holds no JSON object: download it again.")
    kind = content.get("peft_type")
    if kind != "LORA":
        raise VlmtraceError(f"{name} holds an adapter of the kind {kind!r}, and only LORA can be added here: {MERGE}.")
    odd = [key for key, value in content.items() if value and key not in WITHOUT_EFFECT | READ]
    begun = content.get("init_lora_weights")
    if begun not in PLAIN_BEGINNINGS:
        odd.append("init_lora_weights")
    if odd:
        said = ", ".join(f"{key} = {_short(content[key])}" for key in sorted(odd)[:3])
        raise VlmtraceError(
            f"{name} holds a LoRA adapter with {said}, which cannot be added to a model's weights here: {MERGE}."
        )
    alpha, own = content.get("lora_alpha"), content.get("alpha_pattern") or {}
    if not isinstance(own, dict) or alpha is None or not all(_is_number(value) for value in (alpha, *own.values())):
        raise VlmtraceError(f"{ADAPTER_CONFIG} of {name} gives no numbers as lora_alpha and alpha_pattern: restore it.")
    for pattern in own:
        try:
            re.compile(pattern)
        except re.error as error:
            raise VlmtraceError(
                f"{ADAPTER_CONFIG} of {name} has {pattern!r} in alpha_pattern, which is no regular expression "
                f"({error}): restore it."
            ) from error
    whole = tuple(str(part) for part in content.get("modules_to_save") or ())
    return Adapter(folder, _base(content, folder, name), float(alpha), own, bool(content.get("use_rslora")), whole)


def _base(content: Mapping[str, Any], folder: Path, name: str) -> str:
    """The model that an adapter changes. Its path may be meant from the working folder, or from the adapter's own."""
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base.strip():
        raise VlmtraceError(
            f"{name} holds an adapter that does not say which model it changes: write that model's folder or hub id "
            f"into base_model_name_or_path of {ADAPTER_CONFIG}."
        )
    given = paths.from_home(base)
    for place in (given, folder / given):
        if any((place / file).exists() for file in ("config.json", ADAPTER_CONFIG, "snapshots")):
            return str(place.resolve())
    return f"{base}@{revision}" if isinstance(revision, str) and revision and "@" not in base else base


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
