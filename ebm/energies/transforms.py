"""Bijections from all of Rⁿ onto sets that variables are confined to, as torch.distributions has them."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform, CorrCholeskyTransform, IndependentTransform

Confines: TypeAlias = Any  # a Transform, a Constraint, a name, or a dict, tuple or list of them


class _Rising(Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value.diff(dim=-1) > 0).all(-1)


class _Correlations(Constraint):
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        ones = value.diagonal(dim1=-2, dim2=-1)
        return constraints.positive_definite.check(value) & ((ones - 1).abs() < 1e-5).all(-1)


class Ordered(Transform):
    """Maps x (…, n) to rising numbers: y₁ = x₁, yₖ = yₖ₋₁ + exp(xₖ), with log|det J| = Σ_{k>1} xₖ.

    >>> Ordered()(torch.zeros(3))
    tensor([0., 1., 2.])
    """

    domain, codomain, bijective, sign = constraints.real_vector, _Rising(), True, +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ordered)

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:].exp()], -1).cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y.diff(dim=-1).log()], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x[..., 1:].sum(-1)


class _Squared(Transform):
    """Maps a Cholesky factor L of a correlation matrix to R = L Lᵀ.

    The free numbers are those below the diagonals: log|det J| = Σₖ (d − k) log Lₖₖ, k = 1 … d.
    Source: Lewandowski, Kurowicka and Joe, 2009 (Generating random correlation matrices).
    """

    domain, codomain, bijective = constraints.corr_cholesky, _Correlations(), True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Squared)

    def _call(self, x: Tensor) -> Tensor:
        return x @ x.mT

    def _inverse(self, y: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(y)
        return torch.where(failed[..., None, None] == 0, factor, torch.nan)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        after = torch.arange(x.shape[-1] - 1, -1, -1, dtype=x.dtype, device=x.device)
        return (after * x.diagonal(dim1=-2, dim2=-1).log()).sum(-1)


def correlation() -> Transform:
    """Makes the bijection from x (…, d (d − 1)/2) onto correlation matrices (…, d, d).

    >>> correlation()(torch.zeros(3))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    return ComposeTransform([CorrCholeskyTransform(), _Squared()])


TRANSFORMS: dict[str, Any] = {
    "real": lambda: biject_to(constraints.real),
    "positive": lambda: biject_to(constraints.positive),
    "unit-interval": lambda: biject_to(constraints.unit_interval),
    "simplex": lambda: biject_to(constraints.simplex),
    "ordered": Ordered,
    "correlation": correlation,
    "correlation-cholesky": CorrCholeskyTransform,
}


def as_transform(value: Any) -> Transform:
    """Reads a bijection: a `Transform`, a `Constraint` (by `biject_to`), or a name.

    Raises:
        ValueError: for other values, and for what has no Jacobian: no bijection, or onto a set that
            torch has only a projection for.
    """
    if isinstance(value, str) and value in TRANSFORMS:
        return TRANSFORMS[value]()
    if isinstance(value, Constraint):
        try:
            value = biject_to(value)
        except NotImplementedError as error:
            raise ValueError(f"torch.distributions has no bijection onto {value}: pass a Transform") from error
    if not isinstance(value, Transform):
        names = ", ".join(TRANSFORMS)
        raise ValueError(f"transform={value!r}: pass a torch.distributions Transform or Constraint, or one of {names}")
    for part in _parts(value):
        if not part.bijective or type(part).log_abs_det_jacobian is Transform.log_abs_det_jacobian:
            what = f"{type(part).__name__} has no Jacobian determinant, so densities cannot be carried through it"
            raise ValueError(f"{what}: take a bijection, as torch.distributions.biject_to gives for most constraints")
    return value


def _parts(transform: Transform) -> list[Transform]:
    """Lists the transforms that one is made of."""
    if isinstance(transform, IndependentTransform):
        return _parts(transform.base_transform)
    inside = getattr(transform, "parts", None) or getattr(transform, "transforms", None)  # composed · side by side
    return [transform] if inside is None else [part for each in inside for part in _parts(each)]
