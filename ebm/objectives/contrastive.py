"""Contrastive divergence: lower the energy of data, raise that of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Info, Loss, Objective, Sampler, Task, Unroll, bind, check_configuration, landscapes
from ebm.randomness import randn_like

STILL = 1e-3  # the least move of a chain that is not frozen, for data of scale 1
NUDGE = 0.01  # a move that rounding keeps also in half precision


class ContrastiveDivergence(Objective):
    """Trains an energy by maximum likelihood with samples from short chains.

        L = E[E(x)] − E[E(x⁻)] + energy_l2 (E[E(x)²] + E[E(x⁻)²]),

    with data x and the chains' ends x⁻ as constants: without L2, ∇L is the gradient of the negative
    log-likelihood up to the chains' bias. Chains from data make CD-k, chains from noise short-run
    learning, and a `ReplayAugmented` sampler persistent CD, whose fresh rows start as `start` says.
    Source: Hinton, 2002; Tieleman, 2008; Nijkamp et al., 2019 (arXiv 1904.09770); L2: Du and
    Mordatch, 2019, eq. (4). Terms: energy_data, energy_samples, energy_gap (data minus samples,
    near zero when healthy), displacement (mean distance from start to end), frozen (share of chains
    that moved by less than 1e-3), grad_norm (last step), acceptance (mean over steps), clamped
    (share of entries that end at the sampler's bounds), buffer_age (mean number of
    trajectories behind stored rows).

    Arguments:
        sampler: moves the chains.
        start: "data" or "noise" (the task's start; standard normal noise without a task).
        energy_l2: weight of the squared energies, which keeps energies near zero.
        data_noise: standard deviation of noise on the data, which smooths discrete data.
        task: draws the noise.

    >>> from ebm.samplers import LangevinDynamics
    >>> objective = ContrastiveDivergence(LangevinDynamics(step_size=0.1, steps=5))
    >>> sorted(objective(lambda y: (y**2).sum(-1) / 2, Batch(torch.ones(3, 2))).terms)
    ['displacement', 'energy_data', 'energy_gap', 'energy_samples', 'frozen', 'grad_norm']
    """

    unroll: Unroll = "none"  # which graph of the chains is kept

    def __init__(
        self,
        sampler: Sampler,
        start: Literal["data", "noise"] = "data",
        energy_l2: float = 0.0,
        data_noise: float = 0.0,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        if start not in ("data", "noise"):
            raise ValueError(f"start={start!r}: choose data (CD-k) or noise (short-run)")
        if energy_l2 < 0 or data_noise < 0:
            raise ValueError(f"energy_l2={energy_l2}, data_noise={data_noise}: pass numbers of at least 0")
        self.sampler, self.task = sampler, task
        self.start, self.energy_l2, self.data_noise = start, energy_l2, data_noise

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        data = batch.target
        check_configuration(data, generator)
        if self.data_noise:
            data = data + self.data_noise * randn_like(data, generator)
        with torch.no_grad():
            if start is None and self.start == "data":
                start = data
            elif start is None:
                start = randn_like(data, generator) if self.task is None else self.task.start(batch, generator=generator)
            begun, first = self.sampler.begin(batch, start, generator=generator)
        with torch.set_grad_enabled(self.unroll != "none" and torch.is_grad_enabled()):
            ends, info, fared = run_chains(self.sampler, landscapes(energy, begun.context), first, generator, self.unroll)
        y = ends.detach()
        with torch.no_grad():
            self.sampler.finish(begun, y)
            samples = self.sampler.point(y)
            if info is not None:
                moved = (y - first).reshape(*info.energy.shape, -1).norm(dim=-1)
                fared |= {"displacement": moved.mean(), "frozen": (moved < STILL).to(y.dtype).mean()}
                if samples is not y:
                    # At a bound, a nudge to one side is undone; raw states (logits) have none.
                    held = (self.sampler.point(y + NUDGE) == samples) | (self.sampler.point(y - NUDGE) == samples)
                    fared["clamped"] = (held & (samples == y)).to(y.dtype).mean()
                if (age := getattr(self.sampler, "age", None)) is not None:
                    fared["buffer_age"] = age.to(y)
        at_data = bind(energy, batch.context)
        at_samples = at_data if begun.context is batch.context else bind(energy, begun.context)
        positive, negative = at_data(data), at_samples(samples)
        events = data.shape[positive.ndim :], samples.shape[negative.ndim :]
        if events[0] != events[1]:
            shapes = f"data {tuple(data.shape)} have events {tuple(events[0])}, samples {tuple(samples.shape)} {tuple(events[1])}"
            raise ValueError(f"{shapes}: pass a start like the data")
        value = gap = batch.mean(positive) - begun.mean(negative)
        if self.energy_l2:
            value = value + self.energy_l2 * (batch.mean(positive**2) + begun.mean(negative**2))
        terms = {"energy_data": batch.mean(positive.detach()), "energy_samples": begun.mean(negative.detach())}
        more, found = self.further(at_samples, begun, ends)
        return Loss(value + more, {**terms, "energy_gap": gap.detach(), **fared, **found})

    def further(self, energy: EnergyFn, batch: Batch, ends: Tensor) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Computes what is added to the loss, and its terms: here nothing.

        Arguments:
            energy: the landscape of the samples.
            batch: rows beside which the chains ran.
            ends: the chains' ends, raw states, with the graph that `unroll` keeps.
        """
        return 0.0, {}


def run_chains(
    sampler: Sampler, energies: EnergyFn | Sequence[EnergyFn], y: Tensor, generator: Generator | None, unroll: Unroll = "none"
) -> tuple[Tensor, Info | None, dict[str, Tensor]]:
    """Runs chains: (their ends, the last step's info, the terms grad_norm and acceptance)."""
    info, accepted = None, []
    for state, info in sampler.trajectory(energies, y, unroll=unroll, generator=generator):
        y = state.y
        accepted += [] if info.accepted is None else [info.accepted.to(y.dtype).mean()]
    if info is None:
        return y, None, {"displacement": y.new_zeros(()), "grad_norm": y.new_zeros(())}
    fared = {} if (norm := info.grad_norm) is None else {"grad_norm": norm.mean()}
    return y, info, fared | ({"acceptance": torch.stack(accepted).mean()} if accepted else {})
