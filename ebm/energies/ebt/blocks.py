"""The transformer block of both streams of an EBT and of Transformer++."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.kernels import gated, heads, rms_norm
from ebm.energies.ebt.products import Linear

EPSILON = 1e-5  # as in Llama; it matters, for candidates start small
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """Divides features by their root mean square, and scales each by a weight: `rms_norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Normalises x (..., D), and modulates it: times (1 + scale), plus shift, both (D,)."""
        weight = self.weight if scale is None else self.weight * (1 + scale)  # so much less than x
        x = rms_norm(x, weight, EPSILON)
        return x if shift is None else x + shift


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
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.out = Linear(dim, dim, bias=False)
        self.feed_forward_norm = RMSNorm(dim)
        self.gate_up = Linear(dim, 2 * hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], attend: Attend, modulation: Tensor | None = None) -> Tensor:
        """Transforms x (B, *, T, D).

        `attend` maps queries, which are scaled, keys and values (B, H, *, T, d) to what is seen;
        modulation is (6 D,).
        """
        shifts = (None,) * 6 if modulation is None else modulation.chunk(6, -1)
        seen = self.out(rearrange(attend(*self.look(x, turns, modulation)), "b h ... t d -> b ... t (h d)"))
        x = plus(x, seen, shifts[2])
        fed = self.down(gated(self.gate_up(self.feed_forward_norm(x, shifts[3], shifts[4]))))
        return plus(x, fed, shifts[5])

    def look(self, x: Tensor, turns: tuple[Tensor, Tensor], modulation: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Computes queries, keys and values (B, H, *, T, d) of x (B, *, T, D)."""
        shift, scale = (None, None) if modulation is None else modulation.chunk(6, -1)[:2]
        return heads(self.qkv(self.attention_norm(x, shift, scale)), *turns, self.heads)


def plus(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    """Adds what a branch says to x, through a gate (D,) if there is one."""
    return x + branch if gate is None else torch.addcmul(x, gate, branch)


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
