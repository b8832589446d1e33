"""Thinking: optimising y at inference, over steps and candidates, judged by the energy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import (
    Batch,
    EnergyFn,
    Prediction,
    Sampler,
    bind,
    check_configuration,
    check_steps,
    eval_mode,
    evaluate,
    landscapes,
    left,
)

Select = Literal["min", "max", "max-drop"]


class Thought(NamedTuple):
    """What thinking returns: the chosen raw state and its energy, all energies, and steps taken."""

    y: Tensor  # (*chains, *event)
    energy: Tensor  # (*chains,): E(point(y))
    energies: Tensor  # (levels * steps + 1, candidates, *chains): before each step, and of the end
    steps: Tensor  # (*chains,): steps that moved the chosen candidate


def think(
    energy: EnergyFn | Sequence[EnergyFn],
    sampler: Sampler,
    context: Any = None,
    start: Tensor | Callable[..., Tensor] | None = None,
    candidates: int = 1,
    steps: int | None = None,
    select: Select = "min",
    patience: int | None = None,
    tolerance: float = 0.0,
    generator: Generator | None = None,
) -> Thought:
    """Thinks: descends the energy from several starts and keeps each chain's best candidate.

    Step scales and numbers of steps are not random. Source: arXiv 2507.02092, section 3.

    Arguments:
        energy: an Energy, a plain function, or a list of such, one for each landscape.
        sampler: moves y; energies are taken at its `point`.
        context: what the energy is conditioned on.
        start: (candidates, *chains, *event), or start(generator=) that draws one candidate's.
        candidates: how many starts are tried (self-verification).
        steps: steps per landscape; by default the sampler's own (upper end).
        select: per chain "min" (lowest energy), "max", or "max-drop" (largest fall of energy).
        patience: stops a chain whose energy has not fallen for so many steps of the last landscape,
            and keeps its lowest state there. None takes all steps and keeps the end.
        tolerance: with patience, the least fall that counts, as a share of the energy's size.
        generator: where starts and noise come from.

    >>> from ebm.samplers import GradientDescent
    >>> sampler = GradientDescent(step_size=0.25, steps=8)
    >>> thought = think(lambda y: (y**2).sum(-1), sampler, start=torch.randn(4, 3, 2), candidates=4)
    >>> thought.y.shape, thought.energies.shape, thought.energy.max() < 1e-3
    (torch.Size([3, 2]), torch.Size([9, 4, 3]), tensor(True))
    """
    how: dict[str, Any] = {"select": select, "patience": patience, "tolerance": tolerance}
    thinker = Thinker(energy, sampler, candidates=candidates, steps=steps, **how)  # type: ignore[arg-type]
    return thinker._think(context, start, generator)[0]


class Considered(Prediction):
    """A prediction that also holds how many steps (*chains,) moved each chain; it unpacks alike."""

    steps: Tensor


def check_choices(candidates: int, select: str, patience: int | None, tolerance: float = 0.0) -> None:
    """Raises ValueError for choices of thinking that cannot work."""
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: pass a number of at least 1")
    if select not in ("min", "max", "max-drop"):
        raise ValueError(f"select={select!r}: choose min, max or max-drop")
    if patience is not None and patience < 1:
        raise ValueError(f"patience={patience}: pass a number of at least 1, or None")
    if not 0 <= tolerance < 1 or (tolerance and patience is None):
        raise ValueError(f"tolerance={tolerance}, patience={patience}: pass a share in [0, 1), and the patience that it is for")


class Counted:
    """Counts how often an energy function is called."""

    def __init__(self, energy: EnergyFn) -> None:
        self.energy, self.calls = energy, 0

    def __call__(self, y: Tensor) -> Tensor:
        self.calls += 1
        return self.energy(y)


class _Stopping:
    """Keeps each chain's lowest state; stops chains whose energy did not fall for some steps."""

    def __init__(self, patience: int, tolerance: float, energy: Tensor, y: Tensor) -> None:
        self.patience, self.tolerance = patience, tolerance
        self.energy, self.y = torch.full_like(energy, float("inf")), y
        self.waited = torch.zeros_like(energy, dtype=torch.long)
        self.taken = torch.zeros_like(self.waited)
        self.stopped = torch.zeros_like(energy, dtype=torch.bool)

    def see(self, energy: Tensor, y: Tensor, taken: int) -> Tensor:
        """Takes in y and its energy after `taken` steps; returns energies, frozen where stopped."""
        # Any first energy counts as a fall, whatever the tolerance.
        least = torch.where(self.energy.isfinite(), self.energy - self.tolerance * self.energy.abs(), self.energy)
        lower = (energy < least) & ~self.stopped
        self.energy = torch.where(lower, energy, self.energy)
        self.y = torch.where(left(lower, y), y, self.y)
        self.waited = torch.where(lower, 0, self.waited + 1)
        self.taken = torch.where(self.stopped, self.taken, taken)
        self.stopped = self.stopped | (self.waited >= self.patience)
        return torch.where(self.stopped, self.energy, energy)


class Thinker:
    """Predicts by thinking: an energy and a sampler make the predictor that tasks judge.

    Arguments are `think`'s; several starts are a tensor's leading axis, or come from a callable.

    >>> from ebm.samplers import GradientDescent
    >>> thinker = Thinker(lambda y: (y**2).sum(-1), GradientDescent(step_size=0.25, steps=8))
    >>> thinker.predict(Batch(torch.zeros(3, 2)), torch.ones(3, 2)).evaluations
    9
    """

    def __init__(
        self,
        energy: EnergyFn,
        sampler: Sampler,
        *,
        candidates: int = 1,
        steps: int | None = None,
        select: Select = "min",
        patience: int | None = None,
        tolerance: float = 0.0,
    ) -> None:
        self.energy, self.sampler = energy, sampler
        self.candidates, self.steps, self.select = candidates, steps, select
        self.patience, self.tolerance = patience, tolerance

    def predict(self, batch: Batch, start: Tensor | Callable[..., Tensor], *, generator: Generator | None = None) -> Prediction:
        """Thinks about a batch: best raw states, their energies, and forward passes per chain."""
        if isinstance(start, Tensor) and self.candidates == 1:
            start = start[None]
        thought, passes = self._think(batch.context, start, generator)
        prediction = Considered(thought.y, thought.energy, passes * self.candidates)
        prediction.steps = thought.steps
        return prediction

    def score(self, batch: Batch, y: Tensor) -> Tensor:
        """Computes energies (*chains,) of y as it is (no retraction), at the last landscape."""
        with torch.no_grad(), eval_mode(self.energy):
            return evaluate(bind(self.energy, batch.context), y)

    def _think(self, context: Any, start: Any, generator: Generator | None) -> tuple[Thought, int]:
        """Thinks, and counts the forward passes spent on each candidate."""
        candidates = self.candidates
        check_choices(candidates, self.select, self.patience, self.tolerance)
        y = torch.stack([start(generator=generator) for _ in range(candidates)]) if callable(start) else start
        check_configuration(y, generator)
        if len(y) != candidates:
            raise ValueError(f"start has shape {tuple(y.shape)}, but candidates={candidates}: its first axis is the candidates")
        if candidates == 1:
            y = y[0]  # an energy that counts axes from the left may refuse an axis of one candidate
        with torch.no_grad(), eval_mode(self.sampler), eval_mode(self.energy):
            functions = [Counted(function) for function in landscapes(self.energy, context)]
            final = self.sampler.route([*functions])[-1]
            path, y, taken = self._descend(functions, y, generator)
            last = evaluate(final, self.sampler.point(y))
        passes = sum(function.calls for function in functions)
        taken = torch.zeros_like(last, dtype=torch.long) if taken is None else taken
        energies = torch.stack([*path, last])
        if candidates == 1:
            return Thought(y, last, energies[:, None], taken), passes
        chosen = {"min": -last, "max": last, "max-drop": energies[0] - last}[self.select].argmax(0)

        def pick(values: Tensor) -> Tensor:
            index = left(chosen[None], values).expand(1, *values.shape[1:])
            return values.gather(0, index)[0]

        return Thought(pick(y), pick(last), energies, pick(taken)), passes

    def _descend(
        self, functions: Sequence[EnergyFn], y: Tensor, generator: Generator | None
    ) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Runs the trajectory: (energies before each step, ends, steps per chain or None)."""
        visited = self.sampler.route([*functions])
        per_landscape = check_steps(self.sampler.steps if self.steps is None else self.steps)[1]
        total = len(visited) * per_landscape
        path: list[Tensor] = []
        stopping: _Stopping | None = None
        for state, info in self.sampler.trajectory(functions, y, steps=self.steps, generator=generator):
            energy = info.energy
            if self.patience is not None and len(path) >= total - per_landscape:
                stopping = stopping or _Stopping(self.patience, self.tolerance, energy, y)
                energy = stopping.see(energy, y, taken=len(path))
            path.append(energy)
            y = state.y
            if stopping is not None and bool(stopping.stopped.all()):
                path += [stopping.energy] * (total - len(path))
                return path, stopping.y, stopping.taken
        if stopping is not None:
            stopping.see(evaluate(visited[-1], self.sampler.point(y)), y, taken=total)
            return path, stopping.y, stopping.taken
        return path, y, torch.full_like(path[0], total, dtype=torch.long) if path else None
