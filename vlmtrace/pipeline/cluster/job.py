"""What a worker is told about a computation: names and plain values, so that each worker loads what they name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.checkpoints import Checkpoints
from vlmtrace.pipeline.checks import check_model
from vlmtrace.pipeline.records import versions

if TYPE_CHECKING:
    import pandas as pd

    from vlmtrace.models.vlm import VLM


@dataclass(frozen=True)
class ModelName:
    """A model as a worker loads and recognizes it.

    Attributes:
        name: as `load_model` was given it
        source: where it is loaded from: the name, or the absolute path of a directory
        device: the kind of device: "cpu", "cuda" or "mps"
        dtype: of its numbers, as `load_model` takes it
        fingerprint: of the notebook's model
        checked: whether the notebook has checked it on this kind of device
        options: further arguments of `load_model`, name and value
    """

    name: str
    source: str
    device: str
    dtype: str
    fingerprint: str
    checked: bool
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Job:
    """One computation in parts.

    Attributes:
        module: of the function
        function: its name there
        model: its first argument
        options: its further arguments
        folder: where the parts lie
        key: of the parts, see `Checkpoints`
        home: the folder that paths in tables are relative to
        versions: of what computes
        code: the digest of this package
        marker: a file in `folder` that is there while the computation lasts
    """

    module: str
    function: str
    model: ModelName
    options: Mapping[str, Any]
    folder: str
    key: str
    home: str
    versions: Mapping[str, str]
    code: str
    marker: str


def name_function(function: Callable) -> tuple[str, str]:
    """The module and name by which a worker finds a function.

    Raises:
        VlmtraceError: it has none, as it is a lambda, or stands within another function or in a notebook
    """
    module, name = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", "")
    shown = name or repr(function)[:80]
    if module == "__main__":
        raise VlmtraceError(
            f"The workers of a cluster cannot import {shown}, which this notebook or script defines: put it into a "
            "module that can be imported, or close the connection and compute it here."
        )
    found: Any = None
    if module and name.isidentifier():
        found = getattr(importlib.import_module(module), name, None)
    if found is not function:
        raise VlmtraceError(
            f"The workers of a cluster cannot import {shown} by name: pass a function that stands at the top of a "
            "module, such as vt.patch_heads, and what varies as options."
        )
    return module, name


def find_function(module: str, name: str) -> Callable[..., pd.DataFrame]:
    """The function that `name_function` named."""
    return getattr(importlib.import_module(module), name)


def name_model(model: VLM, device: str) -> ModelName:
    """How workers load this model.

    Args:
        model: the notebook's
        device: that workers use; "": the kind that the model is on

    Raises:
        VlmtraceError: it has no name to load it by, or is spread over several devices
    """
    name = str(getattr(model, "name", ""))
    from vlmtrace.models.load_options import LoadOptions  # here, as torch takes seconds

    told = getattr(model, "load_options", None)
    told = told if isinstance(told, LoadOptions) else LoadOptions()
    if told.device_map is not None:
        raise VlmtraceError(
            f"{name[:80]} is spread over devices (device_map), and each worker of a cluster has one: load it on one "
            "device, with quantization where it is too large, or compute it here."
        )
    try:
        check_model(name)
    except VlmtraceError as error:
        raise VlmtraceError(
            f"The workers of a cluster load a model by its name, and {name[:80]!r} names none: pass one that "
            "vt.load_model gave, after save_pretrained where it was made here."
        ) from error
    own = str(getattr(model.device, "type", "cpu"))
    folder = paths.from_home(name)
    bundled = (paths.MODELS / name / "config.json").is_file()
    source = str(folder.resolve()) if not bundled and folder.is_dir() else name
    used = device or own
    dtype = str(model.dtype).removeprefix("torch.")
    return ModelName(name, source, used, dtype, model.fingerprint(), used == own, tuple(told.given().items()))


def name_job(
    function: Callable, model: VLM, device: str, options: Mapping[str, Any], parts: Checkpoints, code: str, marker: str
) -> Job:
    """What workers are told about `function(model, rows, **options)`; see `Job`."""
    module, name = name_function(function)
    named = name_model(model, device)
    home, folder = str(paths.ROOT), str(parts.folder)
    return Job(module, name, named, dict(options), folder, parts.key, home, versions(), code, marker)
