"""The same head patches with libraries that one would use instead, as their documentation shows.

nnsight: one trace a batch, each row of the batch with its own intervention. pyvene: one intervention with a subspace
for each head; a batch holds the positions of one head, since a batch shares its subspace. TransformerLens: its own
helper, `generic_activation_patch` on the heads' outputs, which is what `get_act_patch_attn_head_out_by_pos` runs over
all sites; one forward pass a patch. It knows LLaVA and no BLIP, and its helpers hand on no image: it is added to each
pass. All run the whole model for every row of a batch. Installed by the extra "bench"; a library that is missing is
left out.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import Tensor, nn

from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import VLM, Inputs, Site

Timer = Callable[[Callable[[], Any]], tuple[float, Any]]

#: (head, position)
HeadSite = tuple[int, int]


class AnswerModule(nn.Module):
    """The model as one module from inputs to answer logits, which nnsight and pyvene need."""

    def __init__(self, model: VLM):
        """Wrap a model.

        Args:
            model: whose answer
        """
        super().__init__()
        self.hf, self.config, self.device = model.hf, model.hf.config, model.device
        self._answer = model.answer_logits

    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Answer logits (pair, vocabulary)."""
        masks = {} if attention_mask is None else {"attention_mask": attention_mask}
        return self._answer({"input_ids": input_ids, "pixel_values": pixel_values, **masks})


class AnswerOfEmbeddings(nn.Module):
    """A decoder-only model as one module from the embeddings of image and words to answer logits."""

    def __init__(self, model: VLM):
        """Wrap a model.

        Args:
            model: whose answer
        """
        super().__init__()
        self.hf, self.config, self.device = model.hf, model.hf.config, model.device

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Answer logits (pair, vocabulary)."""
        found = self.hf(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False, logits_to_keep=1)
        return found.logits[:, -1].float()


class Library(ABC):
    """A library that patches heads of the module through which a model looks at its image."""

    package: str

    def __init__(self, model: VLM):
        """Hand a model to the library.

        Args:
            model: whose heads are patched
        """
        self.model, self.block = model, model.head_block
        self.answer = self.wrapped(model)
        names = {id(module): name for name, module in self.answer.named_modules()}
        sites = [Site(self.block.name, model.image_module, layer) for layer in range(self.block.n_layers)]
        #: By layer, the name of the module whose input are the heads' outputs.
        self.projections = [names[id(model.hook_point(site).module)] for site in sites]
        self.size = model.hf.config.get_text_config().hidden_size
        self.width = self.size // self.block.n_heads

    def wrapped(self, model: VLM) -> nn.Module:
        """The model as one module that gives answer logits."""
        return AnswerModule(model)

    @classmethod
    def knows(cls, model: VLM) -> bool:
        """Whether it is installed and has such models."""
        return importlib.util.find_spec(cls.package) is not None

    @abstractmethod
    def start(self, clean: Inputs, corrupt: Inputs) -> Any:
        """What patches of one pair need, from its inputs: the clean run's activations, where the library keeps them."""

    @abstractmethod
    def patch(self, started: Any, layer: int, sites: Sequence[HeadSite]) -> Tensor:
        """Logits (site, vocabulary) of the corrupt run, patched at one site each."""


class NNsight(Library):
    """One trace of the clean run, and one of a batch of corrupt runs for each layer."""

    package = "nnsight"

    def __init__(self, model: VLM):
        """See `Library`."""
        from nnsight import NNsight as Traced

        super().__init__(model)
        self.traced = Traced(self.answer)

    def _projection(self, layer: int) -> Any:
        found = self.traced
        for part in self.projections[layer].split("."):
            # nnsight serves `.output` on every module, so a submodule of that name is `.E_output`.
            found = found[int(part)] if part.isdigit() else getattr(found, "E_output" if part == "output" else part)
        return found

    def start(self, clean: Inputs, corrupt: Inputs) -> Any:
        """One trace that keeps what enters every projection."""
        from nnsight import save

        projections = [self._projection(layer) for layer in range(len(self.projections))]
        with self.traced.trace(**clean):
            kept = save([])
            for projection in projections:
                kept.append(projection.input)
        return kept, corrupt

    def patch(self, started: Any, layer: int, sites: Sequence[HeadSite]) -> Tensor:
        """One trace of a batch with an intervention in each row."""
        kept, corrupt = started
        clean_context, projection, width = kept[layer], self._projection(layer), self.width
        batch = _repeat(corrupt, len(sites))
        with self.traced.trace(**batch):
            context = projection.input
            for row, (head, position) in enumerate(sites):
                columns = slice(head * width, (head + 1) * width)
                context[row, position, columns] = clean_context[0, position, columns]
            logits = self.traced.output.save()
        return logits


class Pyvene(Library):
    """One intervention on a batch for each head; clean runs are its sources.

    It works on a copy, since pyvene 0.1.8 removes all hooks of a model, those too with which transformers collects the
    layers of a vision encoder. So a decoder-only model's image is encoded before, once for each run.
    """

    package = "pyvene"

    def __init__(self, model: VLM):
        """See `Library`."""
        super().__init__(type(model)(model.name, copy.deepcopy(model.hf), model.processor, model.family))
        self.seeing = model

    def wrapped(self, model: VLM) -> nn.Module:
        """From the embeddings on, where image and words share one sequence."""
        return AnswerOfEmbeddings(model) if model.has_visual_tokens else super().wrapped(model)

    def _inputs(self, inputs: Inputs) -> Inputs:
        if not self.model.has_visual_tokens:
            return inputs
        entering = self.seeing.trace(inputs, [Site(self.block.name, "residual", 0)]).layer_inputs[self.block.name]
        return {"inputs_embeds": entering, "attention_mask": inputs["attention_mask"]}

    def start(self, clean: Inputs, corrupt: Inputs) -> Any:
        """The inputs: sources are run with each batch."""
        return self._inputs(clean), self._inputs(corrupt)

    def patch(self, started: Any, layer: int, sites: Sequence[HeadSite]) -> Tensor:
        """One batch for each head."""
        import pyvene

        clean, corrupt = started
        parts = [[head * self.width, (head + 1) * self.width] for head in range(self.block.n_heads)]
        path = self.projections[layer].split(".")
        component = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path).lstrip(".")
        site = {
            "component": f"{component}.input",
            "subspace_partition": parts,
            "intervention": pyvene.VanillaIntervention(embed_dim=self.size, subspace_partition=parts),
        }
        intervened = pyvene.IntervenableModel([site], model=self.answer)
        logits = []
        for head in dict.fromkeys(head for head, _ in sites):
            where = [[position] for other, position in sites if other == head]
            result = intervened(
                base=_repeat(corrupt, len(where)),
                sources=[_repeat(clean, len(where))],
                unit_locations={"sources->base": ([where], [where])},
                subspaces=[[[head]] * len(where)],
            )
            logits.append(result[1])
        return torch.cat(logits)


class TransformerLens(Library):
    """Its bridge around a copy of the model, and its helper for patching."""

    package = "transformer_lens"

    def __init__(self, model: VLM):
        """See `Library`."""
        import transformers
        from transformer_lens.model_bridge import TransformerBridge

        super().__init__(model)
        # It would look for a processor under the model's name on the hub, and install torchvision when that fails.
        given = mock.patch.object(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: model.processor)
        with _quiet(), given:
            self.bridge = TransformerBridge.boot_transformers(
                model.name,
                hf_model=copy.deepcopy(model.hf),
                tokenizer=model.tokenizer,
                dtype=model.dtype,
                device=str(model.device),
            )

    @classmethod
    def knows(cls, model: VLM) -> bool:
        """LLaVA, and no BLIP."""
        return super().knows(model) and model.family.model_type == "llava"

    def start(self, clean: Inputs, corrupt: Inputs) -> Any:
        """Its cache of the clean run."""
        images = {name: value for name, value in clean.items() if name != "input_ids"}
        _, cache = self.bridge.run_with_cache(clean["input_ids"], **images)
        return cache, corrupt

    def patch(self, started: Any, layer: int, sites: Sequence[HeadSite]) -> Tensor:
        """The helper over a table of sites; its metric keeps the logits."""
        from transformer_lens import patching

        cache, corrupt = started
        kept: list[Tensor] = []

        def metric(logits: Tensor) -> Tensor:
            kept.append(logits[0, -1].clone())
            return kept[-1][0]

        rows = [(layer, position, head) for head, position in sites]
        with _quiet():
            patching.generic_activation_patch(
                _WithImage(self.bridge, corrupt),
                corrupt["input_ids"],
                cache,
                metric,
                patching.layer_pos_head_vector_patch_setter,
                "z",
                index_df=pd.DataFrame(rows, columns=["layer", "pos", "head"]),
            )
        return torch.stack(kept)


class _WithImage:
    """A bridge that adds the image to each pass, which TransformerLens' helpers do not."""

    def __init__(self, bridge: Any, inputs: Inputs):
        self._bridge = bridge
        self._image = {name: value for name, value in inputs.items() if name != "input_ids"}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bridge, name)

    def run_with_hooks(self, tokens: Tensor, **options: Any) -> Tensor:
        return self._bridge.run_with_hooks(tokens, **options, **self._image)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars that a library draws."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


#: By the name that is shown.
LIBRARIES: dict[str, type[Library]] = {"nnsight": NNsight, "pyvene": Pyvene, "TransformerLens": TransformerLens}


def known_libraries(model: VLM) -> dict[str, type[Library]]:
    """The libraries that are installed and know a model."""
    return {name: library for name, library in LIBRARIES.items() if library.knows(model)}


def patch_with_libraries(
    model: VLM, pair: pd.DataFrame, table: pd.DataFrame, timer: Timer
) -> dict[str, tuple[float, pd.DataFrame]]:
    """Patch heads of one middle layer with each installed library that knows the model.

    Args:
        model: any whose heads look at the image
        pair: a pairs table of one row
        table: the sweep's own table, which says what there is to patch
        timer: work -> (seconds, result)

    Returns:
        by library: seconds per patch, and a table of layer, head, position, value (LD_patched − LD_corrupt)
    """
    clean, corrupt = (run_inputs(model, pair, run) for run in ("clean", "image"))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])[0]
    layer, n_heads = model.head_block.n_layers // 2, model.head_block.n_heads
    positions = sorted(set(table["position"]))
    heads = [0, n_heads - 1] if len(positions) >= n_heads // 2 else list(range(n_heads))
    sites = [(head, position) for head in heads for position in positions]
    with torch.no_grad():
        logits = model.answer_logits(corrupt)[0]
    base = (logits[ids[0]] - logits[ids[1]]).item()
    found = {}
    for name, kind in known_libraries(model).items():
        with libraries_at_work():
            library = kind(model)
            took, logits = timer(lambda library=library: library.patch(library.start(clean, corrupt), layer, sites))  # type: ignore[misc]
        values = (logits[:, ids[0]] - logits[:, ids[1]]).float() - base
        rows = [(layer, head, position) for head, position in sites]
        frame = pd.DataFrame(rows, columns=["layer", "head", "position"]).assign(value=values.tolist())
        found[name] = (took / len(sites), frame)
    return found


@contextlib.contextmanager
def libraries_at_work() -> Iterator[None]:
    """Without gradients, and without warnings about other people's code."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def _repeat(inputs: Inputs, n: int) -> Inputs:
    return {name: value.expand(n, *value.shape[1:]) for name, value in inputs.items()}
