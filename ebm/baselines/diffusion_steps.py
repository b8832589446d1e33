"""Denoising diffusion's way back: from a noisy picture to the clean one, over fewer and fewer noisy
ones.

The schedule scales a picture x by sqrt(ā_t) and adds noise of variance 1 − ā_t. Steps are rows' own
(B,), and a step of −1 is the clean picture, ā = 1. Every function takes an `earlier` step, which
need not be the one before: that is respacing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.interfaces import left
from ebm.tasks.images.noising import NoiseSchedule


def predicted_clean(schedule: NoiseSchedule, noisy: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """Computes the clean pictures of noisy ones (B, C, H, W) whose noise is known: (x_t − sqrt(1 −
    ā_t) ε) / sqrt(ā_t)."""
    kept = _kept(schedule, step)
    return (noisy - _of((1 - kept).sqrt(), noisy) * noise) / _of(kept.sqrt(), noisy)


def posterior(schedule: NoiseSchedule, step: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes q(x_earlier | x_step, x_clean) = N(a x_clean + b x_step, variance): (a, b,
    variance), each (B,) in float64.

    Source: DDPM (arXiv 2006.11239), equations 6 and 7.

    >>> a, b, variance = posterior(NoiseSchedule(), torch.tensor([99]), torch.tensor([-1]))
    >>> a.item(), b.item(), variance.item()
    (1.0, 0.0, 0.0)
    """
    late, early = _kept(schedule, step), _kept(schedule, earlier)
    lost = 1 - late / early  # what the step from the earlier one is noised by: beta, where that is the one before
    return early.sqrt() * lost / (1 - late), (late / early).sqrt() * (1 - early) / (1 - late), lost * (1 - early) / (1 - late)


def log_variance(schedule: NoiseSchedule, step: Tensor, earlier: Tensor, share: Tensor) -> Tensor:
    """Mixes the logarithms of the posterior's variance (where `share` is −1) and of beta (1), as a
    network's output says.

    The posterior of the clean picture has no variance: there that of the step 0, seen from 1, is
    taken.

    Source: Improved DDPM (arXiv 2102.09672), equation 15.
    """
    lower, upper = posterior(schedule, step, earlier)[2], 1 - _kept(schedule, step) / _kept(schedule, earlier)
    least = posterior(schedule, torch.ones_like(step), torch.zeros_like(step))[2]
    lower = torch.where(earlier < 0, least, lower)
    return _of(lower.log(), share) * (1 - share) / 2 + _of(upper.log(), share) * (1 + share) / 2


def ddim_step(schedule: NoiseSchedule, noisy: Tensor, step: Tensor, earlier: Tensor, clean: Tensor) -> Tensor:
    """Goes to the earlier step without noise: to the picture that the same ε would make of the
    predicted clean one.

    Source: DDIM (arXiv 2010.02502), equation 12 with σ = 0.
    """
    late, early = _kept(schedule, step), _kept(schedule, earlier)
    noise = (noisy - _of(late.sqrt(), noisy) * clean) / _of((1 - late).sqrt(), noisy)
    return _of(early.sqrt(), noisy) * clean + _of((1 - early).sqrt(), noisy) * noise


def ddpm_step(
    schedule: NoiseSchedule, noisy: Tensor, step: Tensor, earlier: Tensor, clean: Tensor, log_variance: Tensor, noise: Tensor
) -> Tensor:
    """Draws a picture of the earlier step with standard normal `noise`; the clean one (step −1) is
    taken without.

    Source: DDPM (arXiv 2006.11239), algorithm 2.
    """
    std = torch.where(left(earlier < 0, noisy), 0.0, (log_variance / 2).exp())
    return _mean(schedule, noisy, step, earlier, clean) + std * noise


def route(start: int, passes: int) -> list[int]:
    """Lists the steps that a picture is looked at on its way from `start` down to 0: so many,
    evenly apart, or all there are.

    ValueError where start is negative, or there is no pass.

    >>> route(99, 4), route(2, 100), route(99, 1)
    ([99, 66, 33, 0], [2, 1, 0], [99])
    """
    if start < 0 or passes < 1:
        raise ValueError(f"route(start={start}, passes={passes}): start at a step of at least 0, and take at least one pass")
    last = min(start, passes - 1)
    return [start - start * place // max(last, 1) for place in range(last + 1)]


def bound(schedule: NoiseSchedule, clean: Tensor, noisy: Tensor, step: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """Computes a step's term of the variational bound in bits a number (B,), for predicted noise
    and variance.

    It is the divergence from the posterior to what is predicted of the step before, and at step 0
    the negative log-likelihood of the clean picture, whose numbers are 256 levels in [−1, 1].

    Source: DDPM (arXiv 2006.11239), equations 5 and 13; the variance is Improved DDPM's.
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
    """Integrates a Gaussian over the level that each number lies in; the lowest and the highest
    reach to infinity."""
    half = 1 / 255
    above = torch.where(clean > 1 - half, 1.0, torch.special.ndtr((clean - mean + half) / std))
    below = torch.where(clean < half - 1, 0.0, torch.special.ndtr((clean - mean - half) / std))
    return (above - below).clamp(min=1e-12).log()
