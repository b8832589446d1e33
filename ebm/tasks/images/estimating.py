"""How strong the noise of a photograph is, where nobody says it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.interfaces import energy_and_grad, eval_mode

BLOCK, SMOOTHEST = 16, 0.05  # pixels a side of the blocks that are looked at, and the share of the smoothest that counts
NOISE_ALONE = 0.805  # what that share's quantile is of the deviation, where there is noise alone
TEXTURE = 2.0 / 127.5  # what texture adds to the estimate, as a root mean square over the pictures of DnCNN's training set
MEDIAN = 0.6745  # of a standard normal's size
EDGE = 1 - 1 / 127.5  # beyond it a pixel may have been clipped, and has less noise
GRAIN = 2.5 / 127.5  # many a clean photograph has as much of its own: unasked, less is not taken off
BELIEVED = 0.57  # the share of noise that a step takes off where it is noise: harmed training pictures lie below
LOOKED_AT, TRIES = 512, 8  # pixels a side of the middle that is asked about, and how often
CLIPPED = 0.1  # the share of clipped pixels from which a block counts for nothing


def estimate_noise(image: Tensor) -> float:
    """Estimates the deviation of the white noise of a picture (C, H, W), in its own units.

    Second differences of second differences along both axes leave noise and little else; the
    estimate is the median of their size in blocks of 16 x 16, at the quantile of the smoothest
    twentieth. What texture adds to that is taken off, so that of a clean photograph 0 is left:
    too low an estimate leaves noise, too high a one takes detail away, which is worse. Pixels lie
    in [-1, 1]; blocks where a tenth of them are clipped are left out. A picture smaller than a
    block is one. Source: the filter is Immerkær's (1996) of the next order, the blocks are as in
    Liu, Tanaka and Okutomi (2013).

    Raises:
        ValueError: for another shape, and a side of fewer than 6 pixels.

    >>> noisy = 0.2 * torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(0))
    >>> 0.18 < estimate_noise(noisy) < 0.22
    True
    """
    if image.ndim != 3 or min(image.shape[1:]) < 6:
        raise ValueError(f"image has shape {tuple(image.shape)}: pass one picture (C, H, W) of at least 6 pixels a side")
    line = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0], dtype=image.dtype, device=image.device)
    kernel = torch.outer(line, line)[None, None] / 70  # white noise keeps its deviation
    found = F.conv2d(image[:, None], kernel)[:, 0].abs()
    bright = (image.abs() > EDGE).to(image.dtype)[:, 2:-2, 2:-2]
    sides = [min(BLOCK, size) for size in found.shape[1:]]
    blocks, clipped = (each.unfold(1, sides[0], sides[0]).unfold(2, sides[1], sides[1]).flatten(3) for each in (found, bright))
    deviations = blocks.median(-1).values / MEDIAN
    kept = deviations[clipped.mean(-1) < CLIPPED]
    smooth = (kept if kept.numel() else deviations.flatten()).quantile(SMOOTHEST)
    share = NOISE_ALONE if deviations.numel() > 1 else 1.0
    return float((smooth / share).square().sub(TEXTURE**2).clamp(min=0).sqrt())


def confirmed(energy: Any, image: Tensor, std: float, least: float = 0.0) -> float:
    """Lowers an estimate of a picture's noise (C, H, W) until an energy agrees that it is noise.

    Texture all over a picture looks like noise to `estimate_noise`, less so to an energy that was
    trained on photographs: told of noise σ, a gradient step of size 1 takes off most of σ where it is
    noise, and less than half where it is texture. So σ becomes what the step takes off, root mean
    square, until that is at least 0.57 of σ. The picture's middle is looked at, no further than the
    answer needs: each time costs a gradient.

    Arguments:
        energy: takes σ as its context, such as a `GradientStepUNet`.
        image: the picture, in units of its noise.
        std: the estimate.
        least: noise below it counts as none: 0 is returned, and nothing more is asked.
    """
    (top, height), (left, width) = ((max(0, (size - LOOKED_AT) // 2), min(size, LOOKED_AT)) for size in image.shape[1:])
    middle = image[None, :, top : top + height, left : left + width]
    with torch.no_grad(), eval_mode(energy):
        for _ in range(TRIES):
            if std <= 0 or std < least:
                return 0.0
            _, step = energy_and_grad(energy.given(std), middle)
            taken = float(step.square().mean().sqrt())
            if taken >= BELIEVED * std:
                break
            std = taken
    return std if std >= least else 0.0
