"""What patching costs a decoder-only model, counted before anything is run: operations, forward passes, memory.

Counted are the multiplications and additions of matrix products (two operations for each pair of numbers), as
`torch.utils.flop_counter` counts them. T positions, L layers, R positions that a patch has run again.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from vlmtrace.core.arguments import Count, Positive, checked
from vlmtrace.core.errors import NotForThisModel
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import VLM, Patches, Site, Trace
from vlmtrace.models.sweep.replay import Replay

#: Gradients need a forward pass that keeps what it computes, and a pass back to the activations, not to the weights.
PASSES_OF_A_GRADIENT = 2

#: The clean and the corrupt run, which every sweep begins with.
RUNS = 2

#: Modules of a layer that `patch_modules` patches.
MODULES = 3

BLOCK = "language_model"


class ModelSizes(NamedTuple):
    """The sizes of a decoder-only model that decide what it computes and keeps.

    Attributes:
        name: of the model
        parameters: of the whole model
        layers: of its language model
        layer_parameters: of one of these layers
        projections: parameters of one layer's products that make queries, keys and values
        width: of the residual stream
        heads: of one layer
        attention_width: of the outputs of all heads of a layer together
        key_width: of the keys of all heads of a layer together; values are as wide
        inner: width of the feed-forward's inner layer
        vocabulary: how many logits a position has
        vision_parameters: of the vision encoder
        vision_positions: patches that the vision encoder sees for one image
        positions: T, of the prompt with its image
        looks_ahead: whether positions see later ones, so that a patch changes all of them
    """

    name: str
    parameters: int
    layers: int
    layer_parameters: int
    projections: int
    width: int
    heads: int
    attention_width: int
    key_width: int
    inner: int
    vocabulary: int
    vision_parameters: int
    vision_positions: int
    positions: int
    looks_ahead: bool = False

    @property
    def pass_operations(self) -> int:
        """Operations of one forward pass of one prompt; without the attention of the vision encoder."""
        image = 2 * self.vision_parameters * self.vision_positions
        return image + self.layers * self._layer(self.positions) + self._logits

    @checked
    def weights_gb(self, bytes_per_number: Positive) -> float:
        """Gigabytes (10⁹ bytes) of the weights."""
        return self.parameters * bytes_per_number / 1e9

    @checked
    def runs_gb(self, bytes_per_number: Positive) -> float:
        """Gigabytes of what the sweep keeps of the clean and the corrupt run of one pair, in the language model."""
        numbers = 2 * self.width + self.attention_width + 2 * self.key_width
        return RUNS * self.layers * self.positions * numbers * bytes_per_number / 1e9

    @checked
    def gradients_gb(self, bytes_per_number: Positive) -> float:
        """Gigabytes of what both runs and a gradient of one pair keep: what every layer computes on its way."""
        kept = self.layers * self.positions * self._row_numbers
        return self.runs_gb(bytes_per_number) + kept * bytes_per_number / 1e9

    @property
    def n_edges(self) -> int:
        """How many edges `vt.edges` lists: from every node to every input of a later node."""
        below = [2 + layer * (self.heads + 1) for layer in range(self.layers + 1)]  # the image, the prompt, all nodes
        return below[-1] + sum((3 * self.heads + 1) * senders + self.heads for senders in below[:-1])

    @checked
    def least_gb(self, rerun: Count, bytes_per_number: Positive) -> float:
        """Gigabytes that a sweep needs for both runs and one patched state of R = `rerun` positions.

        A state is a layer's output, and what the layer computes on the way to the next, its scores included; no less
        than one forward pass needs.
        """
        rows = self.positions if self.looks_ahead else rerun
        state = rows * (self._row_numbers + 3 * self.positions * self.heads) + 2 * self.vocabulary
        whole = self.positions * self._row_numbers
        return self.runs_gb(bytes_per_number) + max(state, whole) * max(4, bytes_per_number) / 1e9

    @checked
    def patches_operations(self, patches_per_layer: Count, rerun: Count, whole: bool = False) -> int:
        """Operations of as many patches in every layer, each of which has R = `rerun` positions run again.

        Args:
            patches_per_layer: how many
            rerun: R
            whole: each patch sets all of these positions, and not one
        """
        rows = self.positions if self.looks_ahead else rerun
        entering = self._layer(rows, attends=False) if whole else self._layer(1, attends=False)
        # In the last layer only the row that is read matters, beside the keys and values of all.
        last = self._layer(rows) if whole else 2 * self.projections * rows + self._layer(1)
        total = 0
        for layer in range(self.layers):
            above = self.layers - 1 - layer
            passed = (above - 1) * self._layer(rows) + last if above else 0
            total += entering + passed + self._logits
        return patches_per_layer * total

    def _layer(self, rows: int, attends: bool = True) -> int:
        attention = 4 * rows * self.positions * self.attention_width if attends else 0
        return 2 * self.layer_parameters * rows + attention

    @property
    def _row_numbers(self) -> int:
        """Numbers that a layer computes for one position."""
        return 8 * self.width + 3 * self.inner

    @property
    def _logits(self) -> int:
        return 2 * self.width * self.vocabulary


#: Models as their configurations at huggingface.co have them (config.json of llava-hf/llava-1.5-7b-hf,
#: Qwen/Qwen2.5-VL-7B-Instruct, HuggingFaceTB/SmolVLM-Instruct, google/paligemma-3b-pt-224), with a question of 24
#: positions. Qwen's image has 400,000 pixels, SmolVLM's is square: it is cut into 16 tiles beside the whole.
PUBLISHED_SIZES = {
    sizes.name: sizes
    for sizes in (
        ModelSizes(
            "llava-1.5-7b", 7_063_427_072, 32, 202_383_360, 50_331_648, width=4096, heads=32, attention_width=4096,
            key_width=4096, inner=11008, vocabulary=32064, vision_parameters=303_507_456, vision_positions=577,
            positions=576 + 24,
        ),
        ModelSizes(
            "qwen2.5-vl-7b", 8_292_166_656, 28, 233_057_792, 16_515_072, width=3584, heads=28, attention_width=3584,
            key_width=512, inner=18944, vocabulary=152064, vision_parameters=676_550_144, vision_positions=2040,
            positions=510 + 24,
        ),
        ModelSizes(
            "smolvlm", 2_246_272_880, 24, 67_112_960, 12_582_912, width=2048, heads=32, attention_width=2048,
            key_width=2048, inner=8192, vocabulary=49155, vision_parameters=412_987_248, vision_positions=17 * 729,
            positions=17 * 81 + 24,
        ),
        ModelSizes(
            "paligemma-3b", 2_923_466_480, 18, 110_104_576, 5_242_880, width=2048, heads=8, attention_width=2048,
            key_width=256, inner=16384, vocabulary=257216, vision_parameters=412_442_352, vision_positions=256,
            positions=256 + 24, looks_ahead=True,
        ),
    )
}  # fmt: skip


@checked
def model_sizes(model: VLM, pair: pd.DataFrame) -> ModelSizes:
    """Read the sizes of a loaded model that decide what a sweep costs, for the prompt and image of a pair.

    Args:
        model: decoder-only
        pair: a pairs table; its first row is encoded and run once

    Returns:
        the sizes

    Raises:
        NotForThisModel: the model has another kind of language model, or its layers have no attention

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.patching import model_sizes
        >>> model = vt.load_model("tiny-llava")
        >>> sizes = model_sizes(model, vt.load_pairs("rendered_states", n=1))
        >>> sizes.layers, sizes.heads, sizes.positions
        (4, 8, 77)
    """
    _check_decoder_only(model)
    return sizes_of_run(model, model.trace(run_inputs(model, pair.iloc[[0]], "clean")))


def sizes_of_run(model: VLM, trace: Trace) -> ModelSizes:
    """The same as `model_sizes`, of a prompt and image that have been run.

    Args:
        model: decoder-only
        trace: of one pair, at all sites

    Returns:
        the sizes

    Raises:
        NotForThisModel: as `model_sizes`
    """
    _check_decoder_only(model)
    block, config = model.blocks[BLOCK], model.hf.config.get_text_config()
    attentions = [i for i in range(block.n_layers) if block.has("self_attention", i)]
    recorder = next((call.recorder for call in trace.calls if call.recorder is not None), None)
    if not attentions or recorder is None:
        raise NotForThisModel(f"The layers of {model.name} keep no keys and values: its costs are not counted.")
    layer = attentions[0]
    width = trace[BLOCK, "residual", layer].shape[-1]
    attention_width = trace[BLOCK, "self_attention", layer].shape[-1]
    attention = _parameters(model.attention_module(Site(BLOCK, "self_attention", layer)))
    length = trace[BLOCK, "residual", layer].shape[1]
    last = Patches(BLOCK, ["residual"], [0], [None], torch.tensor([[length - 1]], device=model.device))
    vision = model.blocks.get("vision_encoder")
    vision_positions = trace["vision_encoder", "residual", 0].shape[1] if vision is not None else 0
    path = model.family.vision
    return ModelSizes(
        model.name,
        parameters=_parameters(model.hf),
        layers=block.n_layers,
        layer_parameters=sum(_parameters(model.layer_module(BLOCK, i)) for i in range(block.n_layers))
        // block.n_layers,
        projections=max(0, attention - attention_width * width),
        width=width,
        heads=block.n_heads,
        attention_width=attention_width,
        key_width=recorder.key.shape[-1] * recorder.key.shape[1],
        inner=int(getattr(config, "intermediate_size", 4 * width)),
        vocabulary=config.vocab_size,
        vision_parameters=_parameters(model.hf.get_submodule(path)) if path and vision is not None else 0,
        vision_positions=vision_positions,
        positions=length,
        looks_ahead=Replay(model, trace).first_reached(last)[0] < length - 1,
    )


def _check_decoder_only(model: VLM) -> None:
    if model.head_block.name != BLOCK:
        raise NotForThisModel(f"{model.name} is no decoder-only model: its costs are not counted, only measured.")


def _parameters(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


@checked
def patching_costs(sizes: ModelSizes, after_option: Count = 8, bytes_per_number: Positive = 4.0) -> pd.DataFrame:
    """Count what calls cost for one pair under one corruption, before anything is run.

    The counts are those of the fast sweep: a patch at a position has this position and all later ones run again, in
    the layers above it; where positions see later ones, all of them. Patches that change nothing are not run, so a
    sweep may cost less.

    Args:
        sizes: from `model_sizes`, or one of `PUBLISHED_SIZES`
        after_option: positions from the correct option to the end of the prompt
        bytes_per_number: 4 in float32, 2 in bfloat16 and float16

    Returns:
        one row per call, from few passes to many:

        - call, effects: rows of its table for one pair (language model only)
        - operations: floating-point operations
        - passes: the same, as a number of forward passes
        - least_gb: gigabytes (10⁹ bytes) that it needs beside the weights: both runs of a pair, and one patched state
          or what a gradient keeps. A sweep takes more where `memory_gb` allows it, to patch many at a time. Missing
          of a single forward pass

    Example:
        >>> from vlmtrace.methods.patching import PUBLISHED_SIZES, patching_costs
        >>> costs = patching_costs(PUBLISHED_SIZES["llava-1.5-7b"], bytes_per_number=2).set_index("call")
        >>> costs["passes"][["attribute_heads", 'patch_heads, "correct"', "patch_heads"]].round().astype(int).tolist()
        [4, 8, 136087]
    """
    n, t, one = sizes, sizes.positions, sizes.pass_operations
    runs = RUNS * one
    at_every = range(1, t + 1)
    least = [n.least_gb(rerun, bytes_per_number) for rerun in (1, after_option, t)]
    whole = n.patches_operations(n.heads, t, whole=True)
    rows = [
        ("one forward pass", 1, one, float("nan")),
        ('patch_modules, "last"', MODULES * n.layers, runs + n.patches_operations(MODULES, 1), least[0]),
        (
            "attribute_heads",
            n.layers * n.heads * t,
            (RUNS + PASSES_OF_A_GRADIENT) * one,
            n.gradients_gb(bytes_per_number),
        ),
        ('patch_heads, "correct"', n.layers * n.heads, runs + n.patches_operations(n.heads, after_option), least[1]),
        ("patch_whole_heads", n.layers * n.heads, runs + whole, least[2]),
        (
            "patch_modules",
            MODULES * n.layers * t,
            runs + sum(n.patches_operations(MODULES, r) for r in at_every),
            least[2],
        ),
        (
            "patch_heads",
            n.layers * n.heads * t,
            runs + sum(n.patches_operations(n.heads, r) for r in at_every),
            least[2],
        ),
    ]
    return pd.DataFrame(
        {
            "call": call,
            "effects": effects,
            "operations": float(operations),
            "passes": operations / one,
            "least_gb": least_gb,
        }
        for call, effects, operations, least_gb in rows
    )
