"""Effects of patches in one example, as its view shows them: position by position, head by head, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlmtrace.display.example import Example
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.intervention import Patch, patched_readout
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.plans import module_plan, site_patches
from vlmtrace.methods.patching.run_sweep import default_memory, sweep_patches
from vlmtrace.methods.patching.waterfall import DRAWS, waterfall_in
from vlmtrace.models import Readout

#: Seed of the random patches that chosen ones are compared with.
SEED = 0


class PairEffects:
    """Effects of patches in one example, each computed once.

    Attributes:
        example: whose runs are patched
        corruption: the corrupt run
        direction: "denoising" or "noising"
    """

    def __init__(self, example: Example, corruption: str, direction: str):
        """Compute nothing yet.

        Args:
            example: with such a corrupt run
            corruption: "image" or "text"
            direction: "denoising" or "noising"
        """
        self.example, self.corruption, self.direction = example, corruption, direction

    @property
    def runs(self) -> PairRuns:
        """The example's runs in the direction: `clean` is copied from, `corrupt` is patched."""
        return in_direction(self.example.runs(self.corruption), self.direction)

    def by_position(self, place: tuple[str, str]) -> pd.DataFrame:
        """Effects of patching a whole module at one position.

        Args:
            place: (block, module)

        Returns:
            one row per layer and position: layer, position, token, token_role, patching_effect
        """
        block, module = place

        def compute() -> pd.DataFrame:
            model, runs = self.example.model, self.runs
            tokens = self.example.tokens(block)
            sites = module_plan(model, [module], [block])[block]
            patches = site_patches(block, sites, tokens["position"].to_numpy(), 1, model.device)
            swept = sweep_patches(model, runs, patches, default_memory(model))
            table = pd.concat([tokens] * len(sites), ignore_index=True)
            return table.assign(layer=patches.layers, patching_effect=self._effect(swept))

        return self.example.keep(("effects", self.corruption, self.direction, place), compute)

    def by_head(self, place: tuple[str, str], positions: Sequence[int]) -> pd.DataFrame | None:
        """Effects of patching single heads, each at all given positions together.

        Args:
            place: (block, module)
            positions: of the block's sequence; none: all

        Returns:
            one row per head: layer, head, patching_effect; None where the module has no heads
        """
        block, module = place
        known = self.example.model.blocks[block]
        if module not in known.head_modules:
            return None

        def compute() -> pd.DataFrame:
            places, where = known.every_head, tuple(positions) or None
            single = [[Patch(block, module, layer, where, (head,))] for layer, head in places]
            readout = patched_readout(self.example.model, self.runs, single)
            table = pd.DataFrame(places, columns=["layer", "head"])
            return table.assign(patching_effect=self._effect(readout))

        return self.example.keep(("head effects", self.corruption, self.direction, place, tuple(positions)), compute)

    def waterfall(self, patches: Sequence[Patch]) -> pd.DataFrame | None:
        """What each patch adds, against as many at random, see `patch_waterfall`.

        Args:
            patches: in their order

        Returns:
            one row per step; None where nothing is patched
        """
        if not patches:
            return None
        key, runs = ("waterfall", self.corruption, self.direction, tuple(patches)), self.example.runs(self.corruption)
        return self.example.keep(
            key, lambda: waterfall_in(self.example.model, runs, list(patches), self.direction, DRAWS, SEED)
        )

    def _effect(self, readout: Readout) -> np.ndarray:
        clean, corrupt = (float(side.logit_diff) for side in (self.runs.clean_readout, self.runs.corrupt_readout))
        return patching_effect(readout.logit_diff.flatten().cpu().numpy(), clean, corrupt)
