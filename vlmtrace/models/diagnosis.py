"""Where numbers that are not finite arise: the row of the batch by its name, and the layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.finite import REMEDY, NotFinite
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import Inputs, Site
from vlmtrace.models.vlm import VLM


@contextlib.contextmanager
def named_rows(model: VLM, inputs: Inputs, names: Sequence[str]) -> Iterator[None]:
    """While this is entered, a run that is not finite is told by the names of its rows, with the layer.

    Args:
        model: that runs
        inputs: of the batch that runs
        names: what the sentence calls each row

    Yields:
        nothing

    Raises:
        VlmtraceError: a run of the batch is not finite
    """
    try:
        yield
    except NotFinite as error:
        where = first_not_finite(model, inputs, error.row, len(names))
        raise VlmtraceError(
            f"{model.name} gives numbers that are not finite for {names[error.row]}: {where}. {REMEDY}"
        ) from error


@torch.no_grad()
def first_not_finite(model: VLM, inputs: Inputs, row: int, n_rows: int) -> str:
    """In words, where the first activation of a row that is not finite arises.

    Args:
        model: that runs
        inputs: of a batch
        row: of the batch
        n_rows: of the batch

    Returns:
        module, layer and block
    """
    broken: list[Site] = []

    def watch(site: Site) -> Callable[[Tensor], None]:
        def hook(value: Tensor) -> None:
            size = max(1, len(value) // n_rows)
            if not torch.isfinite(value[row * size : (row + 1) * size]).all():
                broken.append(site)

        return hook

    sites = model.sites()
    with attach_hooks([(model.hook_point(site), watch(site)) for site in sites]):
        model.last_logits(inputs, 1)
    if not broken:
        return "they arise behind the last layer"
    # Hooks act in the order in which the model computes: the first one that saw it is where it arises.
    return f"they arise in {broken[0].module} of layer {broken[0].layer} of {broken[0].block}"
