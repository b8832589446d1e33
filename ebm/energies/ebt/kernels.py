"""Norm, gate and rotation with second derivatives by hand, which pass over memory less often.

Each backward is itself a Function. Its own backward uses that the derivative of ⟨J(x)ᵀ g, ẋ⟩ is the
gradient of a directional derivative: for y = f(x), a cotangent g and a direction ẋ it is that of
⟨g, ẏ⟩, ẏ = J(x) ẋ. A third derivative is an error. A compiler fuses the plain formulas itself, and
gets them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grads = tuple[Tensor | None, ...]


THIRD = "a third derivative of an EBT's kernel: they are written by hand up to the second"


def last_derivative(backward: Callable[..., Grads], message: str = THIRD) -> Callable[..., Grads]:
    """Makes the derivative of a backward pass an error.

    torch.autograd.grad runs only the nodes that lead to the inputs asked for. The error node of
    torch's once_differentiable leads to none, so it would not run, and the derivative would be
    wrong in silence. Here the error node leads to all inputs of the backward pass.
    """

    @wraps(backward)
    def refusing(ctx: Any, *grads: Tensor | None) -> Grads:
        with torch.no_grad():
            results = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return results
        return _Last.apply(message, len(results), *results, *grads, *ctx.saved_tensors)

    return refusing


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, message: str, count: int, *tensors: Tensor | None) -> Grads:
        ctx.message = message
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Grads:
        raise RuntimeError(ctx.message)


def is_wanted(x: Tensor) -> bool:
    """Tells whether the backward pass under way goes on to x."""
    if not x.requires_grad:
        return False
    return x.grad_fn is None or torch._C._will_engine_execute_node(x.grad_fn)  # what torch's multi-grad hooks ask, too


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Computes w x / √(mean(x²) + ε) over the last axis, in float32 or finer (Zhang, Sennrich)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if torch.compiler.is_compiling():
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight).to(x.dtype)
    return _Norm.apply(wide, weight, epsilon)[0].to(x.dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        r = torch.rsqrt(_dot(x, x).div_(x.shape[-1]).add_(epsilon))
        return (x * r).mul_(weight), r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:2], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> Grads:
        return (None,) * 3 if g is None else (*_NormGradient.apply(g, *ctx.saved_tensors), None)


class _NormGradient(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        u = g * weight
        d_x = torch.addcmul(u, x, _dot(u, x) * r.square() / x.shape[-1], value=-1).mul_(r)
        return d_x, _sum(torch.mul(g, x).mul_(r))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, x1: Tensor | None, weight1: Tensor | None) -> Grads:
        # ⟨g, ẏ⟩ = r⟨u, ẋ⟩ − r³⟨u, x⟩⟨ẋ, x⟩/D + r⟨g ẇ, x⟩ with u = g w, and ∂r/∂x = −r³ x/D
        g, x, weight, r = ctx.saved_tensors
        d_g = d_weight = d_x = None
        cubed = r**3 / x.shape[-1]
        if x1 is not None:
            u = g * weight
            ux, vx = _dot(u, x), _dot(x1, x)
            own = (3 * r.square() / x.shape[-1] * ux * vx - _dot(u, x1)) * cubed
            d_x = (x * own).addcmul_(u, cubed * vx, value=-1).addcmul_(x1, cubed * ux, value=-1)
            d_u = (x1 * r).addcmul_(x, cubed * vx, value=-1)
            d_weight = _sum(g * d_u)
            d_g = d_u.mul_(weight)
        if weight1 is not None:
            u = g * weight1
            more = (u * r).addcmul_(x, cubed * _dot(u, x), value=-1)
            d_x = more if d_x is None else d_x.add_(more)
            along = (x * r).mul_(weight1)
            d_g = along if d_g is None else d_g.add_(along)
        return d_g, d_x, d_weight, None


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Computes silu(gate) up, the middle of SwiGLU (Shazeer, 2020)."""
    if torch.compiler.is_compiling():
        return F.silu(gate) * up
    return _Gated.apply(gate, up)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate).mul_(up)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        return _GatedGradient.apply(g, *ctx.saved_tensors)


class _GatedGradient(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        s = gate.sigmoid()
        return _slope(gate, s).mul_(g).mul_(up), s.mul_(gate).mul_(g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, gate1: Tensor, up1: Tensor) -> Grads:
        # ⟨g, ẏ⟩ = g (f′ u ġ + f u̇) with f = silu, f′ = s (1 + x (1 − s)), f″ = s (1 − s) (2 + x (1
        # − 2 s))
        g, gate, up = ctx.saved_tensors
        s = gate.sigmoid()
        slope = _slope(gate, s)
        curve = torch.rsub(s, 0.5).mul_(gate).add_(1.0).mul_(s).mul_(torch.rsub(s, 1.0)).mul_(2.0)
        silu = s.mul_(gate)
        d_up = slope * gate1
        d_g = torch.addcmul(silu.mul_(up1), d_up, up)
        d_gate = curve.mul_(gate1).mul_(up).addcmul_(slope, up1).mul_(g)
        return d_g, d_gate, d_up.mul_(g)


def _slope(x: Tensor, s: Tensor) -> Tensor:
    """Computes silu′(x) from s = sigmoid(x)."""
    return torch.rsub(s, 1.0).mul_(x).add_(1.0).mul_(s)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (2j, 2j+1) of x (..., d) by its position's angle (Su et al., 2021, eq. 34).

    >>> turn(torch.tensor([1.0, 0.0]), torch.tensor([0.0]), torch.tensor([1.0]))    # a quarter turn
    tensor([0., 1.])
    """
    return _turned(x, cos, sin) if torch.compiler.is_compiling() else _Turn.apply(x, cos, sin)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if x.dtype != cos.dtype or x.stride(-1) != 1:  # such as an expanded gradient
            return _turned(x, cos, sin)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # one pass over memory
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        cos, sin = ctx.saved_tensors
        return _Turn.apply(g, cos, -sin), None, None  # back by the same angle


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Computes ⟨x, y⟩ over the last axis, which it keeps."""
    return torch.linalg.vecdot(x, y).unsqueeze(-1)


def _sum(x: Tensor) -> Tensor:
    """Sums over all axes but the last."""
    return x.flatten(0, -2).sum(0)
