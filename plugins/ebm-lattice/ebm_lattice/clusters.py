"""Swendsen and Wang's cluster updates, for every energy of pairs: spins or values, couplings of any
sign, fields."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, energy_and_grad, savable
from ebm_lattice.states import States, check_lattice, check_words, read, table, write

__all__ = ["SwendsenWang", "SwendsenWangState"]


@savable
class SwendsenWangState(NamedTuple):
    """A configuration, and the landscape's couplings: pairs of sites (2, pairs), and couplings
    (*chains, pairs, q, q).

    For spins q is 1."""

    y: Tensor
    t: int
    pairs: Tensor
    couplings: Tensor


class SwendsenWang(Sampler):
    """Samples p ∝ exp(−E) of pairs on a lattice by flipping whole clusters, which also moves at the
    critical point.

        E(s) = −Σ_⟨ij⟩ Kᵢⱼ sᵢ sⱼ − Σᵢ Hᵢ sᵢ:    bond i–j closes with probability 1 − exp(−2 Kᵢⱼ sᵢ
        sⱼ) where that is positive, a bond from i to a ghost spin, which is held, likewise with Hᵢ;
        each cluster then flips with probability ½.

    Signs of K may be mixed. Sites of q values take the same step for pairs of values (a, b), at
    random: sites that are a or b are spins s, all others a part of the field H. One step goes once
    through pairs that have all q values in them (but one, where q is odd).

    Couplings are second derivatives of the energy, found once per landscape from as many gradients
    as y has entries; fields come from the gradient at y. One gradient per pair of values and step.

    Source: Swendsen and Wang, 1987; pairs of values: Wang, Swendsen and Kotecký, 1989.

    Arguments:
        states: how y is written: "spins" (−1 and 1), or "one-hot" (the last axis).
        steps: steps per landscape, or a pair (low, high) drawn in train mode.

    Raises:
        ValueError: y is not on the lattice, or the energy is no sum over sites and pairs of sites.

    >>> g = torch.Generator().manual_seed(0)
    >>> y = SwendsenWang(steps=20).sample(lambda y: -y.prod(-1), torch.ones(4000, 2), generator=g)
    >>> abs(y.prod(-1).mean().item() - 0.7616) < 0.05        # tanh 1
    True
    """

    differentiable = False
    stationary = True
    compensated = False  # spins are exact in any precision

    def __init__(self, states: States = "spins", steps: int | tuple[int, int] = 50) -> None:
        super().__init__()
        check_words(self, states)
        self.states, self.steps = states, steps

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> SwendsenWangState:
        check_lattice(self, y, self.states)
        return SwendsenWangState(y, 0, *self._couplings(energy, y))

    def enter(self, energy: EnergyFn, state: SwendsenWangState) -> SwendsenWangState:
        return SwendsenWangState(state.y, state.t, *self._couplings(energy, state.y))

    def step(
        self, energy: EnergyFn, state: SwendsenWangState, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[SwendsenWangState, Info]:
        if create_graph:
            raise ValueError("SwendsenWang flips clusters, and no gradient passes through that: leave create_graph=False")
        y = state.y
        value, grad = energy_and_grad(energy, y)
        info, chains = Info(value, grad), value.ndim
        index, costs = read(y, chains, self.states), table(y, grad, chains, self.states)
        shuffled = torch.rand(*value.shape, costs.shape[-1], generator=generator, device=y.device).argsort(-1)
        for number, (a, b) in enumerate(zip(shuffled[..., ::2].split(1, -1), shuffled[..., 1::2].split(1, -1), strict=False)):
            if number:
                costs = table(y, energy_and_grad(energy, y)[1], chains, self.states)
            spin = (index == a).to(y) - (index == b).to(y)  # 0: another value
            flipped = torch.where(index == a, b, a)
            coupling = _between(state.couplings, a, b)
            # Flipping s alone costs 2 s (Σ K s + H): what the pairs do not account for is the
            # field.
            neighbours = torch.zeros_like(spin)
            for here, there in (state.pairs, state.pairs.flip(0)):
                neighbours = neighbours.index_add(-1, here, coupling * spin[..., there])
            field = spin * costs.gather(-1, flipped[..., None]).squeeze(-1) / 2 - neighbours * spin.abs()
            index = torch.where(_flips(spin, state.pairs, coupling, field, generator) & (spin != 0), flipped, index)
            y = write(index, y, self.states)
        return state._replace(y=y, t=state.t + 1), info

    def _couplings(self, energy: EnergyFn, y: Tensor) -> tuple[Tensor, Tensor]:
        """Finds pairs i < j and their −∂²E/∂yᵢ∂yⱼ, as differences between the gradients at zero and
        at unit vectors."""
        value, grad = energy_and_grad(energy, y)
        values = 1 if self.states == "spins" else y.shape[-1]
        flat = y.reshape(*value.shape, -1, values)
        sites, zero = flat.shape[-2], energy_and_grad(energy, torch.zeros_like(y))[1].reshape(flat.shape)
        rest = grad.reshape(flat.shape) - zero  # what the pairs have to account for
        tolerance = torch.finfo(y.dtype).eps ** 0.5 * (1 + float(grad.abs().max()))
        pairs, couplings = [], []
        for site in range(sites):
            second = []
            for number in range(values):
                unit = torch.zeros_like(flat)
                unit[..., site, number] = 1
                second.append(energy_and_grad(energy, unit.reshape(y.shape))[1].reshape(flat.shape) - zero)
                rest = rest - second[-1] * flat[..., site, number, None, None]
            both = torch.stack(second, -2)  # (*chains, sites, value here, value there)
            size = both.abs().amax((*range(value.ndim), -2, -1))
            if bool(size[site] > tolerance):
                raise ValueError(f"SwendsenWang: {NO_PAIRS} (second derivative {float(size[site]):.3g} at site {site})")
            there = (size > tolerance**2).nonzero().flatten()
            there = there[there > site]
            pairs.append(torch.stack([torch.full_like(there, site), there]))
            couplings.append(-both[..., there, :, :])
        if bool(rest.abs().max() > tolerance * sites):
            raise ValueError(f"SwendsenWang: {NO_PAIRS} (pairs leave {float(rest.abs().max()):.3g} of its gradient)")
        return torch.cat(pairs, -1), torch.cat(couplings, -3)

    def extra_repr(self) -> str:
        return f"states={self.states!r}, steps={self.steps}"


NO_PAIRS = "the energy is no sum over sites and pairs of sites, and clusters are for those alone: Gibbs takes any energy"


def _between(couplings: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Computes the coupling K (*chains, pairs) of spins that are a or b (*chains, 1) from those of
    all values."""
    values = couplings.shape[-1]
    if values == 1:
        return couplings[..., 0, 0]
    flat = couplings.flatten(-2)
    aa, bb, ab, ba = (
        flat.gather(-1, (x * values + y)[..., None].expand(*flat.shape[:-1], 1))[..., 0]
        for x, y in ((a, a), (b, b), (a, b), (b, a))
    )
    return (aa + bb - ab - ba) / 4


def _flips(spin: Tensor, pairs: Tensor, coupling: Tensor, field: Tensor, generator: torch.Generator | None) -> Tensor:
    """Closes bonds, and tells which spins (*chains, sites) are in a cluster that flips."""
    sites, bonds = spin.shape[-1], pairs.shape[-1]
    # As many draws as can be needed, so that no chain's draws depend on another's clusters.
    draws = torch.rand(*spin.shape[:-1], bonds + 2 * sites + 1, generator=generator, dtype=spin.dtype, device=spin.device)
    ghost = torch.tensor([range(sites), [sites] * sites], device=spin.device)
    strength = torch.cat([coupling * spin[..., pairs[0]] * spin[..., pairs[1]], field * spin], -1)
    closed = (draws[..., : bonds + sites] < -torch.expm1(-2 * strength)).reshape(-1, bonds + sites)
    chain, bond = closed.nonzero().unbind(-1)
    ends = (torch.cat([pairs, ghost], -1)[:, bond] + chain * (sites + 1)).cpu().numpy()
    nodes = len(closed) * (sites + 1)
    _, labels = connected_components(coo_matrix((np.ones(ends.shape[1], bool), (ends[0], ends[1])), (nodes, nodes)), False)
    _, roots = np.unique(labels, return_index=True)
    coins = draws[..., bonds + sites :].reshape(-1)[torch.as_tensor(roots[labels], device=spin.device)] < 0.5
    coins = coins.reshape(*spin.shape[:-1], sites + 1)
    return coins[..., :-1] ^ coins[..., -1:]
