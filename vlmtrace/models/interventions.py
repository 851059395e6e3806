"""Interventions of which each sets several sites at once, or takes keys away from queries: for the fast paths.

Shapes: P pairs of a batch, I interventions, n of them at a site, S positions of a block, H heads, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.types import Block, Patches, Site, Trace

#: The order in which a layer comes to its modules.
MODULES = ("self_attention", "cross_attention", "mlp", "residual")


@dataclass(frozen=True)
class Setting:
    """What some interventions do at one site.

    Attributes:
        states: their numbers, ascending
        mask: bool. Of what is overwritten (P or 1, n, S or 1, H or 1): positions and heads, 1: all of them; of what is
            blocked (P or 1, n, Q, K): which queries do not see which keys
    """

    states: list[int]
    mask: Tensor

    def renumbered(self, places: Mapping[int, int]) -> Setting | None:
        """The same of some interventions under new numbers; None: none of them does anything here."""
        kept = sorted((places[state], i) for i, state in enumerate(self.states) if state in places)
        if not kept:
            return None
        return Setting([place for place, _ in kept], self.mask[:, [i for _, i in kept]])

    def among(self, n_states: int) -> Setting | None:
        """The same of the interventions with numbers below `n_states`."""
        return self.renumbered({state: state for state in self.states if state < n_states})

    def from_position(self, first: int) -> Setting:
        """The same of positions from `first` on."""
        return self if self.mask.shape[2] == 1 else Setting(self.states, self.mask[:, :, first:])

    @property
    def whole(self) -> list[int]:
        """The interventions that set the whole activation, of all positions and heads."""
        every = self.mask.flatten(2).all(-1).all(0).tolist()
        return [state for state, whole in zip(self.states, every, strict=True) if whole]

    def over(self, value: Tensor, source: Tensor) -> Tensor:
        """An activation (P, states, S, D) with what is set here taken from the source (P, S, D)."""
        mask = self.mask.to(value.device)
        if mask.shape[-1] > 1:
            mask = mask.repeat_interleave(value.shape[-1] // mask.shape[-1], dim=-1)
        if len(self.states) == value.shape[1]:
            return torch.where(mask, source[:, None], value)
        value = value.clone()
        value[:, self.states] = torch.where(mask, source[:, None], value[:, self.states])
        return value


@dataclass(frozen=True)
class Interventions:
    """Several interventions in the same runs, each of which acts at all of its sites at once.

    Attributes:
        n: how many
        overwritten: by site, what is copied from another run
        blocked: by site of an attention module, which keys are hidden from which queries
    """

    n: int
    overwritten: dict[Site, Setting] = field(default_factory=dict)
    blocked: dict[Site, Setting] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of interventions."""
        return self.n

    @property
    def layers(self) -> list[int]:
        """By what chunks of them are sorted: as they are."""
        return list(range(self.n))

    @property
    def blocks(self) -> set[str]:
        """The blocks in which something is done."""
        return {site.block for site in (*self.overwritten, *self.blocked)}

    def subset(self, chosen: Sequence[int]) -> Interventions:
        """Some of them, in this order."""
        places = {state: place for place, state in enumerate(chosen)}

        def kept(settings: dict[Site, Setting]) -> dict[Site, Setting]:
            found = {site: setting.renumbered(places) for site, setting in settings.items()}
            return {site: setting for site, setting in found.items() if setting is not None}

        return Interventions(len(chosen), kept(self.overwritten), kept(self.blocked))

    def acting(self, source: Trace, base: Trace, order: Sequence[str]) -> Interventions:
        """The same without what changes nothing: overwriting what nothing has changed yet by what it is anyway.

        Args:
            source: trace of the runs that are copied from
            base: trace of the runs in which the interventions act
            order: the blocks, in the order in which information flows
        """
        sites = dict.fromkeys((*self.overwritten, *self.blocked))
        touched = [False] * self.n
        overwritten: dict[Site, Setting] = {}
        blocked: dict[Site, Setting] = {}
        for site in sorted(sites, key=lambda one: (order.index(one.block), one.layer, MODULES.index(one.module))):
            for kind, kept in ((self.overwritten, overwritten), (self.blocked, blocked)):
                setting = kind.get(site)
                if setting is None:
                    continue
                effect = setting.mask
                if kind is self.overwritten:
                    effect = effect & _differs(site, source, base)
                acts = effect.flatten(2).any(-1).any(0).tolist()
                for state, does in zip(setting.states, acts, strict=True):
                    touched[state] |= does
                left = [i for i, state in enumerate(setting.states) if touched[state]]
                if left:
                    kept[site] = Setting([setting.states[i] for i in left], setting.mask[:, left])
        return Interventions(self.n, overwritten, blocked)

    @property
    def idle(self) -> list[int]:
        """The interventions that do nothing anywhere."""
        busy = {state for kind in (self.overwritten, self.blocked) for one in kind.values() for state in one.states}
        return [state for state in range(self.n) if state not in busy]

    def lengthened(self, trace: Trace) -> Interventions:
        """The same in runs whose sequences go on with an answer, at whose positions nothing is done.

        Args:
            trace: of the longer runs
        """

        def longer(site: Site, setting: Setting) -> Setting:
            more = trace[site].shape[1] - setting.mask.shape[2]
            return Setting(setting.states, F.pad(setting.mask, (0, 0, 0, more)))

        def longer_square(site: Site, setting: Setting) -> Setting:
            more = trace[site].shape[1] - setting.mask.shape[2]
            keys = more if site.module == "self_attention" else 0
            return Setting(setting.states, F.pad(setting.mask, (0, keys, 0, more)))

        return Interventions(
            self.n,
            {site: longer(site, setting) for site, setting in self.overwritten.items()},
            {site: longer_square(site, setting) for site, setting in self.blocked.items()},
        )

    def starts(self, block: str) -> list[tuple[int, int] | None]:
        """Where each one first acts in a block, as layer and place in `MODULES`; None: nowhere."""
        starts: list[tuple[int, int] | None] = [None] * self.n
        for settings in (self.overwritten, self.blocked):
            for site, setting in settings.items():
                key = (site.layer, MODULES.index(site.module))
                for state in setting.states if site.block == block else ():
                    before = starts[state]
                    starts[state] = key if before is None else min(before, key)
        return starts


def _differs(site: Site, source: Trace, base: Trace) -> Tensor:
    """At which positions (P, 1, S, 1) an activation differs between two runs."""
    # Layers of one model may lie on several devices; masks lie where the logits are.
    return (source[site] != base[site]).any(-1)[:, None, :, None].to(base.logits.device)


def changed_positions(given: Interventions, source: Trace, base: Trace, block: str, length: int) -> Tensor:
    """Positions (P, I, S) at which interventions overwrite something by something else, or block something.

    Args:
        given: the interventions
        source: trace of the runs that are copied from
        base: trace of the runs in which the interventions act
        block: whose positions
        length: of the block
    """
    device = base.logits.device
    found = torch.zeros(len(base.logits), given.n, length, dtype=torch.bool, device=device)
    for site, setting in given.overwritten.items():
        if site.block == block:
            found[:, setting.states] |= (setting.mask & _differs(site, source, base)).any(-1)
    for site, setting in given.blocked.items():
        if site.block == block:
            found[:, setting.states] |= setting.mask.any(-1)
    return found


def from_patches(patches: Patches, block: Block) -> Interventions:
    """Patches of a sweep, one intervention each.

    Args:
        patches: with masks of the positions that each sets
        block: in which they are

    Returns:
        the same as interventions
    """
    assert patches.position_masks is not None
    by_site: dict[Site, list[int]] = {}
    for i in range(len(patches)):
        for layer in patches.window(i):
            if not block.has(patches.modules[i], layer):
                continue  # of a window of layers some may lack the module
            by_site.setdefault(Site(patches.block, patches.modules[i], layer), []).append(i)
    overwritten = {}
    for site, chosen in by_site.items():
        mask = patches.position_masks[:, chosen, :, None]  # (P, n, S, 1)
        heads = [patches.heads[i] for i in chosen]
        if any(head is not None for head in heads):
            n_heads = block.heads_at(site.layer)
            own = torch.tensor([[head is None or head == one for one in range(n_heads)] for head in heads])  # (n, H)
            mask = mask & own.to(mask.device)[None, :, None]
        overwritten[site] = Setting(chosen, mask)
    return Interventions(len(patches), overwritten)
