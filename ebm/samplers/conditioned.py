"""Conditioned: some coordinates of y stay still, and a sampler moves the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Sampler
from ebm.samplers.charted import Charted


class Moving(NamedTuple):
    """The coordinates z (*lead, m) of y that move, beside those that do not."""

    whole: Tensor
    places: Tensor  # (*mask's chains, m), into y's flattened event
    own: Tensor | None  # (*mask's chains, m): which of them a chain has; None: all
    event: int  # how many last axes of y the mask covers, chains aside

    def pack(self, y: Tensor) -> Tensor:
        flat = self._flat(y)
        z = flat.gather(-1, self._index(flat))
        return z if self.own is None else torch.where(self.own, z, 0.0)

    def unpack(self, z: Tensor) -> Tensor:
        flat = self._flat(self.whole)
        flat = flat.expand(*z.shape[:-1], flat.shape[-1])  # replicas are more leading axes of z
        index = self._index(flat)
        if self.own is not None:
            z = torch.where(self.own, z, flat.gather(-1, index))
        return flat.scatter(-1, index, z).reshape(*z.shape[:-1], *self.whole.shape[self.whole.ndim - self.event :])

    def energy(self, energy: EnergyFn) -> EnergyFn:
        return Held(energy, self)

    def _flat(self, y: Tensor) -> Tensor:
        return y.reshape(*y.shape[: y.ndim - self.event], -1)

    def _index(self, flat: Tensor) -> Tensor:
        return self.places.expand(*flat.shape[:-1], self.places.shape[-1])


class Held:
    """E of the coordinates that move, the others held."""

    def __init__(self, energy: EnergyFn, moving: Moving) -> None:
        self.energy, self.moving = energy, moving  # `modules_of` looks for `.energy`

    def __call__(self, z: Tensor) -> Tensor:
        value = self.energy(self.moving.unpack(z))
        if isinstance(value, Tensor) and value.ndim >= z.ndim:
            what = (
                f"the mask covers axes of y {tuple(self.moving.whole.shape)} that are chains of the energy {tuple(value.shape)}"
            )
            raise ValueError(f"{what}: say how many of the mask's leading axes are chains, as in Conditioned(…, chains=1)")
        return value


class Conditioned(Charted):
    """Moves some coordinates of y and holds the others: samples p(moving | still).

    The inner sampler sees z (*chains, m), the m coordinates that move, and nothing else: noise,
    momenta, norms and acceptance are those of the conditional distribution, exactly, for every
    sampler. Still coordinates stay the same bit for bit. A mass or a preconditioner is over m. For
    inpainting, and for what was observed.

    With `chains`, each chain has a mask of its own, as clouds of different numbers of atoms, padded
    to one size, need. m is then the largest count; chains that own fewer carry numbers without
    effect, which change neither energies nor the acceptance of `MALA` and `HMC`. A path of `NUTS`
    turns late where many are carried: prefer `HMC` there.

    Arguments:
        sampler: moves what is free; none whose retraction means an axis of y.
        still: truth values of the shape of y's last axes (*event): True stays still. With chains,
            (*chains, *event).
        chains: how many leading axes of `still` are chains.

    >>> from ebm.samplers import MALA
    >>> def energy(y):  # neighbours are alike
    ...     return 4 * y.diff(dim=-1).square().sum(-1)
    >>> y = torch.tensor([0.0, 9.0, 9.0, 9.0, 1.0]).repeat(500, 1)
    >>> g, still = torch.Generator().manual_seed(0), [True, False, False, False, True]
    >>> y = Conditioned(MALA(0.05, steps=200), still).sample(energy, y, generator=g)
    >>> bool((y.mean(0) - torch.linspace(0, 1, 5)).abs().max() < 0.1), y[0, -1].item()
    (True, 1.0)
    """

    index: Tensor
    own: Tensor | None

    def __init__(self, sampler: Sampler, still: Any, chains: int = 0) -> None:
        super().__init__(sampler)
        mask = torch.as_tensor(still)
        if mask.dtype != torch.bool or not 0 <= chains <= mask.ndim:
            what = f"still of shape {tuple(mask.shape)} in {mask.dtype}, chains={chains}"
            raise ValueError(f"{what}: pass truth values (*event), or (*chains, *event) and how many chain axes")
        if bool(mask.all()):
            raise ValueError(f"still of shape {tuple(mask.shape)} is True everywhere: nothing would move")
        self.chains, self.event, self.shape = chains, mask.ndim - chains, mask.shape
        flat = mask.reshape(*mask.shape[:chains], -1)
        count = (~flat).sum(-1, keepdim=True)
        most = int(count.max())
        ragged = bool((count < most).any())
        self.register_buffer("index", flat.to(torch.uint8).argsort(dim=-1, stable=True)[..., :most])
        self.register_buffer("own", torch.arange(most, device=mask.device) < count if ragged else None)
        if sampler.interacting and bool((self.index != self.index.reshape(-1, most)[0]).any()):
            raise ValueError(f"{type(sampler).__name__}'s chains act on each other: give all of them the same coordinates")

    def chart(self, y: Tensor) -> Moving:
        if y.shape[y.ndim - len(self.shape) :] != self.shape or y.ndim < len(self.shape):
            what = f"still of shape {tuple(self.shape)} for y of shape {tuple(y.shape)}"
            raise ValueError(f"{what}: pass a mask of y's last axes, expanded to their lengths")
        own = None if self.own is None else self.own.to(y.device)
        return Moving(y, self.index.to(y.device), own, self.event)

    def extra_repr(self) -> str:
        return f"still={tuple(self.shape)}, chains={self.chains}, moving={self.index.shape[-1]}"
