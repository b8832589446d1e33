"""Proximal gradient descent: one part of a sum is descended, the other is solved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, State, energy_and_grad, evaluate
from ebm.interfaces.abilities import Solves
from ebm.interfaces.energy import Given
from ebm.interfaces.precision import behind
from ebm.samplers.stepping import SteppingSampler


class ProximalGradient(SteppingSampler):
    """Descends a sum of energies E + F, of which F is solved instead of descended:

        y⁺ = argmin_z |z − (y − ε ∇E(y))|²/2 + ε F(z).

    F are the parts with a method `prox(y, step)`, as `Observed`'s, however stiff they are: where F
    says what was seen, and E is a prior, ε is the prior's natural step. Source: forward-backward
    splitting (Combettes and Wajs, 2005); with a gradient-step denoiser as E, Hurault, Leclaire and
    Papadakis (2022), algorithm 1.

    Arguments:
        step_size: ε: a number, a tensor (*chains,), or a schedule t -> number.
        steps: steps per landscape.

    Raises:
        ValueError: at the call, the energy is no sum with one part of that kind, and another.

    >>> from ebm.energies import Observed
    >>> bowl = Observed(lambda x: x, torch.ones(1, 1, 1), std=1e-3) + (lambda y: y.square().sum((-3, -2, -1)) / 2)
    >>> ProximalGradient(1.0, steps=2).sample(bowl, torch.zeros(1, 1, 1, 1)).round(decimals=3)
    tensor([[[[1.]]]])
    """

    stationary = False
    differentiable = False

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[State, Info]:
        if create_graph:
            raise ValueError("ProximalGradient solves for a step, and no gradient passes through that: leave create_graph=False")
        descended, solved = _parts(energy)
        point = self.point(state.y)
        value, grad = energy_and_grad(descended, point)
        scale = self.scale(state, value, generator)
        stride = self.stride(state, scale, value, point)
        with torch.no_grad():
            value = value + evaluate(solved, point)
            plain = stride
            if isinstance(stride, Tensor):  # (*chains, 1, …), or one number, as prox takes neither
                plain = stride.reshape(value.shape if stride.numel() == value.numel() else ())
            y = self.project(solved.prox(point - stride * grad, plain))
        return state._replace(y=y, t=state.t + 1, scale=scale), Info(value, grad)


def _parts(function: Any) -> tuple[EnergyFn, Any]:
    """Splits a sum, with its context bound, into what is descended and what is solved."""
    function = behind(function)
    energy, code = (function.energy, function.code) if isinstance(function, Given) else (function, None)
    parts = getattr(energy, "energies", ())
    codes = (None,) * len(parts) if code is None else code
    solved = [part for part in parts if isinstance(part, Solves)]
    if len(solved) != 1 or len(parts) < 2:
        raise ValueError(
            f"ProximalGradient over {type(energy).__name__}: pass a sum of a prior and of one energy that has prox(y, step), as "
            f"in prior + Observed(operator, seen, std), which no other energy or sampler changes: scale the parts"
        )
    others = [Given(part, own) for part, own in zip(parts, codes, strict=True) if part is not solved[0]]
    return (lambda y: sum((part(y) for part in others[1:]), start=others[0](y))), solved[0]
