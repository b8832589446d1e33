"""Energies with latent variables z beside y: the least energy over a continuous z, the free energy over finitely many values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebm.interfaces import EnergyFn, Modified, Sampler, check_unroll, eval_mode
from ebm.samplers.descent import GradientDescent

__all__ = ["FreeEnergy", "LatentEnergy"]


class LatentEnergy(Modified):
    """Explains y as well as a latent variable can: E(y) = min_z E(y, z), the minimum found by an inner sampler from z = 0.

    E(y, z) is an energy of vectors: y's event, flattened, with z appended. After n steps the value is E(y, zₙ), and there are two
    derivatives. "full" is exactly that of E(y, zₙ), through the steps: value, slope and curvature are off the minimum's by the
    square of how far zₙ is from converged, and memory grows with n. "none" holds zₙ fast, since ∂E/∂z = 0 at the minimum (the
    envelope theorem): cheaper, the slope off by |zₙ − z*| itself, and no curvature, which needs dz*/dy: asking for it raises.
    Chains and contrastive training take slopes alone; reconstruction and score matching differentiate them. `compile` cannot
    trace the inner gradients: leave it out.

    Source: A tutorial on energy-based learning (LeCun et al., 2006); the errors: Super-efficiency of automatic differentiation
    for functions defined as a minimum (Ablin, Peyré and Moreau, 2020).

    Arguments:
        energy: E(y, z), an energy or a function of (*chains, |y| + latent); contexts and landscapes are its own.
        latent: how many coordinates z has.
        sampler: what finds z; it must draw no noise. 20 steps of gradient descent by 0.1 by default.
        event: how many axes y's event has: 1 for vectors, 3 for images (C, H, W).
        unroll: "full" or "none".

    Raises:
        ValueError: for sizes below 1, an unknown unroll, a sampler that cannot be unrolled, and (at the call) a y with too few
            axes.
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
            raise ValueError(
                f"LatentEnergy(latent={latent}, event={event}, unroll={unroll!r}): pass sizes of at least 1, and full or none"
            )
        self.latent, self.event, self.unroll = latent, event, unroll
        self.sampler = GradientDescent(step_size=0.1, steps=20) if sampler is None else sampler
        check_unroll(self.sampler, unroll)

    def infer(self, y: Tensor, code: Any = None) -> Tensor:
        """Finds the latent variables (*chains, latent) of y (*chains, *event); with unroll="full" they have a graph."""
        flat = _flat(y, self.event)
        z = flat.new_zeros(*flat.shape[:-1], self.latent)
        if not z.numel():
            return z
        with eval_mode(self.sampler):  # so that no step size is drawn
            end = self.sampler.sample(lambda z: self.energy(torch.cat([flat, z], -1), code), z, unroll=self.unroll)
        return self.sampler.point(end)

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        z = self.infer(y, code)
        if self.unroll == "none" and y.requires_grad:
            y = _Once.apply(y, *self.energy.parameters())
        return self.energy(torch.cat([_flat(y, self.event), z], -1), code)

    def extra_repr(self) -> str:
        return f"latent={self.latent}, event={self.event}, unroll={self.unroll!r}"


class FreeEnergy(Modified):
    """Sums a latent variable with finitely many values out: E(y) = −T log Σ_z exp(−E(y, z) / T), all orders of derivatives exact.

    E(y, z) is an energy of vectors: y's event, flattened, with z appended. At T = 1, exp(−E(y)) is the marginal of
    exp(−E(y, z)). It is below min_z E(y, z), by T log K at most: the minimum itself for T → 0. All K values are scored at once,
    as candidates.

    Source: A tutorial on energy-based learning (LeCun et al., 2006), with β = 1/T.

    Arguments:
        energy: E(y, z), an energy or a function of (*chains, |y| + latent); contexts and landscapes are its own.
        values: those of z (K, latent), or numbers (K,), each a z of one coordinate; an nn.Parameter is learned.
        temperature: T.
        event: how many axes y's event has: 1 for vectors, 3 for images (C, H, W).

    Raises:
        ValueError: for values of another shape or not finite, a temperature that is no positive number, an event below 1, and (at
            the call) a y with too few axes.

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
        """Maps y (*chains, *event) to energies (*chains,)."""
        flat = _flat(y, self.event)
        values = self.values.reshape(len(self.values), *(1,) * (flat.ndim - 1), -1)
        joint = torch.cat([flat.expand(len(values), *flat.shape), values.expand(-1, *flat.shape[:-1], -1)], -1)
        return -self.temperature * (-self.energy(joint, code) / self.temperature).logsumexp(0)

    def extra_repr(self) -> str:
        return f"values={tuple(self.values.shape)}, temperature={self.temperature:g}, event={self.event}"


def _flat(y: Tensor, event: int) -> Tensor:
    """Flattens y (*chains, *event) to vectors (*chains, |y|).

    Raises:
        ValueError: for a y with fewer axes than the event.
    """
    if y.ndim < event:
        raise ValueError(f"y has shape {tuple(y.shape)}, but an event has {event} axes: pass y (*chains, *event)")
    return y.flatten(y.ndim - event)


class _Once(torch.autograd.Function):
    """Is y, whose gradient cannot be differentiated by y or the parameters: without dz/dy it would come out wrong in silence."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(y, *parameters)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # The error leads to all that went in: the gradient may miss a part of it that z depends on.
        last = _Last.apply(grad, *ctx.saved_tensors) if torch.is_grad_enabled() else grad
        return last, *(None,) * (len(ctx.saved_tensors) - 1)


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, *inputs: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError(
            'LatentEnergy(unroll="none") holds its latent variables fast, so that its slope has no derivative: pass unroll="full"'
        )
