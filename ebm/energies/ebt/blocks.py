"""The transformer block of both streams of an EBT and of Transformer++, and its attention.

What is observed attends to its past, a candidate to the observed past and to itself. Which kernel
computes it depends on the derivatives that training takes. The observed stream is differentiated
once (no candidate is upstream of it), so torch's fused kernel serves. A candidate's energy is
differentiated twice, which fused kernels refuse or, worse, silently do not: that attention is
written out in products and a softmax, whose second derivatives are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.kernels import gated, is_wanted, last_derivative, rms_norm, turn

EPSILON = 1e-5  # as in Llama; it matters, for candidates start small
BASE = 10_000.0  # rotary positions' longest wavelength is 2π of this
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """Divides features by their root mean square, and scales each by a weight: `rms_norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, EPSILON)


class Block(nn.Module):
    """Transforms tokens: x + attention(norm x), then x + SwiGLU(norm x), without biases.

    With a modulation (adaLN) each branch is scaled and shifted after its norm, and gated at its
    end.

    Source: Llama 2 (Touvron et al., 2023); adaLN: DiT (Peebles and Xie, 2023), section 3.2.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.feed_forward_norm = RMSNorm(dim)
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], attend: Attend, modulation: Tensor | None = None) -> Tensor:
        """Transforms x (B, *, T, D).

        `attend` maps queries, keys and values (B, H, *, T, d) to what is seen; modulation is (6
        D,).
        """
        shifts = (None,) * 6 if modulation is None else modulation.chunk(6, -1)
        qkv = self.qkv(modulate(self.attention_norm(x), shifts[0], shifts[1]))
        q, k, v = rearrange(qkv, "b ... t (three h d) -> three b h ... t d", three=3, h=self.heads)
        q, k = turn(q, *turns), turn(k, *turns)
        seen = self.out(rearrange(attend(q, k, v), "b h ... t d -> b ... t (h d)"))
        x = x + (seen if shifts[2] is None else shifts[2] * seen)
        gate, up = self.gate_up(modulate(self.feed_forward_norm(x), shifts[3], shifts[4])).chunk(2, -1)
        fed = self.down(gated(gate, up))
        return x + (fed if shifts[5] is None else shifts[5] * fed)


def modulate(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """Shifts and scales features: x (1 + scale) + shift, or x itself."""
    return x if shift is None or scale is None else x * (1 + scale) + shift


def initialise(module: nn.Module) -> None:
    """Draws every matrix, stacked ones one by one, from Xavier's normal; sets biases to zero.

    Embeddings keep torch's N(0, 1). Source: the EBT reference.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for block in module.modules():
        if isinstance(block, Block):
            for matrix in (*block.qkv.weight.chunk(3), *block.gate_up.weight.chunk(2)):
                nn.init.xavier_normal_(matrix)


# ------------------------------------------------------------------------------------------------------------ attention


def turns(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Computes cosines and sines (*positions, head_dim / 2) of the angles of rotary positions.

    Source: RoFormer (Su et al., 2021), equation 15.
    """
    frequencies = BASE ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def future(queries: int, keys: int, *, device: torch.device, pad: Tensor | None = None, lead: int = 0) -> Tensor:
    """Marks what the last `queries` of `keys` positions must not see: the future, and padding.

    Arguments:
        queries, keys: how many there are; the last query stands at the last key.
        pad: how many keys (B,) after the first `lead` are padding; the mask is then (B, 1, queries,
            keys).
        lead: keys in front that everybody sees (a step embedding's token).
    """
    key = torch.arange(keys, device=device)
    hidden = key > torch.arange(keys - queries, keys, device=device)[:, None]
    if pad is None:
        return hidden
    padded = (key >= lead) & (key < lead + pad[:, None])
    return hidden | padded[:, None, None]


def attend_to_past(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Attends causally, once differentiable: q (B, H, T, d) to k and v (B, H, S, d).

    T = S unless `hidden` (T, S) is given.
    """
    if hidden is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # A padded row's query may see nothing at all: it looks at itself, and nobody looks at it.
    key = torch.arange(k.shape[-2], device=q.device)
    own = key == key[-q.shape[-2] :, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden | own)


def attend_to_past_and_self(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Attends to observed keys and to oneself, twice differentiable; no other candidate is seen.

    Arguments:
        q, k, v: the candidates' own (B, H, N, T, d), for N candidates at each of T positions.
        keys, values: the observed stream's (B, H, S, d), shared by the candidates.
        hidden: (T, S) or (B, 1, T, S), True where a position must not look.
    """
    q = q * q.shape[-1] ** -0.5
    if torch.compiler.is_compiling():  # a compiler fuses the plain formula
        return attend_plainly(q, k, v, keys, values, hidden)
    return _Attention.apply(q, k, v, keys, values, hidden)[0]


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Writes the attention of scaled queries out as a product, a softmax and a product."""
    past = (q.flatten(2, 3) @ keys.mT).unflatten(2, q.shape[2:4]).masked_fill(hidden.unsqueeze(-3), -torch.inf)
    scores = torch.cat([past, (q * k).sum(-1, keepdim=True)], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
    seen = (weights[..., :-1].flatten(2, 3) @ values).unflatten(2, q.shape[2:4])
    return seen + weights[..., -1:] * v


# Left to autograd, the plain formula's second derivative takes many passes over (T, S) tensors.
# Written by hand it takes fewer, and keeps one such tensor alive. With scores s, weights w =
# softmax(s) and output o, the first derivative is
#
#     a_j = ⟨g, v_j⟩,    ds_j = w_j (a_j − ā),    x̄ = Σ_j w_j x_j,
#
# and the second is the gradient of a directional derivative: for directions (q̇, k̇, v̇) of the
# candidate's own (q, k, v), and hence ṡ and ẇ_j = w_j (ṡ_j − s̄̇), it is that of ⟨g, ȯ⟩ = Σ_j ẇ_j
# a_j + w_0 ⟨g, v̇⟩, where j = 0 is the candidate itself.


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        wide = torch.promote_types(v.dtype, torch.float32)
        past = _rows(q, keys.mT).to(wide).masked_fill_(hidden.unsqueeze(-3), -torch.inf)
        own = (q * k).sum(-1, keepdim=True).to(wide)
        top = torch.maximum(past.amax(-1, keepdim=True), own)
        past, own = past.sub_(top).exp_(), own.sub_(top).exp_()
        total = past.sum(-1, keepdim=True).add_(own)
        past, own = past.div_(total).to(v.dtype), own.div_(total).to(v.dtype)
        return torch.addcmul(_rows(past, values), own, v), past, own

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 6
        keys, values = ctx.saved_tensors[3:5]
        # A sampler asks for the gradient of y alone: what is observed is upstream of other results
        # only.
        wanted = is_wanted(keys) or is_wanted(values)
        return (*_AttentionGradient.apply(g, *ctx.saved_tensors, wanted), None)


class _AttentionGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        g: Tensor, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, past: Tensor, own: Tensor, wanted: bool
    ) -> tuple[Tensor | None, ...]:
        a, a_own = _rows(g, values.mT), (g * v).sum(-1, keepdim=True)
        mean = _mean(past, own, a, a_own)
        ds, ds_own = a.sub_(mean).mul_(past), (a_own - mean) * own
        d_keys, d_values = (_product(ds, q), _product(past, g)) if wanted else (None, None)
        return torch.addcmul(_rows(ds, keys), ds_own, k), ds_own * q, own * g, d_keys, d_values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:-1])

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any, q1: Tensor | None, k1: Tensor | None, v1: Tensor | None, keys1: Tensor | None, values1: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        g, q, k, v, keys, values, past, own = ctx.saved_tensors
        q1, k1, v1 = (torch.zeros_like(g) if d is None else d for d in (q1, k1, v1))
        a, a_own = _rows(g, values.mT), (g * v).sum(-1, keepdim=True)
        t, t_own = _rows(q1, keys.mT), (q1 * k + q * k1).sum(-1, keepdim=True)
        if keys1 is not None:
            t += _rows(q, keys1.mT)
        # Three (T, S) tensors live here, and are reused: the weights, w(a − ā) = ds in the place of
        # a, w(ṡ − s̄̇) = ẇ in that of ṡ.
        mean_a, mean_t = _mean(past, own, a, a_own), _mean(past, own, t, t_own)
        a, a_own, t, t_own = a.sub_(mean_a), a_own - mean_a, t.sub_(mean_t), t_own - mean_t
        c, c_own = torch.mul(a, t), a_own * t_own + (g * v1).sum(-1, keepdim=True)  # what moves w, up to a constant
        if values1 is not None:
            c += _rows(g, values1.mT)
        ds, ds_own, w, w_own = a.mul_(past), a_own * own, t.mul_(past), t_own * own
        c.sub_(mean := _mean(past, own, c, c_own)).mul_(past)
        c_own = (c_own - mean) * own
        d_g = torch.addcmul(_rows(w, values), w_own, v).addcmul_(own, v1)
        d_q = torch.addcmul(_rows(c, keys), c_own, k).addcmul_(ds_own, k1)
        d_k = (c_own * q).addcmul_(ds_own, q1)
        d_keys = _product(c, q) + _product(ds, q1)
        d_values = _product(w, g)
        if keys1 is not None:
            d_q += _rows(ds, keys1)
        if values1 is not None:
            d_g += _rows(past, values1)
        return d_g, d_q, d_k, w_own * g, d_keys, d_values, None, None, None


def _rows(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiplies x (B, H, N, T, a) by a matrix (B, H, a, b) that all N candidates share."""
    return (x.flatten(2, 3) @ matrix).unflatten(2, x.shape[2:4])


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Sums xᵀ y over candidates and positions: (B, H, N, T, a), (B, H, N, T, b) to (B, H, a, b)."""
    return x.flatten(2, 3).mT @ y.flatten(2, 3)


def _mean(past: Tensor, own: Tensor, a: Tensor, a_own: Tensor) -> Tensor:
    """Averages a under the weights: Σ_j w_j a_j (…, T, 1)."""
    mean = past.flatten(0, -2).unsqueeze(-2) @ a.flatten(0, -2).unsqueeze(-1)
    return mean.view(own.shape).addcmul_(own, a_own)
