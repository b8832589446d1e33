"""An Energy-Based Transformer computed as its authors' code does: one stream, everything anew at every step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm.energies.ebt import CausalEBT
from ebm.energies.ebt.attention import attend_plainly, future, turns
from ebm.energies.ebt.products import by_torch
from ebm.interfaces import Energy

SCALARS = 2  # of the reference's parameters, beside the energy's: the step size, and the noise's deviation


class Concatenated(Energy):
    """Computes a `CausalEBT`'s energies from observed and candidate tokens in one sequence.

    Nothing is encoded before a step: each step runs the tokens x_0 … x_{S-1}, ŷ_0 … ŷ_{S-1} through
    all blocks, and differentiates through both halves, in torch's plain operations. Several
    candidates each bring their own observed half. Energies are the `CausalEBT`'s.

    Source: the reference implementation of arXiv 2507.02092 (its `ar_ebt_*` models), whose products
    these are: those of the observed with each other, and of candidates with the observed.

    >>> from ebm.energies import TextEBT
    >>> energy, ids = TextEBT(vocab_size=11, dim=8, depth=2, heads=2), torch.tensor([[1, 2, 3]])
    >>> y = torch.rand(1, 3, 11)
    >>> torch.allclose(Concatenated(energy).given(ids)(y), energy.given(ids)(y), atol=1e-5)
    True
    """

    def __init__(self, energy: CausalEBT) -> None:
        super().__init__()
        self.energy, self.levels = energy, energy.levels

    def encode(self, context: Any = None, level: int = -1) -> tuple[Any, int]:
        return context, level % self.levels

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*more, B, S, event) to energies (*more, B, S)."""
        (context, level), energy = code, self.energy
        with by_torch():
            observed, candidates = energy.observe(context)[0], energy.propose(y, None)
        more, (rows, count, dim) = candidates.shape[:-3], candidates.shape[-3:]
        candidates = candidates.reshape(-1, count, dim)
        observed = observed.repeat(len(candidates) // rows, 1, 1)
        lead = energy.lead
        if lead:
            observed = torch.cat([energy.level_embedding.weight[level].expand(len(observed), 1, -1), observed], 1)
        seen = count + lead
        x = torch.cat([observed, candidates], 1)
        positions = torch.cat([torch.arange(seen, device=x.device), torch.arange(count, device=x.device) + lead + 1])
        cos, sin = turns(positions, dim // energy.heads)
        mask = future(seen, seen, device=x.device)

        def heads(part: Tensor) -> Tensor:
            return part.unflatten(-1, (energy.heads, -1)).transpose(1, 2)

        def rotate(part: Tensor) -> Tensor:
            even, odd = part[..., ::2], part[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        block: Any
        for block, modulation in zip(energy.blocks, energy.block_modulations(level), strict=True):
            shifts = (None,) * 6 if modulation is None else modulation.chunk(6, -1)
            normed = modulated(_norm(x, block.attention_norm), *shifts[:2])
            q, k, v = map(heads, _product(normed, block.qkv).chunk(3, -1))
            q, k = rotate(q) * q.shape[-1] ** -0.5, rotate(k)
            past = (q[..., :seen, :] @ k[..., :seen, :].mT).masked_fill(mask, -torch.inf).softmax(-1) @ v[..., :seen, :]
            own_q, own_k, own_v = (part[..., seen:, :].unsqueeze(2) for part in (q, k, v))
            hidden = mask[lead:, :][None, None]  # a candidate sees what the token before it sees
            both = attend_plainly(own_q, own_k, own_v, k[..., :seen, :], v[..., :seen, :], hidden).squeeze(2)
            attended = _product(torch.cat([past, both], 2).transpose(1, 2).flatten(2), block.out)
            x = x + (attended if shifts[2] is None else attended * shifts[2])
            normed = modulated(_norm(x, block.feed_forward_norm), *shifts[3:5])
            gate, up = _product(normed, block.gate_up).chunk(2, -1)
            fed = _product(F.silu(gate) * up, block.down)
            x = x + (fed if shifts[5] is None else fed * shifts[5])
        x = _norm(x, energy.norm)
        if energy.conditioning.startswith("adaln"):
            x = modulated(x, *energy.final_modulation(F.silu(energy.level_embedding.weight[level])).chunk(2, -1))
        return F.linear(x, energy.head.weight)[:, seen:, 0].reshape(*more, rows, count)


def modulated(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    return x if shift is None or scale is None else x * (1 + scale) + shift


def _norm(x: Tensor, norm: Any) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * norm.weight


def _product(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)
