"""Stein variational gradient descent: particles that descend together and repel each other."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, State, energy_and_grad
from ebm.samplers.stepping import SteppingSampler, Steps, StepSize, plus


class SteinVariational(SteppingSampler):
    """Moves n particles towards p ∝ exp(−E) without noise (SVGD): all descend and repel each other.

        y_i ← y_i + ε/n Σ_j (−k(y_j, y_i) ∇E(y_j) + ∇_{y_j} k(y_j, y_i)),
        k(a, b) = exp(−|a − b|²/s),    s = median |y_i − y_j|² / log(n + 1) over pairs.

    Particles are the leading axis of the chains; groups along other chain axes are independent. One
    particle alone descends. In few dimensions a few particles represent p better than as many
    draws; in many dimensions they come to lie too close together. Source: Liu and Wang, 2016 (arXiv
    1608.04471), algorithm 1, with plain steps for AdaGrad, and log(n + 1) for log n, which is zero
    for n = 1.

    Arguments:
        step_size: ε: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        bandwidth: s > 0, in squared units of y; None takes the median.
        learnable: makes the step size a parameter.

    >>> particles = 5 + torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    >>> y = SteinVariational(0.5, steps=300).sample(lambda y: (y**2).sum(-1) / 2, particles)
    >>> abs(y.mean().item()) < 0.05, abs(y.var().item() - 1) < 0.1
    (True, True)
    """

    stationary = False
    interacting = True

    def __init__(
        self, step_size: StepSize = 0.1, steps: Steps = 100, *, bandwidth: float | None = None, learnable: bool = False
    ) -> None:
        super().__init__(step_size, steps, learnable=learnable)
        if bandwidth is not None and not 0 < bandwidth < math.inf:
            raise ValueError(f"bandwidth={bandwidth}: pass a positive number, or None for the median of squared distances")
        self.bandwidth = bandwidth

    def step(
        self, energy: EnergyFn, state: State, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[State, Info]:
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        step_size = self.stride(state, None, value, state.y)
        count = len(value) if value.ndim else 1  # y without chain axes is one particle
        y, slope = (x.reshape(count, math.prod(value.shape[1:]), -1).movedim(1, 0) for x in (state.y, grad))
        away = y[:, :, None] - y[:, None]  # (groups, i, j, d)
        square = away.square().sum(-1)
        width = self._width(square, count)
        kernel = (-square / width).exp()
        force = (2 / width * (kernel[..., None] * away).sum(2) - kernel @ slope) / count
        moved = plus(state.y, step_size, force.movedim(0, 1).reshape(state.y.shape))
        return State(moved, state.t + 1, None, state.gain), Info(value, grad)

    def _width(self, square: Tensor, count: int) -> float | Tensor:
        """Computes s for each group (groups, 1, 1), or returns the number it is."""
        if self.bandwidth is not None:
            return self.bandwidth
        if count == 1:
            return 1.0  # of a single particle, which no other pushes
        first, second = torch.triu_indices(count, count, 1, device=square.device)
        median = square[:, first, second].median(-1).values[:, None, None]
        # Particles in one place move as one, at any width.
        return torch.where(median > 0, median, 1.0) / math.log(count + 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bandwidth={self.bandwidth}"
