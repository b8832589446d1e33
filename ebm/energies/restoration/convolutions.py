"""Convolutions whose second derivatives are first derivatives of convolutions, which are fast.

torch takes the derivative of a convolution's backward pass by a formula of its own, which on a CPU
costs several times the convolution. Here a backward pass is itself a convolution of the other kind
(the transposed one's is the plain one), a Function whose backward pass is known in turn; so it goes
on to any order. A sampler asks for the picture's gradient alone: then no weight's is computed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.ebt.kernels import Grads, Kernel, is_wanted


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolves pictures x (B, C, H, W) with a weight (O, C, k, k) and a bias (O,): `F.conv2d`.

    The stride and the padding must leave no rest: (H + 2 padding - k) is a multiple of the stride.

    >>> convolved(torch.ones(1, 2, 4, 4), torch.ones(3, 2, 2, 2), stride=2).shape
    torch.Size([1, 3, 2, 2])
    """
    if any((size + 2 * padding - weight.shape[-1]) % stride for size in x.shape[-2:]):
        sizes = f"pictures of {tuple(x.shape[-2:])}, a kernel of {weight.shape[-1]}"
        raise ValueError(f"{sizes}, stride={stride}, padding={padding}: the stride leaves a rest, so pad the pictures")
    if torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding)
    return _Convolution.apply(x, weight, bias, stride, padding)


def spread(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Takes x (B, O, h, w) back through a convolution of weight (O, C, k, k): `F.conv_transpose2d`.

    >>> spread(torch.ones(1, 3, 2, 2), torch.ones(3, 2, 2, 2), stride=2).shape
    torch.Size([1, 2, 4, 4])
    """
    if torch.compiler.is_compiling():
        return F.conv_transpose2d(x, weight, None, stride, padding)
    return _Spread.apply(x, weight, stride, padding)


class _Convolution(Kernel):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        x, weight, bias = ctx.saved_tensors
        d_x = _Spread.apply(g, weight, ctx.stride, ctx.padding) if is_wanted(x) else None
        d_weight = _weight_gradient(x, g, weight, ctx.stride, ctx.padding) if is_wanted(weight) else None
        d_bias = g.sum((0, 2, 3)) if bias is not None and is_wanted(bias) else None
        return d_x, d_weight, d_bias, None, None


class _Spread(Kernel):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv_transpose2d(x, weight, None, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        x, weight = ctx.saved_tensors
        d_x = _Convolution.apply(g, weight, None, ctx.stride, ctx.padding) if is_wanted(x) else None
        d_weight = _weight_gradient(g, x, weight, ctx.stride, ctx.padding) if is_wanted(weight) else None
        return d_x, d_weight, None, None


def _weight_gradient(wide: Tensor, narrow: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Computes what ⟨narrow, wide * weight⟩, linear in the weight (O, C, k, k), is multiplied by.

    wide: (B, C, H, W), before a convolution; narrow: (B, O, h, w), behind it. torch knows its derivatives.
    """
    steps, pads, mask = [stride, stride], [padding, padding], [False, True, False]
    return torch.ops.aten.convolution_backward(narrow, wide, weight, None, steps, pads, [1, 1], False, [0, 0], 1, mask)[1]
