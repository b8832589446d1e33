"""A walk of all chains, of which those that stopped leave the batch: no step is spent on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves

from ebm.interfaces import Batch, Energy, EnergyFn, Sampler, interface_of, landscapes

LEAVING = 0.25  # the share of the chains under way that have to stop before the batch is cut


class Counted:
    """Counts how often an energy function is called; a call for a part of the chains counts less."""

    def __init__(self, energy: EnergyFn, share: float = 1) -> None:
        self.energy, self.share = energy, share
        self.calls: float = 0

    def count(self) -> None:
        """Counts a call, also one that goes past this object to what is behind it."""
        self.calls += self.share

    def __call__(self, y: Tensor) -> Tensor:
        self.count()
        return self.energy(y)


class Walk:
    """Iterates over (energies before a step, states after it) of all chains, landscape by landscape.

    Whoever walks may set `stopped` (*chains,) after each step. Chains that stopped are left where they
    are, and once enough have, the others go on in a smaller batch: where their contexts can be cut,
    they know nothing of each other, the sampler holds nothing of its own for each (step sizes, masks),
    steps draw no noise (which a smaller batch would change), and the last landscape is reached.

    Arguments:
        energy: what the functions bind.
        functions: the landscapes with their context bound.
        y: the start (*chains, *event), whose first `axes` axes are candidates and rows, or rows.
    """

    def __init__(
        self, energy: Any, sampler: Sampler, context: Any, functions: list[Counted], y: Tensor, axes: int, steps: int | None
    ) -> None:
        self.energy, self.sampler, self.context, self.y, self.axes, self.steps = energy, sampler, context, y, axes, steps
        self.counted = functions
        self.stopped: Tensor | None = None
        self.kept: Tensor | None = None  # who is under way, as places in the flattened first axes; None: all

    @property
    def passes(self) -> float:
        """Counts forward passes per chain, on average."""
        return sum(function.calls for function in self.counted)

    def steps_of(self, per_landscape: int, generator: Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Takes the steps."""
        visited = self.sampler.route([*self.counted])
        total, taken = per_landscape * len(visited), 0
        cuttable = visited[-1] is self.counted[-1] and self._cuttable()
        trajectory = self.sampler.trajectory(list(self.counted), self.y, steps=self.steps, generator=generator)
        energies, y, drawn = None, self.y, _draws(generator)
        while taken < total:
            for state, info in trajectory:
                taken += 1
                energies, y = self._whole(info.energy, energies), self._whole(state.y, y)
                yield energies, y
                if cuttable and taken < total and self._enough() and _has_chains(state, info.energy.shape):
                    if not torch.equal(drawn, _draws(generator)):
                        cuttable = False
                        continue
                    function, state = self._cut(state, info.energy.shape)
                    trajectory = self.sampler.trajectory(function, state, steps=total - taken, generator=generator)
                    break

    def _cuttable(self) -> bool:
        leaves = [leaf for leaf in tree_leaves(self.context) if isinstance(leaf, Tensor)]
        rows = self.y.shape[self.axes - 1]
        alike = all(leaf.ndim > 0 and len(leaf) == rows for leaf in leaves)
        held = (*self.sampler.parameters(), *self.sampler.buffers())
        shared = not any(part.ndim and part.shape[0] in self.y.shape[: self.axes] for part in held)
        return isinstance(interface_of(self.energy), Energy) and alike and shared and not self.sampler.interacting

    def _whole(self, values: Tensor, old: Tensor | None) -> Tensor:
        """Puts values of the chains under way into those of all."""
        if self.kept is None or old is None:
            return values
        return old.flatten(0, self.axes - 1).index_copy(0, self.kept, values).view(old.shape)

    def _going(self) -> Tensor:
        """Lists the places of the flattened first axes that have a chain under way."""
        assert self.stopped is not None
        stopped = self.stopped.flatten(0, self.axes - 1)
        return (~(stopped.flatten(1).all(1) if stopped.ndim > 1 else stopped)).nonzero().squeeze(1)

    def _enough(self) -> bool:
        if self.stopped is None:
            return False
        present = math.prod(self.stopped.shape[: self.axes]) if self.kept is None else len(self.kept)
        return 0 < len(self._going()) <= (1 - LEAVING) * present

    def _cut(self, state: Any, chains: torch.Size) -> tuple[Counted, Any]:
        """Cuts function and state down to the chains under way."""
        assert self.stopped is not None
        kept, rows = self._going(), self.stopped.shape[self.axes - 1]
        index, first = (kept, self.axes) if self.kept is None else (torch.searchsorted(self.kept, kept), 1)
        self.kept = kept
        context = Batch(None, self.context).rows(kept % rows).context
        function = Counted(landscapes(self.energy, context)[-1], len(kept) / math.prod(self.stopped.shape[: self.axes]))
        self.counted.append(function)
        return function, _take(state, chains, first, index)


def _draws(generator: Generator | None) -> Tensor:
    """Reads a generator's state, which tells whether steps draw noise."""
    return torch.get_rng_state() if generator is None else generator.get_state()


def _tensors(state: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


def _has_chains(state: Any, chains: torch.Size) -> bool:
    """Tells whether every field of a state has an entry for each chain, or is one number."""
    return all(leaf.ndim == 0 or leaf.shape[: len(chains)] == chains for leaf in _tensors(state))


def _take(state: Any, chains: torch.Size, axes: int, index: Tensor) -> Any:
    """Takes chains of every field of a state that has an entry for each."""
    if isinstance(state, Tensor):
        return state.flatten(0, axes - 1)[index] if state.ndim and state.shape[: len(chains)] == chains else state
    if isinstance(state, tuple):
        return type(state)(*(_take(field, chains, axes, index) for field in state))
    return state
