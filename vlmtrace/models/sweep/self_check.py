"""What is checked when a model loads: that its hooks act, and that the fast sweep gives the reference's numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image

from vlmtrace.core.arguments import checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.replay_check import largest_difference
from vlmtrace.models.sweep.rounding import FACTOR, measured_rounding, rounds_coarsely, smallest_difference
from vlmtrace.models.types import Block, Inputs, Patches, Readout, Site, Trace
from vlmtrace.models.vlm import VLM


@checked
def self_check(model: VLM) -> None:
    """Compare the fast sweep with the hooked reference on one site of every block and module, on images of noise.

    In float32 they have to agree to 1e-4 of the largest logit. In half precision, and where activations are quantized,
    the same pass gives other logits in another batch: there a sweep may differ by what rounding is measured to do on
    the same patches (see `vlmtrace.models.sweep.rounding`).

    A difference switches a model whose sweep computes layers by itself (BLIP) to the reference, with a warning: never a
    silently different number. A decoder-only model is refused, since its sweep runs the model's own layers: they do not
    do what the family's are known to do.

    Args:
        model: just loaded; its `uses_fast_sweep` is set

    Raises:
        VlmtraceError: a hook point of the model does not act on its answer, or a decoder-only model cannot be replayed
            layer by layer
    """
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    prompt = model.prompt_text("is this a or b?")
    clean, corrupt = (model.encode([image], [prompt]) for image in images)
    unknown = model.sweep_unsupported_reason(corrupt)
    if unknown:
        model.uses_fast_sweep = False
        warn(
            f"The fast sweep does not know {unknown} of {model.name}: sweeps will use the hooked reference, which is "
            "slow but right."
        )
    names = ["an image of noise"]
    for inputs in (clean, corrupt):
        with torch.no_grad(), named_rows(model, inputs, names):
            model.answer_logits(inputs)
    dead = reference.hook_points_act(model, corrupt)
    for site in dead:
        _leave_out_hooked(model, site)
    dead = [site for site in dead if site.module in model.blocks[site.block].modules]
    if dead:
        raise VlmtraceError(
            f"Overwriting {dead[0]} leaves the answer of {model.name} as it was: the model is not supported."
        )
    if unknown:
        return
    clean_trace, corrupt_trace = model.trace(clean), model.trace(corrupt)
    _check_positions(model, corrupt_trace, prompt, corrupt)
    model.check_layers(corrupt_trace, corrupt)
    answer_ids = corrupt_trace.logits.topk(2).indices
    worst, allowed = 0.0, smallest_difference(model, corrupt_trace.logits)
    compared: list[tuple[Patches, Readout]] = []
    for block in model.blocks.values():
        chosen = [_one_patch_per_module(block, clean_trace, generator)]
        if block.kinds or getattr(model, "shares_keys", False):
            chosen.append(_one_patch_below(block, clean_trace))
        if model.falls_back_to_reference:
            # Regions and joint patches have code of their own where the sweep does not run the model's own layers.
            chosen.append(_one_region(block, clean_trace, generator))
        for patches in chosen:
            fast = model.sweep(clean_trace, corrupt_trace, corrupt, patches, answer_ids, memory=2**28)
            slow = reference.sweep(model, clean_trace, corrupt, patches, answer_ids)
            worst = max(worst, largest_difference(fast.correct, slow.correct))
            compared.append((patches, slow))
    if worst > allowed and rounds_coarsely(model):
        rounding = [
            measured_rounding(model, clean_trace, (corrupt, clean), patches, answer_ids, slow)
            for patches, slow in compared
        ]
        allowed = max(allowed, FACTOR * max(rounding))
    model.uses_fast_sweep = worst <= allowed
    if model.uses_fast_sweep:
        return
    if not model.falls_back_to_reference:
        raise VlmtraceError(
            f"{model.name} is not supported: a patch of it gives logits that differ by {worst:.2g} from those of a "
            f"hooked forward pass, where {allowed:.2g} is rounding."
        )
    warn(
        f"The fast sweep differs from the hooked reference by {worst:.2g} on {model.name}: "
        "sweeps will use the reference, which is slow but right."
    )


def _check_positions(model: VLM, trace: Trace, prompt: str, inputs: Inputs) -> None:
    """Refuse activations that are no (batch, position, width): hooks would take something else for positions.

    Of a vision encoder that is found out elsewhere, and it is left out.
    """
    for name, block in model.blocks.items():
        known = len(model.tokens(name, prompt, inputs)) if name != "vision_encoder" else None
        for module in block.modules if known is not None else ():
            seen = trace[name, module, block.layers_with(module)[0]].shape[1]
            if seen != known:
                raise VlmtraceError(
                    f"{model.name} is not supported: {module} of {name} has {seen} positions where its sequence has "
                    f"{known}, as where layers pass on several residual streams (a family says in which dimension they "
                    "lie, with stream_axis)."
                )


def _leave_out_hooked(model: VLM, site: Site) -> None:
    """Offer no heads of a module that no sweep goes through, where its hook does not act; sweeps do not need it."""
    block = model.blocks[site.block]
    kept = tuple(module for module in block.hooked_modules if module != site.module)
    model.blocks[site.block] = dataclasses.replace(block, hooked_modules=kept)


def _one_patch_per_module(block: Block, trace: Trace, generator: np.random.Generator) -> Patches:
    """A patch of every module at a drawn layer and position; not at position 0, after which everything is run again."""
    modules = list(block.modules)
    last = trace[block.name, modules[0], 0].shape[1] - 1
    layers = sorted(generator.integers(0, block.n_layers, len(modules)).tolist())
    # Where a drawn layer lacks the module, the nearest one that has it.
    near = [
        min(block.layers_with(module), key=lambda there: abs(there - at))
        for module, at in zip(modules, layers, strict=True)
    ]
    modules = [modules[i] for i in np.argsort(near, kind="stable")]
    layers = sorted(near)
    positions = generator.integers(min(1, last), last + 1, len(modules))
    heads = [
        block.heads_at(layer) - 1 if module in block.head_modules else None
        for module, layer in zip(modules, layers, strict=True)
    ]
    return Patches(block.name, modules, layers, heads, torch.as_tensor(positions, device=trace.logits.device)[None])


def _one_patch_below(block: Block, trace: Trace) -> Patches:
    """A patch of the first layer, in the middle: layers of every kind run again above it."""
    middle = trace[block.name, "residual", 0].shape[1] // 2
    return Patches(block.name, ["residual"], [0], [None], torch.tensor([[middle]], device=trace.logits.device))


def _one_region(block: Block, trace: Trace, generator: np.random.Generator) -> Patches:
    """A patch of the block's last module in its first layer, at half of the positions: all layers above run again."""
    module = block.modules[-1]
    first = block.layers_with(module)[0]
    chosen = generator.random(trace[block.name, module, first].shape[1]) < 0.5
    chosen[-1] = True
    mask = torch.as_tensor(chosen, device=trace.logits.device)[None, None]  # (1, 1, S)
    return Patches(block.name, [module], [first], [None], mask.int().argmax(-1), mask)
