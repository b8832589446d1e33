"""Chains: how many independent draws they are worth, and whether they agree."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ebm.interfaces import plainly


@plainly
def effective_sample_size(draws: Tensor) -> Tensor:
    """Counts the independent draws that correlated ones are worth (bulk-ESS, by ArviZ).

    Returns (*event,), float64: N / (1 + 2 Σ ρ_t) for N = draws × chains with autocorrelations ρ_t,
    less where chains disagree. Source: Vehtari et al., 2021 (arXiv 1903.08008), rank-normalised.

    Arguments:
        draws: (draws, chains, *event), states after the warm-up; finite, at least 4 draws.

    >>> draws = torch.randn(500, 4, 2, generator=torch.Generator().manual_seed(0))
    >>> bool(((effective_sample_size(draws) / 2000 - 1).abs() < 0.2).all())
    True
    """
    return _by_arviz("ess", draws, method="bulk")


@plainly
def split_rhat(draws: Tensor) -> Tensor:
    """Compares chains with each other and with their halves: above 1.01 they have not converged.

    Returns (*event,), float64, by ArviZ: 1 if all agree, NaN if none moves. Source: Vehtari et al.,
    2021 (arXiv 1903.08008): the larger of the rank-normalised and the folded one.

    Arguments:
        draws: (draws, chains, *event), finite, at least 4 draws of 2 chains, from distant starts.

    >>> draws = torch.randn(500, 4, 2, generator=torch.Generator().manual_seed(0))
    >>> draws[:, 0, 1] += 3    # one chain stays elsewhere, in the second coordinate
    >>> split_rhat(draws).gt(1.01).tolist()
    [False, True]
    """
    if draws.ndim >= 2 and draws.shape[1] < 2:
        raise ValueError(f"draws {tuple(draws.shape)} have one chain: R-hat compares several, (draws, chains, *event)")
    return _by_arviz("rhat", draws, method="rank")


def _by_arviz(name: str, draws: Tensor, **how: Any) -> Tensor:
    if draws.ndim < 2 or len(draws) < 4 or draws.shape[1] < 1:
        raise ValueError(f"draws have shape {tuple(draws.shape)}: pass (draws, chains, *event), at least 4 draws of each chain")
    if not bool(draws.isfinite().all()):
        raise ValueError("draws are not finite everywhere: leave out the chains that diverged, and say so")
    values = draws.detach().movedim(1, 0).double().cpu().numpy()  # (chains, draws, *event)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a new version, of many chains, and of 0 / 0
        arviz = import_arviz()
        found = getattr(arviz, name)(arviz.convert_to_dataset({"y": values}), **how)["y"].values
    return torch.as_tensor(found, dtype=torch.float64)


def import_arviz() -> Any:
    """Imports ArviZ without its notices; ImportError names the extra."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import arviz
        except ImportError as error:
            raise ImportError("arviz is not installed: pip install 'ebm-toolkit[arviz]'") from error
    return arviz
