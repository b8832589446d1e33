"""Reconstruction through unrolled optimisation: the loss is how far thinking ends from truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, Task, Unroll, check_unroll, landscapes


class Reconstruction(Objective):
    """Trains an energy so that a descent from a random start ends at the truth.

        L = mean_k d(y_k) (reduce="mean", a graph within each step), or L = d(y_K) (reduce="last"),

    with states y_1 … y_K and the distance d to the target. Source: arXiv 2507.02092, section 3.
    Terms: first_step, last_step (mean distances), energy_gap (first mean energy minus last).

    Arguments:
        sampler: moves y from the start; its learnable step sizes train with the energy.
        task: gives start and distance by default.
        start: start(batch, generator=) -> y_0.
        distance: distance(y, batch) -> (*chains,), differentiable.
        reduce: "mean" over the steps, or the "last" step only.
        unroll: which graph is kept; by default "each" for mean and "last" for last.

    >>> from ebm.samplers import GradientDescent
    >>> objective = Reconstruction(
    ...     GradientDescent(step_size=0.5, steps=2),
    ...     start=lambda batch, generator=None: torch.zeros_like(batch.target),
    ...     distance=lambda y, batch: ((y - batch.target) ** 2).mean(-1),
    ... )
    >>> loss = objective(lambda y: ((y - 1) ** 2).sum(-1) / 2, Batch(torch.ones(3, 2)))
    >>> loss.value.item()    # (1/4 + 1/16) / 2
    0.15625
    """

    def __init__(
        self,
        sampler: Sampler,
        task: Task | None = None,
        start: Callable[..., Tensor] | None = None,
        distance: Callable[[Tensor, Batch], Tensor] | None = None,
        reduce: Literal["mean", "last"] = "mean",
        unroll: Unroll | None = None,
    ) -> None:
        super().__init__()
        if reduce not in ("mean", "last"):
            raise ValueError(f"reduce={reduce!r}: choose mean or last")
        if task is not None:
            start, distance = start or task.start, distance or task.distance
        if start is None or distance is None:
            raise ValueError("Reconstruction needs to know where y starts and how far it is: pass task, or start and distance")
        self.sampler, self.reduce, self.start, self.distance = sampler, reduce, start, distance
        self.unroll: Unroll = unroll or ("each" if reduce == "mean" else "last")
        check_unroll(sampler, self.unroll)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        y = self.start(batch, generator=generator) if start is None else start
        batch, y = self.sampler.begin(batch, y, generator=generator)
        functions = landscapes(energy, batch.context)
        distances, energies = [], []
        for state, info in self.sampler.trajectory(functions, y, unroll=self.unroll, generator=generator):
            y = state.y
            distance = self.distance(y, batch)
            both = min(distance.ndim, info.energy.ndim)
            if distance.shape[:both] != info.energy.shape[:both] or (distance.ndim and not both):
                shapes = f"y {tuple(y.shape)} has energies {tuple(info.energy.shape)} and distances {tuple(distance.shape)}"
                raise ValueError(f"{shapes}: pass a start for each row of the batch, and a distance for each chain")
            distances.append(batch.mean(distance))
            energies.append(info.energy.detach())
        if not distances:
            raise ValueError("Reconstruction's sampler takes no step, so there is nothing to train: set steps >= 1")
        self.sampler.finish(batch, y.detach())
        value = torch.stack(distances).mean() if self.reduce == "mean" else distances[-1]
        terms = {"first_step": distances[0].detach(), "last_step": distances[-1].detach()}
        return Loss(value, {**terms, "energy_gap": batch.mean(energies[0] - energies[-1])})
