"""The likelihood of a score model, exactly, by the flow that has the marginals of its diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, check_configuration, energy_and_grad, eval_mode


class FlowLikelihood(NamedTuple):
    """Log densities (n,) in nats, where the flow ends (n, *event), and how often the energy was asked."""

    log_likelihood: Tensor
    latent: Tensor
    evaluations: int


def flow_log_likelihood(
    energy: Callable[[float], EnergyFn],
    y: Tensor,
    *,
    sigma: tuple[float, float],
    prior: Callable[[Tensor], Tensor] | None = None,
    projections: int | None = None,
    tolerance: float = 1e-5,
    method: str = "RK45",
    generator: Generator | None = None,
) -> FlowLikelihood:
    """Computes log p(y) of an energy that is known at all noise levels σ, E_σ = −log p_σ + const:

        dx/d log σ = σ² ∇E_σ(x),    log p(y) = log p_high(x(high)) + ∫ σ² ΔE_σ(x) d log σ,

    along the flow from y at the lowest σ to the highest. It is the log density of the flow, which
    integrates to 1 whatever the energies are; of exact ones it is that of data with noise of the
    lowest σ. The Laplacian ΔE takes one Hessian-vector product for each entry of an event, or for
    each of some random directions; it is zero for piecewise linear energies (ReLUs). By SciPy's
    `solve_ivp` in float64, all rows with the same steps. Source: Song et al., 2021 (arXiv
    2011.13456), equations 13 and 39, for the variance-exploding diffusion.

    Arguments:
        energy: σ -> a function of y, as the method `at_noise` of `NoiseConditional` and
            `NoiseEmbedded`.
        y: rows (n, *event).
        sigma: the lowest and the highest noise level.
        prior: x (n, *event) -> log densities (n,) at the highest level; by default N(0, σ² I),
            which needs a σ far above the data's scale.
        projections: random directions for each row (Hutchinson), in place of the exact Laplacian.
        tolerance: relative and absolute, of each step of the solver.
        method: the solver's: "RK45", "DOP853", "LSODA" …
        generator: where directions come from; torch's global generator if None.

    Raises:
        ValueError: for levels that do not rise from above zero, or rows that are not finite.
        FloatingPointError: the flow leaves the numbers, or the solver gives up.

    >>> from ebm.energies import Gaussian
    >>> y, exact = torch.zeros(1, 2), lambda s: Gaussian((0.0, 0.0), 1.0 + s**2)
    >>> found = flow_log_likelihood(exact, y, sigma=(0.01, 50.0))    # −log 2π
    >>> round(found.log_likelihood.item(), 2)
    -1.84
    """
    low, high = sigma
    if not 0 < low < high < math.inf:
        raise ValueError(f"sigma={sigma!r}: pass the lowest and the highest noise level, as in (0.01, 50.0)")
    if projections is not None and (type(projections) is not int or projections < 1):
        raise ValueError(f"projections={projections!r}: pass a whole number of at least 1, or None for the exact Laplacian")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r}: pass a number between 0 and 1")
    check_configuration(y, generator)
    if y.ndim < 2 or not bool(y.isfinite().all()):
        raise ValueError(f"y has shape {tuple(y.shape)}: pass finite rows (n, *event)")
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError("scipy is not installed: pip install 'ebm-toolkit[recipes]'") from error
    count, size = len(y), y[0].numel()
    if projections is None:
        directions = torch.eye(size, dtype=y.dtype, device=y.device)[:, None].expand(size, count, size)
    else:
        directions = 2 * y.new_empty(projections, count, size).bernoulli_(0.5, generator=generator) - 1
    share = 1.0 if projections is None else 1 / projections

    def slope(time: float, state: np.ndarray) -> np.ndarray:
        level = math.exp(time)
        x = torch.from_numpy(state[: y.numel()]).to(y).reshape(y.shape)
        grad, laplacian = _derivatives(energy(level), x, directions)
        found = torch.cat([grad.flatten().double(), share * laplacian.double()]).cpu().numpy()
        if not np.isfinite(found).all():
            raise FloatingPointError(f"the energy's derivatives are not finite at σ = {level:.4g}: check the energy and the rows")
        return level**2 * found

    start = np.concatenate([y.detach().flatten().double().cpu().numpy(), np.zeros(count)])
    span = math.log(low), math.log(high)
    solved: Any = solve_ivp(slope, span, start, method=method, rtol=tolerance, atol=tolerance, t_eval=span[1:])
    if not solved.success:
        raise FloatingPointError(f"the flow was not solved: {solved.message}")
    end = torch.from_numpy(solved.y[:, -1]).to(y.device)
    latent, gained = end[: y.numel()].reshape(y.shape), end[y.numel() :]
    if prior is None:
        squares = latent.flatten(1).square().sum(1)
        base = -squares / (2 * high**2) - size / 2 * math.log(2 * math.pi * high**2)
    else:
        base = prior(latent.to(y.dtype)).detach().double()
        if base.shape != (count,):
            raise ValueError(f"prior gave shape {tuple(base.shape)} for {count} rows: return their log densities (n,)")
    return FlowLikelihood(base + gained, latent.to(y.dtype), int(solved.nfev))


def _derivatives(function: EnergyFn, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Computes ∇E (n, *event), and Σ_v vᵀ ∇²E v (n,) over directions (v, n, size)."""
    with torch.enable_grad(), eval_mode(function):
        x = x.detach().requires_grad_()
        value, grad = energy_and_grad(function, x, create_graph=True)
        if value.ndim != 1:
            raise ValueError(f"the energy has chains {tuple(value.shape)} for rows {tuple(x.shape)}: one number for each row")
        laplacian = torch.zeros_like(value)
        for v in directions if grad.requires_grad else ():
            (product,) = torch.autograd.grad(grad, x, v.reshape(x.shape), retain_graph=True, materialize_grads=True)
            laplacian = laplacian + (v * product.reshape(v.shape)).sum(-1)
    return grad.detach(), laplacian.detach()
