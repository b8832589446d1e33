"""NUTS's tree: how a path doubles, leaf by leaf, and when it has turned back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, left
from ebm.samplers.hamiltonian import Mass, Phase, inner, leapfrogs

LOST = 1000.0  # an energy error, in nats, at which a path has left the level set (Stan's value)


class Motion(NamedTuple):
    """What moves paths: H₀ (*chains,) is where they started."""

    energy: EnergyFn
    mass: Mass
    step_size: float | Tensor
    level: Tensor


class Point(NamedTuple):
    """A place with its energy (*chains,) and gradient."""

    y: Tensor
    value: Tensor
    grad: Tensor


class Tree(NamedTuple):
    """The paths of all chains: their ends, the points drawn from them, and who continues."""

    backward: Phase
    forward: Phase
    found: Point
    total: Tensor  # of all momenta
    weight: Tensor  # log Σ exp(H₀ − H) over the path
    going: Tensor
    moved: Tensor
    diverged: Tensor
    acceptance: Tensor  # Σ min(1, exp(H₀ − H))
    gradients: Tensor
    depth: Tensor


class Half(NamedTuple):
    """The new halves of all paths while they grow; `whole` are those that go on."""

    end: Phase
    found: Point
    total: Tensor
    weight: Tensor
    whole: Tensor
    diverged: Tensor
    acceptance: Tensor
    gradients: Tensor


class Subtree(NamedTuple):
    """Where a subtree begins: its first momentum, the sum before it, and the momentum before it."""

    first: Tensor
    total: Tensor
    before: Tensor


Uniform: TypeAlias = Callable[[Any], Tensor]  # the numbers (*chains,) of a doubling, by a count that starts at 0
Extend: TypeAlias = Callable[[Motion, Half, Uniform], tuple[Half, Tensor, Any]]  # new halves, their first momenta, leaves


def begun(energy: EnergyFn, mass: Mass, step_size: float | Tensor, start: Phase) -> tuple[Motion, Tree]:
    """Makes the paths of one point, from which all chains start."""
    level = start.value + mass.kinetic(start.momentum, start.value.ndim)
    zero, found = torch.zeros_like(start.value), Point(start.y, start.value, start.grad)
    going, none = torch.ones_like(zero, dtype=torch.bool), torch.zeros_like(zero, dtype=torch.long)
    tree = Tree(start, start, found, start.momentum, zero, going, ~going, ~going, zero, none, none)
    return Motion(energy, mass, step_size, level), tree


def doubled(motion: Motion, tree: Tree, uniform: Uniform, extend: Extend) -> tuple[Tree, Any]:
    """Doubles the unfinished paths, each in a direction that it draws, by what `extend` makes; counts its draws."""
    chains, like = tree.weight.ndim, tree.total
    ahead = uniform(0) < 0.5
    sign = left(torch.where(ahead, 1.0, -1.0).to(like), like)
    end = _where(ahead, tree.forward, tree.backward)
    near, far = end.momentum, torch.where(left(ahead, like), tree.backward.momentum, tree.forward.momentum)
    nothing, none = torch.full_like(tree.weight, -torch.inf), torch.zeros_like(like)
    point = Point(end.y, end.value, end.grad)
    half = Half(end, point, none, nothing, tree.going, tree.diverged, tree.acceptance, tree.gradients)
    half, first, leaves = extend(motion._replace(step_size=sign * motion.step_size), half, uniform)
    whole, last = half.whole, half.end.momentum
    taken = whole & (uniform(leaves + 1).log() < half.weight - tree.weight)
    turns = _turns(motion.mass, chains, far, last, tree.total + half.total)
    turns = turns | _turns(motion.mass, chains, far, first, tree.total + first)
    turns = turns | _turns(motion.mass, chains, near, last, half.total + near)
    new = Tree(
        _where(whole & ~ahead, half.end, tree.backward),
        _where(whole & ahead, half.end, tree.forward),
        _where(taken, half.found, tree.found),
        torch.where(left(whole, like), tree.total + half.total, tree.total),
        torch.where(whole, torch.logaddexp(tree.weight, half.weight), tree.weight),
        whole & ~turns,
        tree.moved | taken,
        half.diverged,
        half.acceptance,
        half.gradients,
        tree.depth + whole,
    )
    return new, leaves + 2


def with_leaf(motion: Motion, half: Half, draw: Tensor) -> Half:
    """Adds a leaf: one leapfrog from the end, kept where the half is whole."""
    moved, whole = leapfrogs(motion.energy, half.end, motion.mass, motion.step_size), half.whole
    gained = motion.level - moved.value - motion.mass.kinetic(moved.momentum, whole.ndim)
    gained = torch.where(gained.isfinite(), gained, -torch.inf)  # rejects the rest
    diverged = half.diverged | (whole & (gained < -LOST))
    acceptance = half.acceptance + torch.where(whole, gained.clamp(max=0).exp(), 0.0)
    after = whole & (gained >= -LOST)
    weight = torch.where(after, torch.logaddexp(half.weight, gained), half.weight)
    found = _where(after & (draw.log() < gained - weight), Point(moved.y, moved.value, moved.grad), half.found)
    total = torch.where(left(after, half.total), half.total + moved.momentum, half.total)
    return Half(_where(whole, moved, half.end), found, total, weight, after, diverged, acceptance, half.gradients + whole)


def turned(mass: Mass, half: Half, tree: Subtree, second: Subtree | None) -> Tensor:
    """Tells whether a subtree that ends here turns back, or one of its halves with the nearest point of the other.

    Of two leaves each half is one: these say what the whole says, and `second` may be None.
    """
    last, total, chains = half.end.momentum, half.total, half.whole.ndim
    turns = _turns(mass, chains, tree.first, last, total - tree.total)
    if second is None:
        return turns
    turns = turns | _turns(mass, chains, tree.first, second.first, second.total - tree.total + second.first)
    return turns | _turns(mass, chains, second.before, last, total - second.total + second.before)


def _turns(mass: Mass, chains: int, first: Tensor, last: Tensor, total: Tensor) -> Tensor:
    across = mass.velocity(total - (first + last) / 2, chains)
    return (inner(first, across, chains) <= 0) | (inner(last, across, chains) <= 0)


def _where(chosen: Tensor, new: Any, old: Any) -> Any:
    return type(new)(*(torch.where(left(chosen, a), a, b) for a, b in zip(new, old, strict=True)))
