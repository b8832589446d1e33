"""Mixture over random starts: an answer counts as likely if one of the starts ends at it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, Task, Unroll, check_unroll, landscapes
from ebm.samplers.replay import ReplayAugmented


class Mixture(Objective):
    """Trains an energy so that random starts share several right answers out among themselves.

        L = −log (1/K) Σ_k exp(−d(y_k)),

    with K starts of each row, the state y_k where thinking from one ends, and its distance d to the
    target: the nats −log p(target | y_k) of the whole answer. So L are the nats of a mixture. The
    mean of d over starts (`Reconstruction`) is least where every start ends at the same marginals,
    all places for themselves; here a start may be right about some rows, and far off at others. In
    expectation L is no less than −log of the mixture over all starts, and falls towards it as K
    grows (Burda, Grosse and Salakhutdinov, 2016, arXiv 1509.00519, theorem 1).

    Starts must matter at the end, which a descent of few steps can forget: give `MirrorDescent` some
    `hidden` units, or begin far from uniform. Thinking then draws one answer from each start.
    Terms: mean_start and best_start (distances), energy_gap (first mean energy minus last).

    Arguments:
        sampler: moves y from the start; its learnable step sizes train with the energy.
        task: gives start and distance by default: its `nats` of whole answers, where it has these.
        starts: K, at least 2.
        start: start(batch, generator=) -> y_0, drawn anew for each of the K.
        distance: distance(y, batch) -> (K, *chains), differentiable, in nats of whole answers.
        unroll: which graph is kept, "full" or "last".

    Raises:
        ValueError: for arguments that cannot work, and (at the call) starts that are all the same.

    >>> from ebm.samplers import GradientDescent
    >>> objective = Mixture(
    ...     GradientDescent(step_size=0.5, steps=1),
    ...     starts=64,
    ...     start=lambda batch, generator=None: torch.randn(batch.target.shape, generator=generator),
    ...     distance=lambda y, batch: (y - batch.target).abs().sum(-1),
    ... )
    >>> loss = objective(lambda y: (y**2 - 1).square().sum(-1) / 8, Batch(torch.ones(3, 1)))
    >>> bool(loss.terms["best_start"] < loss.value < loss.terms["mean_start"])
    True
    """

    def __init__(
        self,
        sampler: Sampler,
        task: Task | None = None,
        starts: int = 4,
        start: Callable[..., Tensor] | None = None,
        distance: Callable[[Tensor, Batch], Tensor] | None = None,
        unroll: Unroll = "full",
    ) -> None:
        super().__init__()
        if starts < 2:
            raise ValueError(f"starts={starts}: a mixture has at least 2; of one start it is Reconstruction(reduce='last')")
        if unroll not in ("full", "last"):
            raise ValueError(f"unroll={unroll!r}: the loss is of the last state, so choose full or last")
        check_unroll(sampler, unroll)
        if any(isinstance(part, ReplayAugmented) for part in sampler.modules()):
            raise ValueError("Mixture(ReplayAugmented(…)): every row has starts of its own, drawn anew: pass the sampler inside")
        if task is not None:
            start, distance = start or task.start, distance or getattr(task, "nats", task.distance)
        if start is None or distance is None:
            raise ValueError("Mixture needs to know where y starts and how far it is: pass task, or start and distance")
        self.sampler, self.starts, self.start, self.distance = sampler, starts, start, distance
        self.unroll: Unroll = unroll
        self._looked = False  # whether starts were seen to matter, which is asked of the first batch

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if start is None:
            start = torch.stack([self.start(batch, generator=generator) for _ in range(self.starts)])
        trajectory = [*self.sampler.trajectory(landscapes(energy, batch.context), start, unroll=self.unroll, generator=generator)]
        if not trajectory:
            raise ValueError("Mixture's sampler takes no step, so there is nothing to train: set steps >= 1")
        y, gap = trajectory[-1][0].y, trajectory[0][1].energy - trajectory[-1][1].energy
        if not self._looked and len(start) > 1 and not bool((y[0] != y[1]).any()):
            raise ValueError("all starts end at one state, and are no mixture: start from noise, or add some on the way")
        self._looked = True
        distance = self.distance(y, batch)
        value = math.log(len(start)) - (-distance).logsumexp(0)
        terms = {"mean_start": distance.mean(0), "best_start": distance.amin(0), "energy_gap": gap.mean(0)}
        return Loss(batch.mean(value), {name: batch.mean(each.detach()) for name, each in terms.items()})
