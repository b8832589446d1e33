"""One objective after the other: a cheap one first, the one that is meant then."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler


class InTurn(Objective):
    """Trains by one objective for so many steps, and then by the next, on the same energy.

    A network that predicts well is a good start for an energy made of it: its feed-forward form is
    trained first by a `Reconstruction` with `FixedPoint`, at half the cost of a step, and then its
    energy. How many steps were taken is saved with the objective. In eval mode the last counts.

    Arguments:
        objectives: the objectives.
        steps: for how many steps each but the last is used, in calls in train mode (with
            `accumulate`, a step of training makes several).

    Raises:
        ValueError: there is no objective, or no number of steps for each but the last.

    >>> from ebm.objectives import DenoisingScoreMatching, ScoreMatching
    >>> objective = InTurn([DenoisingScoreMatching(0.1), ScoreMatching()], steps=[1])
    >>> energy, batch = lambda y: (y**2).sum(-1) / 2, Batch(torch.zeros(3, 2))
    >>> ["laplacian" in objective(energy, batch).terms for _ in range(2)], int(objective.taken)
    ([False, True], 2)
    """

    taken: Tensor

    def __init__(self, objectives: Sequence[Objective], steps: Sequence[int]) -> None:
        super().__init__()
        if not objectives or len(steps) != len(objectives) - 1 or any(count < 0 for count in steps):
            what = f"{len(objectives)} objectives and steps={list(steps)}"
            raise ValueError(f"{what}: pass at least one objective, and a number of steps for each but the last")
        self.objectives, self.steps = nn.ModuleList(objectives), tuple(steps)
        self.register_buffer("taken", torch.zeros((), dtype=torch.long, device="cpu"))

    @property
    def lead(self) -> int:
        """Counts the calls in train mode before the last objective, which `fit` makes sure to reach."""
        return sum(self.steps)

    @property
    def sampler(self) -> Sampler | None:
        """The last objective's sampler, where it has one."""
        found = getattr(self.objectives[-1], "sampler", None)
        return found if isinstance(found, Sampler) else None

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        turn, left = 0, int(self.taken)
        while turn < len(self.steps) and (left >= self.steps[turn] or not self.training):
            left, turn = left - self.steps[turn], turn + 1
        if self.training:
            self.taken += 1
        return self.objectives[turn](energy, batch, start=start, generator=generator)
