"""Explaining: pictures that a prior finds likely and that explain what was seen of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ebm.energies.restoration.observed import Observed
from ebm.energies.restoration.operators import Linear
from ebm.energies.restoration.windowed import Windowed
from ebm.interfaces import Energy, Modified, energy_and_grad, eval_mode
from ebm.randomness import randn_like
from ebm.samplers import ProximalGradient

BALANCE = 0.23  # how much the prior counts against what was seen (Zhang et al., 2021)
EXACT = 0.5 / 127.5  # noise that samples are drawn with at least: half of what rounding to 8 bits may change
# What deviations of samples are multiplied by: the prior's errors are alike between samples, which makes
# them too sure. On validation pictures nine of ten pixels lie within 1.645 deviations then (85 to 92 %).
SPREAD = 1.5
AT_ONCE = 2**18  # pixels of samples whose energies are descended together: four of 256 x 256, so that memory stays small
LEAST = 2.5 / 127.5  # noise that is counted with at least: with less, conjugate gradients take long


class Turned(Modified):
    """Scores pictures (*chains, C, H, W) turned and mirrored in one of eight ways.

    A prior has learned each way a little differently; to go through them all makes up for some of
    its errors.

    >>> Turned(lambda y: y[..., 0, 0, 0], 5)(torch.arange(6.0).reshape(1, 1, 2, 3))    # the corner of the last row
    tensor([3.])
    """

    def __init__(self, energy: Energy, way: int) -> None:
        super().__init__(energy)
        self.way = way

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        y = y.mT if self.way & 4 else y
        y = y.flip(-1) if self.way & 1 else y
        return self.energy(y.flip(-2) if self.way & 2 else y, code)


def explain(
    prior: Energy,
    operator: Any,
    seen: Tensor,
    std: float,
    start: Tensor,
    *,
    steps: int = 30,
    first: float = 55 / 127.5,
    balance: float = BALANCE,
    advance: Callable[[int], object] = lambda steps: None,
) -> Tensor:
    """Restores a picture (C, H, W) from what was seen of it, b = A x + noise.

    Proximal gradient steps on E(x | σ_k) + σ_k² |A x − b|² / (2 λ s²), for σ_k that fall evenly in
    their logarithm from `first` to s: the prior is first told that much is wrong, then little. At
    each step it sees the picture turned another way.
    Source: plug and play with falling noise (Zhang et al., 2021, Plug-and-play image restoration
    with deep denoiser prior), with an energy for the denoiser.

    Arguments:
        prior: an energy that is told σ in units of x, such as a `GradientStepUNet`.
        operator: A, linear, of pictures (rows, C, H, W): whatever `Observed` takes.
        seen: b.
        std: s, in units of x; less than 2.5 grey levels counts as that.
        start: x_0 (C, H, W).
        steps: how many.
        first: σ_0.
        balance: λ.
        advance: is called with 1 after each step.

    Raises:
        ValueError: steps is not positive; and what `Observed` and `ProximalGradient` raise.
    """
    operator, last = operator if isinstance(operator, Linear) else Linear(operator), max(std, LEAST)

    def data(level: float) -> Energy:
        return Observed(operator, seen, std=last * math.sqrt(balance) / level)

    return _descended(prior, data, start, falling(first, last, steps), advance)


def unquantized(
    prior: Energy,
    quantized: Energy,
    start: Tensor,
    *,
    steps: int = 6,
    first: float = 10 / 127.5,
    last: float = LEAST,
    advance: Callable[[int], object] = lambda steps: None,
) -> Tensor:
    """Restores a picture (1, H, W) of which a `Quantized` knows the cells, as `explain` does.

    Each step ends in the cells, whatever the prior is told: what comes out is a picture of which
    JPEG would have made the file.

    Arguments:
        prior: an energy that is told σ in units of x.
        quantized: the data term.
        start: the picture as it was decoded.
        steps: how many.
        first: σ_0.
        last: the last σ.
        advance: is called with 1 after each step.

    Raises:
        ValueError: steps is not positive; and what `Quantized` and `ProximalGradient` raise.
    """
    return _descended(prior, lambda level: quantized, start, falling(first, last, steps), advance)


def draws(
    prior: Energy,
    operator: Any,
    seen: Tensor,
    std: float,
    start: Tensor,
    count: int,
    *,
    steps: int = 32,
    first: float = 55 / 127.5,
    last: float = 1 / 127.5,
    generator: Generator | None = None,
    advance: Callable[[int], object] = lambda steps: None,
) -> Tensor:
    """Draws pictures (count, C, H, W) that are likely, and that explain what was seen, b = A x + noise.

    Noise of deviation σ_k falls, from pictures y = x_0 + σ_0 ξ. The gradient of a denoiser's energy is
    −σ² times the score (Tweedie), so that y − ∇E(y | σ) is the mean of all clean pictures behind y;
    their variance r² is taken as one number, σ² − |∇E|²/n, which is what Stein's estimate leaves of σ².
    Of that Gaussian times the likelihood, a Gaussian, too, z is drawn exactly (by perturbing both
    means, and `Observed.prox`), and y moves to z and the next level's noise:

        y⁺ = z + ρ² (y − z) + σ_{k+1} √(1 − ρ²) ξ,    ρ = σ_{k+1} / σ_k.

    Source: ancestral sampling (Ho et al., 2020, equation 7, for noise that is added alone), with the
    likelihood of Song et al., 2023 (Pseudoinverse-guided diffusion models), without the denoiser's
    Jacobian; perturb and solve: Papandreou and Yuille, 2010.

    Arguments:
        prior: an energy that is told σ in units of x, such as a `GradientStepUNet`.
        operator: A, linear, of pictures (rows, C, H, W): whatever `Observed` takes.
        seen: b.
        std: s, in units of x; less than half a grey level counts as that.
        start: x_0 (C, H, W).
        count: how many are drawn.
        steps: how many noise levels.
        first: σ_0.
        last: the last σ; the samples keep none of its noise.
        generator: what all is drawn from.
        advance: is called with 1 after each step.

    Raises:
        ValueError: steps or count is not positive; and what `Observed` raises.
    """
    if count < 1:
        raise ValueError(f"count={count}: pass a number of at least 1")
    operator, std = operator if isinstance(operator, Linear) else Linear(operator), max(std, EXACT)
    y = start.expand(count, *start.shape)
    levels = falling(first, last, steps)
    y = y + levels[0] * randn_like(y, generator)
    with eval_mode(prior), torch.no_grad():
        for way, (level, after) in enumerate(zip(levels, [*levels[1:], 0.0], strict=True)):
            landscape = _turned(prior, way).given(level)
            grad = torch.cat([energy_and_grad(landscape, part)[1] for part in y.split(max(1, AT_ONCE // start[0].numel()))])
            variance = (level**2 - grad.square().mean()).clamp(min=(level / 10) ** 2)  # of all samples: they are alike
            z, noisy = y - grad, seen.expand(count, *seen.shape)
            if after:  # the last one is the mean
                z = z + variance.sqrt() * randn_like(z, generator)
                noisy = noisy + std * randn_like(noisy, generator)
            z, ratio = Observed(operator, noisy, std=std).prox(z, variance), (after / level) ** 2
            y = z + ratio * (y - z) + after * math.sqrt(1 - ratio) * randn_like(y, generator)
            advance(1)
    return y


def deviation(drawn: Tensor, spread: float = SPREAD) -> Tensor:
    """Computes the standard deviation (C, H, W) of what was drawn (count, C, H, W), times the spread.

    It is that of a further draw about the mean of these, so more than theirs by √(1 + 1/count).

    >>> deviation(torch.tensor([0.0, 2.0, 4.0]).reshape(3, 1, 1, 1), spread=1.5)
    tensor([[[3.4641]]])
    """
    return spread * math.sqrt(1 + 1 / len(drawn)) * drawn.std(0)


def falling(first: float, last: float, steps: int) -> list[float]:
    """Lists numbers that fall evenly in their logarithm.

    Raises:
        ValueError: steps is not positive.

    >>> falling(8.0, 2.0, 3)
    [8.0, 4.0, 2.0]
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: pass a number of at least 1")
    fall = (last / first) ** (1 / max(steps - 1, 1))
    return [first * fall**k for k in range(steps)]


def _descended(
    prior: Energy, data: Callable[[float], Energy], start: Tensor, levels: Sequence[float], advance: Callable[[int], object]
) -> Tensor:
    """Takes one proximal step of the prior plus the data's energy at each level."""
    found = start[None]
    with eval_mode(prior), torch.no_grad():
        for way, level in enumerate(levels):
            found = ProximalGradient(1.0, steps=1).sample((_turned(prior, way) + data(level)).given(level), found)
            advance(1)
    return found[0]


def _turned(prior: Energy, way: int) -> Energy:
    """Turns what a prior sees; one that says its noise sees large pictures window by window."""
    return Turned(Windowed(prior) if hasattr(prior, "noise") else prior, way % 8)


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
