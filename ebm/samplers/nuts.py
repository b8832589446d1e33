"""NUTS: HMC whose paths double, forwards or backwards in time, until they turn back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, left
from ebm.samplers.accepting import AcceptingSampler, AcceptingState
from ebm.samplers.hamiltonian import HamiltonianInfo, Mass, Phase, inner, leapfrog
from ebm.samplers.stepping import Steps, StepSize

LOST = 1000.0  # an energy error, in nats, at which a path has left the level set (Stan's value)
LOOK = 16  # on a device, leapfrogs between checks (which wait for it) that chains go on


class NUTS(AcceptingSampler):
    """Samples p ∝ exp(−E) exactly by the no-U-turn sampler: HMC that finds each path's length.

    From y and p ~ N(0, M) a path doubles up to `max_depth` times, each time in a random direction,
    until a part of it turns back. A subtree whose ends have momenta p₋ and p₊ turns if

        p₋ᵀ M⁻¹ ρ ≤ 0    or    p₊ᵀ M⁻¹ ρ ≤ 0,    ρ = Σ p − (p₋ + p₊)/2,

    (ε M⁻¹ ρ is the way between its ends), or if a half of it with the nearest point of the other
    half does. The new y is drawn from the path's points in proportion to exp(−H), with a bias to
    each new half.

    A leapfrog step costs one gradient, a step 1 to 2^max_depth − 1 of them (at the first, one and an evaluation more);
    all chains wait for the longest path. `info.gradients` counts each chain's own, `info.depth` the
    doublings kept, `info.acceptance` is the mean of min(1, exp(H₀ − H)) over the path, and
    `info.diverged` says that an energy error above 1000 ended it. Source: Hoffman and Gelman, 2014
    (JMLR 15); weights and criterion: Betancourt, 2017 (arXiv 1701.02434), appendix A; check across
    halves: Stan; without recursion: Phan et al., 2019 (arXiv 1912.11554).

    Arguments:
        step_size: ε: a number, a tensor (*chains,), or a schedule; `warm_up` finds it, and the
            mass.
        steps: steps (paths) per landscape, or a pair (low, high) drawn from in train mode.
        max_depth: how often a path doubles at most.
        mass: M: None (identity), a diagonal of the event's shape, or a matrix (d, d).
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.

    >>> g, normal = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2
    >>> y = NUTS(step_size=0.5, steps=10).sample(normal, torch.zeros(2000, 1), generator=g)
    >>> abs(y.var().item() - 1) < 0.15
    True
    """

    stationary = True
    heated = 0.5  # a time: paths are as long as the landscape is wide

    def __init__(
        self,
        step_size: StepSize = 0.1,
        steps: Steps = 100,
        *,
        max_depth: int = 10,
        mass: Tensor | None = None,
        step_scale: float = 1.0,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale)
        if not isinstance(max_depth, int) or max_depth < 1:
            raise ValueError(f"max_depth={max_depth}: pass a whole number, a path is doubled at least once")
        self.max_depth, self.mass = max_depth, Mass(mass)

    def step(
        self, energy: EnergyFn, state: AcceptingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AcceptingState, Any]:
        y, (value, grad) = state.y, self.here(energy, state, create_graph)
        scale = self.scale(state, value, generator)
        # All chains decide this step's length; its own stream keeps later draws independent of it.
        device = y.device if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        path = _Path(self, energy, Phase(y, y, value, grad), self.stride(state, scale, value, y), y.device, seed)
        for depth in range(self.max_depth):
            if not path.double(depth):
                break
        found = path.found
        kept = AcceptingState(found.y, state.t + 1, scale, state.gain, found.value, found.grad)
        acceptance = path.acceptance / path.gradients.clamp(min=1)
        return kept, HamiltonianInfo(value, grad, path.moved, acceptance, path.gradients, path.diverged, path.depth)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_depth={self.max_depth}"


class _Path:
    """The paths of all chains during one step: their ends, the points drawn, and who continues."""

    def __init__(
        self, sampler: NUTS, energy: EnergyFn, start: Phase, step_size: float | Tensor, device: torch.device, seed: int
    ) -> None:
        self.energy, self.mass, self.step_size = energy, sampler.mass, step_size
        self.generator = torch.Generator(device).manual_seed(seed)
        self.chains = start.value.ndim
        start = start._replace(momentum=self.mass.draw(start.y, self.chains, self.generator))
        self.level = self._hamiltonian(start)
        self.found = self.backward = self.forward = start  # what was drawn, and the two ends
        self.total = start.momentum  # of all momenta
        self.weight = torch.zeros_like(start.value)  # log Σ exp(H₀ − H) over the path
        self.going = torch.ones_like(start.value, dtype=torch.bool)
        self.moved, self.diverged = ~self.going, ~self.going
        self.acceptance = torch.zeros_like(start.value)
        self.gradients = self.depth = torch.zeros_like(start.value, dtype=torch.long)

    def double(self, depth: int) -> bool:
        """Doubles the unfinished paths by up to 2^depth leapfrogs; tells if any path continues."""
        ahead = self._uniform() < 0.5
        sign = left(torch.where(ahead, 1.0, -1.0).to(self.weight), self.total)
        end = _where(ahead, self.forward, self.backward)
        found, weight, total = end, torch.full_like(self.weight, -torch.inf), torch.zeros_like(self.total)
        near, far = end.momentum, torch.where(left(ahead, self.total), self.backward.momentum, self.forward.momentum)
        first = last = near
        whole = self.going  # whose new half is still growing, and has not turned
        # By tree level, of its growing subtree: first momentum, sum up to it, momentum before it.
        marks: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for leaf in range(2**depth):
            moved = leapfrog(self.energy, end, self.mass, sign * self.step_size, 1.0)
            end = _where(whole, moved, end)
            gained = self.level - self._hamiltonian(moved)
            gained = torch.where(gained.isfinite(), gained, -torch.inf)  # rejects the rest
            self.diverged = self.diverged | (whole & (gained < -LOST))
            self.acceptance = self.acceptance + torch.where(whole, gained.clamp(max=0).exp(), 0.0)
            self.gradients = self.gradients + whole
            whole = whole & (gained >= -LOST)
            weight = torch.where(whole, torch.logaddexp(weight, gained), weight)
            found = _where(whole & (self._uniform().log() < gained - weight), moved, found)
            total = torch.where(left(whole, total), total + moved.momentum, total)
            level, half = (leaf >> 1).bit_count(), None
            if leaf % 2 == 0:
                marks[level] = moved.momentum, total, last
            last = moved.momentum
            for older in range(level, level - _trailing_ones(leaf), -1):  # subtrees that end here
                start, until, _ = marks[older]
                whole = whole & ~self._turns(start, last, total - until + start)
                if half is not None:
                    second, middle, before = half
                    whole = whole & ~self._turns(start, second, middle - until + start)
                    whole = whole & ~self._turns(before, last, total - middle + second + before)
                half = marks[older]
            first = last if leaf == 0 else first
            if (end.y.is_cpu or leaf % LOOK == LOOK - 1) and not bool(whole.any()):
                break
        taken = whole & (self._uniform().log() < weight - self.weight)
        self.found, self.moved = _where(taken, found, self.found), self.moved | taken
        self.weight = torch.where(whole, torch.logaddexp(self.weight, weight), self.weight)
        turns = self._turns(far, last, self.total + total)
        turns = turns | self._turns(far, first, self.total + first) | self._turns(near, last, total + near)
        self.total = torch.where(left(whole, total), self.total + total, self.total)
        self.forward = _where(whole & ahead, end, self.forward)
        self.backward = _where(whole & ~ahead, end, self.backward)
        self.depth, self.going = self.depth + whole, whole & ~turns
        return bool(self.going.any())

    def _hamiltonian(self, phase: Phase) -> Tensor:
        return phase.value + self.mass.kinetic(phase.momentum, self.chains)

    def _turns(self, first: Tensor, last: Tensor, total: Tensor) -> Tensor:
        across = self.mass.velocity(total - (first + last) / 2, self.chains)
        return (inner(first, across, self.chains) <= 0) | (inner(last, across, self.chains) <= 0)

    def _uniform(self) -> Tensor:
        return torch.rand(self.weight.shape, generator=self.generator, dtype=self.weight.dtype, device=self.weight.device)


def _where(chosen: Tensor, new: Phase, old: Phase) -> Phase:
    return Phase(*(torch.where(left(chosen, a), a, b) for a, b in zip(new, old, strict=True)))


def _trailing_ones(number: int) -> int:
    """Counts the ones at the end of a binary number: so many halves of the tree end there."""
    return (~number & (number + 1)).bit_length() - 1
