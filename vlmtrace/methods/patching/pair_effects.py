"""Effects of patches in one example, as its view shows them: position by position, head by head, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from vlmtrace.core.errors import NotForThisModel
from vlmtrace.display.example import Example
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.patching.costs import ModelSizes, sizes_of_run
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.extent import can_wait
from vlmtrace.methods.patching.first_order import first_order, site_gradients
from vlmtrace.methods.patching.intervention import Patch
from vlmtrace.methods.patching.joint_runs import together_readout
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.plans import module_plan, site_patches
from vlmtrace.methods.patching.run_sweep import default_memory, sweep_patches
from vlmtrace.methods.patching.waterfall import DRAWS, waterfall_in
from vlmtrace.models import Patches, Site

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
            one row per layer and position: layer, position, token, token_role, patching_effect, is_estimate (of a patch
            at an image token, where too many of them would have all that follows run again: see `first_order`)
        """
        block, module = place

        def compute() -> pd.DataFrame:
            model, tokens = self.example.model, self.example.tokens(block)
            sites = module_plan(model, [module], [block])[block]
            table = pd.concat([tokens] * len(sites), ignore_index=True)
            table["layer"] = np.repeat([layer for _, layer, _ in sites], len(tokens))
            estimated = np.zeros(len(table), dtype=bool)
            if not can_wait(model, self._sizes(), block, len(tokens), len(tokens) // 2):
                estimated = shows_image(table["token_role"]).to_numpy()
            table["patching_effect"] = np.nan
            for part, effects in ((~estimated, self._swept), (estimated, self._estimated)):
                if part.any():
                    positions = tokens["position"].to_numpy()[part[: len(tokens)]]
                    patches = site_patches(block, sites, positions, 1, model.device)
                    table.loc[part, "patching_effect"] = effects(patches)
            return table.assign(is_estimate=estimated)

        return self.example.keep(("effects", self.corruption, self.direction, place), compute)

    def by_head(self, place: tuple[str, str], positions: Sequence[int]) -> pd.DataFrame | None:
        """Effects of patching single heads, each at all given positions together.

        Args:
            place: (block, module)
            positions: of the block's sequence; none: all

        Returns:
            one row per head: layer, head, patching_effect, is_estimate (where these positions would have too much run
            again: the sum of what `first_order` gives at them); None where the module has no heads
        """
        block, module = place
        known = self.example.model.blocks[block]
        if module not in known.head_modules:
            return None

        def compute() -> pd.DataFrame:
            places, where = known.every_head, tuple(positions) or None
            table = pd.DataFrame(places, columns=["layer", "head"])
            model, tokens = self.example.model, self.example.tokens(block)["position"].to_numpy()
            rows = len(tokens) - min(positions, default=0)
            if can_wait(model, self._sizes(), block, known.n_heads, rows, whole=len(positions) != 1):
                single = [[Patch(block, module, layer, where, (head,))] for layer, head in places]
                readout = together_readout(model, self.runs, single)
                return table.assign(patching_effect=self._effect(readout.logit_diff), is_estimate=False)
            sites: list[tuple[str, int, int | None]] = [(module, layer, head) for layer, head in places]
            patches = site_patches(block, sites, np.array(positions or tokens), 1, model.device)
            effect = self._estimated(patches).reshape(len(places), -1).sum(-1)
            return table.assign(patching_effect=effect, is_estimate=True)

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

    def _sizes(self) -> ModelSizes | None:
        """What the cost of patches follows from; None: it is not counted."""

        def compute() -> ModelSizes | None:
            try:
                return sizes_of_run(self.example.model, self.runs.clean)
            except NotForThisModel:
                return None

        return self.example.keep("sizes", compute)

    def _swept(self, patches: Patches) -> np.ndarray:
        """Exact effects."""
        model = self.example.model
        return self._effect(sweep_patches(model, self.runs, patches, default_memory(model)).logit_diff)

    def _estimated(self, patches: Patches) -> np.ndarray:
        """Effects to first order."""
        model, runs = self.example.model, self.runs
        sites = dict.fromkeys(
            Site(patches.block, module, layer) for module, layer in zip(patches.modules, patches.layers, strict=True)
        )
        change = first_order(model, runs, site_gradients(model, runs, list(sites)), patches)[0]
        return self._effect(torch.as_tensor(change) + runs.corrupt_readout.logit_diff.cpu())

    def _effect(self, logit_diff: torch.Tensor) -> np.ndarray:
        clean, corrupt = (float(side.logit_diff) for side in (self.runs.clean_readout, self.runs.corrupt_readout))
        return patching_effect(logit_diff.flatten().cpu().numpy(), clean, corrupt)
