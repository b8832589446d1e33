"""Attention of causal streams: what is observed sees its past, a candidate that and itself.

Which kernel computes it depends on the derivatives that training takes. The observed stream is
differentiated once (no candidate is upstream of it). A candidate's energy is differentiated twice,
which fused kernels refuse or, worse, silently do not: that attention is written out in products
and softmaxes, whose second derivatives are exact. On a CPU both attend for some queries at a time,
and leave out what lies in the future of all of them; that is faster than torch's fused kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.ebt.kernels import Kernel, dot, is_wanted, last_derivative, through_softmax

BASE = 10_000.0  # rotary positions' longest wavelength is 2π of this
ROWS = 64  # queries at a time: fewer leave out more of the future, but their products are slower
Grads = tuple[Tensor | None, ...]


@contextmanager
def all_rows_at_once() -> Iterator[None]:
    """Attends for all queries at once on a CPU, too, as accelerators do: what is counted is theirs."""
    global ROWS
    ROWS, before = sys.maxsize, ROWS
    try:
        yield
    finally:
        ROWS = before


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
    """Attends causally, once differentiable: scaled q (B, H, T, d) to k and v (B, H, S, d).

    T = S unless `hidden` (T, S) or (B, 1, T, S) is given: True where a position must not look.
    """
    if hidden is None:
        if q.is_cpu and not torch.compiler.is_compiling():
            return _Past.apply(q, k, v)[0]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    # A padded row's query may see nothing at all: it looks at itself, and nobody looks at it.
    key = torch.arange(k.shape[-2], device=q.device)
    own = key == key[-q.shape[-2] :, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden | own, scale=1.0)


def attend_to_past_and_self(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """Attends to observed keys and to oneself, twice differentiable; no other candidate is seen.

    Arguments:
        q, k, v: the candidates' own (B, H, N, T, d), for N candidates at each of T positions; q is
            scaled.
        keys, values: the observed stream's (B, H, S, d), shared by the candidates.
        hidden: (B, 1, T, S), True where a position must not look, which is at least at the future.
            By default it is the future alone: the last candidates see all keys.
    """
    if torch.compiler.is_compiling():  # a compiler fuses the plain formula
        return attend_plainly(q, k, v, keys, values, hidden)
    return _Attention.apply(q, k, v, keys.to(q.dtype), values.to(q.dtype), hidden)[0]


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Writes the attention of scaled queries out as a product, a softmax and a product."""
    if hidden is None:
        hidden = future(q.shape[-2], keys.shape[-2], device=q.device)
    past = (q.flatten(2, 3) @ keys.mT).unflatten(2, q.shape[2:4]).masked_fill(hidden.unsqueeze(-3), -torch.inf)
    scores = torch.cat([past, (q * k).sum(-1, keepdim=True)], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(v.dtype, torch.float32)).to(v.dtype)
    seen = (weights[..., :-1].flatten(2, 3) @ values).unflatten(2, q.shape[2:4])
    return seen + weights[..., -1:] * v


# Left to autograd, the plain formula's second derivative takes many passes over (T, S) tensors.
# Written by hand it takes fewer, and keeps one such tensor alive: the weights, part by part, each
# with the candidate's own in its last column. With scores s, weights w = softmax(s) and output o,
# the first derivative is
#
#     a_j = ⟨g, v_j⟩,    ds_j = w_j (a_j − ā),    x̄ = Σ_j w_j x_j,
#
# and the second is the gradient of a directional derivative: for directions (q̇, k̇, v̇) of the
# candidate's own (q, k, v), and hence ṡ and ẇ_j = w_j (ṡ_j − s̄̇), it is that of ⟨g, ȯ⟩ = Σ_j ẇ_j
# a_j + w_0 ⟨g, v̇⟩, where j = 0 is the candidate itself.


class _Attention(Kernel):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> tuple[Tensor, ...]:
        out, own, kept = torch.empty_like(v), dot(q, k), []
        for rows, seen in _parts(q, keys):
            scores = _against(q[..., rows, :], keys[..., :seen, :], own[..., rows, :], wide=True)
            _hide(scores, seen, None if hidden is None else hidden[..., rows, :seen].unsqueeze(-3))
            weights = scores.softmax(-1).to(v.dtype)
            past = _rows(weights[..., :-1], values[..., :seen, :])
            torch.addcmul(past, weights[..., -1:], v[..., rows, :], out=out[..., rows, :])
            kept.append(weights)
        return out, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Grads:
        if g is None:
            return (None,) * 6
        keys, values = ctx.saved_tensors[3:5]
        # A sampler asks for the gradient of y alone: what is observed is upstream of other results
        # only.
        wanted = is_wanted(keys) or is_wanted(values)
        return (*_AttentionGradient.apply(wanted, g, *ctx.saved_tensors), None)


class _AttentionGradient(Kernel):
    @staticmethod
    def forward(wanted: bool, g: Tensor, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, *kept: Tensor) -> Grads:
        d_q, d_k, d_v, own = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), dot(g, v)
        d_keys: Tensor | None = None
        d_values: Tensor | None = None
        for rows, seen, weights in _kept(kept, q):
            g_, q_, k_ = g[..., rows, :], q[..., rows, :], k[..., rows, :]
            ds = through_softmax(_against(g_, values[..., :seen, :], own[..., rows, :]), weights)
            past, own_ds = ds[..., :-1], ds[..., -1:]
            torch.addcmul(_rows(past, keys[..., :seen, :]), own_ds, k_, out=d_q[..., rows, :])
            torch.mul(own_ds, q_, out=d_k[..., rows, :])
            torch.mul(weights[..., -1:], g_, out=d_v[..., rows, :])
            if wanted:
                d_keys = _plus_product(d_keys, past, q_)
                d_values = _plus_product(d_values, weights[..., :-1], g_)
        return d_q, d_k, d_v, d_keys, d_values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Grads) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any, q1: Tensor | None, k1: Tensor | None, v1: Tensor | None, keys1: Tensor | None, values1: Tensor | None
    ) -> Grads:
        g, q, k, v, keys, values, *kept = ctx.saved_tensors
        q1, k1, v1 = (torch.zeros_like(g) if d is None else d for d in (q1, k1, v1))
        d_g, d_q, d_k, d_v = (torch.empty_like(x) for x in (g, q, k, v))
        d_keys: Tensor | None = None
        d_values: Tensor | None = None
        own_a, own_t, own_c = dot(g, v), dot(q1, k) + dot(q, k1), dot(g, v1)
        for rows, seen, weights in _kept(kept, q):
            g_, q_, k_, v_, q1_, k1_, v1_ = (x[..., rows, :] for x in (g, q, k, v, q1, k1, v1))
            past_keys, past_values = keys[..., :seen, :], values[..., :seen, :]
            a = _against(g_, past_values, own_a[..., rows, :])
            t = _against(q1_, past_keys, own_t[..., rows, :])
            if keys1 is not None:
                t[..., :-1] += _rows(q_, keys1[..., :seen, :].mT)
            a.sub_(dot(weights, a))
            t.sub_(dot(weights, t))
            c = torch.mul(a, t)  # what moves w, up to a constant
            c[..., -1:] += own_c[..., rows, :]
            if values1 is not None:
                c[..., :-1] += _rows(g_, values1[..., :seen, :].mT)
            ds, w, c = a.mul_(weights), t.mul_(weights), through_softmax(c, weights)
            to_g = _rows(w[..., :-1], past_values).addcmul_(weights[..., -1:], v1_)
            to_q = _rows(c[..., :-1], past_keys).addcmul_(ds[..., -1:], k1_)
            if values1 is not None:
                to_g += _rows(weights[..., :-1], values1[..., :seen, :])
            if keys1 is not None:
                to_q += _rows(ds[..., :-1], keys1[..., :seen, :])
            torch.addcmul(to_g, w[..., -1:], v_, out=d_g[..., rows, :])
            torch.addcmul(to_q, c[..., -1:], k_, out=d_q[..., rows, :])
            torch.mul(c[..., -1:], q_, out=d_k[..., rows, :]).addcmul_(ds[..., -1:], q1_)
            torch.mul(w[..., -1:], g_, out=d_v[..., rows, :])
            d_keys = _plus_product(_plus_product(d_keys, c[..., :-1], q_), ds[..., :-1], q1_)
            d_values = _plus_product(d_values, w[..., :-1], g_)
        return None, d_g, d_q, d_k, d_v, d_keys, d_values, *[None] * len(kept)


class _Past(Kernel):
    """Attends causally to q, k and v (B, H, S, d) of one stream."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        q = q.unsqueeze(2)
        out, kept = torch.empty_like(q), []
        for rows, seen in _parts(q, k):
            scores = _rows(q[..., rows, :], k[..., :seen, :].mT).to(torch.promote_types(v.dtype, torch.float32))
            _hide(scores, seen, None)
            weights = scores.softmax(-1).to(v.dtype)
            out[..., rows, :] = _rows(weights, v[..., :seen, :])
            kept.append(weights)
        return out.squeeze(2), *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Grads:
        return (None,) * 3 if g is None else _PastGradient.apply(g, *ctx.saved_tensors)


class _PastGradient(Kernel):
    @staticmethod
    def forward(g: Tensor, q: Tensor, k: Tensor, v: Tensor, *kept: Tensor) -> Grads:
        g, q = g.unsqueeze(2), q.unsqueeze(2)
        d_q = torch.empty_like(q)
        d_k: Tensor | None = None
        d_v: Tensor | None = None
        for rows, seen, weights in _kept(kept, q, 0):
            ds = through_softmax(_rows(g[..., rows, :], v[..., :seen, :].mT), weights)
            d_q[..., rows, :] = _rows(ds, k[..., :seen, :])
            d_k = _plus_product(d_k, ds, q[..., rows, :])
            d_v = _plus_product(d_v, weights, g[..., rows, :])
        return d_q.squeeze(2), d_k, d_v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Grads) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Grads:
        raise RuntimeError("a second derivative of observed attention: no candidate is upstream of what is observed")


def _parts(q: Tensor, keys: Tensor) -> Iterator[tuple[slice, int]]:
    """Lists queries (…, T, d), some at a time, and how many of the keys (…, S, d) they see."""
    count, step = q.shape[-2], ROWS if q.is_cpu else q.shape[-2]
    for first in range(0, count, step):
        after = min(first + step, count)
        yield slice(first, after), keys.shape[-2] - count + after


def _kept(kept: tuple[Tensor, ...] | list[Tensor], q: Tensor, own: int = 1) -> Iterator[tuple[slice, int, Tensor]]:
    """Lists parts again by their weights (…, queries, seen + own): the last, which sees all, first."""
    after = q.shape[-2]
    for weights in reversed(kept):
        first = after - weights.shape[-2]
        yield slice(first, after), weights.shape[-1] - own, weights
        after = first


def _hide(scores: Tensor, seen: int, hidden: Tensor | None) -> None:
    """Sets scores (…, R, ≥ seen) to −∞ where R queries must not look: at the future of each."""
    rows = scores.shape[-2]
    if hidden is not None:
        scores[..., :seen].masked_fill_(hidden, -torch.inf)
    elif rows > 1:
        scores[..., seen - rows : seen] += scores.new_full((rows, rows), -torch.inf).triu(1)


def _against(x: Tensor, matrix: Tensor, own: Tensor, wide: bool = False) -> Tensor:
    """Multiplies x (B, H, N, R, d) by the rows of a matrix (B, H, n, d), beside its own: (…, n + 1)."""
    dtype = torch.promote_types(x.dtype, torch.float32) if wide else x.dtype
    both = x.new_empty(*x.shape[:-1], matrix.shape[-2] + 1, dtype=dtype)
    if dtype == x.dtype == matrix.dtype:
        torch.bmm(_batched(x), matrix.flatten(0, 1).mT, out=_batched(both)[..., :-1])
    else:
        both[..., :-1] = _rows(x, matrix.mT)
    both[..., -1:] = own
    return both


def _rows(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiplies x (B, H, N, R, a) by a matrix (B, H, a, b) that all N candidates share."""
    return (x.flatten(2, 3) @ matrix).unflatten(2, x.shape[2:4])


def _plus_product(total: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    """Adds xᵀ y over candidates and queries, (B, H, N, R, a) and (B, H, N, R, b), to the first a rows."""
    if total is None:
        return x.flatten(2, 3).mT @ y.flatten(2, 3)
    total.flatten(0, 1)[:, : x.shape[-1]].baddbmm_(_batched(x).mT, _batched(y))
    return total


def _batched(x: Tensor) -> Tensor:
    """Views x (B, H, N, R, a) as (B H, N R, a)."""
    return x.flatten(2, 3).flatten(0, 1)
