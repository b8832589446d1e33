"""log Z: annealed importance sampling forwards and in reverse, along a path of landscapes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Sampler, ScaledEnergy, SumEnergy, check_configuration, check_steps, evaluate, plainly
from ebm.samplers import Compiled

RESAMPLES = 1000  # of the bootstrap: the ends of a 99% interval are then the 5th and the 995th


class LogZ(NamedTuple):
    """Holds log Z (nats), its interval, log w + log Z_0 (chains,), and effective chains."""

    estimate: float
    low: float
    high: float
    log_weights: Tensor
    effective: float


@plainly
def geometric_path(base: EnergyFn, target: EnergyFn, betas: int | Sequence[float] = 100) -> list[EnergyFn]:
    """Makes landscapes from one energy to another, E_k = (1 − β_k) E_base + β_k E_target.

    Arguments:
        base: the start: wide, with exact draws and a known log Z, as a `Gaussian` has.
        target: the end.
        betas: β_0 = 0 < … < β_K = 1, or K, for evenly spaced ones.

    >>> path = geometric_path(lambda y: y.square().sum(-1), lambda y: y.sum(-1), betas=2)
    >>> [landscape(torch.full((1, 2), 2.0)).item() for landscape in path]
    [8.0, 6.0, 4.0]
    """
    if isinstance(betas, int):
        betas = [k / betas for k in range(betas + 1)] if betas > 0 else []
    rising = all(low < high for low, high in pairwise(betas))
    if len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or not rising:
        raise ValueError(f"betas={[*betas]}: pass numbers that rise from 0 to 1, or how many steps to take, at least 1")
    between = [SumEnergy([ScaledEnergy(base, 1 - beta), ScaledEnergy(target, beta)]) for beta in betas[1:-1]]
    return [base, *between, target]


@plainly
def annealed_importance_sampling(
    landscapes: Sequence[EnergyFn],
    sampler: Sampler,
    start: Tensor,
    *,
    log_z: float | Tensor | None = None,
    steps: int | None = None,
    confidence: float = 0.99,
    generator: Generator | None = None,
) -> LogZ:
    """Estimates the last landscape's log Z by chains from the first, whose log Z is known.

        log w = Σ_k E_{k−1}(y_{k−1}) − E_k(y_{k−1}),    k = 1 … K,

    with y_k reached from y_{k−1} by `steps` steps on landscape k. Z_0 mean(w) is unbiased for Z, so
    its log is a stochastic lower bound of log Z. More landscapes raise `effective`. The interval, a
    bootstrap, misses modes that no chain found. Non-finite weights raise FloatingPointError.
    Source: Neal, 2001 (arXiv physics/9803008); interval: Efron and Tibshirani, 1993, chapter 12.5.

    Arguments:
        landscapes: E_0 … E_K, from `geometric_path` or `RBM.tempered`.
        sampler: preserves exp(−E) exactly (MALA, HMC, NUTS, Gibbs); `Annealed` scales its steps.
        start: exact draws of exp(−E_0)/Z_0 (chains, *event).
        log_z: log Z_0; by default the first landscape's attribute `log_z`.
        steps: steps on each landscape, by default the sampler's own number.
        confidence: of the interval.
        generator: where draws come from.

    >>> from ebm.energies import Gaussian
    >>> from ebm.samplers import MALA
    >>> g, base = torch.Generator().manual_seed(0), Gaussian((0.0, 0.0))
    >>> path = geometric_path(base, lambda y: 2 * (y - 0.5).square().sum(-1), betas=20)    # Z = π/2
    >>> start = base.sample(1000, generator=g)
    >>> found = annealed_importance_sampling(path, MALA(0.2, steps=2), start, generator=g)
    >>> found.low < math.log(math.pi / 2) < found.high, found.high - found.low < 0.2
    (True, True)
    """
    known = _known(landscapes, log_z)
    return _interval(known + _log_weights(landscapes, sampler, start, steps, generator), confidence, generator)


@plainly
def reverse_annealed_importance_sampling(
    landscapes: Sequence[EnergyFn],
    sampler: Sampler,
    samples: Tensor,
    *,
    log_z: float | Tensor | None = None,
    steps: int | None = None,
    confidence: float = 0.99,
    generator: Generator | None = None,
) -> LogZ:
    """Bounds the last landscape's log Z from above, by chains annealed back from its samples.

    Log Z_0 minus the log of the mean weight along the reversed path is a stochastic upper bound, or
    a heuristic for approximate samples (a trained model's data).
    Source: Grosse et al., 2015 (arXiv 1511.02543); Burda et al., 2015 (arXiv 1412.8566).

    Arguments:
        landscapes: E_0 … E_K in the forward order: the base, whose log Z is known, is first.
        samples: exact draws of the last landscape (chains, *event).
        sampler, log_z, steps, confidence, generator: as `annealed_importance_sampling`'s.
    """
    known = _known(landscapes, log_z)
    log_weights = _log_weights([*landscapes][::-1], sampler, samples, steps, generator) - known
    found = _interval(log_weights, confidence, generator)
    return LogZ(-found.estimate, -found.high, -found.low, -log_weights, found.effective)


def _known(landscapes: Sequence[EnergyFn], log_z: float | Tensor | None) -> float:
    if len(landscapes) < 2:
        raise ValueError(f"{len(landscapes)} landscapes: pass a path of at least two, as of geometric_path(base, target)")
    found = getattr(landscapes[0], "log_z", None) if log_z is None else log_z
    if found is None:
        raise ValueError("the first landscape has no log_z: pass log_z=, or begin with an energy that knows it, as Gaussian")
    return float(found)


def _log_weights(
    landscapes: Sequence[EnergyFn], sampler: Sampler, start: Tensor, steps: int | None, generator: Generator | None
) -> Tensor:
    """Walks along a path, and sums how far each chain falls at each next landscape (chains,)."""
    if sampler.stationary is False:
        raise ValueError(f"{type(sampler).__name__} does not leave exp(−E) alone: pass an exact sampler, as MALA, HMC or NUTS")
    tested = sampler.sampler if isinstance(sampler, Compiled) else sampler  # which keeps no graph of any
    if tested.differentiable:
        warnings.warn(f"{type(sampler).__name__} has no acceptance test, and its bias is log Z's, too: use MALA", stacklevel=3)
    low, count = check_steps(sampler.steps if steps is None else steps)
    if low != count or count == 0:
        raise ValueError(f"steps={steps}, the sampler's {sampler.steps}: pass one whole number of at least 1")
    check_configuration(start, generator)
    pairs = [*pairwise(landscapes)]
    with torch.no_grad():
        total = _fall(*pairs[0], start)
        if total.ndim != 1 or len(total) < 2:
            raise ValueError(f"start has chains {tuple(total.shape)}: pass (chains, *event), with at least two chains")
        if len(pairs) > 1:
            path = sampler.trajectory([*landscapes][1:-1], start, steps=count, generator=generator)
            for index, (state, _) in enumerate(path, start=1):
                if index % count == 0:
                    total = total + _fall(*pairs[index // count], sampler.point(state.y))
    if not bool(total.isfinite().all()):
        raise FloatingPointError(f"{int((~total.isfinite()).sum())} of {len(total)} weights are not finite: check the energies")
    return total.double()


def _fall(here: EnergyFn, there: EnergyFn, y: Tensor) -> Tensor:
    return evaluate(here, y).double() - evaluate(there, y).double()


def _interval(log_weights: Tensor, confidence: float, generator: Generator | None) -> LogZ:
    """Computes log mean w, its interval (bootstrap of (mean* − mean)/se*), effective weights."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: pass a number between 0 and 1")
    top, count = log_weights.max(), len(log_weights)
    weights = (log_weights - top).exp()
    mean, error = weights.mean(), weights.std() / math.sqrt(count)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = weights[torch.randint(count, (count,), generator=generator, device=weights.device)]
        ratios.append((drawn.mean() - mean) / (drawn.std() / math.sqrt(count)).clamp(min=torch.finfo(mean.dtype).tiny))
    tail = (1 - confidence) / 2
    below, above = torch.stack(ratios).quantile(torch.tensor([tail, 1 - tail]).to(mean)).tolist()
    # An interval of mean w that reaches below zero does not bound log Z from below.
    low, high = ((mean - end * error).clamp(min=0).log() + top for end in (above, below))
    effective = weights.sum().square() / weights.square().sum()
    return LogZ(float(mean.log() + top), float(low), float(high), log_weights, float(effective))
