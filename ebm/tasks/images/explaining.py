"""Explaining: the picture that a prior finds likely and that explains what was seen of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.restoration.observed import Observed
from ebm.interfaces import Energy, eval_mode
from ebm.samplers import ProximalGradient

BALANCE = 0.23  # how much the prior counts against what was seen (Zhang et al., 2021)
LEAST = 2.5 / 127.5  # noise that is counted with at least: with less, conjugate gradients take long


def explain(
    prior: Energy,
    operator: Callable[[Tensor], Tensor],
    seen: Tensor,
    std: float,
    start: Tensor,
    *,
    steps: int = 30,
    first: float = 55 / 127.5,
    balance: float = BALANCE,
) -> Tensor:
    """Restores a picture (C, H, W) from what was seen of it, b = A x + noise.

    Proximal gradient steps on E(x | σ_k) + σ_k² |A x − b|² / (2 λ s²), for σ_k that fall evenly in
    their logarithm from `first` to s: the prior is first told that much is wrong, then little.
    Source: plug and play with falling noise (Zhang et al., 2021, Plug-and-play image restoration
    with deep denoiser prior), with an energy for the denoiser.

    Arguments:
        prior: an energy that is told σ in units of x, such as a `GradientStepUNet`.
        operator: A, linear, of pictures (rows, C, H, W).
        seen: b (C', H', W').
        std: s, in units of x; less than 2.5 grey levels counts as that.
        start: x_0 (C, H, W).
        steps: how many.
        first: σ_0.
        balance: λ.

    Raises:
        ValueError: steps is not positive; and what `Observed` and `ProximalGradient` raise.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: pass a number of at least 1")
    last = max(std, LEAST)
    fall = (last / first) ** (1 / max(steps - 1, 1))
    levels = [first * fall**k for k in range(steps)]
    with eval_mode(prior), torch.no_grad():
        functions = [(prior + Observed(operator, seen, std=last * math.sqrt(balance) / level)).given(level) for level in levels]
        return ProximalGradient(1.0, steps=1).sample(functions, start[None])[0]


def filled(image: Tensor, kept: Tensor) -> Tensor:
    """Fills the pixels of a picture (C, H, W) that a mask (H, W) does not keep, smoothly, from those around.

    Means of what is kept are taken over 2 x 2 pixels, again and again, until all are known, and come
    back by interpolation.

    >>> filled(torch.tensor([[[1.0, 0.0, 0.0, 3.0]]]), torch.tensor([[True, False, False, True]]))
    tensor([[[1.0000, 1.5000, 2.5000, 3.0000]]])
    """
    if bool(kept.all()) or min(kept.shape) == 0:
        return image
    share = F.avg_pool2d(kept.to(image)[None, None], 2, ceil_mode=True, count_include_pad=False)
    means = F.avg_pool2d((image * kept)[None], 2, ceil_mode=True, count_include_pad=False) / share.clamp(min=1e-6)
    small = filled(means[0], share[0, 0] > 0) if max(kept.shape) > 1 else means[0]
    return torch.where(kept, image, F.interpolate(small[None], size=kept.shape, mode="bilinear", align_corners=False)[0])
