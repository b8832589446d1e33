"""Fixed-point iteration: y⁺ = F(y), the update that a looped network makes of its own."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, State, check_steps, evaluate
from ebm.interfaces.abilities import Advances, lacking
from ebm.interfaces.energy import Given, Unconditional
from ebm.randomness import randn_like
from ebm.samplers.mirror import widened
from ebm.samplers.stepping import Scheduled, Steps, as_scheduled, at


class FixedPoint(Sampler):
    """Repeats a network's own update, so that it thinks in the harness of energies.

        y⁺ = F(y + noise_std ξ)

    with `advance(y, code)` of the energy that is passed (`ebm.interfaces.abilities.Advances`). The
    energy's value says how unsure the network is; steps need not lower it.

    Arguments:
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        hidden: how many numbers behind the logits are the network's hidden state, by default as
            many as it has; a fresh start that has no room for them gets standard normal ones.
        noise_std: noise added to y before a step; a number or a schedule.
        noise_in: adds noise "always", or in "train" mode only.

    Raises:
        ValueError: the energy has no update of its own.
    """

    stationary = False
    compensated = False  # a network's own update is no small step

    def __init__(
        self,
        steps: Steps = 1,
        *,
        hidden: int | None = None,
        noise_std: Scheduled = 0.0,
        noise_in: Literal["always", "train"] = "always",
    ) -> None:
        super().__init__()
        low, high = check_steps(steps)
        if (hidden or 0) < 0 or noise_in not in ("always", "train"):
            raise ValueError(f"hidden={hidden}, noise_in={noise_in!r}: pass a number of at least 0, and always or train")
        self.steps = low if low == high else (low, high)
        self.hidden, self.noise_std, self.noise_in = hidden, as_scheduled("noise_std", noise_std), noise_in

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> State:
        hidden = self.hidden if self.hidden is not None else getattr(_behind(energy, counted=False)[0], "hidden", 0)
        return State(widened(y, hidden, energy, generator))

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[State, Info]:
        y, noise_std = state.y, at(self.noise_std, state.t)
        if noise_std and (self.training or self.noise_in == "always"):
            y = y + noise_std * randn_like(y, generator)
        network, code = _behind(energy)
        new, value = network.advance(y, code)
        if network is energy:  # a module that may score otherwise than the network in it advances
            value = evaluate(energy, y)
        return state._replace(y=new, t=state.t + 1), Info(value if create_graph else value.detach())


def _behind(function: Any, counted: bool = True) -> tuple[Any, Any]:
    """Finds the network behind an energy function, and its code; who counts calls is told."""
    while not isinstance(function, Given) and lacking(function, Advances) and hasattr(function, "energy"):
        if counted and callable(count := getattr(function, "count", None)):
            count()
        function = function.energy
    network, code = (function.energy, function.code) if isinstance(function, Given) else (function, None)
    if lacking(network, Advances):
        raise ValueError(f"FixedPoint over {network!r}: it follows a network's own advance(y, code), as that of LoopedNetwork")
    return network, code


class Halving(Unconditional):
    """Halves y at each step, which the laws of samplers look at: y⁺ = y / 2, and E(y) = |y|² / 2."""

    def advance(self, y: Tensor, code: Any = None) -> tuple[Tensor, Tensor]:
        return y / 2, self(y)

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        return y.square().sum(-1) / 2

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Draws from exp(−E), a standard normal in the plane."""
        return torch.randn(n, 2, generator=generator)
