"""Noise-contrastive estimation: telling data from known noise teaches their density, with log Z."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ebm.interfaces import Batch, Energy, EnergyFn, Loss, Objective, bind, check_configuration, evaluate
from ebm.randomness import randn_like


class NoiseContrastiveEstimation(Objective):
    """Trains an energy, and log Z, to tell each row of data from ν rows of noise y ~ q.

        L = E[softplus(−G(x))] + ν E[softplus(G(y))],    G(u) = −E(u) − log Z − log q(u) − log ν,

    least where exp(−E)/Z is the data's density. log Z, the parameter `log_z`, trains with the
    energy; all contexts share it. Only the last of several landscapes is trained.
    Source: Gutmann and Hyvärinen, 2012.
    Terms: energy_data, energy_noise, accuracy (data and noise counting alike), log_z.

    Arguments:
        noise: q: normal noise's standard deviation, or an energy with `sample` and `log_z`.
        ratio: ν, rows of noise for every row of data.
        log_z: where log Z starts.

    >>> objective = NoiseContrastiveEstimation(log_z=math.log(2 * math.pi))
    >>> batch = Batch(torch.randn(5, 2))
    >>> loss = objective(lambda y: (y**2).sum(-1) / 2, batch)    # the noise itself: a guess
    >>> round(loss.value.exp().item(), 4)
    4.0
    """

    def __init__(self, noise: Energy | float = 1.0, ratio: int = 1, log_z: float = 0.0) -> None:
        super().__init__()
        if ratio < 1:
            raise ValueError(f"ratio={ratio}: pass a whole number of at least 1")
        if not math.isfinite(log_z):
            raise ValueError(f"log_z={log_z}: pass a finite number")
        self.noise, self.ratio = Noise(noise), ratio
        self.log_z = nn.Parameter(torch.tensor(float(log_z)))

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if start is not None:
            raise ValueError("start is given, but noise-contrastive estimation moves no chains: leave it out")
        check_configuration(batch.target, generator)
        function = bind(energy, batch.context)
        at_data = evaluate(function, batch.target)
        noise = self.noise.draw(self.ratio, batch.target, at_data.shape, generator)
        at_noise = evaluate(function, noise)
        odds = self.log_z + math.log(self.ratio)
        of_data = -at_data - odds - self.noise.log_density(batch.target, at_data.shape)
        of_noise = -at_noise - odds - self.noise.log_density(noise, at_noise.shape)
        loss = functional.softplus(-of_data) + functional.softplus(of_noise).sum(0)
        right = ((of_data > 0).to(loss.dtype) + (of_noise < 0).to(loss.dtype).mean(0)) / 2
        terms = {"energy_data": at_data.detach(), "energy_noise": at_noise.detach().mean(0), "accuracy": right}
        means = {name: batch.mean(term) for name, term in terms.items()}
        return Loss(batch.mean(loss), {**means, "log_z": self.log_z.detach().clone()})


class Noise(nn.Module):
    """Draws rows of known density q: normal noise about zero, or an analytic energy's samples.

    >>> rows = (noise := Noise(2.0)).draw(3, torch.zeros(5, 2), (5,))
    >>> rows.shape, noise.log_density(rows, (3, 5)).shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    energy: Any  # None, or what has the samples and log Z

    def __init__(self, source: Energy | float) -> None:
        super().__init__()
        self.std = float(source) if isinstance(source, int | float) else None
        self.energy = source if self.std is None else None
        known = hasattr(source, "sample") and hasattr(source, "log_z") if self.std is None else 0 < self.std < math.inf
        if not known:
            raise ValueError(f"noise {source!r}: pass a positive deviation, or an energy with sample(n, generator=) and log_z")

    def draw(self, count: int, data: Tensor, chains: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Draws noise (count, *chains, *event) for data (*chains, *event), in their dtype."""
        if self.std is not None:
            return self.std * randn_like(data.expand(count, *data.shape), generator)
        noise, event = self.energy.sample(count * math.prod(chains), generator=generator), data.shape[len(chains) :]
        if noise.shape[1:] != event:
            what = f"{type(self.energy).__name__} draws noise of shape {tuple(noise.shape[1:])}"
            raise ValueError(f"{what}, but the data's events have shape {tuple(event)}: pass noise over the same space")
        return noise.reshape(count, *data.shape).to(data)

    @torch.no_grad()
    def log_density(self, y: Tensor, chains: Sequence[int]) -> Tensor:
        """Computes log q(y) (*chains,), as a constant."""
        if self.std is not None:
            white = y.reshape(*chains, -1) / self.std
            return -(white.square() / 2 + math.log(self.std * math.sqrt(2 * math.pi))).sum(-1)
        return -evaluate(bind(self.energy), y) - self.energy.log_z

    def extra_repr(self) -> str:
        return "" if self.std is None else f"std={self.std:g}"
