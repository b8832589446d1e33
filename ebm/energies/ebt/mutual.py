"""A block in which all positions see each other, and its attention with exact second derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebm.energies.ebt.blocks import EPSILON
from ebm.energies.ebt.kernels import Kernel, dot, gated, heads, is_wanted, last_derivative, rms_norm, through_softmax
from ebm.energies.ebt.products import Linear
from ebm.energies.ebt.relations import Relations


class MutualBlock(nn.Module):
    """Transforms tokens (B, S, D): norm(x + attention(x)), then norm(x + SwiGLU(x)).

    Norms come after each branch, so that a block may be repeated any number of times: its output
    has the size of its input. Attention has a bias for each head and relation of two positions.

    Source: RMSNorm after the branch, without weights, as in Tiny Recursive Models (arXiv
    2510.04871).
    """

    def __init__(self, dim: int, heads: int, hidden: int, relations: Relations | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = Linear(dim, 3 * dim, bias=False), Linear(dim, dim, bias=False)
        self.gate_up, self.down = Linear(dim, 2 * hidden, bias=False), Linear(hidden, dim, bias=False)
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(dim), persistent=False)
        self.bias: nn.Parameter | None = None
        if relations is not None:
            bias = torch.zeros(heads, relations.kinds)
            hints = relations.hints[:heads]
            bias[: len(hints)] = hints
            self.bias = nn.Parameter(bias)
        for matrix in (self.qkv.weight, self.gate_up.weight):
            nn.init.normal_(matrix, std=dim**-0.5)
        nn.init.normal_(self.out.weight, std=0.5 * dim**-0.5)
        nn.init.normal_(self.down.weight, std=0.5 * hidden**-0.5)

    def bias_among(self, numbers: Tensor, hidden: tuple[int, ...]) -> Tensor | None:
        """Looks up biases (H, S, S) of relations (S, S); −∞ where positions do not see each other."""
        if self.bias is None:
            return None
        bias: Tensor = self.bias
        if hidden:
            bias = bias.index_fill(1, torch.tensor(hidden, device=bias.device), -torch.inf)
        return bias[:, numbers]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Transforms x (B, S, D); bias (H, S, S) is added to attention's scores."""
        seen = attend(*heads(self.qkv(x), None, None, self.heads), bias).transpose(1, 2).flatten(2)
        x = rms_norm(x + self.out(seen), self.unit, EPSILON)
        return rms_norm(x + self.down(gated(self.gate_up(x))), self.unit, EPSILON)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attends from every position to every one: scaled q, k, v (B, H, S, d), twice differentiable.

    A compiler fuses the plain formula, softmax(q kᵀ + bias) v.
    """
    return attend_plainly(q, k, v, bias) if torch.compiler.is_compiling() else _Mutual.apply(q, k, v, bias)[0]


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Writes the attention of scaled queries out."""
    scores = q @ k.mT
    scores = scores if bias is None else scores + bias
    return scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype) @ v


# With scores s, weights w = softmax(s) and output o = w v, the first derivative for a cotangent g is
#
#     a = g vᵀ,    ds = w (a − ā),    x̄_i = Σ_j w_ij x_ij,
#
# and dq = ds k, dk = dsᵀ q, dv = wᵀ g. Its own derivative, for directions (q̇, k̇, v̇, ḃ) and so t = ṡ
# = q̇ kᵀ + q k̇ᵀ + ḃ, is the gradient of the directional derivative ⟨g, ȯ⟩ = Σ w (t − t̄) a + Σ w g v̇ᵀ,
# whose derivative in s is c = w (e − ē) with e = (a − ā)(t − t̄) + g v̇ᵀ.


class _Mutual(Kernel):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = q @ k.mT
        weights = weights.to(torch.promote_types(v.dtype, torch.float32))
        if bias is not None:
            weights += bias
        weights = weights.softmax(-1).to(v.dtype)
        return weights @ v, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 4
        q, k, v, bias, weights = ctx.saved_tensors
        return _MutualGradient.apply(g, q, k, v, bias, weights, bias is not None and is_wanted(bias))


class _MutualGradient(Kernel):
    @staticmethod
    def forward(
        g: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, weights: Tensor, wanted: bool
    ) -> tuple[Tensor | None, ...]:
        ds = through_softmax(g @ v.mT, weights)
        return ds @ k, ds.mT @ q, weights.mT @ g, ds.sum(0) if wanted else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4], inputs[5])
        ctx.biased = inputs[4] is not None

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any, q1: Tensor | None, k1: Tensor | None, v1: Tensor | None, bias1: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        g, q, k, v, weights = ctx.saved_tensors
        a = g @ v.mT
        a.sub_(dot(weights, a))
        t = torch.zeros_like(a) if q1 is None else q1 @ k.mT
        if k1 is not None:
            t += q @ k1.mT
        if bias1 is not None:
            t += bias1
        t.sub_(dot(weights, t))
        c = a * t
        if v1 is not None:
            c += g @ v1.mT
        c = through_softmax(c, weights)
        ds, w = a.mul_(weights), t.mul_(weights)
        d_g, d_q, d_k, d_v = w @ v, c @ k, c.mT @ q, w.mT @ g
        if v1 is not None:
            d_g += weights @ v1
        if k1 is not None:
            d_q += ds @ k1
        if q1 is not None:
            d_k += ds.mT @ q1
        return d_g, d_q, d_k, d_v, c.sum(0) if ctx.biased else None, None, None
