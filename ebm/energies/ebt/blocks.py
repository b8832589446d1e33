"""The transformer block of both streams of an EBT and of Transformer++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.kernels import gated, heads, rms_norm
from ebm.energies.ebt.products import Linear
from ebm.energies.ebt.regions import EPSILON, Regions, regions

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """Divides features by their root mean square, and scales each by a weight: `rms_norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Normalises x (..., D), and modulates it: times (1 + scale), plus shift, both (D,)."""
        x = rms_norm(x, self.scaled(scale), EPSILON)
        return x if shift is None else x + shift

    def scaled(self, scale: Tensor | None) -> Tensor:
        """Multiplies the weight, which is much less than x, by 1 + scale."""
        return self.weight if scale is None else self.weight * (1 + scale)


class Block(nn.Module):
    """Transforms tokens: x + attention(norm x), then x + SwiGLU(norm x), without biases.

    With a modulation (adaLN) each branch is scaled and shifted after its norm, and gated at its
    end.

    Source: Llama 2 (Touvron et al., 2023); adaLN: DiT (Peebles and Xie, 2023), section 3.2.
    """

    regions: Regions | None = None  # what is compiled of it

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
        if self.regions is not None and self.regions.suit(x):
            return self._by_regions(self.regions, x, turns, attend, modulation)
        shifts = (None,) * 6 if modulation is None else modulation.chunk(6, -1)
        seen = self.out(rearrange(attend(*self.look(x, turns, modulation)), "b h ... t d -> b ... t (h d)"))
        x = plus(x, seen, shifts[2])
        fed = self.down(gated(self.gate_up(self.feed_forward_norm(x, shifts[3], shifts[4]))))
        return plus(x, fed, shifts[5])

    def _by_regions(
        self, made: Regions, x: Tensor, turns: tuple[Tensor, Tensor], attend: Attend, modulation: Tensor | None
    ) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = (None,) * 6 if modulation is None else modulation.chunk(6, -1)
        (normed,) = made.enter(x, self.attention_norm.scaled(scale), shift)
        seen = self.out(rearrange(attend(*heads(self.qkv(normed), *turns, self.heads)), "b h ... t d -> b ... t (h d)"))
        x, normed = made.join(x, seen, self.feed_forward_norm.scaled(scale_2), gate, shift_2)
        return plus(x, self.down(made.middle(self.gate_up(normed))[0]), gate_2)

    def compile(self, *_: Any, **options: Any) -> None:
        """Compiles what lies between products (`ebm.energies.ebt.regions`), by torch.compile's options."""
        self.regions = regions(**options)

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
