"""Several patches at once, in one forward pass.

    patch = Patch("text_encoder", "cross_attention", layer=2, heads=(5,))
    print(intervene(model, pairs.iloc[0], [patch], corruption="image"))

A sweep patches every site separately; here all patches act together, each on what the patches of lower layers have
changed. Shapes: I interventions, S positions of a block, D its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, WholeRuns, encode_pair, run_pairs
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.models import VLM, Readout, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import WholeAnswer
from vlmtrace.models.vlm import repeat_inputs


class Patch(NamedTuple):
    """What is copied from the clean into the corrupt run.

    Attributes:
        block: e.g. "text_encoder"
        module: e.g. "cross_attention"
        layer: counted from 0
        positions: indices in the block's sequence, counted from 0; `patch_together` and `ablate` also take names (token
            roles, "options", regions of the image); None: all
        heads: of the module, counted from 0; None: the whole activation
    """

    block: str
    module: str
    layer: int
    positions: tuple[int | str, ...] | None = None
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """Name the patch, e.g. "text_encoder cross_attention 2.5 at 4" (layer 2, head 5, position 4)."""
        heads = "" if self.heads is None else "." + "+".join(map(str, self.heads))
        positions = "all positions" if self.positions is None else ", ".join(map(str, self.positions))
        return f"{self.block} {self.module} {self.layer}{heads} at {positions}"

    @property
    def site(self) -> Site:
        """Block, module and layer alone."""
        return Site(self.block, self.module, self.layer)

    @property
    def indices(self) -> tuple[int, ...] | None:
        """The positions, which must be indices here.

        Raises:
            VlmtraceError: one is a name
        """
        if self.positions is None:
            return None
        found = tuple(position for position in self.positions if not isinstance(position, str))
        if len(found) < len(self.positions):
            raise VlmtraceError(f"{self} names its positions: give indices, or use patch_together or ablate.")
        return found


@dataclass(frozen=True)
class Outcome:
    """What an intervention did to the first answer token.

    Attributes:
        logits: by run ("clean", "corrupt", "patched"), (vocabulary,) float32
        readouts: by run, the logits and probabilities of the two options
        tokens: from ids to the vocabulary's entries
        direction: "denoising": the corrupt run is patched; "noising": the clean run is, from the corrupt one
    """

    logits: dict[str, Tensor]
    readouts: dict[str, Readout]
    tokens: Callable[[Sequence[int]], list[str]]
    direction: str = "denoising"

    @property
    def patching_effect(self) -> float:
        """Share of the gap between both runs that the patches close; NaN where clean and corrupt do not differ.

        Denoising: (LD_patched − LD_corrupt) / (LD_clean − LD_corrupt). Noising: (LD_patched − LD_clean) / (LD_corrupt −
        LD_clean), 1 where as much is lost as the corruption takes.
        """
        source, patched = ("clean", "corrupt") if self.direction == "denoising" else ("corrupt", "clean")
        return float(patching_effect(*(self.logit_diff(run) for run in ("patched", source, patched))))

    def logit_diff(self, run: str = "patched") -> float:
        """LD = logit(correct) − logit(incorrect) of a run.

        Args:
            run: "clean", "corrupt" or "patched"

        Returns:
            logits

        Raises:
            VlmtraceError: there is no such run
        """
        return float(self.readouts[one_of(run, self.readouts, "run")].logit_diff)

    def answer(self, run: str = "patched") -> str:
        """The most probable first answer token of a run.

        Args:
            run: "clean", "corrupt" or "patched"

        Returns:
            the vocabulary's entry

        Raises:
            VlmtraceError: there is no such run
        """
        return self.tokens([int(self.logits[one_of(run, self.logits, "run")].argmax())])[0]

    def table(self, n: int = 5) -> pd.DataFrame:
        """List the tokens that are among the n most probable of any run.

        Args:
            n: tokens per run

        Returns:
            columns token_id, token, and clean, corrupt, patched: the probability in each run (0 to 1); one row per
            token, the largest probability of any run first
        """
        shares = {run: logits.softmax(-1) for run, logits in self.logits.items()}
        first = {token for share in shares.values() for token in share.topk(min(n, len(share))).indices.tolist()}
        ids = sorted(first, key=lambda token: -max(float(share[token]) for share in shares.values()))
        columns = {run: [float(share[token]) for token in ids] for run, share in shares.items()}
        return pd.DataFrame({"token_id": ids, "token": self.tokens(ids), **columns})

    def __str__(self) -> str:
        """First answer token and LD of each run, and the patching effect."""
        said = ", ".join(f"{run} {self.answer(run)!r}" for run in self.logits)
        differences = ", ".join(f"{run} {self.logit_diff(run):.2f}" for run in self.logits)
        return f"first answer token: {said}; LD: {differences}; patching effect {self.patching_effect:.3f}"


@checked
def intervene(
    model: VLM,
    pair: Mapping[str, Any] | pd.Series,
    patches: Iterable[Patch],
    corruption: str = "image",
    direction: str = "denoising",
) -> Outcome:
    """Run one pair's corrupt input with all patches in place.

    Args:
        model: the model to patch
        pair: a row of a pairs table
        patches: what is copied from the clean run; none leaves the corrupt run as it is
        corruption: "image" or "text"
        direction: "denoising"; or "noising": the clean run is patched, from the corrupt one

    Returns:
        what the patches did to the first answer token

    Raises:
        VlmtraceError: a patch names what the model does not have, the pair's runs cannot be aligned, or there is no
            such direction

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.patching import Patch, intervene
        >>> model = vt.load_model("tiny-blip")
        >>> pair = vt.load_pairs("rendered_states", n=1).iloc[0]
        >>> patches = [Patch("text_encoder", "cross_attention", layer) for layer in range(4)]
        >>> outcome = intervene(model, pair, patches)
        >>> outcome.answer("clean"), outcome.answer("corrupt"), outcome.answer("patched")
        ('yellow', 'red', 'yellow')
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    frame = pd.DataFrame([dict(pair)])
    runs = run_pairs(model, frame, [encode_pair(model, frame, 0, corruption)], corruption)
    return intervene_in(model, runs, patches, direction)


def intervene_in(model: VLM, runs: PairRuns, patches: Iterable[Patch], direction: str = "denoising") -> Outcome:
    """Do the same as `intervene`, with the runs of a pair that have been computed.

    Args:
        model: the model to patch
        runs: of one pair (batch 1)
        patches: what is copied
        direction: "denoising": from the clean into the corrupt run; "noising": from the corrupt into the clean run

    Returns:
        what the patches did to the first answer token

    Raises:
        VlmtraceError: a patch names what the model does not have, or there is no such direction
    """
    chosen, directed = list(patches), in_direction(runs, direction)
    logits = {
        "clean": runs.clean.logits,
        "corrupt": runs.corrupt.logits,
        "patched": patched_logits(model, directed, [chosen]),
    }
    if runs.whole is None:
        patched = Readout.of(logits["patched"], runs.answer_ids)
    else:
        patched = patched_readout(model, directed, [chosen])
    readouts = {"clean": runs.clean_readout, "corrupt": runs.corrupt_readout, "patched": patched}
    return Outcome(
        {run: value[0].cpu() for run, value in logits.items()},
        readouts,
        model.tokenizer.convert_ids_to_tokens,
        direction,
    )


def patched_readout(
    model: VLM, runs: PairRuns, interventions: Sequence[Sequence[Patch]], batch_size: int = 32
) -> Readout:
    """Both answers' readout under each of several interventions.

    Args:
        model: the model to patch
        runs: of one pair (batch 1)
        interventions: each a list of patches that act together
        batch_size: at most so many interventions in one forward pass

    Returns:
        readout of shape (intervention,)

    Raises:
        VlmtraceError: a patch names what the model does not have
    """
    if runs.whole is None:
        logits = patched_logits(model, runs, interventions, batch_size)
        return Readout.of(logits, runs.answer_ids.expand(len(logits), -1))
    both = []
    for side in runs.whole:
        last = _patched(model, runs, side, interventions, batch_size, side.ids.n_positions)
        both.append(Readout.of_last(last, WholeAnswer(side.ids.ids.expand(len(last), -1))))
    return Readout.of_two(*both)


@torch.no_grad()
def patched_logits(
    model: VLM, runs: PairRuns, interventions: Sequence[Sequence[Patch]], batch_size: int = 32
) -> Tensor:
    """Logits of the first answer token under each of several interventions, computed in batches.

    Args:
        model: the model to patch
        runs: of one pair (batch 1)
        interventions: each a list of patches that act together
        batch_size: at most so many interventions in one forward pass

    Returns:
        (intervention, vocabulary), float32

    Raises:
        VlmtraceError: a patch names what the model does not have
    """
    return _patched(model, runs, runs, interventions, batch_size, 1)[:, 0]


@torch.no_grad()
def _patched(
    model: VLM,
    runs: PairRuns,
    side: PairRuns | WholeRuns,
    interventions: Sequence[Sequence[Patch]],
    batch_size: int,
    n: int,
) -> Tensor:
    """Logits (intervention, n, vocabulary) of the last n positions of a pair's corrupt run, patched."""
    every = [patch for patches in interventions for patch in patches]
    for patch in every:
        check_patch(model, runs, patch)
    # What no patch reaches is computed once.
    fixed = "vision_encoder" in model.blocks and not any(patch.block == "vision_encoder" for patch in every)
    embeddings = model.image_embeddings(side.inputs) if fixed else None
    logits = []
    for start in range(0, len(interventions), batch_size):
        batch = interventions[start : start + batch_size]
        size = len(batch)
        inputs = repeat_inputs(side.inputs, size)
        image = None if embeddings is None else embeddings.expand(size, *embeddings.shape[1:])
        sites = dict.fromkeys(patch.site for patches in batch for patch in patches)
        points = [
            (model.hook_point(site), _copy_clean(model, side.clean[site], runs.clean[site].shape[1], site, batch))
            for site in sites
        ]
        with attach_hooks(points, n_pairs=size):
            logits.append(model.last_logits(inputs, n, image))  # (batch of interventions, n, vocabulary)
    return torch.cat(logits)


def check_patch(model: VLM, runs: PairRuns, patch: Patch) -> Patch:
    """Check that everything a patch names exists.

    Args:
        model: the model to patch
        runs: of one pair, whose sequences have the positions
        patch: to check

    Returns:
        the patch

    Raises:
        VlmtraceError: the site, a position or a head does not exist
    """
    site = model.check_site(patch.site)
    block = model.blocks[site.block]
    length = runs.corrupt[site].shape[1]
    if patch.heads is not None and site.module not in block.modules_with_heads:
        offered = " or ".join(block.modules_with_heads) or "all of it"
        raise VlmtraceError(f"{site.module} of {block.name} has no heads: choose {offered}.")
    for kind, chosen, count in (("position", patch.indices, length), ("head", patch.heads, block.heads_at(site.layer))):
        wrong = [index for index in chosen or () if not 0 <= index < count]
        if wrong:
            place = f"layer {site.layer} of {block.name}" if kind == "head" and block.heads else block.name
            raise VlmtraceError(f"There is no {kind} {wrong[0]} in {place}: choose among 0 to {count - 1}.")
    return patch


def _copy_clean(
    model: VLM, clean: Tensor, of_prompt: int, site: Site, batch: Sequence[Sequence[Patch]]
) -> Callable[[Tensor], Tensor]:
    """A hook of a site: what it computes, with what is patched in each row of a batch as in the clean run.

    Args:
        model: that is patched
        clean: (1, S, D), the activation of the clean run
        of_prompt: positions of the prompt, the first of S: behind them an answer may be given, which is never patched
        site: where
        batch: interventions
    """
    length, width = clean.shape[1:]
    columns = width // max(1, model.blocks[site.block].heads_at(site.layer))  # of a head; none is meant without heads
    keep = torch.zeros(len(batch), length, width, dtype=torch.bool, device=clean.device)  # (I, S, D)
    for row, patches in enumerate(batch):
        for patch in patches:
            if patch.site != site:
                continue
            for position in range(of_prompt) if (at := patch.indices) is None else at:
                if patch.heads is None:
                    keep[row, position] = True
                for head in patch.heads or ():
                    keep[row, position, head * columns : (head + 1) * columns] = True
    return lambda value: torch.where(keep, clean, value)
