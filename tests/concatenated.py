"""The oracle of the two-stream EBT: one stream of observed and candidate tokens, and a dense mask. Slow and obvious.

It takes an EBT's weights and none of its code: torch's own norm and gate, and rotation as a product of complex numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.ebt import CausalEBT
from ebm.interfaces import EnergyFn

__all__ = ["concatenated", "landscapes_of"]


def concatenated(energy: CausalEBT, context: Tensor, y: Tensor, level: int) -> Tensor:
    """Computes the energies (B, S) of y (B, S, *event) from the weights of an EBT, recomputing everything."""
    observed, proposed = energy.observe(context)[0], energy.propose(y, None)
    (rows, count, dim), heads = observed.shape, energy.heads
    front = energy.conditioning == "time"
    parts = [observed, proposed]
    step = None if energy.conditioning == "none" else energy.level_embedding.weight[level]
    if front:
        parts.insert(0, step.expand(rows, 1, -1))
    x = torch.cat(parts, 1)

    here = x.device
    past = torch.ones(front + count, front + count, dtype=torch.bool, device=here).tril()
    seen = torch.zeros(len(past) + count, len(past) + count, dtype=torch.bool, device=here)
    seen[: len(past), : len(past)] = past  # an observed token sees its past
    seen[len(past) :, : len(past)] = past[front:]  # a candidate sees what the token before it sees
    seen[len(past) :, len(past) :] = torch.eye(count, dtype=torch.bool, device=here)  # and itself, but no other

    position = torch.cat(
        [torch.arange(front + count), torch.arange(count) + front + 1]
    ).double()  # on the CPU: not all have doubles
    frequency = 10_000.0 ** -(torch.arange(0, dim // heads, 2, dtype=torch.double) / (dim // heads))
    angle = torch.polar(torch.ones(()).double(), position[:, None] * frequency)
    rotation = angle.to(torch.promote_types(x.dtype, torch.complex64) if x.dtype == torch.float32 else torch.complex128).to(here)

    def rotate(t: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * rotation).flatten(-2)

    def shifted(t: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        return t if shift is None else t * (1 + scale) + shift

    adaln = energy.conditioning.startswith("adaln")
    for index, block in enumerate(energy.blocks):
        parts = energy.modulations[index](F.silu(step)).chunk(6) if adaln else (None,) * 6
        normed = shifted(F.rms_norm(x, (dim,), block.attention_norm.weight, 1e-5), parts[0], parts[1])
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in block.qkv(normed).chunk(3, -1))
        scores = rotate(q) @ rotate(k).mT / (dim // heads) ** 0.5
        mixed = block.out((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + (mixed * parts[2] if adaln else mixed)
        normed = shifted(F.rms_norm(x, (dim,), block.feed_forward_norm.weight, 1e-5), parts[3], parts[4])
        gate, up = block.gate_up(normed).chunk(2, -1)
        fed = block.down(F.silu(gate) * up)
        x = x + (fed * parts[5] if adaln else fed)
    x = F.rms_norm(x, (dim,), energy.norm.weight, 1e-5)
    x = shifted(x, *(energy.final_modulation(F.silu(step)).chunk(2) if adaln else (None, None)))
    return energy.head(x)[:, -count:, 0]


def landscapes_of(energy: CausalEBT, context: Tensor) -> list[EnergyFn]:
    """Lists the landscapes of an EBT as the oracle computes them."""

    def landscape(level: int) -> EnergyFn:  # of y alone: a second argument would be taken for a context
        return lambda y: concatenated(energy, context, y, level)

    return [landscape(level) for level in range(energy.levels)]
