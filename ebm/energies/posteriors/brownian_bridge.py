"""Brownian bridge: a path that is seen at both ends, and whose scales are not known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebm.energies.posteriors.posterior import Posterior, Variables, normal, numbers

nan = math.nan
# fmt: off
SEEN = (
    0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845, -0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782,
    nan, nan, nan, nan, nan, nan, nan, nan, nan, nan,
    -0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566, -0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789,
)
# fmt: on


class BrownianBridge(Posterior):
    """Scores a random walk x₁ … x_T from 0, seen with noise but for some steps, and its two scales:

        s, σ ~ LogNormal(0, 2²),  xₜ ~ N(xₜ₋₁, s²),  seenₜ ~ N(xₜ, σ²) where step t is seen,

    by variables `innovation` s, `noise` σ and `path` x (T,). Given the scales the path is Gaussian.
    Without data it is inference-gym's: 30 steps, the ten in the middle not seen.

    Source: model and data of inference-gym's
    brownian_motion_unknown_scales_missing_middle_observations.

    Arguments:
        seen: (T,), NaN where a step is not seen.

    Raises:
        ValueError: for another shape, for infinite values, or where no step is seen.

    >>> BrownianBridge().dim, BrownianBridge([0.1, float("nan"), 0.3]).labels()
    (32, ['innovation', 'noise', 'path[0]', 'path[1]', 'path[2]'])
    """

    def __init__(self, seen: Any = None) -> None:
        values = numbers(self, missing=True, seen=SEEN if seen is None else seen)
        there = ~values.isnan()
        if values.ndim != 1 or not bool(there.any()):
            what = f"BrownianBridge(seen {tuple(values.shape)}), with {int(there.sum())} steps seen"
            raise ValueError(f"{what}: pass (T,) with at least one number")
        variables = {"innovation": ((), "positive"), "noise": ((), "positive"), "path": (tuple(values.shape), "real")}
        data = {"seen": values.nan_to_num(), "there": there.to(values)}
        super().__init__(_joint, variables, data, "brownian-bridge" if seen is None else None)


def _joint(y: Variables, seen: Tensor, there: Tensor) -> Tensor:
    innovation, noise, path = y["innovation"], y["noise"], y["path"]
    steps = torch.cat([path[..., :1], path.diff(dim=-1)], -1)
    walk = normal(steps, innovation[..., None]).sum(-1)
    likelihood = (there * normal(seen - path, noise[..., None])).sum(-1)
    return _log_normal(innovation) + _log_normal(noise) + walk + likelihood


def _log_normal(value: Tensor) -> Tensor:
    log = value.log()
    return normal(log, 2.0) + log
