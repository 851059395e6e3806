"""The families that this installation knows: those of this folder, and those that other packages bring."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.families.guess import CannotGuess, guess
from vlmtrace.models.families.spec import FamilySpec, UnsupportedFamily

#: The group of entry points by which other packages bring families.
GROUP = "vlmtrace.families"

#: Modules of this folder that declare no family.
MACHINERY = {"spec", "registry", "guess"}


@cache
def own_modules() -> tuple[Any, ...]:
    """The modules of this folder that declare families."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(import_module(f"{__package__}.{name}") for name in names if name not in MACHINERY)


@cache
def _found() -> tuple[dict[str, FamilySpec], tuple[str, ...]]:
    """The families by model type, and a sentence about every package whose families cannot be used."""
    found = {spec.model_type: spec for module in own_modules() for spec in getattr(module, "FAMILIES", ())}
    broken = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.value, point.name)):
        try:
            brought = {spec.model_type: spec for spec in _brought_by(point)}
            taken = sorted(found.keys() & brought)
            if taken:
                raise VlmtraceError(f"{', '.join(taken)} is a family already")
        except Exception as error:  # whatever somebody else's package raises: it must not take the others down
            broken.append(_cannot_be_used(point, error))
            warn(broken[-1])
            continue
        found |= brought
    return found, tuple(broken)


def families() -> dict[str, FamilySpec]:
    """The supported families by model type: this package's own first, then those of other packages.

    A package whose families cannot be used is named in a warning, and the others are used without it.
    """
    return dict(_found()[0])


def _brought_by(point: EntryPoint) -> Iterator[FamilySpec]:
    declared = point.load()
    declared = getattr(declared, "FAMILIES", declared)
    for spec in [declared] if isinstance(declared, FamilySpec) else declared:
        if not isinstance(spec, FamilySpec):
            raise VlmtraceError(f"{point.value} holds {spec!r} where a FamilySpec is expected")
        yield spec


def _cannot_be_used(point: EntryPoint, error: Exception) -> str:
    package = point.dist.name if point.dist else point.value
    reason = " ".join(str(error).split()).rstrip(".") or "no reason given"
    return (
        f"The model families of the package {package} (entry point {point.name} = {point.value}) cannot be used "
        f"({type(error).__name__}: {reason}): update or uninstall {package}."
    )


def unsupported_families() -> dict[str, UnsupportedFamily]:
    """The families that are refused by name, by model type; one that another package supports is not among them."""
    refused = [entry for module in own_modules() for entry in getattr(module, "UNSUPPORTED", ())]
    return {entry.model_type: entry for entry in refused if entry.model_type not in families()}


def family_of(config: Any, name: str) -> FamilySpec:
    """The family of a model, adapted to it.

    Args:
        config: the model's transformers configuration
        name: the model's, for the sentence

    Returns:
        what is particular about it

    Raises:
        VlmtraceError: the family is not supported, or this model of it is not, or a package is missing
    """
    architectures = getattr(config, "architectures", None) or []
    found = families().get(config.model_type)
    refused = unsupported_families().get(config.model_type)
    reason = (found.refusal(config) if found else None) or (refused.reason if refused else None)
    if found is None and not reason:
        try:
            found = guess(config)
        except CannotGuess as error:
            reason = f"which vlmtrace does not know, and {error}"
    if not reason and (found is None or (architectures and not found.named & set(architectures))):
        reason = "which vlmtrace does not know"
    if found is None or reason:
        supported, broken = _found()
        sentence = (
            f"{name} is a {', '.join(architectures) or config.model_type}, {reason}: "
            f"vlmtrace.models.families_table() lists the {len(supported)} types of model that are supported."
        )
        raise VlmtraceError(" ".join([sentence, *broken]))
    adapted = found.adapt(found, config)
    missing = adapted.missing_packages(config)
    if missing:
        names = " and ".join(missing)
        raise VlmtraceError(
            f"{name} is a {found.architecture}, which cannot be built without {names}, and this is not installed: "
            f"pip install {' '.join(missing)}."
        )
    return adapted


#: What is checked when a model loads, by whether its interface falls back to the hooked reference.
SELF_CHECK = {
    True: "every kind of hook acts; the fast sweep gives the hooked reference's numbers, or else the reference is used",
    False: "every kind of hook acts; the layers can be replayed one by one; the fast sweep gives the hooked "
    "reference's numbers; or else the model is refused",
}


def families_table() -> pd.DataFrame:
    """The supported families, as the documentation shows them.

    Returns:
        One row per model type: family, model_type, architecture (the transformers class), supported_by (what answers
        patches, see `ModelInterface.engine`), since (the version of vlmtrace that supported it first), several_images
        (whether a prompt may have several), one_image (why not, where
        it may not), vision_encoder (whether its residual stream can be patched),
        vision_attention (whether its attention weights can be read), image_tokens (what one image token stands for),
        self_check (what is checked when a model loads, and what follows where that fails), handled (what is particular
        about the family, and taken care of)

    Example:
        >>> from vlmtrace.models.families import families_table
        >>> families_table().set_index("model_type").loc["aya_vision", ["family", "image_tokens", "since"]].tolist()
        ['Aya Vision', 'one per square of patches, tile by tile', '0.1.0']
    """
    return pd.DataFrame(
        {
            "family": spec.name,
            "model_type": spec.model_type,
            "architecture": spec.architecture,
            "supported_by": spec.interface_class().engine,
            "since": spec.since,
            "several_images": spec.several_images,
            "one_image": spec.one_image,
            "vision_encoder": bool(spec.vision_types),
            "vision_attention": bool(spec.vision_types) and spec.vision_attention_weights,
            "image_tokens": spec.image_tokens,
            "self_check": SELF_CHECK[spec.interface_class().falls_back_to_reference],
            "handled": spec.handled,
        }
        for spec in families().values()
    )
