"""Mirror descent: z⁺ = log softmax(z − ε v), a gradient step on probabilities p = softmax(z)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, modules_of
from ebm.randomness import randn_like
from ebm.samplers.descent import DescentState, GradientDescent
from ebm.samplers.stepping import Scheduled, Steps, StepSize

LEAST = -80.0  # of a log-probability: e^-80 is a normal number in float32 and in bfloat16


class MirrorDescent(GradientDescent):
    """Descends an energy of probabilities by entropic mirror descent (exponentiated gradient).

        z = y + noise_std ξ,    p = softmax(z),    v⁺ = momentum v + ∇E(p),    y⁺ = log softmax(z − ε v⁺).

    y holds logits, and the energy scores p, along the last axis. Steps stay inside the simplex
    however large they are, and also where p is all but one-hot, since y is kept as logarithms; a
    probability below e⁻⁸⁰ is held there. Of a free energy E(p) = Σ p log p − F(p) a step of size 1
    is the fixed-point iteration y⁺ = log softmax(∇F(p)).

    With `hidden` units, y has as many numbers h behind its logits. The energy scores p and g =
    tanh(h), means of units that are ±1, and h⁺ = h − ε ∂E/∂g, which is the mirror step of their
    entropy. A fresh start that has no room for them gets standard normal h.

    Source: Beck and Teboulle, 2003 (Mirror descent and nonlinear projected subgradient methods),
    section 5.

    Arguments:
        step_size: ε: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        hidden: how many numbers behind the logits are hidden units.
        momentum: the share of the velocity that a step keeps, in [0, 1).
        nesterov: takes the gradient's step from ahead along the velocity.
        noise_std: noise added to y before a step; a number or a schedule.
        noise_in: adds noise "always", or in "train" mode only.
        learnable: makes the step size a parameter.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.
        grad_clip: clamps every entry of the gradient to [-grad_clip, grad_clip].

    >>> costs = torch.tensor([0.0, 1.0, 2.0])
    >>> y = MirrorDescent(step_size=0.5, steps=4).sample(lambda p: (p * costs).sum(-1), torch.zeros(1, 3))
    >>> torch.allclose(y.softmax(-1), (-4 * 0.5 * costs).softmax(-1))    # as if all were one step
    True
    """

    steady = True

    def __init__(
        self,
        step_size: StepSize = 1.0,
        steps: Steps = 1,
        *,
        hidden: int = 0,
        momentum: float = 0.0,
        nesterov: bool = False,
        noise_std: Scheduled = 0.0,
        noise_in: Literal["always", "train"] = "always",
        learnable: bool = False,
        step_scale: float = 1.0,
        grad_clip: float | None = None,
    ) -> None:
        how: dict[str, Any] = {"noise_std": noise_std, "noise_in": noise_in, "learnable": learnable, "step_scale": step_scale}
        super().__init__(step_size, steps, momentum=momentum, nesterov=nesterov, grad_clip=grad_clip, **how)
        if hidden < 0:
            raise ValueError(f"hidden={hidden}: pass a number of at least 0")
        self.hidden, self.shares = hidden, True

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> DescentState:
        return super().init(energy, widened(y, self.hidden, energy, generator), generator=generator)

    def point(self, y: Tensor) -> Tensor:
        if not self.hidden:
            return y.softmax(-1)
        return torch.cat([y[..., : -self.hidden].softmax(-1), y[..., -self.hidden :].tanh()], -1)

    def move(self, z: Tensor, point: Tensor, by: Tensor) -> Tensor:
        y = z + by
        if not self.hidden:
            return F.log_softmax(y, -1).clamp(min=LEAST)
        return torch.cat([F.log_softmax(y[..., : -self.hidden], -1).clamp(min=LEAST), y[..., -self.hidden :]], -1)


def widened(y: Tensor, hidden: int, energy: EnergyFn, generator: Generator | None) -> Tensor:
    """Appends `hidden` standard normal numbers to a start that has no room for them."""
    width = next((part.vocab_size for part in modules_of(energy)[:1] if hasattr(part, "vocab_size")), None)
    if not hidden or y.shape[-1] != width:
        return y
    return torch.cat([y, randn_like(y[..., :1].expand(*y.shape[:-1], hidden), generator)], -1)
