"""Gradient descent: y⁺ = p − ε v, with p the (noised, retracted) state and v the velocity."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, energy_and_grad, savable
from ebm.samplers.retractions import Retraction
from ebm.samplers.stepping import Scheduled, SteppingSampler, Steps, StepSize, as_scheduled, at, is_noise


@savable
class DescentState(NamedTuple):
    """The state of gradient descent; `velocity` is None if there is no momentum."""

    y: Tensor
    t: int = 0
    scale: Tensor | None = None
    gain: float = 1.0
    velocity: Tensor | None = None


class GradientDescent(SteppingSampler):
    """Descends the energy: plain, heavy-ball or Nesterov, on the state or on its retraction.

        z = y + noise_std ξ,    p = retraction(z),    v⁺ = momentum v + ∇E(p),
        y⁺ = p − ε v⁺    (Nesterov: y⁺ = p − ε (∇E(p) + momentum v⁺)).

    Source: with a softmax retraction, the thinking step of Energy-Based Transformers (arXiv
    2507.02092, section 3.1).

    Arguments:
        step_size: ε: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        momentum: the share of the velocity that a step keeps, in [0, 1).
        nesterov: takes the gradient's step from ahead along the velocity.
        retraction: "softmax", "clamp" (to [-1, 1]) or a function R, applied before each step. One
            that projects (R(R(y)) = R(y), as a clamp does) is applied after it, too: states and
            samples lie in its image. Under another (softmax, tanh) they are raw; take `point(y)`.
        noise_std: noise added before the retraction and the gradient; a number or a schedule.
        noise_in: adds noise "always", or in "train" mode only.
        learnable: makes the step size a parameter.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.
        grad_clip: clamps every entry of the gradient to [-grad_clip, grad_clip].

    >>> descent, bowl = GradientDescent(step_size=0.5, steps=20), lambda y: (y**2).sum(-1) / 2
    >>> descent.sample(bowl, torch.ones(1, 2)).round(decimals=4)
    tensor([[0., 0.]])
    """

    stationary = False
    steady = True

    def __init__(
        self,
        step_size: StepSize = 0.1,
        steps: Steps = 1,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        retraction: str | Retraction | None = None,
        noise_std: Scheduled = 0.0,
        noise_in: Literal["always", "train"] = "always",
        learnable: bool = False,
        step_scale: float = 1.0,
        grad_clip: float | None = None,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale, learnable=learnable, retraction=retraction, grad_clip=grad_clip)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: pass a number in [0, 1)")
        if nesterov and momentum == 0:
            raise ValueError("nesterov=True needs momentum > 0")
        if noise_in not in ("always", "train"):
            raise ValueError(f"noise_in={noise_in!r}: choose always or train")
        self.noise_in = noise_in
        self.momentum, self.nesterov, self.noise_std = momentum, nesterov, as_scheduled("noise_std", noise_std)

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> DescentState:
        return DescentState(self.project(y), velocity=torch.zeros_like(y) if self.momentum else None)

    def step(
        self, energy: EnergyFn, state: DescentState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[DescentState, Info]:
        z, noise_std = state.y, at(self.noise_std, state.t)
        if is_noise(noise_std) and (self.training or self.noise_in == "always"):
            z = z + noise_std * self.normals(z, generator)
        point = self.point(z)
        value, grad = energy_and_grad(energy, point, create_graph=create_graph)
        direction, velocity = self.clipped(grad), state.velocity
        if velocity is not None:
            velocity = self.momentum * velocity + direction
            direction = direction + self.momentum * velocity if self.nesterov else velocity
        scale = self.scale(state, value, generator)
        y = self.move(z, point, -self.stride(state, scale, value, point) * direction)
        return DescentState(y, state.t + 1, scale, state.gain, velocity), Info(value, grad)

    def move(self, z: Tensor, point: Tensor, by: Tensor) -> Tensor:
        """Takes the step `by` that was computed at `point`; z is the state before its retraction."""
        return self.project(point + by)
