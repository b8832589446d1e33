"""The transformer block that both streams of an EBT, and the Transformer++ baseline, are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.kernels import gated, rms_norm, turn

__all__ = ["Attend", "Block", "RMSNorm", "initialise", "modulate"]

EPSILON = 1e-5  # as in Llama; it matters, for candidates start small
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """Divides features by their root mean square, and scales each: `rms_norm` with a weight (dim,)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, EPSILON)


class Block(nn.Module):
    """Transforms tokens: x + attention(norm x), then x + SwiGLU(norm x), with RMSNorm, rotary positions and no biases.

    With a modulation (adaLN) each branch is scaled and shifted after its norm, and gated at its end.

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
        """Transforms x (B, *, T, D); `attend` maps queries, keys, values (B, H, *, T, d) to what is seen; modulation (6 D,)."""
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
    """Draws every matrix from Xavier's normal distribution, each of stacked ones on its own, and sets biases to zero.

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
