"""Associative memories, energies whose minima are stored patterns: the modern Hopfield network and the classical one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ebm.interfaces import Unconditional

__all__ = ["Hopfield", "ModernHopfield"]

Vector: TypeAlias = Sequence[float] | Tensor
Matrix: TypeAlias = Sequence[Sequence[float]] | Tensor


class Memory(Unconditional):
    """Scores vectors by what is remembered of others."""

    dim: int

    def hold(self, name: str, value: Any, ndim: int) -> Tensor:
        """Keeps an nn.Parameter as one that is learned, and anything else as a buffer of its own.

        Raises:
            ValueError: for another number of axes, no entries, or entries that are not finite numbers.
        """
        kept = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.get_default_dtype())
        if kept.ndim != ndim or not kept.numel() or not kept.is_floating_point() or not bool(kept.isfinite().all()):
            shape, wanted = tuple(kept.shape), "(count, dim)" if ndim == 2 else "(dim,)"
            raise ValueError(f"{type(self).__name__}({name}=<{shape}, {kept.dtype}>): pass finite floating numbers {wanted}")
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, kept)
        return kept

    def check(self, y: Tensor) -> None:
        """Raises ValueError where y's last axis is not this memory's; broadcasting would hide it."""
        if y.shape[-1:] != (self.dim,):
            raise ValueError(f"y has shape {tuple(y.shape)}, but this {type(self).__name__} scores (*chains, {self.dim})")

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class ModernHopfield(Memory):
    """Remembers patterns as minima of a continuous landscape, the rows xᵢ of X, exponentially many in their dimension:

        E(y) = −β⁻¹ log Σᵢ exp(β xᵢᵀy) + |y|²/2 + β⁻¹ log N + M²/2,    M = maxᵢ |xᵢ|,

    which is not negative. Its gradient is y − Xᵀ softmax(β X y), so that one gradient step of size 1 is attention to the
    patterns, with y as the query, and it never raises the energy: `GradientDescent(step_size=1.0)` retrieves. exp(−βE) is the
    density of a mixture of Gaussians N(xᵢ, 1/β) with weights ∝ exp(β|xᵢ|²/2).

    Source: Hopfield networks is all you need (Ramsauer et al., arXiv 2008.02217), section 2.

    Arguments:
        patterns: X (count, dim); an nn.Parameter is learned. None makes learned ones, standard normal at first.
        beta: β, the inverse temperature: a high one tells patterns apart, a low one averages over many.
        dim: the length of a pattern, where they are learned.
        count: N, how many patterns there are, where they are learned.

    Raises:
        ValueError: for patterns of another shape than (count, dim), sizes that are missing or below 1, a β that is no positive
            number, and (at the call) a y whose last axis is not `dim`.

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
        shape = tuple(self.hold("patterns", patterns, 2).shape)
        if count not in (None, shape[0]) or dim not in (None, shape[1]):
            raise ValueError(f"ModernHopfield(patterns=<{shape}>, dim={dim}, count={count}): they disagree, leave the sizes out")
        self.dim, self.beta = shape[1], float(beta)

    def encode(self, context: Any = None, level: int = -1) -> Tensor:
        """Computes the constant β⁻¹ log N + M²/2."""
        return math.log(len(self.patterns)) / self.beta + self.patterns.square().sum(-1).max() / 2

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*chains, dim) to energies (*chains,)."""
        self.check(y)
        constant = self.encode() if code is None else code
        overlaps = y @ self.patterns.T
        return y.square().sum(-1) / 2 - (self.beta * overlaps).logsumexp(-1) / self.beta + constant

    def extra_repr(self) -> str:
        return f"dim={self.dim}, count={len(self.patterns)}, beta={self.beta:g}"


class Hopfield(Memory):
    """Remembers patterns of ±1 by pairwise couplings: E(y) = −yᵀWy/2 − b·y, the Ising model that W and b say.

    Hebb's rule stores patterns xᵢ as W = Σᵢ xᵢxᵢᵀ / d without its diagonal: those that are few and unlike each other (of
    random ones about d / (4 log d)) are minima, in that no flip of one unit lowers the energy. So are their negatives. Off the
    corners y = ±1 the energy is the same polynomial, which falls without end: hold y in the box with `retraction="clamp"`.

    Source: Neural networks and physical systems with emergent collective computational abilities (Hopfield, 1982); how many: The
    capacity of the Hopfield associative memory (McEliece et al., 1987).

    Arguments:
        patterns: what to store (count, d), of ±1; sets the weights.
        weights: W (d, d), symmetric, instead of patterns; an nn.Parameter is learned.
        bias: b (d,), 0 by default; an nn.Parameter is learned.

    Raises:
        ValueError: for patterns and weights together or neither, patterns with entries other than ±1, weights that are not
            symmetric, a bias that is not (d,), and (at the call) a y whose last axis is not d.

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
        if patterns is not None:
            weights = _hebbian(torch.as_tensor(patterns))
        kept = self.hold("weights", weights, 2)
        self.dim = len(kept)
        if kept.shape != (self.dim, self.dim) or not torch.allclose(kept, kept.mT):
            raise ValueError(f"Hopfield(weights=<{tuple(kept.shape)}>): pass a symmetric matrix (d, d)")
        kept = self.hold("bias", kept.new_zeros(self.dim) if bias is None else bias, 1)
        if len(kept) != self.dim:
            raise ValueError(f"Hopfield(bias=<{tuple(kept.shape)}>): pass one number for each of {self.dim} units")

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps y (*chains, d) to energies (*chains,)."""
        self.check(y)
        return -(y * (y @ self.weights / 2 + self.bias)).sum(-1)


def _hebbian(patterns: Tensor) -> Tensor:
    """Computes Σᵢ xᵢxᵢᵀ / d without its diagonal.

    Raises:
        ValueError: for patterns that are not rows of ±1.
    """
    if patterns.ndim != 2 or not patterns.numel() or not bool((patterns.abs() == 1).all()):
        raise ValueError(f"Hopfield(patterns=<{tuple(patterns.shape)}>): pass rows (count, d) of 1 and -1")
    patterns = patterns if patterns.is_floating_point() else patterns.to(torch.get_default_dtype())
    return (patterns.T @ patterns / patterns.shape[-1]).fill_diagonal_(0.0)
