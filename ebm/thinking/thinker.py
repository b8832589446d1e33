"""The thinker: descends from several starts, stops chains, and keeps each one's best candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    plainly,
    raise_if_not_finite,
)
from ebm.thinking.choosing import Candidates, Select, check_choices, choice_of, pick
from ebm.thinking.stopping import Stopping, distance_moved
from ebm.thinking.walk import Counted, Walk


class Thought(NamedTuple):
    """What thinking returns: the chosen raw state and its energy, all energies, and steps taken."""

    y: Tensor  # (*chains, *event)
    energy: Tensor  # (*chains,): E(point(y))
    energies: Tensor  # (levels * steps + 1, candidates, *chains): before each step, and of the end
    steps: Tensor  # (*chains,): steps that moved the chosen candidate


@plainly
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
    residual: float | None = None,
    generator: Generator | None = None,
    familiar: float | None = None,
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
        select: which candidate a chain keeps: of the lowest energy ("min"), the highest ("max"), the
            largest fall ("max-drop") or the smallest last step ("residual"); of symbols, whose
            logits are y's last axis, also the most confident ("confidence") or the one that most
            agree on ("vote"); or a function of `Candidates` whose highest score wins.
        patience: stops a chain whose energy has not fallen for so many steps of the last landscape,
            and keeps its lowest state there. None takes all steps and keeps the end.
        tolerance: with patience, the least fall that counts, as a share of the energy's size.
        residual: stops a chain once a step of the last landscape moves its point by less, root mean
            square. Chains that stopped leave the batch, where their contexts can be cut.
        generator: where starts and noise come from.
        familiar: the energy, for each number of its event, up to which a chain is as those that the
            energy was trained on: it takes one step of the last landscape, and the others go on.

    >>> from ebm.samplers import GradientDescent
    >>> sampler = GradientDescent(step_size=0.25, steps=8)
    >>> thought = think(lambda y: (y**2).sum(-1), sampler, start=torch.randn(4, 3, 2), candidates=4)
    >>> thought.y.shape, thought.energies.shape, thought.energy.max() < 1e-3
    (torch.Size([3, 2]), torch.Size([9, 4, 3]), tensor(True))
    """
    how: dict[str, Any] = {"select": select, "patience": patience, "tolerance": tolerance, "residual": residual}
    how["familiar"] = familiar
    thinker = Thinker(energy, sampler, candidates=candidates, steps=steps, **how)  # type: ignore[arg-type]
    return thinker._think(context, start, generator)[0]


class Considered(Prediction):
    """A prediction that also holds how many steps (*chains,) moved each chain; it unpacks alike."""

    steps: Tensor


class Thinker:
    """Predicts by thinking: an energy and a sampler make the predictor that tasks judge.

    Arguments are `think`'s; several starts are a tensor's leading axis, or come from a callable.

    >>> from ebm.samplers import GradientDescent
    >>> thinker = Thinker(lambda y: (y**2).sum(-1), GradientDescent(step_size=0.25, steps=8))
    >>> thinker.predict(Batch(torch.zeros(3, 2)), torch.ones(3, 2)).evaluations
    9
    """

    @plainly
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
        residual: float | None = None,
        familiar: float | None = None,
    ) -> None:
        self.energy, self.sampler = energy, sampler
        self.candidates, self.steps, self.select = candidates, steps, select
        self.patience, self.tolerance, self.residual, self.familiar = patience, tolerance, residual, familiar

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

    def _think(self, context: Any, start: Any, generator: Generator | None) -> tuple[Thought, float]:
        """Thinks, and counts the forward passes spent on each candidate."""
        candidates = self.candidates
        check_choices(candidates, self.select, self.patience, self.tolerance, self.residual, self.familiar)
        y = torch.stack([start(generator=generator) for _ in range(candidates)]) if callable(start) else start
        check_configuration(y, generator)
        if len(y) != candidates:
            raise ValueError(f"start has shape {tuple(y.shape)}, but candidates={candidates}: its first axis is the candidates")
        lone = candidates == 1 and not self.sampler.interacting  # candidates act on each other, rows do not
        if lone:
            y = y[0]  # an energy that counts axes from the left may refuse an axis of one candidate
        with torch.no_grad(), eval_mode(self.sampler), eval_mode(self.energy):
            functions = [Counted(function) for function in landscapes(self.energy, context)]
            final = self.sampler.route([*functions])[-1]
            width = y.shape[-1] if y.ndim else 0
            if getattr(self.sampler, "hidden", 0) != 0:
                y = self.sampler.init(final, y, generator=generator).y  # with room for hidden units
            y = self.sampler.project(y)
            walk = Walk(self.energy, self.sampler, context, functions, y, 2 - lone, self.steps)
            path, y, taken, moved = self._descend(walk, final, generator)
            last = evaluate(final, self.sampler.point(y))
        raise_if_not_finite(None, y, last)  # the trajectory has looked at energies before its steps
        taken = torch.zeros_like(last, dtype=torch.long) if taken is None else taken
        energies = torch.stack([*path, last])
        if lone:
            return Thought(y, last, energies[:, None], taken), walk.passes
        found = Candidates(y[..., :width], last, energies[0], torch.zeros_like(last) if moved is None else moved)
        chosen = choice_of(self.select)(found).argmax(0)
        return Thought(pick(chosen, y), pick(chosen, last), energies, pick(chosen, taken)), walk.passes

    def _descend(
        self, walk: Walk, final: EnergyFn, generator: Generator | None
    ) -> tuple[list[Tensor], Tensor, Tensor | None, Tensor | None]:
        """Walks: (energies before each step, ends, steps per chain or None, how far the last step moved)."""
        per_landscape = check_steps(self.sampler.steps if self.steps is None else self.steps)[1]
        total = per_landscape * len(self.sampler.route([*walk.counted]))
        stops = self.patience is not None or self.residual is not None or self.familiar is not None
        measures = self.residual is not None or self.select == "residual" or callable(self.select)
        path: list[Tensor] = []
        stopping: Stopping | None = None
        moved: Tensor | None = None
        y = walk.y
        for energy, new in walk.steps_of(per_landscape, generator):
            if stops and len(path) >= total - per_landscape:
                stopping = stopping or Stopping(self.patience, self.tolerance, self.residual, energy, y, self.familiar)
                energy = stopping.see(energy, y, len(path), moved)
                walk.stopped = stopping.stopped
            path.append(energy)
            if measures:
                moved = distance_moved(self.sampler.point(new), self.sampler.point(y), energy.ndim)
            y = new
            if stopping is not None and bool(stopping.stopped.all()):
                path += [stopping.energy] * (total - len(path))
                return path, stopping.y, stopping.taken, moved
        if stopping is not None:
            stopping.see(evaluate(final, self.sampler.point(y)), y, total, moved)
            return path, stopping.y, stopping.taken, moved
        return path, y, torch.full_like(path[0], total, dtype=torch.long) if path else None, moved
