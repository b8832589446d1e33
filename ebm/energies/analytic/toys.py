"""Small landscapes, each with one difficulty: a bend, a barrier, a narrow neck, a closed valley."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebm.energies.analytic.base import LOG_2PI, Analytic, Number


class Centred(Analytic):
    """Is an analytic energy whose mean is zero, by symmetry or by construction."""

    @property
    def mean(self) -> Tensor:
        return self.variance.new_zeros(self.dim)  # type: ignore[operator]  # a Tensor


class Banana(Centred):
    """Bends a Gaussian along a parabola: y₁ ~ N(0, s²), and y₂ | y₁ ~ N(b (y₁² - s²), 1).

    E(y) = y₁² / (2s²) + (y₂ - b (y₁² - s²))² / 2. The bend keeps volumes, so log Z = log 2π + log
    s; E[y] = 0, Var[y₁] = s² and Var[y₂] = 1 + 2b²s⁴.

    Arguments:
        curvature: b; its sign says which way the ends point, and 0 leaves a Gaussian.
        scale: s.

    Source: Adaptive proposal distribution for random walk Metropolis algorithm (Haario, Saksman and
    Tamminen, 1999), with the opposite sign of b; theirs has s = 10.

    Raises:
        ValueError: for a curvature that is not a number, or a scale that is not a positive number.

    >>> Banana(curvature=0.5, scale=2.0)(torch.tensor([[0.0, -2.0], [2.0, 0.0], [4.0, 6.0], [0.0, 0.0]]))
    tensor([0.0000, 0.5000, 2.0000, 2.0000])
    """

    curvature: Tensor
    scale: Tensor
    dim = 2

    def __init__(self, curvature: Number = 0.5, scale: Number = 2.0) -> None:
        super().__init__()
        self.hold(curvature=curvature, scale=scale)
        self.require("curvature", self.curvature.ndim == 0, "pass a number")
        self.require_positive_number("scale")

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        self.check(y)
        first, second = y.unbind(-1)
        return ((first / self.scale).square() + (second - self._bend(first)).square()) / 2

    @property
    def variance(self) -> Tensor:
        square = self.scale.square()
        return torch.stack([square, 1 + 2 * (self.curvature * square).square()])

    @property
    def log_z(self) -> Tensor:
        return LOG_2PI + self.scale.log()

    def score(self, y: Tensor) -> Tensor:
        """Computes (-y₁/s² + 2b y₁ r, -r) with r = y₂ - b (y₁² - s²)."""
        first, second = y.unbind(-1)
        away = second - self._bend(first)
        return torch.stack([-first / self.scale**2 + 2 * self.curvature * first * away, -away], -1)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(n, 2, generator=generator, dtype=self.scale.dtype, device=self.scale.device)
        first = self.scale * noise[:, 0]
        return torch.stack([first, self._bend(first) + noise[:, 1]], -1)

    def _bend(self, first: Tensor) -> Tensor:
        """Computes E[y₂ | y₁] = b (y₁² - s²)."""
        return self.curvature * (first.square() - self.scale.square())


class DoubleWell(Centred):
    """Has two wells with a barrier between them: E(y) = b (y₁²/a² - 1)² + (y₂² + … + y_d²) / 2.

    The minima lie at y₁ = ±a, where E = 0; the barrier at y₁ = 0 has height b. log Z, the variance
    and the distribution function of y₁ come from the trapezoidal rule in float64 on 4,001 points:
    for a smooth density that vanishes at both ends the rule's error falls faster than any power of
    the spacing, and is below 1e-12 here. Samples interpolate that function linearly.

    Arguments:
        dim: d, the number of coordinates; those after the first are standard normal.
        barrier: b, in units of the temperature.
        location: a, the distance of each minimum from the origin.

    Raises:
        ValueError: for a barrier or a location that is not a positive number, or dim < 1.

    >>> DoubleWell(barrier=2.0)(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 2.0]]))
    tensor([0., 2., 2.])
    """

    barrier: Tensor
    location: Tensor

    def __init__(self, dim: int = 2, barrier: Number = 2.0, location: Number = 1.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"DoubleWell(dim={dim}): pass at least 1")
        self.dim = dim
        self.hold(barrier=barrier, location=location)
        self.require_positive_number("barrier", "location")

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        self.check(y)
        first, others = y[..., 0] / self.location, y[..., 1:]
        return self.barrier * (first.square() - 1).square() + others.square().sum(-1) / 2

    @property
    def variance(self) -> Tensor:
        u, density = self._table()
        second = self.location.square() * (density @ u.square() / density.sum())
        return torch.cat([second.to(self.location).reshape(1), self.location.new_ones(self.dim - 1)])

    @property
    def log_z(self) -> Tensor:
        """Computes log ∫ exp(-b (y₁²/a² - 1)²) dy₁ by quadrature, plus (d - 1) log(2π) / 2."""
        u, density = self._table()
        log_first = (density.sum() * (u[1] - u[0]) * self.location).log()
        return (log_first + (self.dim - 1) * LOG_2PI / 2).to(self.location)

    def score(self, y: Tensor) -> Tensor:
        """Computes (-4b y₁ (y₁²/a² - 1) / a², -y₂, …, -y_d)."""
        first, others, square = y[..., :1], y[..., 1:], self.location.square()
        return torch.cat([-4 * self.barrier * first * (first.square() / square - 1) / square, -others], -1)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        u, density = self._table()
        cdf = torch.cumulative_trapezoid(density, u)
        cdf = torch.cat([cdf.new_zeros(1), cdf / cdf[-1]])
        draw = torch.rand(n, generator=generator, dtype=u.dtype, device=u.device)
        right = torch.searchsorted(cdf, draw).clamp(1, len(u) - 1)
        share = (draw - cdf[right - 1]) / (cdf[right] - cdf[right - 1])
        first = torch.lerp(u[right - 1], u[right], share).to(self.location) * self.location
        noise = torch.randn(n, self.dim - 1, generator=generator, dtype=first.dtype, device=first.device)
        return torch.cat([first[:, None], noise], -1)

    def _table(self) -> tuple[Tensor, Tensor]:
        """Computes a grid of u = y₁/a and its unnormalised density, out to where that is e⁻⁵⁰."""
        barrier = self.barrier.double()
        reach = (1 + (50 / barrier).sqrt()).sqrt()
        u = reach * torch.linspace(-1, 1, 4001, dtype=torch.float64, device=barrier.device)
        return u, (-barrier * (u.square() - 1).square()).exp()


class Funnel(Centred):
    """Narrows exponentially to a neck (Neal's funnel): v = y₁ ~ N(0, s²), others x | v ~ N(0, eᵛ).

    E(y) = v² / (2s²) + e⁻ᵛ |x|² / 2 + (d - 1) v / 2, log Z = d log(2π) / 2 + log s, Var[v] = s²,
    and each other coordinate has the variance E[eᵛ] = exp(s²/2).

    Arguments:
        dim: d, the number of coordinates, v included (Neal's has 10).
        scale: s.

    Source: Slice sampling (Neal, 2003), section 8.

    Raises:
        ValueError: for a scale that is not a positive number, or dim < 2.

    >>> Funnel(dim=2)(torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    tensor([0., 2., 2.])
    """

    scale: Tensor

    def __init__(self, dim: int = 2, scale: Number = 3.0) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"Funnel(dim={dim}): pass at least 2, one coordinate to set the width of the others")
        self.dim = dim
        self.hold(scale=scale)
        self.require_positive_number("scale")

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        self.check(y)
        v, x = y[..., 0], y[..., 1:]
        return ((v / self.scale).square() + (-v).exp() * x.square().sum(-1) + (self.dim - 1) * v) / 2

    @property
    def variance(self) -> Tensor:
        square = self.scale.square()
        return torch.cat([square.reshape(1), (square / 2).exp().expand(self.dim - 1)])

    @property
    def log_z(self) -> Tensor:
        return self.dim * LOG_2PI / 2 + self.scale.log()

    def score(self, y: Tensor) -> Tensor:
        """Computes (-v/s² + e⁻ᵛ |x|² / 2 - (d - 1) / 2, -e⁻ᵛ x)."""
        v, x = y[..., :1], y[..., 1:]
        precision = torch.exp(-v)
        of_v = -v / self.scale**2 + precision * (x**2).sum(-1, keepdim=True) / 2 - (self.dim - 1) / 2
        return torch.cat([of_v, -precision * x], -1)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.scale.dtype, device=self.scale.device)
        v = self.scale * noise[:, :1]
        return torch.cat([v, (v / 2).exp() * noise[:, 1:]], -1)


class Ring(Centred):
    """Has its minima on a circle in the plane: E(y) = (|y|² - r²)² / (8 r² w²).

    Near the circle E(y) ≈ (|y| - r)² / (2w²); it is a polynomial, so smooth at the origin too. |y|²
    is a normal N(r², (2rw)²) cut off at zero, which gives everything in closed form: with a = r /
    2w and the standard normal's density φ and distribution function Φ, Z = π √(2π) 2rw Φ(a), and
    E|y|² = r² + 2rw φ(a) / Φ(a).

    Arguments:
        radius: r.
        width: w, the standard deviation of |y| where w is much less than r.

    Raises:
        ValueError: for a radius or a width that is not a positive number.

    >>> Ring(radius=2.0, width=0.5)(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    tensor([0., 2.])
    """

    radius: Tensor
    width: Tensor
    dim = 2

    def __init__(self, radius: Number = 2.0, width: Number = 0.25) -> None:
        super().__init__()
        self.hold(radius=radius, width=width)
        self.require_positive_number("radius", "width")

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        self.check(y)
        return ((y.square().sum(-1) - self.radius**2) / self._spread()).square() / 2

    @property
    def variance(self) -> Tensor:
        """Computes E|y|² / 2 for both coordinates, (2,)."""
        edge = self.radius / (2 * self.width)
        hazard = (-edge.square() / 2).exp() / math.sqrt(2 * math.pi) / torch.special.ndtr(edge)
        return ((self.radius**2 + self._spread() * hazard) / 2).expand(2)

    @property
    def log_z(self) -> Tensor:
        edge = self.radius / (2 * self.width)
        return math.log(math.pi) + LOG_2PI / 2 + self._spread().log() + torch.special.log_ndtr(edge)

    def score(self, y: Tensor) -> Tensor:
        """Computes -y (|y|² - r²) / (2 r² w²)."""
        radius, width = self.radius, self.width
        return -y * ((y * y).sum(-1, keepdim=True) - radius**2) / (2 * radius**2 * width**2)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        like = self.radius
        draw, turn = torch.rand(2, n, generator=generator, dtype=like.dtype, device=like.device)
        # From the upper tail, 1 - draw in (0, 1], which ndtri resolves where the cut is far away.
        normal = -torch.special.ndtri((1 - draw) * torch.special.ndtr(like / (2 * self.width)))
        distance = (like**2 + self._spread() * normal).clamp_min(0).sqrt()
        return torch.stack([distance * (2 * math.pi * turn).cos(), distance * (2 * math.pi * turn).sin()], -1)

    def _spread(self) -> Tensor:
        """Computes the standard deviation 2rw of |y|² before it is cut off."""
        return 2 * self.radius * self.width
