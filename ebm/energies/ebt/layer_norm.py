"""Layer norm with modulation, with second derivatives by hand that torch's own fused passes carry."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.ebt.kernels import Grads, Kernel, dot, is_wanted, last_derivative


def layer_norm(x: Tensor, weight: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """Computes n w + b, n = (x − mean) / √(variance + ε) over the last axis (Ba et al., 2016).

    It is computed in float32 or finer. The weight w and the shift b are (D,), or broadcast over x
    (..., T, D), such as the (B, 1, D) of a condition.

    >>> layer_norm(torch.tensor([[1.0, 3.0]]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0]), 0.0)
    tensor([[-1.,  7.]])
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if torch.compiler.is_compiling():
        return (F.layer_norm(wide, wide.shape[-1:], eps=epsilon) * weight + shift).to(x.dtype)
    return _Norm.apply(wide, weight.to(wide.dtype), shift.to(wide.dtype), epsilon)[0].to(x.dtype)


class _Norm(Kernel):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, shift: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        if weight.ndim == shift.ndim == 1:
            return torch.native_layer_norm(x, x.shape[-1:], weight, shift, epsilon)
        n, mean, r = torch.native_layer_norm(x, x.shape[-1:], None, None, epsilon)
        return n.mul_(weight).add_(shift), mean, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], *output[1:])
        ctx.epsilon = inputs[3]

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Grads:
        if g is None:
            return (None,) * 4
        x, weight, shift, mean, r = ctx.saved_tensors
        # A sampler asks for the gradient of y alone.
        wanted = is_wanted(weight), is_wanted(shift)
        return *_NormGradient.apply(ctx.epsilon, wanted, g, x, weight, shift, mean, r), None


class _NormGradient(Kernel):
    """Computes d_x = J u with u = g w and J = r (1 − 1 1ᵀ/D − n nᵀ/D), d_w = Σ g n and d_b = Σ g."""

    @staticmethod
    def forward(
        epsilon: float, wanted: tuple[bool, bool], g: Tensor, x: Tensor, weight: Tensor, shift: Tensor, mean: Tensor, r: Tensor
    ) -> Grads:
        d_x = _through(g, weight, x, mean, r)
        d_weight = (g * _normed(x, mean, r)).sum_to_size(weight.shape) if wanted[0] else None
        return d_x, d_weight, g.sum_to_size(shift.shape).clone() if wanted[1] else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Grads) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:5], *inputs[6:], output[0])
        ctx.epsilon = inputs[0]

    @staticmethod
    @last_derivative
    def backward(ctx: Any, x1: Tensor | None, weight1: Tensor | None, shift1: Tensor | None) -> Grads:
        # ∂r = −r² ⟨n, ∂x⟩/D, ∂n = J ∂x and |n|² = D (1 − ε r²), so that the derivative of ⟨u, J ẋ⟩ in
        # x is −(n (⟨J u, J ẋ⟩ + b c ε r⁴/D) + r c J ẋ + r b J u)/D with b = ⟨ẋ, n⟩ and c = ⟨u, n⟩.
        g, x, weight, mean, r, ju = ctx.saved_tensors
        n = _normed(x, mean, r)
        d_g = d_x = d_weight = None
        if x1 is not None:
            jx = _through(x1, None, x, mean, r)
            d_weight = (g * jx).sum_to_size(weight.shape)
            d_g = jx * weight
            b, c, count = dot(x1, n), dot(g * weight, n), x.shape[-1]
            d_x = n * ((dot(ju, jx) + b * c * r**4 * (ctx.epsilon / count)) / -count)
            d_x.addcmul_(jx, r * c / -count).addcmul_(ju, r * b / -count)
        if weight1 is not None:
            more = _through(g, weight1, x, mean, r)
            d_x = more if d_x is None else d_x.add_(more)
            along = n * weight1
            d_g = along if d_g is None else d_g.add_(along)
        if shift1 is not None:
            d_g = shift1.expand_as(g) if d_g is None else d_g + shift1
        return None, None, d_g, d_x, d_weight, None, None, None


def _normed(x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    return (x - mean).mul_(r)


def _through(g: Tensor, weight: Tensor | None, x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    """Takes a gradient back through the norm: J (g w)."""
    if weight is not None and weight.ndim > 1:
        g, weight = g * weight, None
    return torch.ops.aten.native_layer_norm_backward(g, x, x.shape[-1:], mean, r, weight, None, [True, False, False])[0]
