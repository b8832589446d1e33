"""Perplexity of residual models p(x | c) = p_base(x | c) exp(−E(x | c)) / Z(c), whose Z is estimated."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebm.judging.seeds import over_seeds


class Estimate(NamedTuple):
    """A number, and its interval of 95 % over prompts; infinite for one prompt."""

    value: float
    low: float
    high: float


class Nats(NamedTuple):
    """Nats per token of held-out sequences: the base's, the residual model's, and those of resampling."""

    base: Estimate
    at_least: Estimate  # the residual model's, by a log Z that is too small in expectation
    at_most: Estimate  # by one that is too large in expectation, if there are draws enough
    resampled: Estimate  # what resampling writes, at most: that holds for any number of draws
    gain: Estimate  # the base's less `resampled`: what is gained at least


def log_z_bounds(energies: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates each prompt's log Z = log E exp(−E) by energies (N, B) of draws of the base: (B,) twice.

    With T_n = log mean exp(−E) over n draws, in expectation

        E[T_n] < log Z < E[(2n − 1) T_n − 2 (n − 1) T_{n−1}],

    where T_{n−1} is averaged over leaving each draw out. The first holds for any n, by Jensen's
    inequality. The second needs a large n: T_n falls short by c / n + O(1 / n²), with c = Var exp(−E)
    / (2 Z²), so that the combination lies above by c / n. Where n is far less than 2 c, as for a base
    that hardly ever draws what has a low energy, both are too small.
    Source: Deng et al. (arXiv 2004.11714), after Nowozin, 2018 (jackknife variational inference).

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


def residual_nats(log_likelihood: Tensor, energy: Tensor, draws: Tensor, tokens: Tensor) -> Nats:
    """Computes −log p per token of held-out sequences, one for each of B prompts.

    `resampled` is of the distribution q that `rerank(resample=True)` draws from by n = N + 1
    draws: q(x) = n p_base(x) E[exp(−E(x)) / (exp(−E(x)) + Σ_{i ≤ N} exp(−E(x_i)))]. So −log q(x) is at
    most the mean of log (exp(−E(x)) + Σ_i exp(−E(x_i))) − log n + E(x) − log p_base(x), by Jensen's
    inequality, and no Z is estimated. It gains log n a sequence at most.

    Intervals are Student's t over prompts, of sums of nats by sums of tokens, linearised.

    Arguments:
        log_likelihood: the base's, log p_base(x | c) (B,).
        energy: E(x | c) (B,).
        draws: energies (N, B) of the base's draws for the same prompts.
        tokens: how many tokens each sequence has (B,).

    Raises:
        ValueError: for fewer than two draws of each prompt.
        ImportError: scipy is not installed.

    >>> found = residual_nats(torch.tensor([-2.0, -6.0]), torch.zeros(2), torch.zeros(8, 2), torch.tensor([2, 4]))
    >>> round(found.base.value, 4), round(found.resampled.value, 4), abs(round(found.gain.value, 4))
    (1.3333, 1.3333, 0.0)
    """
    low, high = log_z_bounds(draws)
    base, own = -log_likelihood.double(), energy.double()
    chosen = torch.cat([-own[None], -draws.double()]).logsumexp(0) - math.log(len(draws) + 1)
    sums = (base, base + own + low, base + own + high, base + own + chosen, -own - chosen)
    return Nats(*(_ratio(each, tokens.double()) for each in sums))


def _ratio(nats: Tensor, tokens: Tensor) -> Estimate:
    """Estimates Σ nats / Σ tokens over prompts (B,)."""
    found = nats.sum() / tokens.sum()
    return Estimate(*over_seeds((found + (nats - found * tokens) / tokens.mean()).tolist())[:3])
