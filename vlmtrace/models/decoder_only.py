"""Decoder-only models: image tokens stand inside the text sequence, and one stack of layers reads them all.

    pixels ──▶ vision_encoder ──▶ projector ──▶ image tokens
                                                    │ take the places of the image's placeholders
    prompt ──▶ embeddings ──────────────────────────┴──▶ language_model ──▶ logits after the last position

One class serves all families: what differs is where a family keeps its submodules, and how its processor cuts the image
up. Both are said by its `FamilySpec`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import one_of
from vlmtrace.models import image_geometry
from vlmtrace.models.edges.decoder_only import language_wiring, unsupported_layers
from vlmtrace.models.edges.nodes import Wiring
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import MODEL_LOCK, HookPoint, attach_hooks
from vlmtrace.models.image_prompts import ImagePrompts
from vlmtrace.models.image_shares import (
    ImageShare,
    cells_of_images,
    image_shares,
    patches_of_images,
    tokens_of_images,
)
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.layer_kinds import attention_path, by_name, language_block, records_keys, stated_heads
from vlmtrace.models.sequence_tokens import language_tokens, vision_tokens
from vlmtrace.models.several_images import Images, as_list, sizes_of
from vlmtrace.models.sweep import decoder_interventions
from vlmtrace.models.sweep import decoder_only as decoder_only_sweep
from vlmtrace.models.sweep.kept_keys import Recorder
from vlmtrace.models.sweep.replay_check import check_replay, leave_out_unknown_vision_encoder
from vlmtrace.models.types import AnswerIds, Block, Call, Inputs, Patches, Readout, Site, Token, Trace
from vlmtrace.models.weight_values import fetched, plain

#: Rows of the unembedding that are turned into float32 at a time.
VOCABULARY_AT_ONCE = 2**13

#: What vision encoders call the output projection of their attention.
VISION_PROJECTIONS = ("out_proj", "o_proj", "proj", "projection", "projection_layer")


class _Reached(Exception):
    """The forward pass got to where it was wanted."""


class DecoderOnly(ImagePrompts):
    """A transformers model that puts image tokens into the text sequence, under the common interface."""

    answer_block = "language_model"
    image_module = "self_attention"
    joins_answers = True
    edges: tuple[tuple[str, str], ...] = (("image", "options"), ("image", "last"), ("options", "last"))
    falls_back_to_reference = False
    sweeps_regions = True

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`; the blocks are read from the configuration and the submodules."""
        super().__init__(name, hf, processor, family)
        self.text: Any = hf.get_submodule(self.family.text)
        self.text_layers: Sequence[nn.Module] = self._find_text_layers()
        vision = hf.get_submodule(self.family.vision).modules() if self.family.vision else ()
        self.vision_layers = next((module for module in vision if isinstance(module, nn.ModuleList)), nn.ModuleList())
        n_heads = stated_heads(hf.config.get_text_config())
        paths, one_part = self.family.attention_output, self.family.one_part_per_layer
        language = language_block(self.text_layers, paths, n_heads, one_part)
        self.blocks = {block.name: block for block in (*self._vision_block(), language)}
        self.entry_blocks = tuple(self.blocks)

    def _find_text_layers(self) -> Sequence[nn.Module]:
        """The layers of the language model, in the order in which they run."""
        layers: Any = self.text.get_submodule(self.family.layers)
        return layers

    def _vision_block(self) -> list[Block]:
        """The vision encoder, if each of its positions is known to be a patch of the image; only layers that are read.

        Some families read a layer before the last: layers above it reach nothing.
        """
        vision, n = getattr(self.hf.config, "vision_config", None), len(self.vision_layers)
        if vision is None or vision.model_type not in self.family.vision_types:
            return []
        chosen = self.family.vision_layers_read(self.hf.config)
        if chosen is not None:
            # hidden_states[k] is the output of layer k - 1; negative numbers count from the end of n + 1 entries.
            indices = [chosen] if isinstance(chosen, int) else list(chosen)
            n = max(index if index >= 0 else n + 1 + index for index in indices)
        heads = getattr(vision, "num_attention_heads", None) or vision.num_heads
        attention = ("self_attention",) if self.family.vision_attention_weights else ()
        hooked = ("self_attention",) if n > 0 and self._vision_projection(0) is not None else ()
        block = Block("vision_encoder", n, heads, ("residual",), attention_modules=attention, hooked_modules=hooked)
        return [block] if n > 0 else []

    def _vision_projection(self, layer: int) -> nn.Module | None:
        """The output projection of a vision layer's attention; None where it has another name than those known."""
        attention = dict(self.vision_layers[layer].named_modules()).get(self.family.vision_attention)
        children = {} if attention is None else dict(attention.named_children())
        return next((children[name] for name in VISION_PROJECTIONS if name in children), None)

    # The image --------------------------------------------------------

    def _shares(self, images: Images | None) -> list[ImageShare] | None:
        """What each image becomes, where they are several; None: there is one."""
        several = [] if images is None else as_list(images)
        return image_shares(self, sizes_of(several)) if len(several) > 1 else None

    def image_positions(self, inputs: Inputs, block: str, images: Images | None = None) -> np.ndarray:
        """The vision encoder's are all of its positions, the language model's those of image tokens."""
        if block == "vision_encoder":
            return np.ones(len(self.tokens(block, "", inputs, images)), dtype=bool)
        return self.is_image(inputs)[0].cpu().numpy()

    @checked
    def image_cells(self, image: Images, inputs: Inputs, block: str = "language_model") -> np.ndarray:
        """Where in the image the image positions of a block lie, whatever the processor resized, cropped or tiled.

        Args:
            image: the image, or list of images, of which `inputs` were made; only their sizes matter
            inputs: of one pair
            block: "language_model" for the image tokens (in order, see `is_image`), or "vision_encoder" for all of its
                positions

        Returns:
            (image position, 4): top, left, bottom, right in fractions of the original image. NaN where a position has
            no place in the image: newlines, class tokens, padding, and the query tokens of BLIP-2, which see all of it.
            Where LLaVA-OneVision shrinks the grid of a very large image, boxes are those of the patch at the middle. Of
            several images, one after the other, each position in fractions of its own; `image_numbers` says which

        Raises:
            VlmtraceError: there is no such block
        """
        one_of(block, self.blocks, f"block of {self.name}")
        shares = self._shares(image)
        if shares is not None:
            return cells_of_images(shares, block)
        boxes = image_geometry.token_boxes if block == "language_model" else image_geometry.vision_boxes
        return boxes(self, self.opened(as_list(image)[0]), inputs)

    def image_numbers(self, image: Images, inputs: Inputs, block: str) -> np.ndarray:
        """As each image's share of the positions says."""
        shares = self._shares(image)
        if shares is None:
            return super().image_numbers(image, inputs, block)
        return np.concatenate([np.full(len(cells_of_images([share], block)), i) for i, share in enumerate(shares)])

    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """As `sequence_tokens` names them; of several images, tokens have roles such as "image 2"."""
        shares = self._shares(images)
        shown = None if shares is None else tokens_of_images(shares, block)
        if block == "vision_encoder":
            return vision_tokens(self, inputs) if shown is None else shown
        return language_tokens(self, prompt, inputs, shown)

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of image patches that the vision encoder sees, tiles one below the other."""
        tiles, rows, columns = self.family.layout.grid(self.hf.config, inputs)
        return tiles * rows, columns

    def patch_grids(self, images: Images, inputs: Inputs) -> list[tuple[int, int]]:
        """Tiles one below the other."""
        shares = self._shares(images)
        if shares is None:
            return [self.patch_grid(inputs)]
        return [self.patch_grid(share.inputs) for share in shares]

    def token_patches(self, inputs: Inputs, images: Images | None = None) -> np.ndarray | None:
        """See `ModelInterface.token_patches`; None also where vision positions are not known to be patches."""
        if "vision_encoder" not in self.blocks:
            return None
        shares = self._shares(images)
        return image_geometry.token_patches(self, inputs) if shares is None else patches_of_images(shares)

    # Forward passes --------------------------------------------------------

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`; `image` replaces the image tokens as they enter the first layer."""
        # Where layers share keys and values, transformers drops all other positions from those that only read them:
        # there would be nothing to patch.
        keeps = "logits_to_keep" in self.forward_arguments and not self.shares_keys
        options = {"logits_to_keep": n} if keeps else {}

        def replace(stream: Tensor) -> Tensor | None:
            if image is None:
                return None
            at = self.is_image(inputs)[..., None].to(stream.device)
            return stream.masked_scatter(at, image.to(stream.device, stream.dtype))

        # Ahead of what keeps the layer's input: that is the input with `image` in it.
        with attach_hooks([(HookPoint(self.text_layers[0], is_input=True), replace)], ahead=True):
            run = self.hf if self.family.pixels in inputs else self.hf.get_submodule(self.family.text_only)
            logits = run(**self.family.as_batch(inputs), use_cache=False, **options).logits
            return logits[:, -n:].float().to(self.device)

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """The projected image tokens, as they enter the first layer of the language model."""
        kept: list[Tensor] = []

        def keep(stream: Tensor) -> None:
            at = self.is_image(inputs).to(stream.device)
            kept.append(stream[at].unflatten(0, (len(stream), -1)).to(self.device))
            raise _Reached

        with attach_hooks([(HookPoint(self.text_layers[0], is_input=True), keep)]), contextlib.suppress(_Reached):
            self.hf(**self.family.as_batch(inputs), use_cache=False)
        return kept[0]

    @checked
    def trace(self, inputs: Inputs, sites: Sequence[Site] | None = None, image: Tensor | None = None) -> Trace:
        """See `VLM.trace`; also keeps what each layer of the language model was called with, for the sweep.

        Where all sites are kept, keys and values are as well.
        """
        calls: list[Call] = []

        block = self.blocks["language_model"]

        def keep(layer: int, module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
            options = by_name(module, args, options)
            attention = (
                self.attention_module(Site(block.name, "self_attention", layer))
                if block.has("self_attention", layer)
                else None
            )
            records = sites is None and records_keys(attention, block.kind_at(layer))
            # A cache would keep this run's keys and values: with it, a patched run would read those of the unpatched.
            call = Call(args[0].detach(), {**options, "past_key_values": None}, Recorder() if records else None)
            calls.append(call)
            return args[:1], {**options, "past_key_values": call.recorder}

        with MODEL_LOCK:
            handles = [
                layer.register_forward_pre_hook(partial(keep, i), with_kwargs=True)
                for i, layer in enumerate(self.text_layers)
            ]
            try:
                trace = super().trace(inputs, sites, image)
            finally:
                for handle in handles:
                    handle.remove()
        trace.calls = calls
        return trace

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """See `ModelInterface.eager`: the configuration says how attention is computed; it is changed and restored."""
        found = (getattr(part, "config", None) for part in self.hf.modules())
        # A layer may keep a mere number under this name.
        configs = {id(config): config for config in found if isinstance(config, PreTrainedConfig)}
        with MODEL_LOCK:
            before = [(config, config._attn_implementation) for config in configs.values()]
            try:
                for config, _ in before:
                    config._attn_implementation = "eager"
                yield
            finally:
                # Setting a configuration sets those inside it, so the inner ones come last.
                for config, implementation in before:
                    config._attn_implementation = implementation

    def adds_image_features_after(self, layer: int) -> bool:
        """As the family says."""
        found = self.family.later_image_features(self.hf.config)
        return layer < found if isinstance(found, int) else layer in found

    @property
    def injects_image_features_later(self) -> bool:
        """Whether later layers receive image features, too: behind other layers, or beside the residual stream."""
        return super().injects_image_features_later or self.family.layers_read_embeddings(self.hf.config)

    @property
    def shares_keys(self) -> bool:
        """Whether some text layers read the keys and values of others instead of making their own."""
        return bool(getattr(self.hf.config.get_text_config(), "num_kv_shared_layers", 0))

    @property
    def unembedding(self) -> nn.Module | None:
        """What makes logits of the normed residual stream: the model's, or that of the language model inside it."""
        head, path = self.hf.get_output_embeddings(), self.family.text
        while head is None and path:
            path = path.rpartition(".")[0]
            around = self.hf.get_submodule(path)
            head = around.get_output_embeddings() if hasattr(around, "get_output_embeddings") else None
        return head

    @property
    def final_norm(self) -> nn.Module:
        """As the family says; a model without one has the identity."""
        norm = getattr(self.text, self.family.norm) if self.family.norm else None
        return norm or nn.Identity()

    def read(self, hidden: Tensor) -> Tensor:
        """Final norm, unembedding, and the scale and the cap where the model has them."""
        head = self.unembedding
        assert head is not None, "a language model has one"
        return self.scaled(head(self.final_norm(hidden))).to(self.device)

    def unembed(self, normed: Tensor) -> Tensor:
        """See `ModelInterface.unembed`, after the scale and the cap where the model has them.

        In float32 whatever the model computes in: differences of log-probabilities would drown in its rounding.
        """
        head = self.unembedding
        assert head is not None, "a language model has one"
        weight, bias = plain(fetched(head, "weight"), head), getattr(head, "bias", None)
        rows = len(weight) if weight.dtype == torch.float32 else VOCABULARY_AT_ONCE
        normed = normed.to(weight.device)
        logits = torch.cat([nn.functional.linear(normed, part.float()) for part in weight.split(rows)], dim=-1)
        logits = logits if bias is None else logits + fetched(head, "bias").float()
        return self.scaled(logits.to(self.device))

    def scaled(self, logits: Tensor) -> Tensor:
        """Logits as the model gives them: some families multiply them by a number, or bound them, in the end."""
        scale = self.family.readout_scale(self.hf.config)
        return self.capped(logits if scale == 1.0 else logits * scale)

    def capped(self, logits: Tensor) -> Tensor:
        """Logits within the bound that some families have."""
        cap = getattr(self.hf.config.get_text_config(), "final_logit_softcapping", None)
        if cap is None or not self.family.caps_logits:
            return logits
        return torch.tanh(logits / cap) * cap

    # Where activations are --------------------------------------------------------

    def layer_module(self, block: str, layer: int) -> nn.Module:
        """Of the vision encoder or the language model."""
        return (self.vision_layers if block == "vision_encoder" else self.text_layers)[layer]

    def hook_point(self, site: Site) -> HookPoint:
        """The layer's output, its feed-forward's output, or what enters its attention's output projection."""
        layer = self.layer_module(site.block, site.layer)
        match site.module:
            case "residual":
                return HookPoint(layer, is_input=False)
            case "mlp":
                return HookPoint(layer.get_submodule(self.family.mlp), is_input=False)
            case _ if site.block == "vision_encoder":
                projection = self._vision_projection(site.layer)
                assert projection is not None, "hooked_modules says that there is one"
                return HookPoint(projection, is_input=True)
            case _:
                return HookPoint(layer.get_submodule(self._attention_output(layer)), is_input=True)

    def _attention_output(self, layer: nn.Module) -> str:
        return attention_path(layer, self.family.attention_output)

    def attention_module(self, site: Site) -> nn.Module:
        """As the family says for the vision encoder; elsewhere the module that holds the output projection."""
        layer = self.layer_module(site.block, site.layer)
        if site.block == "vision_encoder":
            return layer.get_submodule(self.family.vision_attention)
        return layer.get_submodule(self._attention_output(layer).partition(".")[0])

    # Sweeps --------------------------------------------------------

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        """The language model must be its layers one after the other; see `check_replay`."""
        check_replay(self, trace, inputs)
        leave_out_unknown_vision_encoder(self, trace, inputs)

    def sweep_unsupported_reason(self, inputs: Inputs) -> str | None:
        """Keys and values that layers share in an unknown way; `check_layers` refuses what else must not be met."""
        if not self.shares_keys or self._says_what_it_shares():
            return None
        return "how layers share keys and values"

    def _says_what_it_shares(self) -> bool:
        """Whether each layer tells whether it reads the keys and values of another, and passes its own on."""
        attentions = [
            self.attention_module(Site("language_model", "self_attention", i)) for i in range(len(self.text_layers))
        ]
        return all(hasattr(one, "is_kv_shared_layer") and hasattr(one, "store_full_length_kv") for one in attentions)

    def nodes_unsupported_reason(self) -> str | None:
        """As `sweep_unsupported_reason`, whatever the inputs; and layers that are not known by their nodes."""
        return self.sweep_unsupported_reason({}) or unsupported_layers(self)

    @functools.cached_property
    def wirings(self) -> tuple[Wiring, ...]:  # type: ignore[override]
        """See `language_wiring`."""
        return (language_wiring(self),)

    def sweep(
        self, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
    ) -> Readout:
        """See `vlmtrace.models.sweep.decoder_only`."""
        return decoder_only_sweep.sweep(self, clean, corrupt, inputs, patches, answer_ids, memory)

    def intervenes_in(self, interventions: Interventions) -> bool:
        """Those in the language model."""
        return interventions.blocks <= {"language_model"}

    def intervene(
        self,
        source: Trace,
        base: Trace,
        inputs: Inputs,
        interventions: Interventions,
        answer_ids: AnswerIds,
        memory: int,
    ) -> Readout:
        """See `vlmtrace.models.sweep.decoder_interventions`."""
        return decoder_interventions.intervene(self, source, base, interventions, answer_ids, memory)

    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
    ) -> Readout:
        """See `vlmtrace.models.sweep.decoder_only`."""
        return decoder_only_sweep.run_with_fixed_heads(self, clean, corrupt, keep_clean, start, answer_ids)
