"""What is trained: LLaVA's projector, and a low-rank adapter of the language model, in files as PEFT writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import first_line, read_json, write_atomically, write_json
from vlmtrace.core.paths import relative
from vlmtrace.core.unreadable import refused
from vlmtrace.training.smol.assembled import EYES, digest_of_eyes
from vlmtrace.training.smol.recipe import NAME, Recipe

#: The linear layers of the language model that get an adapter.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

WEIGHTS, CONFIG, PROJECTOR = "adapter_model.safetensors", "adapter_config.json", "projector.safetensors"
#: In the projector's metadata: which vision tower it was trained for.
OF_EYES = "vision_tower_sha256"
#: What PEFT puts before the names of a LlamaForCausalLM, of which our language model is the part "model".
PREFIX = "base_model.model.model."


def add_low_rank(
    language: Any,
    maps: Sequence[str],
    rank: int,
    alpha: int,
    generator: torch.Generator,
    layers: Sequence[int] | None = None,
) -> dict[str, nn.Parameter]:
    """Add an adapter to a language model, which changes nothing yet.

    Args:
        language: of transformers, with `layers`
        maps: what its linear maps are called that get one, such as "down_proj"
        rank: of the adapter
        alpha: what it adds is multiplied by alpha / rank
        generator: draws the first factors
        layers: that get one; None: all

    Returns:
        its factors in float32, by name

    Raises:
        VlmtraceError: peft is not installed
    """
    peft = _peft()
    numbers = range(len(language.layers)) if layers is None else layers
    chosen = [
        f"layers.{number}.{name}"
        for number in numbers
        for name, _ in language.layers[number].named_modules()
        if name.rpartition(".")[2] in maps
    ]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=chosen)
    peft.inject_adapter_in_model(config, language)
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in language.named_parameters():
        if ".lora_" not in name:
            continue
        parameter.data = parameter.data.float()
        with torch.no_grad():
            is_first = ".lora_A." in name
            parameter.copy_(_start(parameter, generator) if is_first else torch.zeros_like(parameter))
        trained[name.replace(".default.", ".")] = parameter
    return trained


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise VlmtraceError(
            'Training needs the package peft, which is not installed: run pip install -e ".[smol]".'
        ) from error
    return peft


def merge_low_rank(language: nn.Module) -> None:
    """Add what `add_low_rank` added to the weights, and put plain linear maps in its place.

    Args:
        language: with an adapter
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(language.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(language.get_submodule(parent), own, module.get_base_layer())


def attach(model: Any, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Freeze a model but for its projector, and add an adapter to its language model, which changes nothing yet.

    Args:
        model: LlavaForConditionalGeneration
        recipe: rank, alpha, and the seed of the new weights

    Returns:
        what is trained, in float32, by name: "projector.…" and "adapter.…"

    Raises:
        VlmtraceError: peft is not installed
    """
    _peft()  # before anything is changed
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector.float()
    generator = torch.Generator().manual_seed(recipe.seed)
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in projector.named_parameters():
        trained[f"projector.{name}"] = parameter
        with torch.no_grad():
            parameter.copy_(_start(parameter, generator) if parameter.ndim == 2 else torch.zeros_like(parameter))
    adapter = add_low_rank(model.model.language_model, TARGETS, recipe.rank, recipe.alpha, generator)
    trained |= {f"adapter.{name}": parameter for name, parameter in adapter.items()}
    if recipe.start:
        _start_from(Path(recipe.start), trained)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained


@torch.no_grad()
def _start_from(folder: Path, trained: Mapping[str, nn.Parameter]) -> None:
    advice = "give another folder to start from"
    adapter, projector = (_read(folder / name, advice) for name in (WEIGHTS, PROJECTOR))
    found = {f"adapter.{name.removeprefix(PREFIX)}": value for name, value in adapter.items()}
    found |= {f"projector.{name}": value for name, value in projector.items()}
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in trained.items()}:
        raise VlmtraceError(f"The weights in {folder} are not of this model and rank: give others to start from.")
    for name, parameter in trained.items():
        parameter.copy_(found[name])


def _start(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Normal with deviation 1 / √inputs, the same on every device."""
    return torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[1])


def save_trained(trained: Mapping[str, Tensor], recipe: Recipe, folder: Path, eyes: str) -> None:
    """Write projector and adapter in half precision, the adapter as PEFT would.

    Args:
        trained: by name, as of `attach`
        recipe: rank and alpha
        folder: to write into
        eyes: which vision tower they were trained for, of `digest_of_eyes`
    """
    half = {name: value.detach().half().cpu().contiguous() for name, value in trained.items()}
    adapter = {PREFIX + name.removeprefix("adapter."): half[name] for name in half if name.startswith("adapter.")}
    projector = {name.removeprefix("projector."): half[name] for name in half if name.startswith("projector.")}
    for file, tensors, about in ((WEIGHTS, adapter, {}), (PROJECTOR, projector, {OF_EYES: eyes})):
        with write_atomically(folder / file) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"} | about)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(TARGETS),
    }
    write_json(config, folder / CONFIG)


@torch.no_grad()
def merge(model: Any, folder: Path) -> None:
    """Add the committed adapter to a model's language model, and put the committed projector into it.

    Args:
        model: LlavaForConditionalGeneration; its weights are changed
        folder: with what `save_trained` wrote

    Raises:
        VlmtraceError: a file is missing, broken, or does not fit, or the projector was trained for other eyes
    """
    config = read_json(folder / CONFIG)
    adapter, projector = _read(folder / WEIGHTS), _read(folder / PROJECTOR)
    with safe_open(folder / PROJECTOR, framework="pt") as file:
        eyes = (file.metadata() or {}).get(OF_EYES)
    if eyes != digest_of_eyes(model):
        raise VlmtraceError(
            f"The projector in {folder} was trained for another vision tower than that of {relative(EYES)}: restore "
            f"both (git checkout), or train it for this one (make train-{NAME})."
        )
    language = model.model.language_model
    layers = {name: layer for name, layer in language.named_modules() if name.rpartition(".")[2] in TARGETS}
    wanted = {f"{PREFIX}{name}.lora_{factor}.weight" for name in layers for factor in "AB"}
    if set(adapter) != wanted:
        raise VlmtraceError(
            f"{folder / WEIGHTS} holds {len(adapter)} factors where the language model needs {len(wanted)}: restore "
            "the committed file (git checkout)."
        )
    try:
        for name, layer in layers.items():
            down, up = (adapter[f"{PREFIX}{name}.lora_{factor}.weight"].float() for factor in "AB")
            layer.weight += (config["lora_alpha"] / config["r"] * (up @ down)).to(layer.weight.dtype)
        model.model.multi_modal_projector.load_state_dict({name: value.float() for name, value in projector.items()})
    except (KeyError, RuntimeError, TypeError) as error:
        raise VlmtraceError(
            f"The adapter in {folder} does not fit the language model ({first_line(error)}): restore the committed "
            "files (git checkout)."
        ) from error


def _read(path: Path, advice: str = "restore the committed file (git checkout)") -> dict[str, Tensor]:
    if not path.is_file():
        raise VlmtraceError(f"There is no {path}: {advice}.")
    try:
        path.open("rb").close()  # safetensors says of a file that may not be opened that there is none
        return load_file(path)
    except Exception as error:  # safetensors raises its own kinds, and the system's
        raise refused(path, error) or VlmtraceError(
            f"{path} cannot be read ({first_line(error)}): {advice}."
        ) from error
