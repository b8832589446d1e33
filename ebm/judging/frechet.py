"""The Fréchet distance between samples and data, in features of your choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import plainly
from ebm.judging.features import check_samples, featured


class _Found(nn.Module):
    """Replaces torchmetrics' own network, since the inputs are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, found: Tensor) -> Tensor:
        return found


@plainly
@torch.no_grad()
def frechet_distance(
    samples: Tensor, data: Tensor, features: Callable[[Tensor], Tensor] | None = None, *, batch_size: int = 256
) -> float:
    """Computes the squared Fréchet distance of Gaussians fitted to features of samples and data:

        |μ − μ'|² + tr(Σ + Σ' − 2 (Σ Σ')^(1/2)).

    With an Inception network's features this is the FID. Few rows bias the estimate upwards: take
    many more rows than features, and equally many in all comparisons. By torchmetrics, in float64.
    Source: Heusel et al., 2017 (arXiv 1706.08500), equation 6.

    Arguments:
        samples, data: (n, *event) and (m, *event).
        features: maps a batch to features (batch, d), in eval mode; None takes the values.
        batch_size: rows that pass through `features` at once.

    >>> x, y = torch.randn(2, 5000, 3, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(x + torch.tensor([2.0, 0.0, 0.0]), y))    # |μ − μ'|² = 4
    4
    """
    check_samples(samples, data)
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError("torchmetrics is not installed: pip install 'ebm-toolkit[recipes]'") from error
    metric: Any = None
    for rows, real, what in ((samples, False, "samples"), (data, True, "data")):
        for found in featured(rows, features, what, batch_size):
            if metric is None:  # which keeps the features' dtype
                metric = FrechetInceptionDistance(feature=_Found(found.shape[1])).set_dtype(torch.float64).to(found.device)
            metric.update(found, real=real)
    return float(metric.compute())
