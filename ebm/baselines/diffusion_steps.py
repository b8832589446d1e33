"""Denoising diffusion's way back, from a noisy picture to the clean one.

x_t = sqrt(ā_t) x + sqrt(1 − ā_t) ε. Steps are rows' own (B,); step −1 is the clean picture, ā = 1.
An `earlier` step need not be the one before (respacing).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.interfaces import left
from ebm.tasks.images.noising import NoiseSchedule


def predicted_clean(schedule: NoiseSchedule, noisy: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """Computes clean pictures (B, C, H, W) from noise: (x_t − sqrt(1 − ā_t) ε) / sqrt(ā_t)."""
    kept = _kept(schedule, step)
    return (noisy - _of((1 - kept).sqrt(), noisy) * noise) / _of(kept.sqrt(), noisy)


def posterior(schedule: NoiseSchedule, step: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes (a, b, v), each (B,) in float64: q(x_earlier | x_step, x) = N(a x + b x_step, v).

    Source: DDPM (arXiv 2006.11239), equations 6 and 7.

    >>> a, b, variance = posterior(NoiseSchedule(), torch.tensor([99]), torch.tensor([-1]))
    >>> a.item(), b.item(), variance.item()
    (1.0, 0.0, 0.0)
    """
    late, early = _kept(schedule, step), _kept(schedule, earlier)
    lost = 1 - late / early  # what the step from the earlier one is noised by: beta, where that is the one before
    return early.sqrt() * lost / (1 - late), (late / early).sqrt() * (1 - early) / (1 - late), lost * (1 - early) / (1 - late)


def log_variance(schedule: NoiseSchedule, step: Tensor, earlier: Tensor, share: Tensor) -> Tensor:
    """Mixes the logarithms of the posterior's variance (`share` −1) and of beta (`share` 1).

    Step −1 has no variance, and takes that of step 0, seen from 1. Source: Improved DDPM (arXiv
    2102.09672), equation 15.
    """
    lower, upper = posterior(schedule, step, earlier)[2], 1 - _kept(schedule, step) / _kept(schedule, earlier)
    least = posterior(schedule, torch.ones_like(step), torch.zeros_like(step))[2]
    lower = torch.where(earlier < 0, least, lower)
    return _of(lower.log(), share) * (1 - share) / 2 + _of(upper.log(), share) * (1 + share) / 2


def ddim_step(schedule: NoiseSchedule, noisy: Tensor, step: Tensor, earlier: Tensor, clean: Tensor) -> Tensor:
    """Goes to the earlier step without noise: DDIM (arXiv 2010.02502), equation 12 with σ = 0."""
    late, early = _kept(schedule, step), _kept(schedule, earlier)
    noise = (noisy - _of(late.sqrt(), noisy) * clean) / _of((1 - late).sqrt(), noisy)
    return _of(early.sqrt(), noisy) * clean + _of((1 - early).sqrt(), noisy) * noise


def ddpm_step(
    schedule: NoiseSchedule, noisy: Tensor, step: Tensor, earlier: Tensor, clean: Tensor, log_variance: Tensor, noise: Tensor
) -> Tensor:
    """Draws the earlier step, noiseless at −1: DDPM (arXiv 2006.11239), algorithm 2."""
    std = torch.where(left(earlier < 0, noisy), 0.0, (log_variance / 2).exp())
    return _mean(schedule, noisy, step, earlier, clean) + std * noise


def route(start: int, passes: int) -> list[int]:
    """Lists `passes` steps, evenly apart, from `start` (0 or more) down to 0, or all there are.

    >>> route(99, 4), route(2, 100), route(99, 1)
    ([99, 66, 33, 0], [2, 1, 0], [99])
    """
    if start < 0 or passes < 1:
        raise ValueError(f"route(start={start}, passes={passes}): start at a step of at least 0, and take at least one pass")
    last = min(start, passes - 1)
    return [start - start * place // max(last, 1) for place in range(last + 1)]


def bound(schedule: NoiseSchedule, clean: Tensor, noisy: Tensor, step: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Computes a step's term of the variational bound in bits a number (B,).

    It is the divergence from the posterior to the prediction, and at step 0 the negative
    log-likelihood of 256 levels in [−1, 1]: DDPM (arXiv 2006.11239), equations 5 and 13.
    """
    earlier = step - 1
    mean = _mean(schedule, noisy, step, earlier, predicted_clean(schedule, noisy, step, noise))
    spread = log_variance(schedule, step, earlier, share)
    target = _mean(schedule, noisy, step, earlier, clean)
    ratio = log_variance(schedule, step, earlier, torch.full_like(share, -1.0)) - spread
    divergence = (ratio.exp() - 1 - ratio + (target - mean).square() * (-spread).exp()) / 2
    terms = torch.where(left(step == 0, clean), -_log_likelihood(clean, mean, (spread / 2).exp()), divergence)
    return terms.flatten(1).mean(1) / math.log(2)


def _kept(schedule: NoiseSchedule, step: Tensor) -> Tensor:
    """Looks up ā (B,), in float64: the last entry, which −1 finds, is the clean picture's."""
    return F.pad(schedule.signal.square(), (0, 1), value=1.0).to(step.device)[step]


def _of(values: Tensor, like: Tensor) -> Tensor:
    """Views a number for each row as a factor of pictures."""
    return left(values.to(like), like)


def _mean(schedule: NoiseSchedule, noisy: Tensor, step: Tensor, earlier: Tensor, clean: Tensor) -> Tensor:
    a, b, _ = posterior(schedule, step, earlier)
    return _of(a, noisy) * clean + _of(b, noisy) * noisy


def _log_likelihood(clean: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Integrates a Gaussian over each number's level; the outer levels reach to infinity."""
    half = 1 / 255
    above = torch.where(clean > 1 - half, 1.0, torch.special.ndtr((clean - mean + half) / std))
    below = torch.where(clean < half - 1, 0.0, torch.special.ndtr((clean - mean - half) / std))
    return (above - below).clamp(min=1e-12).log()
