"""Slice sampling along random lines: a level below the density, and a point of the line above it. No gradient."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, evaluate, left
from ebm.samplers.accepting import AcceptingSampler, AcceptingState
from ebm.samplers.random_walk import energy_here
from ebm.samplers.stepping import Scheduled, Steps, StepSize, as_scheduled, at, at_temperature_one

SHRINKS = 200  # an interval that shrank so often is a point: the chain stays, as it would there
LOOK = 4  # on a device, evaluations between checks (which wait for it) that chains go on


class SliceSampler(AcceptingSampler):
    """Samples p ∝ exp(−E/T) exactly by slice sampling along a random direction, without gradients.

    With e ~ Exp(1) and a unit vector d, a step draws uniformly from the points y + x d whose energy
    is at most E(y) + T e: an interval of width w around x = 0, placed at random, grows by steps of w
    until both ends are outside or it is `grow` wide, and then shrinks towards 0 until a point of it
    is inside.

    For energies that are not differentiable, or whose scales nobody knows: w may be wrong by orders
    of magnitude, which costs evaluations, not exactness. Nothing is rejected. A step costs about 5
    evaluations of all chains (the slowest chain's), more where w is far off. What is not finite is
    outside of every slice. Source: Neal, 2003 (Slice sampling, Annals of Statistics 31), sections 4
    and 5, figures 3 and 5.

    Arguments:
        step_size: w: a number, a tensor (*chains,), or a schedule t -> number; about as wide as
            what is sampled.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        grow: how many w the interval may be wide, a whole number of at least 1.
        temperature: T > 0; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's w from [w/s, ws] per trajectory.

    >>> g, laplace = torch.Generator().manual_seed(0), lambda y: y.abs().sum(-1)
    >>> y = SliceSampler(2.0, steps=30).sample(laplace, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 2) < 0.25
    True
    """

    stationary = at_temperature_one

    def __init__(
        self,
        step_size: StepSize = 1.0,
        steps: Steps = 100,
        *,
        grow: int = 10,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale)
        if type(grow) is not int or grow < 1:
            raise ValueError(f"grow={grow!r}: pass a whole number of at least 1")
        self.grow, self.temperature = grow, as_scheduled("temperature", temperature, positive=True)

    def step(
        self, energy: EnergyFn, state: AcceptingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AcceptingState, Info]:
        y, value = state.y, energy_here(self, energy, state, create_graph)
        scale = self.scale(state, value, generator)

        # All chains decide this step's length; its own stream keeps later draws independent of it.
        device = y.device if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        own = torch.Generator(y.device).manual_seed(seed)

        def uniform() -> Tensor:
            return torch.rand(value.shape, generator=own, dtype=value.dtype, device=value.device)

        with torch.no_grad():
            level = value - (1 - uniform()).log() * at(self.temperature, state.t, positive=True)  # 1 − u is never 0
            way = self.normals(y, own)
            length = way.reshape(*value.shape, -1).norm(dim=-1)
            way = self.stride(state, scale, value, y) * way / left(length, y)

            def along(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                """Goes x widths along the way: y there, its energy, and whether it is in the slice."""
                there = torch.addcmul(y, left(x, y), way)
                new = evaluate(energy, there)
                return there, new, torch.isfinite(new) & (new <= level)

            def grown(end: Tensor, more: Tensor, by: float) -> Tensor:
                """Moves an end of the interval outwards while it is in the slice and may grow."""
                growing = more > 0
                for count in range(self.grow - 1):
                    if (y.is_cpu or count % LOOK == LOOK - 1) and not bool(growing.any()):
                        break
                    growing = growing & (more > count) & along(end)[2]
                    end = torch.where(growing, end + by, end)
                return end

            low = -uniform()
            high = low + 1
            lower = (uniform() * self.grow).floor()
            low, high = grown(low, lower, -1.0), grown(high, self.grow - 1 - lower, 1.0)
            open, moved, kept = torch.ones_like(value, dtype=torch.bool), y, value
            for count in range(SHRINKS):
                x = low + (high - low) * uniform()
                there, new, inside = along(x)
                found = open & inside
                moved, kept = torch.where(left(found, y), there, moved), torch.where(found, new, kept)
                open = open & ~inside
                if (y.is_cpu or count % LOOK == LOOK - 1) and not bool(open.any()):
                    break
                low, high = torch.where(open & (x < 0), x, low), torch.where(open & (x >= 0), x, high)
        return AcceptingState(moved, state.t + 1, scale, state.gain, kept), Info(value)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, grow={self.grow}"
