"""Seeded streams and draws: randomness is passed, so that a run is a function of its seed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["randn_like", "stream", "uniform"]


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Makes the generator of one named purpose: streams of different names (or ranks) are independent.

    >>> torch.equal(torch.rand(2, generator=stream(0, "noise")), torch.rand(2, generator=stream(0, "noise")))
    True
    >>> torch.equal(torch.rand(2, generator=stream(0, "noise", 0)), torch.rand(2, generator=stream(0, "noise", 1)))
    False
    """
    return torch.Generator(device).manual_seed(subseed(seed, *names))


def subseed(seed: int, *names: str | int) -> int:
    """Derives a 63-bit seed from a seed and the names of a purpose."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def randn_like(y: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws standard normals of y's shape, dtype and device."""
    return y.new_empty(y.shape).normal_(generator=generator)


def uniform(y: Tensor, low: float, high: float, generator: torch.Generator | None = None) -> Tensor:
    """Draws uniform numbers in [low, high) of y's shape, dtype and device."""
    return low + (high - low) * torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device)
