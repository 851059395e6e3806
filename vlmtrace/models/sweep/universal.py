"""Exact patching for any architecture: the model's own forward pass, many patches of a pair in one batch.

Nothing is taken for granted but that hooks act, and that the rows of a batch do not mix. So this is slower than sweeps
that know what a patch can reach, and right where they do not apply: states that are shared by layers, several residual
streams, routers, encoders, attention of any kind.

Layers below the lowest patch of a batch compute what they computed in the unpatched run. They are not run again but
give that, where this was tried and changes nothing (`skippable_stacks`).

Shapes: P pairs, I interventions of a batch, S positions of a block, D width.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmtrace.models.hooks import MODEL_LOCK, attach_hooks, with_model_lock
from vlmtrace.models.interventions import Interventions, Setting, from_patches
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.sweep.replay_check import largest_difference, tolerance
from vlmtrace.models.types import AnswerIds, BothAnswers, Inputs, Patches, Readout, Trace, positions_read
from vlmtrace.models.vlm import VLM, inputs_of_pair, repeat_inputs

#: Copies of the residual stream that a layer holds at its peak, about.
STREAMS_AT_PEAK = 24

#: Stacks of layers by name, in the order in which information flows.
Stacks = Sequence[tuple[str, Sequence[nn.Module]]]


@with_model_lock
@torch.no_grad()
@by_fast_products
def sweep(
    model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every patch of a batch of pairs; see `ModelInterface.sweep`."""
    lengths = {trace_length(clean, patches.block, module, layer) for module, layer in _sites(patches)}
    assert len(lengths) == 1, "all modules of a block have its positions"

    def answer(run: BatchedPasses, chunk: Patches) -> Readout:
        if chunk.position_masks is None:
            masks = F.one_hot(chunk.positions, next(iter(lengths))).bool()  # (1, I, S)
            chunk = dataclasses.replace(chunk, position_masks=masks)
        return run.answer(from_patches(chunk, model.blocks[chunk.block]))

    readouts = []
    for pair, run in enumerate(_runs(model, clean, corrupt, inputs, answer_ids)):
        readouts.append(in_chunks(patches.of_pair(pair), run.states_within(memory), partial(answer, run)))
    return Readout.cat(readouts, dim=0)


@with_model_lock
@torch.no_grad()
@by_fast_products
def intervene(
    model: VLM, source: Trace, base: Trace, inputs: Inputs, given: Interventions, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every intervention in a batch of pairs; see `ModelInterface.intervene`."""
    assert not given.blocked, "what is blocked is cut by hooks"
    order = sorted(range(len(given)), key=lambda i: _start(given.subset([i]), model) or (-1, 0))
    readouts = []
    for pair, run in enumerate(_runs(model, source, base, inputs, answer_ids)):
        mine = _of_pair(given.subset(order), pair)
        readouts.append(in_chunks(mine, run.states_within(memory), run.answer))
    found = Readout.cat(readouts, dim=0)
    back = torch.tensor(order, device=found.correct.device).argsort()
    return Readout(found.correct[:, back], found.incorrect[:, back], found.log_normalizer[:, back])


def trace_length(trace: Trace, block: str, module: str, layer: int) -> int:
    """The number of positions that a traced activation has."""
    return trace[block, module, layer].shape[1]


def _sites(patches: Patches) -> set[tuple[str, int]]:
    return {(module, layer) for module, layer in zip(patches.modules, patches.layers, strict=True)}


def _runs(model: VLM, source: Trace, base: Trace, inputs: Inputs, answer_ids: AnswerIds) -> Iterator[BatchedPasses]:
    assert not isinstance(answer_ids, BothAnswers), "each answer is given in a run of its own"
    n_pairs = len(answer_ids)
    for pair in range(n_pairs):
        one = slice(pair, pair + 1)
        mine = inputs_of_pair(inputs, pair, n_pairs)
        yield BatchedPasses(model, source.rows(one), base.rows(one), mine, answer_ids[one])


def _of_pair(given: Interventions, pair: int) -> Interventions:
    """The interventions of one pair of a batch: masks that all pairs share have one entry."""

    def mine(setting: Setting) -> Setting:
        mask = setting.mask
        return setting if len(mask) == 1 else Setting(setting.states, mask[pair : pair + 1])

    return Interventions(given.n, {site: mine(setting) for site, setting in given.overwritten.items()})


def _start(given: Interventions, model: VLM) -> tuple[int, int] | None:
    """Where interventions first act, as number of the stack and layer; None: nowhere."""
    names = [name for name, _ in model.stacks]
    return min(((names.index(site.block), site.layer) for site in given.overwritten), default=None)


class BatchedPasses:
    """Forward passes of one pair, of which each does several interventions, one in each row of the batch."""

    def __init__(self, model: VLM, source: Trace, base: Trace, inputs: Inputs, answer_ids: AnswerIds):
        """Prepare to answer.

        Args:
            model: any whose `stacks` are known
            source: trace of the run that is copied from
            base: trace of the run in which interventions act
            inputs: of the latter run
            answer_ids: what is read out
        """
        self.model, self.source, self.base, self.inputs, self.answer_ids = model, source, base, inputs, answer_ids
        self.n_read = positions_read(answer_ids)

    def states_within(self, memory: int) -> int:
        """How many interventions one batch may hold."""
        return max(1, memory // state_bytes(self.model, self.base, self.n_read))

    def answer(self, given: Interventions) -> Readout:
        """Readout (1, I) of interventions."""
        if self.model.skippable is None:
            self.model.skippable = skippable_stacks(self)
        start = _start(given, self.model)
        below = modules_below(self.model.stacks, *start, self.model.skippable) if start else []
        points = [
            (self.model.hook_point(site), partial(_overwrite, setting, self.source[site]))
            for site, setting in given.overwritten.items()
        ]
        with self.giving(below, len(given)), attach_hooks(points, n_pairs=len(given)):
            logits = self.logits(len(given))
        return Readout.of_last(logits[None], self.answer_ids)

    def logits(self, n: int) -> Tensor:
        """Logits (n, last positions, vocabulary) of the run n times over, under whatever hooks are attached."""
        image = None if self.base.image is None else self.base.image.repeat(n, 1, 1)
        return self.model.last_logits(repeat_inputs(self.inputs, n), self.n_read, image)

    @cached_property
    def outputs(self) -> dict[nn.Module, Any]:
        """What every layer gave in the unpatched run, whole."""
        kept: dict[nn.Module, Any] = {}

        def keep(module: nn.Module, _args: tuple, output: Any) -> None:
            kept[module] = output

        with MODEL_LOCK, contextlib.ExitStack() as stack:
            for layer in (layer for _, layers in self.model.stacks for layer in layers):
                stack.callback(layer.register_forward_hook(keep).remove)
            self.logits(1)
        return kept

    @contextlib.contextmanager
    def giving(self, layers: Sequence[nn.Module], n: int) -> Iterator[None]:
        """While this is entered, some layers do not run: they give what they gave in the unpatched run, n times."""
        axis = self.model.family.stream_axis
        given = {layer: repeated(self.outputs[layer], n, axis) for layer in layers if layer in self.outputs}

        def stub(output: Any) -> Callable[..., Any]:
            return lambda *_args, **_options: output

        with MODEL_LOCK:
            # A layer may have a forward of its own, as where a library moves its weights about: that one is put back.
            before = {layer: layer.__dict__.get("forward") for layer in given}
            try:
                for layer, output in given.items():
                    layer.forward = stub(output)
                yield
            finally:
                for layer, own in before.items():
                    del layer.__dict__["forward"]
                    if own is not None:
                        layer.forward = own


def _overwrite(setting: Setting, source: Tensor, value: Tensor) -> Tensor:
    """An activation (I, S, D) with what interventions set in it taken from the source (1, S, D)."""
    return setting.over(value[None], source)[0]


def repeated(output: Any, n: int, stream_axis: int | None = None) -> Any:
    """What a layer gave for one pair as what it gives for n of the same.

    Args:
        output: a tensor, None, a number, or a tuple or list of these
        n: how many times
        stream_axis: see `HookPoint`

    Raises:
        TypeError: it is something else

    >>> repeated((torch.zeros(1, 5), None), 3)[0].shape
    torch.Size([3, 5])
    """
    if isinstance(output, Tensor):
        batch = 1 if stream_axis == 0 and output.ndim == 4 else 0
        sizes = [1] * output.ndim
        if output.ndim:
            sizes[batch] = n
        return output.repeat(sizes)
    if type(output) in (tuple, list):
        return type(output)(repeated(part, n, stream_axis) for part in output)
    if output is None or isinstance(output, bool | int | float):
        return output
    raise TypeError(f"a layer gives a {type(output).__name__}")


def modules_below(stacks: Stacks, stack: int, layer: int, skippable: frozenset[str]) -> list[nn.Module]:
    """The layers that an intervention at a layer of a stack cannot reach, of the stacks that may be skipped."""
    found = [one for name, layers in stacks[:stack] for one in layers if name in skippable]
    name, layers = stacks[stack]
    return found + (list(layers[:layer]) if name in skippable else [])


def state_bytes(model: VLM, trace: Trace, n_read: int) -> int:
    """What one row of a batch occupies at the peak of a pass, in bytes, about."""
    most = 0
    for block in model.blocks.values():
        stream = trace[block.name, "residual", 0] if (block.name, "residual", 0) in trace.activations else None
        if stream is not None:
            rows, width = stream.shape[1:]
            most = max(most, (STREAMS_AT_PEAK * rows * width + 2 * block.n_heads * rows**2) * stream.element_size())
    return most + 2 * n_read * trace.logits.shape[-1] * trace.logits.element_size()


@torch.no_grad()
def skippable_stacks(run: BatchedPasses) -> frozenset[str]:
    """The stacks of layers of which the lower layers may give what they gave before, found by trying.

    Where a later layer uses more of an earlier one than its output (keys and values, say), it fails or gives another
    answer when the earlier one does not run.

    Args:
        run: of any pair

    Returns:
        names of stacks
    """
    stacks = run.model.stacks
    expected = run.logits(2)
    allowed = tolerance(run.model, expected)

    def same(layers: Sequence[nn.Module]) -> bool:
        try:
            with run.giving(layers, 2):
                return largest_difference(run.logits(2), expected) <= allowed
        except Exception:  # whatever a model raises over what is missing: then its layers run
            return False

    found = set()
    for i, (name, layers) in enumerate(stacks):
        depths = {len(layers) // 2, len(layers) - 1} | ({len(layers)} if i + 1 < len(stacks) else set())
        if layers and all(same(layers[:depth]) for depth in depths):
            found.add(name)
    return frozenset(found)
