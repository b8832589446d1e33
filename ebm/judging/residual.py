"""Perplexity of residual models p(x | c) = p_base(x | c) exp(−E(x | c)) / Z(c), as bounds: Z is estimated."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

RESAMPLES = 1000  # of the bootstrap


class Estimate(NamedTuple):
    """A number, and its interval of 95 % over prompts."""

    value: float
    low: float
    high: float


class Nats(NamedTuple):
    """Nats per token of held-out sequences: the base's, and between which the residual model's lie."""

    base: Estimate
    at_least: Estimate
    at_most: Estimate
    gain: Estimate  # the base's less `at_most`: what is gained at least


def log_z_bounds(energies: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates each prompt's log Z = log E exp(−E) by energies (N, B) of draws of the base: (B,) twice.

    With T_n = log mean exp(−E) over n draws, in expectation and for large n

        E[T_n] < log Z < E[(2n − 1) T_n − 2 (n − 1) T_{n−1}],

    where T_{n−1} is averaged over leaving each draw out. A base that never draws what has a low
    energy fools both.
    Source: Deng et al. (arXiv 2004.11714), section 3.3, theorem 2, after Nowozin, 2018.

    Raises:
        ValueError: for fewer than two draws.

    >>> low, high = log_z_bounds(torch.zeros(4, 1))
    >>> low.item(), abs(round(high.item(), 6))
    (0.0, 0.0)
    """
    n = len(energies)
    if n < 2:
        raise ValueError(f"energies have shape {tuple(energies.shape)}: pass at least two draws (N, B) for each prompt")
    logs = -energies.double()
    whole = logs.logsumexp(0) - math.log(n)
    others = logs.expand(n, *logs.shape).masked_fill(torch.eye(n, dtype=torch.bool, device=logs.device)[..., None], -torch.inf)
    left_out = (others.logsumexp(1) - math.log(n - 1)).mean(0)
    return whole, (2 * n - 1) * whole - 2 * (n - 1) * left_out


def residual_nats(
    log_likelihood: Tensor, energy: Tensor, draws: Tensor, tokens: Tensor, *, generator: Generator | None = None
) -> Nats:
    """Computes −log p per token of held-out sequences, one for each of B prompts.

    Arguments:
        log_likelihood: the base's, log p_base(x | c) (B,).
        energy: E(x | c) (B,).
        draws: energies (N, B) of the base's draws for the same prompts.
        tokens: how many tokens each sequence has (B,).
        generator: where the bootstrap over prompts draws from.

    Raises:
        ValueError: for fewer than two draws of each prompt.
    """
    low, high = log_z_bounds(draws)
    base = -log_likelihood.double()
    sums = torch.stack([base, base + energy + low, base + energy + high, -energy - high])
    rows = torch.randint(len(tokens), (RESAMPLES, len(tokens)), generator=generator, device=tokens.device)
    again = sums[:, rows].sum(-1) / tokens.double()[rows].sum(-1)
    ends = again.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device=again.device), dim=1)
    found = sums.sum(-1) / tokens.sum()
    return Nats(*(Estimate(found[i].item(), ends[0, i].item(), ends[1, i].item()) for i in range(4)))
