"""Where the parts of a model lie: a device map as its user wrote it, checked and made one that can be carried out.

accelerate takes a device for every part, and has three limits that a user meets as errors of its own: a part that lies
elsewhere than the part around it, weights of a part on the disk that another part reads, and one weight that two parts
share. The first two are resolved here; the third is refused, since the weight can lie in one place only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from vlmtrace.core.errors import VlmtraceError

#: Where weights are kept, and not computed with, if there is another device.
DISK, HOST = "disk", "cpu"

#: How many names a sentence lists.
LISTED = 8


def find_device(name: str) -> torch.device:
    """The torch device of a name, if this machine has it.

    Args:
        name: e.g. "cpu", "cuda:1"

    Returns:
        the device

    Raises:
        VlmtraceError: the name is unknown, the device absent, or one that holds no numbers
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise VlmtraceError(f"The device {name!r} cannot be used here: choose {_present()}.") from error
    if device.type == "meta":
        raise VlmtraceError(
            f"The device 'meta' holds no numbers, so that nothing can be computed there: choose {_present()}."
        )
    return device


def _present() -> str:
    """In words, the devices that this machine has."""
    found = [HOST]
    if torch.cuda.is_available():
        n = torch.cuda.device_count()
        found.append("cuda" if n == 1 else f"cuda:0 to cuda:{n - 1}")
    if torch.backends.mps.is_available():
        found.append("mps")
    return " or ".join(found) + ("" if len(found) > 1 else ", the only one that this machine has")


def check_places(device_map: Mapping[str, Any]) -> dict[str, Any]:
    """The same map, if every device of it is there.

    Args:
        device_map: part → "cpu", "disk", another torch device, or the number of a GPU

    Raises:
        VlmtraceError: a device is unknown or absent; the sentence says of which part
    """
    found: dict[str, Any] = {}
    for part, given in device_map.items():
        found[part] = str(given) if str(given) in (DISK, HOST) else given
        said = f"device_map puts {part or 'the model'} on {str(given)[:40]!r}"
        if given == DISK:
            continue
        if isinstance(given, bool) or not isinstance(given, int | str | torch.device):
            raise VlmtraceError(f"{said}, which is no device: write cpu, disk, cuda:0 and the like.")
        if isinstance(given, int) and not 0 <= given < torch.cuda.device_count():
            raise VlmtraceError(
                f"{said}, and this machine has {torch.cuda.device_count()} GPUs, counted from 0: choose {_present()}, "
                "or disk."
            )
        try:
            find_device(str(given) if not isinstance(given, int) else f"cuda:{given}")
        except VlmtraceError as error:
            raise VlmtraceError(f"{said}. {error}") from error
    return found


def check_not_offloaded(device_map: Mapping[str, Any], name: str, how: str) -> None:
    """Refuse to keep quantized weights elsewhere than where they are computed with.

    Args:
        device_map: part → device
        name: of the model, for the sentence
        how: it is quantized

    Raises:
        VlmtraceError: a part would lie on the disk, or in host memory beside a GPU
    """
    away = _offloading(device_map)
    for part, given in device_map.items():
        if given in away:
            raise VlmtraceError(
                f"device_map puts {part or 'all'} of {name} on the {'disk' if given == DISK else 'CPU'}, and quantized "
                f"weights ({how}) stay where they are computed with: leave quantization out, or put every part on a "
                "GPU."
            )


def _offloading(device_map: Mapping[str, Any]) -> set[str]:
    """Which places of a map only keep weights: the disk, and host memory where there is another device."""
    computing = {str(given) for given in device_map.values()} - {DISK, HOST}
    return {DISK, HOST} if computing else {DISK}


def resolved(device_map: Mapping[str, Any], bare: Any, text: str, name: str) -> dict[str, Any]:
    """A device map in which no part lies within another, as accelerate can carry it out.

    What is kept on the disk (or in host memory, beside a GPU) is fetched when the part that holds it runs. Beside its
    layers, the image side of many models has weights that another part reads, such as the embeddings of positions:
    these stay where the model computes, and so do weights of a part whose own parts lie in several places. Layers,
    the language model and its embeddings lie where the map says.

    Args:
        device_map: part, or "" for all that no other entry names → device
        bare: the transformers model, without numbers (on the device "meta")
        text: where the language model lies in it
        name: of the model, for the sentence

    Returns:
        part or weight → device, of which each weight has one

    Raises:
        VlmtraceError: the map names a part that the model does not have, leaves one out, or puts a weight that two
            parts share in two places
    """
    given = check_places(device_map)
    tensors = bare.state_dict(keep_vars=True)
    _check_parts(given, bare, tensors, name)
    places = {key: _place_of(key, given) for key in tensors}
    _check_tied(bare, places, name)
    away = _offloading(given)
    main = next((device for device in given.values() if device not in away and device != HOST), HOST)
    words = _word_embeddings(bare)
    for key, place in places.items():
        if place in away and _is_read_elsewhere(key, bare, text, words):
            places[key] = main
    found: dict[str, Any] = {}
    _spread(bare, "", places, given, away, main, found)
    return found


def _place_of(key: str, given: Mapping[str, Any]) -> Any:
    """Where the entry puts a weight that names the smallest part around it."""
    parts = key.split(".")
    return next(given[name] for n in range(len(parts), -1, -1) if (name := ".".join(parts[:n])) in given)


def _check_parts(given: Mapping[str, Any], bare: nn.Module, tensors: Mapping[str, Any], name: str) -> None:
    """Raise if a map names what the model does not have, or leaves a part out."""
    parts = [part for part, _ in bare.named_modules()]
    known = {*parts, *tensors}
    largest = [
        part for part in parts if part and part.count(".") < 2 and any(k.startswith(f"{part}.") for k in tensors)
    ]
    for part in given:
        if part not in known:
            like = get_close_matches(part, [*parts, *tensors], 1, 0.8)
            remedy = f"write {like[0]}" if like else f"its parts are {_listed(largest)} and what lies in them"
            raise VlmtraceError(f"device_map names {part[:80]!r}, which is no part of {name}: {remedy}.")
    left_out = [key for key in tensors if not any(part in given for part in _around(key))]
    if left_out:
        parts_left = list(dict.fromkeys(next(p for p in _around(key) if not _holds(p, given)) for key in left_out))
        raise VlmtraceError(
            f"device_map gives no device to {_listed(parts_left)} of {name}: name one for each, or one for all that it "
            "does not name, under the empty text ('')."
        )


def _around(key: str) -> list[str]:
    """The parts around a weight, from the whole model ("") to the weight itself."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) + 1)]


def _holds(part: str, given: Mapping[str, Any]) -> bool:
    """Whether entries of a map name something in a part."""
    return any(part in _around(entry) for entry in given)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _check_tied(bare: Any, places: Mapping[str, Any], name: str) -> None:
    """Raise if a weight that two parts share would lie in two places."""
    for one, other in (getattr(bare, "all_tied_weights_keys", None) or {}).items():
        if one in places and other in places and str(places[one]) != str(places[other]):
            raise VlmtraceError(
                f"device_map puts {one} of {name} on {places[one]} and {other} on {places[other]}, and both are one "
                "weight (tied weights): give them the same device."
            )


def _word_embeddings(bare: Any) -> list[nn.Module]:
    """The embeddings of words and the unembedding, where a model says which they are."""
    found: list[nn.Module] = []
    for ask in (bare.get_input_embeddings, bare.get_output_embeddings):
        with contextlib.suppress(NotImplementedError, AttributeError):
            found.append(ask())
    return found


def _is_read_elsewhere(key: str, bare: nn.Module, text: str, words: list[nn.Module]) -> bool:
    """Whether another part than the one that holds a weight may read it: outside of layers and the text's own parts."""
    around = _around(key)
    if text == around[max(0, len(around) - 3)] or any(
        isinstance(bare.get_submodule(part), nn.ModuleList) for part in around[:-1]
    ):
        return False
    holder = bare.get_submodule(around[-2])
    return not any(holder is one for one in words)


def _spread(
    part: nn.Module,
    path: str,
    places: Mapping[str, Any],
    given: Mapping[str, Any],
    away: set[str],
    main: Any,
    found: dict[str, Any],
) -> None:
    """Name the largest parts that lie in one place, none of them larger than an entry of the map says."""
    inside = f"{path}." if path else ""
    held = {str(place): place for key, place in places.items() if key.startswith(inside)}
    if not held:
        return
    if len(held) == 1 and any(around in given for around in _around(path)):
        found[path] = next(iter(held.values()))
        return
    for key, place in places.items():
        if key.rpartition(".")[0] == path:  # nothing fetches the weights of a part that does not lie in one place
            found[key] = main if place in away else place
    for key, child in part.named_children():
        _spread(child, inside + key, places, given, away, main, found)
