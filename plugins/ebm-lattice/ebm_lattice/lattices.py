"""Ising and Potts models on a rectangular lattice, with log Z and exact samples from their transfer
matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm.energies import Unconditional
from ebm_lattice.states import States, write

__all__ = ["Ising", "Potts"]

LAYER = 1024  # values of a layer, up to which a transfer matrix is made: ten spins


class Lattice(Unconditional):
    """Scores lattices by E(y) = −J Σ_⟨ij⟩ yᵢ·yⱼ − Σᵢ hᵢ·yᵢ, the first sum over pairs of nearest
    neighbours.

    The transfer matrix goes through the lattice layer by layer along its first axis: Z = tr Πᵣ Dᵣ
    Tᵣ, with Dᵣ the weights of a layer's values and Tᵣ those of the bonds to the next layer (all 1
    where there are none).

    Attributes:
        log_z: log of the sum of exp(−E(y)) over all configurations y, (); differentiable.
        mean: E[y], (*event).
    """

    coupling: Tensor
    field: Tensor

    def __init__(
        self, shape: Sequence[int], values: int | None, coupling: float | Tensor, field: float | Sequence | Tensor, periodic: bool
    ) -> None:
        super().__init__()
        self.shape, self.values, self.periodic = tuple(shape), 2 if values is None else values, periodic
        self.states: States = "spins" if values is None else "one-hot"
        self.event = self.shape if values is None else (*self.shape, values)
        if not self.shape or min(self.shape) < (3 if periodic else 1) or self.values < 2:
            raise ValueError(
                f"{type(self).__name__}(shape={self.shape}, periodic={periodic}, {self.values} values): pass two values or more, "
                f"and axes of at least one site, or three where they are periodic (two would be neighbours twice)"
            )
        for name, value in (("coupling", coupling), ("field", field)):
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                dtype = value.dtype if isinstance(value, Tensor) else torch.get_default_dtype()
                self.register_buffer(name, torch.as_tensor(value, dtype=dtype).detach().clone())
            held, room = getattr(self, name), self.event if name == "field" else ()
            fits = held.ndim <= len(room) and all(a in (1, b) for a, b in zip(held.shape[::-1], room[::-1], strict=False))
            if not fits or not bool(torch.isfinite(held).all()):
                raise ValueError(
                    f"{type(self).__name__}: {name} has shape {tuple(held.shape)}: pass finite numbers, one coupling, and a "
                    f"field that broadcasts to {self.event}"
                )

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        chains = y.ndim - len(self.event)
        if chains < 0 or y.shape[chains:] != self.event:
            raise ValueError(f"y has shape {tuple(y.shape)}, but this {type(self).__name__} scores (*chains, *{self.event})")
        bonds = self._bonds(y, chains, range(chains, chains + len(self.shape)))
        return -self.coupling.to(y) * bonds - _total(self.field.to(y) * y, chains)

    def _bonds(self, y: Tensor, chains: int, axes: range) -> Tensor:
        """Sums yᵢ·yⱼ over neighbours along some axes."""
        bonds = y.new_zeros(y.shape[:chains])
        for axis in axes:
            length = y.shape[axis] - 1
            near = y if self.periodic else y.narrow(axis, 0, length)
            bonds = bonds + _total(near * (y.roll(-1, axis) if self.periodic else y.narrow(axis, 1, length)), chains)
        return bonds

    @property
    def log_z(self) -> Tensor:
        return self._log_z(self.field)

    @property
    def mean(self) -> Tensor:
        with torch.enable_grad():  # the derivative of log Z by the field
            field = self.field.detach().expand(self.event).clone().requires_grad_()
            return torch.autograd.grad(self._log_z(field), field)[0]

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws n independent samples (n, *event) exactly: the first layer, and each other one
        given that and its neighbour.

        Raises:
            ValueError: for a layer of more than ten spins or so.
        """
        values, between, suffixes, _ = self._transfer(self.field)
        first = suffixes[0].diagonal().multinomial(n, replacement=True, generator=generator)
        layers = [first]
        for suffix in suffixes[1:]:
            layers.append((between[layers[-1]] * suffix[:, first].mT).multinomial(1, generator=generator).squeeze(-1))
        return torch.stack([values[layer] for layer in layers], 1)

    def _log_z(self, field: Tensor) -> Tensor:
        _, _, suffixes, log_factor = self._transfer(field)
        return suffixes[0].diagonal().sum().log() + log_factor

    def _transfer(self, field: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Computes a layer's values (S, *layer), T (S, S), Πᵣ₌ₖ Dᵣ Tᵣ for each k, and the log of
        what the first lacks."""
        sites = math.prod(self.shape[1:])
        if self.values**sites > LAYER:
            raise ValueError(
                f"{type(self).__name__}{self.shape} has layers of {self.values}^{sites} values, and is exact up to {LAYER}: "
                f"put the longest axis first, or take a smaller lattice"
            )
        digits = self.values ** torch.arange(sites, device=field.device)
        numbers = torch.arange(self.values**sites, device=field.device)[:, None] // digits % self.values
        values = write(numbers, field.new_empty(len(numbers), *self.event[1:]), self.states)
        flat = values.reshape(len(values), -1)
        inside = self.coupling * self._bonds(values, 1, range(1, len(self.shape)))
        log_between = self.coupling * flat @ flat.mT
        top = log_between.detach().max()
        between = (log_between - top).exp()
        product, log_factor, suffixes = torch.eye(len(flat), dtype=flat.dtype, device=flat.device), field.new_zeros(()), []
        for row, layer in enumerate(reversed(field.expand(self.event).reshape(self.shape[0], -1).unbind())):
            product = torch.ones_like(between) if row == 0 and not self.periodic else between @ product
            log_factor = log_factor + (0.0 if row == 0 and not self.periodic else top)
            log_weights = inside + flat @ layer
            product = (log_weights - log_weights.detach().max()).exp()[:, None] * product
            largest = product.detach().max()
            product, log_factor = product / largest, log_factor + log_weights.detach().max() + largest.log()
            suffixes.append(product)
        return values, between, suffixes[::-1], log_factor

    def extra_repr(self) -> str:
        return f"shape={self.shape}, values={self.values}, periodic={self.periodic}"


class Ising(Lattice):
    """Is the Ising model: E(y) = −J Σ_⟨ij⟩ yᵢ yⱼ − Σᵢ hᵢ yᵢ over spins yᵢ = ±1 on a rectangular
    lattice.

    On an endless square lattice spins order from J = log(1 + √2) / 2 ≈ 0.4407 on. log Z, the mean
    and samples are exact where a layer has up to ten spins.

    Source: Ising, 1925; the transfer matrix: Kramers and Wannier, 1941.

    Arguments:
        shape: the lattice, one or more axes, the longest first.
        coupling: J, the inverse temperature in units of the bonds; negative for an antiferromagnet;
            an nn.Parameter is learned.
        field: h, a number or a tensor that broadcasts to the shape; an nn.Parameter is learned.
        periodic: whether the last site of an axis is the first one's neighbour.

    Raises:
        ValueError: for numbers that are not finite, or shapes that do not fit.

    >>> energy = Ising(shape=(3, 3), coupling=0.5)
    >>> energy(torch.ones(5, 3, 3)), energy.sample(7).shape
    (tensor([-9., -9., -9., -9., -9.]), torch.Size([7, 3, 3]))
    """

    def __init__(
        self,
        shape: Sequence[int] = (8, 8),
        coupling: float | Tensor = 0.4,
        field: float | Sequence | Tensor = 0.0,
        periodic: bool = True,
    ) -> None:
        super().__init__(shape, None, coupling, field, periodic)


class Potts(Lattice):
    """Is the Potts model: E(y) = −J Σ_⟨ij⟩ [yᵢ = yⱼ] − Σᵢ hᵢ(yᵢ) over sites with q values, written
    one-hot (*shape, q).

    On an endless square lattice sites order from J = log(1 + √q) on. Two values are the Ising model
    at half the coupling.

    Source: Potts, 1952.

    Arguments:
        shape: the lattice, one or more axes, the longest first.
        values: q.
        coupling: J; negative where neighbours avoid each other; an nn.Parameter is learned.
        field: h, a number or a tensor that broadcasts to (*shape, q); an nn.Parameter is learned.
        periodic: whether the last site of an axis is the first one's neighbour.

    Raises:
        ValueError: for numbers that are not finite, or shapes that do not fit.

    >>> energy = Potts(shape=(3, 3), values=3, coupling=1.0)
    >>> y = energy.sample(4000, generator=torch.Generator().manual_seed(0))
    >>> y.shape, abs(y.mean(0) - energy.mean).max() < 0.03
    (torch.Size([4000, 3, 3, 3]), tensor(True))
    """

    def __init__(
        self,
        shape: Sequence[int] = (4, 4),
        values: int = 3,
        coupling: float | Tensor = 0.8,
        field: float | Sequence | Tensor = 0.0,
        periodic: bool = True,
    ) -> None:
        super().__init__(shape, values, coupling, field, periodic)


def _total(values: Tensor, chains: int) -> Tensor:
    return values.reshape(*values.shape[:chains], -1).sum(-1)
