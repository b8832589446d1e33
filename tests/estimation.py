"""What tests of objectives share: gradients by differences, by row, and the recovery of a known model from its samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ebm.interfaces import Batch, Energy, Objective
from tests.helpers import gradient, quadratic, seeded

# A plane's Gaussian: mean, and the Cholesky factor of the precision, with the logarithm of its diagonal.
GAUSSIAN = torch.tensor([1.0, -0.5, 0.2, -0.6, -0.1], dtype=torch.float64)


def by_differences(aim: Objective, energy: nn.Module, parameter: Tensor, batch: Batch, seed: int = 0) -> Tensor:
    """The gradient of a loss with respect to a parameter, by central differences with the same noise."""
    kept = parameter.detach().clone()

    def loss(values: Tensor) -> Tensor:
        with torch.no_grad():
            parameter.copy_(values)
        return aim(energy, batch, generator=seeded(seed)).value.detach()

    found = gradient(loss, kept)
    with torch.no_grad():
        parameter.copy_(kept)
    return found


def by_row(aim: Objective, energy: Callable[[Tensor, Tensor], Tensor], theta: Tensor, data: Tensor, seed: int = 99) -> Tensor:
    """The gradients (rows, parameters) of every row's own loss, by a copy of the parameters for each row."""
    copies = theta.expand(len(data), -1).clone().requires_grad_()
    loss = aim(lambda y: energy(copies, y), Batch(data), generator=seeded(seed)).value
    return len(data) * torch.autograd.grad(loss, copies)[0]


def is_zero_in_the_mean(values: Tensor, errors: float = 4.0) -> bool:
    """Whether the mean over the first axis is within some standard errors of zero."""
    return bool((values.mean(0).abs() <= errors * values.std(0) / math.sqrt(len(values)) + 1e-12).all())


def ball(theta: Tensor, y: Tensor) -> Tensor:
    """E = |y − m|² / 2s², θ = (m, log s)."""
    return quadratic(y - theta[..., :-1]) * torch.exp(-2 * theta[..., -1])


def gaussian(theta: Tensor, y: Tensor) -> Tensor:
    """E = |Lᵀ(y − m)|² / 2, θ as in GAUSSIAN."""
    one, two = (y - theta[..., :2]).unbind(-1)
    across, down = theta[..., 2].exp() * one + theta[..., 3] * two, theta[..., 4].exp() * two
    return (across.square() + down.square()) / 2


def gaussian_samples(replicas: int, rows: int, seed: int = 0) -> Tensor:
    """Samples (rows, replicas, 2) of GAUSSIAN: m + L⁻ᵀ ε."""
    noise = torch.randn(rows, replicas, 2, generator=seeded(seed), dtype=torch.float64)
    two = noise[..., 1] * torch.exp(-GAUSSIAN[4])
    one = (noise[..., 0] - GAUSSIAN[3] * two) * torch.exp(-GAUSSIAN[2])
    return GAUSSIAN[:2] + torch.stack([one, two], -1)


def gaussian_likeliest(data: Tensor) -> Tensor:
    """The maximum likelihood estimates (replicas, 5) in closed form."""
    away = data - data.mean(0)
    precision = torch.linalg.inv(torch.einsum("nri,nrj->rij", away, away) / len(data))
    factor = torch.linalg.cholesky(precision)
    return torch.stack([*data.mean(0).unbind(-1), factor[:, 0, 0].log(), factor[:, 1, 0], factor[:, 1, 1].log()], -1)


class Replicas(Energy):
    """Reads y (…, rows, replicas, *event) with each replica's own parameters θ (replicas, p)."""

    def __init__(self, energy: Callable[..., Tensor], theta: Tensor) -> None:
        super().__init__()
        self.energy, self.theta = energy, nn.Parameter(theta.clone())

    def forward(self, y, code=None):
        return self.energy(self.theta, y) if code is None else self.energy(self.theta, y, code)


def estimates(
    aim: Objective, energy: Callable[..., Tensor], start: Tensor, data: Tensor, context: Tensor | None = None, seed: int = 1
) -> Tensor:
    """Fits all replicas at once, each to its own rows, at noise that is drawn once: (replicas, p).

    Losses are means over replicas and parameters are their own, so that together they are least where each is.
    """
    model = Replicas(energy, start.expand(data.shape[1], -1))
    optimizer = torch.optim.LBFGS(
        [model.theta], max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-13, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = aim(model, Batch(data, context), generator=seeded(seed)).value * data.shape[1]
        loss.backward()
        return loss

    optimizer.step(closure)
    assert model.theta.grad is not None
    assert float(model.theta.grad.abs().max()) < 1e-4, "not at the minimum"
    return model.theta.detach()


def recovers(found: Tensor, truth: Tensor, best: Tensor, worse: float) -> None:
    """Asserts that estimates (replicas, p) scatter about the truth, and hardly more than the best ones on the same samples.

    Bias: their mean is within 4 standard errors. Scatter: each of the hundreds is within 4.5 standard deviations, and these lie
    between those of maximum likelihood, less what 40 replicas leave open, and `worse` times those.
    """
    spread = found.std(0)
    assert is_zero_in_the_mean(found - truth), (found.mean(0) - truth) / spread * math.sqrt(len(found))
    assert bool(((found - truth).abs() <= 4.5 * spread).all())
    ratio = spread / best.std(0)
    assert bool(((ratio > 0.8) & (ratio < worse)).all()), ratio
