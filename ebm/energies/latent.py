"""Energies with latent variables z beside y, which are minimised over or summed out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebm.energies.ebt.kernels import Grads, last_derivative
from ebm.interfaces import EnergyFn, Modified, Sampler, check_unroll, eval_mode
from ebm.samplers.descent import GradientDescent


class LatentEnergy(Modified):
    """Minimises over a latent variable: E(y) = min_z E(y, z), by an inner sampler from z = 0.

    E(y, z) is an energy of vectors: y's event, flattened, with z appended. After n steps the value
    is E(y, zₙ), and there are two derivatives of it:

        "full"  differentiates through the steps, exactly. Value, slope and curvature differ from
                the minimum's by the square of |zₙ − z*|, and memory grows with n.
        "none"  holds zₙ constant, since ∂E/∂z = 0 at the minimum (the envelope theorem). It is
                cheaper, and its slope differs by |zₙ − z*| itself. The curvature needs dz*/dy, so
                asking for it raises.

    Chains and contrastive training need slopes alone; reconstruction and score matching
    differentiate them. `compile` cannot trace the inner gradients.

    Source: A tutorial on energy-based learning (LeCun et al., 2006); the errors: Super-efficiency
    of automatic differentiation for functions defined as a minimum (Ablin, Peyré and Moreau, 2020).

    Arguments:
        energy: E(y, z), an energy or a function of (*chains, |y| + latent); contexts and landscapes
            are its own.
        latent: the number of coordinates of z.
        sampler: what finds z, without noise; by default 20 steps of gradient descent by 0.1.
        event: how many axes y's event has: 1 for vectors, 3 for images (C, H, W).
        unroll: "full" or "none".

    Raises:
        ValueError: for sizes below 1, an unknown unroll, a sampler that cannot be unrolled, and (at
            the call) a y with too few axes.
        RuntimeError: where the slope is differentiated, with unroll="none".
        FloatingPointError: where the inner steps diverge.

    >>> energy = LatentEnergy(lambda yz: (yz[..., 0] - yz[..., 1]).square() + yz[..., 1].square(), latent=1)
    >>> with torch.no_grad():
    ...     energy(torch.tensor([[2.0], [4.0]])).round(decimals=3), energy.infer(torch.tensor([[2.0], [4.0]])).round(decimals=3)
    (tensor([2., 8.]), tensor([[1.],
            [2.]]))
    """

    def __init__(
        self,
        energy: EnergyFn,
        latent: int,
        sampler: Sampler | None = None,
        *,
        event: int = 1,
        unroll: Literal["full", "none"] = "full",
    ) -> None:
        super().__init__(energy)
        if min(latent, event) < 1 or unroll not in ("full", "none"):
            call = f"LatentEnergy(latent={latent}, event={event}, unroll={unroll!r})"
            raise ValueError(f"{call}: pass sizes of at least 1, and full or none")
        self.latent, self.event, self.unroll = latent, event, unroll
        self.sampler = GradientDescent(step_size=0.1, steps=20) if sampler is None else sampler
        check_unroll(self.sampler, unroll)

    def infer(self, y: Tensor, code: Any = None) -> Tensor:
        """Finds z (*chains, latent) for y (*chains, *event); with unroll="full" it has a graph."""
        flat = _flat(y, self.event)
        z = flat.new_zeros(*flat.shape[:-1], self.latent)
        if not z.numel():
            return z
        with eval_mode(self.sampler):  # so that no step size is drawn
            end = self.sampler.sample(lambda z: self.energy(torch.cat([flat, z], -1), code), z, unroll=self.unroll)
        return self.sampler.point(end)

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        z = self.infer(y, code)
        if self.unroll == "none" and y.requires_grad:
            y = _Once.apply(y, *self.energy.parameters())
        return self.energy(torch.cat([_flat(y, self.event), z], -1), code)

    def extra_repr(self) -> str:
        return f"latent={self.latent}, event={self.event}, unroll={self.unroll!r}"


class FreeEnergy(Modified):
    """Sums out a latent variable with finitely many values: E(y) = −T log Σ_z exp(−E(y, z) / T).

    E(y, z) is an energy of vectors: y's event, flattened, with z appended. At T = 1, exp(−E(y)) is
    the marginal of exp(−E(y, z)). E(y) lies below min_z E(y, z), by T log K at most, and tends to
    it for T → 0. All K values are scored at once, as candidates; derivatives of all orders are
    exact.

    Source: A tutorial on energy-based learning (LeCun et al., 2006), with β = 1/T.

    Arguments:
        energy: E(y, z), an energy or a function of (*chains, |y| + latent); contexts and landscapes
            are its own.
        values: the values of z (K, latent), or numbers (K,) for one coordinate; an nn.Parameter is
            learned.
        temperature: T.
        event: how many axes y's event has: 1 for vectors, 3 for images (C, H, W).

    Raises:
        ValueError: for values of another shape or not finite, a temperature that is not a positive
            number, an event below 1, and (at the call) a y with too few axes.

    >>> energy = FreeEnergy(lambda yz: (yz[..., 0] - yz[..., 1]).square(), values=(-1.0, 1.0), temperature=0.01)
    >>> energy(torch.tensor([[-1.5], [1.0], [3.0]])).abs()
    tensor([0.2500, 0.0000, 4.0000])
    """

    values: Tensor

    def __init__(
        self,
        energy: EnergyFn,
        values: Sequence[float] | Sequence[Sequence[float]] | Tensor,
        temperature: float = 1.0,
        *,
        event: int = 1,
    ) -> None:
        super().__init__(energy)
        if not 0 < temperature < math.inf or event < 1:
            raise ValueError(f"FreeEnergy(temperature={temperature}, event={event}): pass a positive number, and at least 1 axis")
        held = values.detach().clone() if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.get_default_dtype())
        if held.ndim not in (1, 2) or not held.numel() or not held.is_floating_point() or not bool(held.isfinite().all()):
            raise ValueError(f"FreeEnergy(values=<{tuple(held.shape)}, {held.dtype}>): pass finite numbers (K, latent) or (K,)")
        if isinstance(values, nn.Parameter):
            self.values = values
        else:
            self.register_buffer("values", held)
        self.temperature, self.event = float(temperature), event

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        flat = _flat(y, self.event)
        values = self.values.reshape(len(self.values), *(1,) * (flat.ndim - 1), -1)
        joint = torch.cat([flat.expand(len(values), *flat.shape), values.expand(-1, *flat.shape[:-1], -1)], -1)
        return -self.temperature * (-self.energy(joint, code) / self.temperature).logsumexp(0)

    def extra_repr(self) -> str:
        return f"values={tuple(self.values.shape)}, temperature={self.temperature:g}, event={self.event}"


def _flat(y: Tensor, event: int) -> Tensor:
    """Flattens y (*chains, *event) to vectors (*chains, |y|)."""
    if y.ndim < event:
        raise ValueError(f"y has shape {tuple(y.shape)}, but an event has {event} axes: pass y (*chains, *event)")
    return y.flatten(y.ndim - event)


class _Once(torch.autograd.Function):
    """Returns y, and refuses to differentiate its gradient, which would be wrong without dz/dy.

    The parameters are inputs so that a derivative by them is refused, too: z depends on them.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(y, *parameters)
        return y.view_as(y)

    @staticmethod
    @partial(last_derivative, message='the slope of LatentEnergy(unroll="none") has no derivative: pass unroll="full"')
    def backward(ctx: Any, grad: Tensor) -> Grads:
        return grad, *(None,) * (len(ctx.saved_tensors) - 1)
