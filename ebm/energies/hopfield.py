"""Associative memories: energies whose minima are stored patterns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ebm.energies.analytic.base import Held, Matrix, Vector


class ModernHopfield(Held):
    """Stores patterns, the rows xᵢ of X, as minima of a continuous landscape:

        E(y) = −β⁻¹ log Σᵢ exp(β xᵢᵀy) + |y|²/2 + β⁻¹ log N + M²/2,    M = maxᵢ |xᵢ|.

    E is not negative. Its gradient is y − Xᵀ softmax(β X y), so one gradient step of size 1 is
    attention to the patterns with y as the query. Such a step never raises the energy:
    `GradientDescent(step_size=1.0)` retrieves. exp(−βE) is the density of a mixture of Gaussians
    N(xᵢ, 1/β) with weights ∝ exp(β|xᵢ|²/2).

    Source: Hopfield networks is all you need (Ramsauer et al., arXiv 2008.02217), section 2.

    Arguments:
        patterns: X (count, dim); an nn.Parameter is learned. None makes learned ones, drawn from
            the standard normal distribution.
        beta: β, the inverse temperature: a high one tells patterns apart, a low one averages many.
        dim: the length of a pattern, where patterns is None.
        count: N, the number of patterns, where patterns is None.

    Raises:
        ValueError: for patterns of another shape than (count, dim), sizes that are missing or below
            1, a β that is not a positive number, and (at the call) a y of another length.

    >>> from ebm.samplers import GradientDescent
    >>> energy = ModernHopfield(((4.0, 0.0), (0.0, 4.0), (-4.0, 0.0)))
    >>> GradientDescent(step_size=1.0, steps=3).sample(energy, torch.tensor([[1.0, 3.0], [-2.0, 1.0]])).round(decimals=2)
    tensor([[ 0.,  4.],
            [-4.,  0.]])
    """

    patterns: Tensor

    def __init__(
        self, patterns: Matrix | None = None, beta: float = 1.0, *, dim: int | None = None, count: int | None = None
    ) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ValueError(f"ModernHopfield(beta={beta}): pass a positive number")
        if patterns is None:
            if dim is None or count is None or min(dim, count) < 1:
                raise ValueError(f"ModernHopfield(dim={dim}, count={count}): pass patterns, or both sizes, of at least 1")
            patterns = nn.Parameter(torch.randn(count, dim))
        self.hold(patterns=patterns)
        self.require("patterns", self.patterns.ndim == 2 and self.patterns.numel() > 0, "pass patterns (count, dim)")
        shape = tuple(self.patterns.shape)
        if count not in (None, shape[0]) or dim not in (None, shape[1]):
            raise ValueError(f"ModernHopfield(patterns=<{shape}>, dim={dim}, count={count}): they disagree, leave the sizes out")
        self.dim, self.beta = shape[1], float(beta)

    def encode(self, context: Any = None, level: int = -1) -> Tensor:
        """Computes the constant β⁻¹ log N + M²/2."""
        return math.log(len(self.patterns)) / self.beta + self.patterns.square().sum(-1).max() / 2

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        self.check(y)
        constant = self.encode() if code is None else code
        overlaps = y @ self.patterns.T
        return y.square().sum(-1) / 2 - (self.beta * overlaps).logsumexp(-1) / self.beta + constant

    def extra_repr(self) -> str:
        return f"dim={self.dim}, count={len(self.patterns)}, beta={self.beta:g}"


class Hopfield(Held):
    """Stores patterns of ±1 in pairwise couplings: E(y) = −yᵀWy/2 − b·y, an Ising model.

    Hebb's rule stores patterns xᵢ as W = Σᵢ xᵢxᵢᵀ / d without its diagonal. If the patterns are few
    and unlike each other (of random ones about d / (4 log d)), they and their negatives are minima:
    no flip of one unit lowers the energy. Off the corners y = ±1 the energy is the same polynomial,
    which is not bounded below: `retraction="clamp"` keeps y in the box.

    Source: Neural networks and physical systems with emergent collective computational abilities
    (Hopfield, 1982); how many: The capacity of the Hopfield associative memory (McEliece et al.,
    1987).

    Arguments:
        patterns: what to store (count, d), of ±1; sets the weights.
        weights: W (d, d), symmetric, instead of patterns; an nn.Parameter is learned.
        bias: b (d,), 0 by default; an nn.Parameter is learned.

    Raises:
        ValueError: for patterns and weights together or neither, patterns with entries other than
            ±1, weights that are not symmetric, a bias that is not (d,), and (at the call) a y of
            another length.

    >>> energy = Hopfield(patterns=((1.0, 1.0, -1.0, -1.0),))
    >>> energy(torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]))
    tensor([-1.5000,  0.5000])
    """

    weights: Tensor
    bias: Tensor

    def __init__(self, patterns: Matrix | None = None, *, weights: Matrix | None = None, bias: Vector | None = None) -> None:
        super().__init__()
        if (patterns is None) == (weights is None):
            raise ValueError("Hopfield needs patterns=, to be stored by Hebb's rule, or weights=: pass one of them")
        self.hold(weights=weights if patterns is None else _hebbian(torch.as_tensor(patterns)))
        d = self.dim = len(self.weights) if self.weights.ndim else 0
        symmetric = d > 0 and self.weights.shape == (d, d) and torch.allclose(self.weights, self.weights.mT)
        self.require("weights", symmetric, "pass a symmetric matrix (d, d)")
        self.hold(bias=self.weights.new_zeros(d) if bias is None else bias)
        self.require("bias", self.bias.shape == (d,), f"pass one number for each of {d} units")

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        self.check(y)
        return -(y * (y @ self.weights / 2 + self.bias)).sum(-1)


def _hebbian(patterns: Tensor) -> Tensor:
    """Computes Σᵢ xᵢxᵢᵀ / d without its diagonal, of patterns that it checks."""
    if patterns.ndim != 2 or not patterns.numel() or not bool((patterns.abs() == 1).all()):
        raise ValueError(f"Hopfield(patterns=<{tuple(patterns.shape)}>): pass rows (count, d) of 1 and -1")
    patterns = patterns if patterns.is_floating_point() else patterns.to(torch.get_default_dtype())
    return (patterns.T @ patterns / patterns.shape[-1]).fill_diagonal_(0.0)
