"""NUTS: HMC whose paths double, forwards or backwards in time, until they turn back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn
from ebm.randomness import Source
from ebm.samplers.accepting import AcceptingSampler, AcceptingState, chance
from ebm.samplers.hamiltonian import HamiltonianInfo, Mass, Phase
from ebm.samplers.stepping import Steps, StepSize
from ebm.samplers.tree import Half, Motion, Subtree, Tree, Uniform, begun, doubled, turned, with_leaf
from ebm.samplers.tree_program import grown_in_program

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
    steady = True
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
        scale, own = self.scale(state, value, generator), self.source(y, generator)
        start = Phase(y, self.mass.draw(y, value.ndim, own), value, grad)
        motion, tree = begun(energy, self.mass, self.stride(state, scale, value, y), start)
        if isinstance(own, Source):  # all numbers that it may need, since a program cannot draw
            table = own.uniform(value.new_empty(()).expand(2**self.max_depth - 1 + 2 * self.max_depth, *value.shape))
            if torch.compiler.is_compiling():
                tree = grown_in_program(motion, tree, self.max_depth, table)
            else:
                numbers = iter(table)
                tree = grown(motion, tree, self.max_depth, lambda _: next(numbers))
        else:
            tree = grown(motion, tree, self.max_depth, lambda _: chance(value, own))
        found = tree.found
        kept = AcceptingState(found.y, state.t + 1, scale, state.gain, found.value, found.grad)
        acceptance = tree.acceptance / tree.gradients.clamp(min=1)
        return kept, HamiltonianInfo(value, grad, tree.moved, acceptance, tree.gradients, tree.diverged, tree.depth)

    def source(self, y: Tensor, generator: Any) -> Any:
        """Makes the stream of one step: all chains decide how much it draws, and later draws do not depend on that."""
        if isinstance(generator, Source):
            return generator
        device = y.device if generator is None else generator.device
        return torch.Generator(y.device).manual_seed(int(torch.randint(2**62, (), generator=generator, device=device)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_depth={self.max_depth}"


def grown(motion: Motion, tree: Tree, max_depth: int, uniform: Uniform) -> Tree:
    """Doubles paths, leaf by leaf, until none goes on."""
    for depth in range(max_depth):
        tree, _ = doubled(motion, tree, uniform, partial(leaf_by_leaf, 2**depth))
        if not bool(tree.going.any()):
            break
    return tree


def leaf_by_leaf(leaves: int, motion: Motion, half: Half, uniform: Uniform) -> tuple[Half, Tensor, int]:
    """Adds leaves to new halves, until none is whole."""
    begins: dict[int, Subtree] = {}  # by level, where the latest subtree began
    for leaf in range(leaves):
        before, total = half.end.momentum, half.total
        half = with_leaf(motion, half, uniform(leaf + 1))
        level, second = (leaf >> 1).bit_count(), None
        if leaf % 2 == 0:
            begins[level] = Subtree(half.end.momentum, total, before)
        for older in range(level, level - trailing_ones(leaf), -1):  # subtrees that end here
            half = half._replace(whole=half.whole & ~turned(motion.mass, half, begins[older], second))
            second = begins[older]
        if (half.weight.is_cpu or leaf % LOOK == LOOK - 1) and not bool(half.whole.any()):
            break
    return half, begins[0].first, leaf + 1


def trailing_ones(number: int) -> int:
    """Counts the ones at the end of a binary number: so many halves of the tree end there."""
    return (~number & (number + 1)).bit_length() - 1
