"""Several patches at once, in one forward pass: the intervention that one has put together by hand.

    patch = Patch("text_encoder", "cross_attention", layer=2, heads=(5,))
    print(intervene(model, pairs.iloc[0], [patch], corruption="image"))

A sweep asks every place separately; here all patches act together, each with what the ones below it have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.models import VLM, Readout, Site
from vlmtrace.models.hooks import hooks


class Patch(NamedTuple):
    """What is copied from the clean into the corrupt run.

    Attributes:
        block, module, layer: the site
        positions: in the block's sequence; None: all
        heads: of the module; None: the whole activation
    """

    block: str
    module: str
    layer: int
    positions: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """As figures call it, e.g. "cross_attention 2.5 at 4" (layer 2, head 5, position 4)."""
        heads = "" if self.heads is None else "." + "+".join(map(str, self.heads))
        where = "all positions" if self.positions is None else ", ".join(map(str, self.positions))
        return f"{self.block} {self.module} {self.layer}{heads} at {where}"

    @property
    def site(self) -> Site:
        return Site(self.block, self.module, self.layer)


@dataclass(frozen=True)
class Outcome:
    """What an intervention did to the first answer token.

    Attributes:
        logits: by run ("clean", "corrupt", "patched"), (vocabulary,) float32
        readouts: by run, of the two options
        tokens: the vocabulary's entry of an id
    """

    logits: dict[str, Tensor]
    readouts: dict[str, Readout]
    tokens: Callable[[Sequence[int]], list[str]]

    @property
    def patching_effect(self) -> float:
        """(LD_patched − LD_corrupt) / (LD_clean − LD_corrupt), missing where clean and corrupt do not differ."""
        return float(patching_effect(*(self.logit_diff(run) for run in ("patched", "clean", "corrupt"))))

    def logit_diff(self, run: str = "patched") -> float:
        """LD = logit(correct) − logit(incorrect) of a run."""
        return float(self.readouts[one_of(run, self.readouts, "run")].logit_diff)

    def answer(self, run: str = "patched") -> str:
        """The most probable first answer token of a run."""
        return self.tokens([int(self.logits[one_of(run, self.logits, "run")].argmax())])[0]

    def table(self, n: int = 5) -> pd.DataFrame:
        """Probabilities of the tokens that are among the n most probable of any run: token_id, token, clean, …"""
        shares = {run: logits.softmax(-1) for run, logits in self.logits.items()}
        first = {token for share in shares.values() for token in share.topk(min(n, len(share))).indices.tolist()}
        ids = sorted(first, key=lambda token: -max(float(share[token]) for share in shares.values()))
        columns = {run: [float(share[token]) for token in ids] for run, share in shares.items()}
        return pd.DataFrame({"token_id": ids, "token": self.tokens(ids), **columns})

    def __str__(self) -> str:
        said = ", ".join(f"{run} {self.answer(run)!r}" for run in self.logits)
        differences = ", ".join(f"{run} {self.logit_diff(run):.2f}" for run in self.logits)
        return f"first answer token: {said}; LD: {differences}; patching effect {self.patching_effect:.3f}"


def intervene(
    model: VLM, pair: Mapping[str, Any] | pd.Series, patches: Iterable[Patch], corruption: str = "image"
) -> Outcome:
    """Run one pair's corrupt input with all patches in place.

    Args:
        pair: a row of a pairs table
        corruption: "image" or "text"
    Raises:
        VlmtraceError: a patch names what the model does not have, or the pair's runs cannot be aligned
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    frame = pd.DataFrame([dict(pair)])
    return intervene_in(model, run_pairs(model, frame, [encode_pair(model, frame, 0, corruption)]), patches)


def intervene_in(model: VLM, runs: PairRuns, patches: Iterable[Patch]) -> Outcome:
    """As `intervene`, for the runs of one pair (batch 1) that are at hand."""
    patched = patched_logits(model, runs, [list(patches)])
    logits = {"clean": runs.clean.logits, "corrupt": runs.corrupt.logits, "patched": patched}
    readouts = {run: Readout.of(value, runs.answer_ids) for run, value in logits.items()}
    return Outcome(
        {run: value[0].cpu() for run, value in logits.items()}, readouts, model.tokenizer.convert_ids_to_tokens
    )


@torch.no_grad()
def patched_logits(
    model: VLM, runs: PairRuns, interventions: Sequence[Sequence[Patch]], batch_size: int = 32
) -> Tensor:
    """Logits of the first answer token under each of several interventions, side by side in batches.

    Args:
        runs: of one pair (batch 1)
    Returns:
        (intervention, vocabulary), float32
    """
    every = [patch for patches in interventions for patch in patches]
    for patch in every:
        check_patch(model, runs, patch)
    # What no patch reaches is computed once.
    fixed = "vision_encoder" in model.blocks and not any(patch.block == "vision_encoder" for patch in every)
    embeddings = model.image_embeddings(runs.inputs) if fixed else None
    parts = []
    for start in range(0, len(interventions), batch_size):
        batch = interventions[start : start + batch_size]
        n = len(batch)
        inputs = {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in runs.inputs.items()}
        image = None if embeddings is None else embeddings.expand(n, *embeddings.shape[1:])
        sites = dict.fromkeys(patch.site for patches in batch for patch in patches)
        points = [(model.hook_point(site), _copy_clean(model, runs, site, batch)) for site in sites]
        with hooks(points, n_pairs=n):
            parts.append(model.answer_logits(inputs, image))
    return torch.cat(parts)


def check_patch(model: VLM, runs: PairRuns, patch: Patch) -> Patch:
    """The patch, or a sentence that says what it names that does not exist."""
    site = model.check_site(patch.site)
    block = model.blocks[site.block]
    length = runs.corrupt[site].shape[1]
    if patch.heads is not None and site.module not in block.head_modules:
        raise VlmtraceError(
            f"{site.module} of {block.name} has no heads: choose {' or '.join(block.head_modules) or 'all of it'}."
        )
    for what, chosen, count in (("position", patch.positions, length), ("head", patch.heads, block.n_heads)):
        wrong = [index for index in chosen or () if not 0 <= index < count]
        if wrong:
            raise VlmtraceError(f"There is no {what} {wrong[0]} in {block.name}: choose among 0 to {count - 1}.")
    return patch


def _copy_clean(model: VLM, runs: PairRuns, site: Site, batch: Sequence[Sequence[Patch]]) -> Callable[[Tensor], Tensor]:
    """From what a site computes to the same with the patched parts of each row of a batch as in the clean run."""
    clean = runs.clean[site]
    length, width = clean.shape[1:]
    columns = width // model.blocks[site.block].n_heads
    keep = torch.zeros(len(batch), length, width, dtype=torch.bool, device=clean.device)
    for row, patches in enumerate(batch):
        for patch in patches:
            if patch.site != site:
                continue
            for position in range(length) if patch.positions is None else patch.positions:
                if patch.heads is None:
                    keep[row, position] = True
                for head in patch.heads or ():
                    keep[row, position, head * columns : (head + 1) * columns] = True
    return lambda value: torch.where(keep, clean, value)
