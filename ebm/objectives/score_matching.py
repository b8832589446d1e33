"""Score matching: an energy's gradient and curvature at data measure its score's error."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Given, Loss, Objective, bind, check_configuration, energy_and_grad


class ScoreMatching(Objective):
    """Fits the score −∇E to that of data, exactly and without noise.

        L = E[½ ‖∇E(x)‖² − ΔE(x)],    ΔE = Σ_i ∂²E/∂x_i²,

    which is E ½ ‖∇E + ∇log p‖² up to a constant of the data's density p. The Laplacian takes one
    Hessian-vector product per entry of an event; for images use `SlicedScoreMatching`. E must be
    smooth: the Laplacian of a piecewise linear E (ReLUs) is zero, of which the first batch warns. Only the last of several
    landscapes is trained. Source: Hyvärinen, 2005, theorem 1.
    Terms: energy_data, grad_norm, laplacian.

    >>> energy, batch = lambda y: (y**2).sum(-1) / 2, Batch(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> ScoreMatching()(energy, batch).value.item()    # ½ (2 + 4) / 2 − 2
    -0.5
    """

    looked = False  # whether the first batch was looked at for curvature

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        y, value, grad = _slope(energy, batch, start, generator)
        slope, laplacian = grad.reshape(*value.shape, -1), torch.zeros_like(value)
        for entry in range(slope.shape[-1]):
            one = torch.zeros_like(slope)
            one[..., entry] = 1
            laplacian = laplacian + _along(grad, y, one.view_as(grad)).reshape(slope.shape)[..., entry]
        self.looked = self.looked or _look(self, slope, laplacian)
        return _loss(batch, value, slope, slope.square().sum(-1) / 2 - laplacian, laplacian)


class SlicedScoreMatching(Objective):
    """Fits the score s = −∇E along random directions v, with one Hessian-vector product for each.

        L = E[vᵀ ∇s v + ½ ‖s‖²]   (variance_reduced),   or   L = E[vᵀ ∇s v + ½ (vᵀ s)²],

    with entries of v ±1 at random: in the mean both are `ScoreMatching`, and exactly for a diagonal
    Hessian. Only the last of several landscapes is trained.
    Source: Song et al., 2019 (arXiv 1905.07088). Terms: energy_data, grad_norm, laplacian.

    Arguments:
        projections: directions v for every row.
        variance_reduced: takes ½ ‖s‖² itself, not its estimate along v.

    >>> energy, batch = lambda y: (y**2).sum(-1) / 2, Batch(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> SlicedScoreMatching()(energy, batch).value.item()    # vᵀv = 2
    -0.5
    """

    looked = False  # as in `ScoreMatching`

    def __init__(self, projections: int = 1, variance_reduced: bool = True) -> None:
        super().__init__()
        if projections < 1:
            raise ValueError(f"projections={projections}: pass a whole number of at least 1")
        self.projections, self.variance_reduced = projections, variance_reduced

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        y, value, grad = _slope(energy, batch, start, generator)
        slope, curvatures, squares = grad.reshape(*value.shape, -1), [], []
        for _ in range(self.projections):
            v = 2 * torch.empty_like(slope).bernoulli_(0.5, generator=generator) - 1
            curvatures.append((v * _along(grad, y, v.view_as(grad)).reshape(slope.shape)).sum(-1))
            squares.append((v * slope).sum(-1).square())
        laplacian = torch.stack(curvatures).mean(0)
        self.looked = self.looked or _look(self, slope, torch.stack(curvatures))
        square = slope.square().sum(-1) if self.variance_reduced else torch.stack(squares).mean(0)
        return _loss(batch, value, slope, square / 2 - laplacian, laplacian)


def _look(objective: Objective, slope: Tensor, curvature: Tensor) -> bool:
    """Warns where an energy has a slope somewhere, and no curvature at any row; returns True."""
    if bool(slope.any()) and not bool(curvature.any()):
        warnings.warn(
            f"{type(objective).__name__} sees no curvature: the energy's second derivatives are zero at all {len(slope)} rows, "
            f"as those of a piecewise linear network (ReLU), so that a flat energy is best. Take a smooth activation (SiLU, "
            f"Softplus, GELU), or an objective without second derivatives, such as DenoisingScoreMatching",
            stacklevel=5,  # past torch's module calls
        )
    return True


def _slope(energy: EnergyFn, batch: Batch, start: Tensor | None, generator: Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Computes (y, E(y), dE/dy with its graph), also while gradients are disabled."""
    if start is not None:
        raise ValueError("start is given, but score matching moves no chains: leave it out")
    check_configuration(batch.target, generator)
    function = bind(energy, batch.context)
    if isinstance(function, Given):
        function = replace(function, compiled=None)  # has no third derivatives
    y = batch.target.detach().clone().requires_grad_()
    with torch.enable_grad():
        return y, *energy_and_grad(function, y, create_graph=True)


def _along(grad: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Multiplies each chain's Hessian with v; zero where the gradient is constant."""
    if not grad.requires_grad:
        return torch.zeros_like(v)
    options = {"retain_graph": True, "create_graph": torch.is_grad_enabled(), "materialize_grads": True}
    (product,) = torch.autograd.grad(grad, y, v, **options)
    return product


def _loss(batch: Batch, value: Tensor, slope: Tensor, loss: Tensor, laplacian: Tensor) -> Loss:
    terms = {"energy_data": value, "grad_norm": slope.detach().norm(dim=-1), "laplacian": laplacian}
    return Loss(batch.mean(loss), {name: batch.mean(term.detach()) for name, term in terms.items()})
