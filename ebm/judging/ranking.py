"""How well one number ranks another: energies as detectors of outliers, and rank correlation."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.interfaces import plainly
from ebm.optional import installed


@plainly
def auroc(inside: Tensor, outside: Tensor) -> float:
    """Computes the AUROC of energies as detectors of outliers: P(E(outside) > E(inside)).

    Ties count half; `inside` (n,) are energies of data, `outside` (m,) of outliers. Raises
    ValueError if one is empty, FloatingPointError for NaN.

    >>> auroc(torch.tensor([1000.0, 2000.0]), torch.tensor([1500.0, 3000.0]))
    0.75
    """
    installed("torchmetrics")
    from torchmetrics.functional.classification import binary_auroc

    scores = torch.cat([inside.detach().flatten().cpu(), outside.detach().flatten().cpu()])
    if not inside.numel() or not outside.numel():
        raise ValueError(f"{inside.numel()} energies of data and {outside.numel()} of outliers: both are needed")
    if scores.isnan().any():
        raise FloatingPointError(f"{int(scores.isnan().sum())} of {scores.numel()} energies are NaN: they have no order")
    values, ranks = scores.unique(return_inverse=True)  # torchmetrics squashes large scores, and makes ties of them
    labels = torch.arange(scores.numel()) >= inside.numel()
    return binary_auroc(ranks.double() / values.numel(), labels.long()).item()


@plainly
def rank_correlation(x: Tensor, y: Tensor, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Computes Spearman's correlation of x and y (rows, columns): (value, low, high).

    The 95 % interval is a percentile bootstrap of whole rows: (-1, 1) of a single row, which says
    nothing about others. A constant x or y gives (0, -1, 1).

    >>> x = torch.arange(40.0).view(20, 2)
    >>> rank_correlation(x, -(x**3))
    (-1.0, -1.0, -1.0)
    """
    installed("scipy")
    from scipy.stats import rankdata

    ranks = [torch.from_numpy(rankdata(values.double().cpu().numpy().ravel())).view(len(x), -1) for values in (x, y)]
    a, b = (values - values.mean() for values in ranks)
    if not bool(a.any()) or not bool(b.any()):
        return 0.0, -1.0, 1.0
    sums = torch.stack([torch.full_like(a, 1.0), a, b, a * a, b * b, a * b]).sum(-1).T  # (rows, 6)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(x), (resamples, len(x)), generator=generator)
    counts = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    n, of_a, of_b, aa, bb, ab = (torch.cat([torch.ones(1, len(x), dtype=torch.float64), counts]) @ sums).T
    spread = ((aa - of_a**2 / n) * (bb - of_b**2 / n)).clamp(min=1e-300).sqrt()
    value, resampled = ((ab - of_a * of_b / n) / spread).clamp(-1, 1).split([1, resamples])
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    if len(x) == 1:
        low, high = -1.0, 1.0
    return round(value.item(), 12), round(low, 12), round(high, 12)
