"""A model whose weights are drawn anew: the control for everything that is said to show what a model has learned."""

from __future__ import annotations

import copy

import torch

from vlmtrace.core.arguments import Natural, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.vlm import VLM
from vlmtrace.models.weight_values import is_offloaded, is_quantized


@checked
def randomized(model: VLM, seed: Seed = 0, top_layers: Natural | None = None) -> VLM:
    """A copy of a model with the weights of each tensor in random order, so that mean and spread stay.

    Adebayo et al. 2018, "Sanity checks for saliency maps" (https://arxiv.org/abs/1810.03292): a map that looks the same
    for such a model shows the image and the architecture, not what the model has learned. The original is untouched.

    Args:
        model: the model to copy
        seed: of the permutations
        top_layers: None: all weights. Otherwise cascading from the top: what lies behind the last layer of the head
            block (final norm and unembedding, BLIP's answer decoder) stays, and so many of its layers, from the last
            one down, are randomized
    Returns:
        the copy; it takes as much memory as the model
    Raises:
        VlmtraceError: there are not so many layers, or the weights are quantized or offloaded

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.models import randomized
        >>> model = vt.load_model("tiny-blip")
        >>> other = randomized(model)
        >>> weights = [next(m.hf.parameters()) for m in (model, other)]
        >>> bool((weights[0] == weights[1]).all()), bool(weights[0].std().isclose(weights[1].std()))
        (False, True)
    """
    block = model.head_block
    if top_layers is not None and not 0 <= top_layers <= block.n_layers:
        raise VlmtraceError(f"top_layers={top_layers} does not exist: {block.name} has {block.n_layers} layers.")
    if is_quantized(model.hf) or is_offloaded(model.hf):
        raise VlmtraceError(
            f"The weights of {model.name} are quantized or kept apart from it, so that they cannot be drawn anew: load "
            "it without quantization, on devices that hold all of it."
        )
    # With all that loading found out: what the fast sweep and the hooks of this architecture can be trusted with.
    twin = copy.deepcopy(model, {id(model.processor): model.processor})
    twin.name = f"{model.name}, randomized"
    if top_layers is None:
        parts = [twin.hf]
    else:
        parts = [twin.layer_module(block.name, block.n_layers - 1 - i) for i in range(top_layers)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in parts:
            for parameter in part.parameters():
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin
