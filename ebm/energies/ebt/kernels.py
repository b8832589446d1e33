"""Norms, gates and rotations with second derivatives by hand, which pass over memory less often.

Each backward is itself a Function. Its own backward uses that the derivative of ⟨J(x)ᵀ g, ẋ⟩ is the
gradient of a directional derivative: for y = f(x), a cotangent g and a direction ẋ it is that of
⟨g, ẏ⟩, ẏ = J(x) ẋ. A third derivative is an error. A compiler fuses the plain formulas itself, and
gets them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Grads = tuple[Tensor | None, ...]


class Kernel(torch.autograd.Function):
    """A Function of positional arguments without defaults.

    torch binds the arguments of `apply` to the signature of `forward`, which it reads anew at every
    call: a tenth of a small step of training. Here the signature is at hand, and takes them as they are.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.forward.__signature__ = _AsGiven()  # type: ignore[attr-defined]


class _AsGiven(inspect.Signature):
    def bind(self, *arguments: Any, **keywords: Any) -> Any:
        return _Bound(arguments, keywords)


class _Bound(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def apply_defaults(self) -> None: ...


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


class _Last(Kernel):
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
    # A leaf's gradient goes where that of its view would. torch's multi-grad hooks ask the same.
    with torch.enable_grad():
        node: Any = x.grad_fn or x.view_as(x).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # so it says that autograd.grad was asked for this leaf
        return True


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Computes w x / √(mean(x²) + ε) over the last axis, in float32 or finer (Zhang, Sennrich)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if torch.compiler.is_compiling():
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight).to(x.dtype)
    return _Norm.apply(wide, weight, epsilon)[0].to(x.dtype)


class _Norm(Kernel):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        return (x * r).mul_(weight), r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:2], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> Grads:
        if g is None:
            return (None,) * 3
        # A sampler asks for the gradient of y alone.
        return (*_NormGradient.apply(is_wanted(ctx.saved_tensors[1]), g, *ctx.saved_tensors)[:2], None)


class _NormGradient(Kernel):
    @staticmethod
    def forward(wanted: bool, g: Tensor, x: Tensor, weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        u = g * weight
        ux = dot(u, x)
        d_x = u.addcmul_(x, ux * r.square() / x.shape[-1], value=-1).mul_(r)
        return d_x, _weighted_sum(g * x, r) if wanted else None, ux

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], output[2])

    @staticmethod
    @last_derivative
    def backward(ctx: Any, x1: Tensor | None, weight1: Tensor | None, _: None) -> Grads:
        # ⟨g, ẏ⟩ = r⟨u, ẋ⟩ − r³⟨u, x⟩⟨ẋ, x⟩/D + r⟨g ẇ, x⟩ with u = g w, and ∂r/∂x = −r³ x/D
        g, x, weight, r, ux = ctx.saved_tensors
        d_g = d_weight = d_x = None
        cubed = r**3 / x.shape[-1]
        if x1 is not None:
            u = g * weight
            vx = dot(x1, x)
            own = (3 * r.square() / x.shape[-1] * ux * vx - dot(u, x1)) * cubed
            d_x = u.mul_(-cubed * vx).addcmul_(x, own).addcmul_(x1, cubed * ux, value=-1)
            d_u = torch.addcmul(x1, x, r.square() / x.shape[-1] * vx, value=-1)  # over r
            d_weight = _weighted_sum(g * d_u, r)
            d_g = d_u.mul_(r).mul_(weight)
        if weight1 is not None:
            u = g * weight1
            more = (u * r).addcmul_(x, cubed * dot(u, x), value=-1)
            d_x = more if d_x is None else d_x.add_(more)
            along = (x * r).mul_(weight1)
            d_g = along if d_g is None else d_g.add_(along)
        return None, d_g, d_x, d_weight, None


SLOPE, CUBE = (8 / math.pi) ** 0.5, 0.044715  # of GELU's approximation: tanh(z/2) = 2 sigmoid(z) − 1


def gelu(x: Tensor) -> Tensor:
    """Computes x sigmoid(z), z = √(8/π) (x + 0.044715 x³): GELU by its tanh (Hendrycks and Gimpel)."""
    return F.gelu(x, approximate="tanh") if torch.compiler.is_compiling() else _Gelu.apply(x)


class _Gelu(Kernel):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _bent(x)[0].mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        return _GeluGradient.apply(g, *ctx.saved_tensors)


class _GeluGradient(Kernel):
    @staticmethod
    def forward(g: Tensor, x: Tensor) -> Tensor:
        s, square = _bent(x)
        return _gelu_slope(x, s, square).mul_(g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, x1: Tensor) -> Grads:
        # f = x s(z): f′ = s + x ṡ, ṡ = s (1 − s) z′; f″ = 2 ṡ + x (1 − 2 s) z′ ṡ + x s (1 − s) z″
        g, x = ctx.saved_tensors
        s, square = _bent(x)
        z1 = (square * (3 * SLOPE * CUBE)).add_(SLOPE)
        bell = torch.ops.aten.sigmoid_backward(x1, s)  # ẋ s (1 − s)
        curve = torch.rsub(s, 0.5).mul_(x).mul_(z1).add_(1.0).mul_(z1).add_(square, alpha=3 * SLOPE * CUBE)
        return _gelu_slope(x, s, square).mul_(x1), curve.mul_(bell).mul_(g).mul_(2.0)


def _bent(x: Tensor) -> tuple[Tensor, Tensor]:
    """Computes sigmoid(z) and x²."""
    square = x.square()
    return (square * (SLOPE * CUBE)).add_(SLOPE).mul_(x).sigmoid_(), square


def _gelu_slope(x: Tensor, s: Tensor, square: Tensor) -> Tensor:
    z1x = (square * (3 * SLOPE * CUBE)).add_(SLOPE).mul_(x)
    return torch.ops.aten.sigmoid_backward(z1x, s).add_(s)


def gated(both: Tensor) -> Tensor:
    """Computes silu(gate) up of both (..., 2 F), side by side: the middle of SwiGLU (Shazeer, 2020).

    >>> gated(torch.tensor([0.0, 100.0, 5.0, 5.0]))
    tensor([  0., 500.])
    """
    if torch.compiler.is_compiling():
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up
    return _Gated.apply(both)


class _Gated(Kernel):
    @staticmethod
    def forward(both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        return _GatedGradient.apply(g, *ctx.saved_tensors)


class _GatedGradient(Kernel):
    @staticmethod
    def forward(g: Tensor, both: Tensor) -> Tensor:
        (gate, up), d_both = both.chunk(2, -1), torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, -1)
        torch.ops.aten.silu_backward(g * up, gate, grad_input=d_gate)
        torch.mul(F.silu(gate), g, out=d_up)
        return d_both

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, both1: Tensor) -> Grads:
        # ⟨g, ẏ⟩ = g (f′ u ġ + f u̇) with f = silu, f′ = s (1 + x (1 − s)), f″ = s (1 − s) (2 + x (1
        # − 2 s))
        g, both = ctx.saved_tensors
        (gate, up), (gate1, up1), d_both = both.chunk(2, -1), both1.chunk(2, -1), torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, -1)
        sloped = torch.ops.aten.silu_backward(gate1, gate)
        s = gate.sigmoid()
        curve = torch.rsub(s, 0.5).mul_(gate).add_(1.0)  # half of 2 + x (1 − 2 s)
        curve.mul_(torch.ops.aten.sigmoid_backward(gate1, s)).mul_(up)
        torch.add(torch.ops.aten.silu_backward(up1, gate), curve, alpha=2.0, out=d_gate).mul_(g)
        d_g = s.mul_(gate).mul_(up1).addcmul_(sloped, up)
        torch.mul(sloped, g, out=d_up)
        return d_g, d_both


def heads(qkv: Tensor, cos: Tensor | None, sin: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Splits queries, keys and values (B, *, T, 3 D) into heads, each (B, H, *, T, d).

    Each pair (2j, 2j+1) of a query or key is turned by its position's angle (Su et al., 2021,
    eq. 34), where there are turns, and queries are scaled by d^-1/2, so that their products with
    keys are attention's.

    >>> q, k, v = heads(torch.ones(1, 1, 6), torch.tensor([0.0]), torch.tensor([1.0]), 1)    # a quarter turn
    >>> q, k, v
    (tensor([[[[-0.7071,  0.7071]]]]), tensor([[[[-1.,  1.]]]]), tensor([[[[1., 1.]]]]))
    """
    if torch.compiler.is_compiling():
        q, k, v = _split(qkv, count)
        if cos is not None and sin is not None:
            q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        return q * q.shape[-1] ** -0.5, k, v
    return _Heads.apply(qkv, cos, sin, count)


class _Heads(Kernel):
    """The linear map that `heads` is; `_Joined` is its transpose, and the other way round."""

    @staticmethod
    def forward(qkv: Tensor, cos: Tensor | None, sin: Tensor | None, count: int) -> tuple[Tensor, ...]:
        given = _split(qkv, count)
        made = tuple(qkv.new_empty(given.shape[1:]) for _ in range(3))
        _turn_into(made[0], given[0], cos, sin, given.shape[-1] ** -0.5)
        _turn_into(made[1], given[1], cos, sin)
        made[2].copy_(given[2])
        return made

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Grads:
        return (None if all(g is None for g in grads) else _Joined.apply(*grads, *ctx.saved_tensors), None, None, None)


class _Joined(Kernel):
    @staticmethod
    def forward(q: Tensor | None, k: Tensor | None, v: Tensor | None, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        like = next(x for x in (q, k, v) if x is not None)
        count, dim = like.shape[1], like.shape[-1]
        qkv = like.new_empty(like.shape[0], *like.shape[2:-1], 3 * count * dim)
        back = None if sin is None else -sin  # by the same angle
        given = ((q, cos, back, dim**-0.5), (k, cos, back, 1.0), (v, None, None, 1.0))
        for place, (x, *how) in zip(_split(qkv, count), given, strict=True):
            if x is None:
                place.zero_()
            else:
                _turn_into(place, x, *how)
        return qkv

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[3:])
        ctx.count = next(x for x in inputs[:3] if x is not None).shape[1]
        ctx.given = [x is not None for x in inputs[:3]]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        parts = _Heads.apply(g, *ctx.saved_tensors, ctx.count)
        return (*(x if given else None for x, given in zip(parts, ctx.given, strict=True)), None, None)


def _split(qkv: Tensor, count: int) -> Tensor:
    """Views (B, *, T, 3 H d) as (3, B, H, *, T, d)."""
    return qkv.unflatten(-1, (3, count, -1)).movedim((-3, -2), (0, 2))


def _turn_into(out: Tensor, x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, scale: float = 1.0) -> None:
    """Writes x, with its pairs turned, and scaled, to a place of its shape."""
    if cos is None or sin is None:
        out.copy_(x)
        if scale != 1:
            out.mul_(scale)
        return
    dtype = torch.promote_types(x.dtype, cos.dtype)
    x, turns = x.to(dtype), torch.complex(cos.to(dtype) * scale, sin.to(dtype) * scale)
    x = x if _is_paired(x) else x.contiguous()
    if out.dtype == dtype and _is_paired(out):
        torch.mul(_pairs(x), turns, out=_pairs(out))  # one pass over memory
    else:
        out.copy_(torch.view_as_real(_pairs(x) * turns).flatten(-2))


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _is_paired(x: Tensor) -> bool:
    """Tells whether neighbours in x can be read as complex numbers; not so in an expanded gradient."""
    return x.stride(-1) == 1 and not any(step % 2 for step in (*x.stride()[:-1], x.storage_offset()))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Computes ⟨x, y⟩ over the last axis, which it keeps."""
    return torch.linalg.vecdot(x, y).unsqueeze(-1)


def through_softmax(g: Tensor, weights: Tensor) -> Tensor:
    """Takes a gradient back through a softmax: w (g − Σ w g)."""
    return torch.ops.aten._softmax_backward_data(g, weights, -1, g.dtype)


def _weighted_sum(x: Tensor, r: Tensor) -> Tensor:
    """Sums r x over all axes but the last, for numbers r (..., 1)."""
    return (r.flatten().unsqueeze(0) @ x.flatten(0, -2)).squeeze(0)
