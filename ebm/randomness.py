"""Seeded streams and draws: every draw takes a generator, so a run is a function of its seed."""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Generator, Tensor


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> Generator:
    """Makes the generator of one named purpose; streams of different names are independent.

    >>> draws = [torch.rand(1, generator=stream(0, *names)) for names in (("a",), ("a",), ("a", 1))]
    >>> draws[0] == draws[1], draws[0] == draws[2]
    (tensor([True]), tensor([False]))
    """
    return torch.Generator(device).manual_seed(subseed(seed, *names))


def subseed(seed: int, *names: str | int) -> int:
    """Derives a 63-bit seed from a seed and the names of a purpose.

    Raises:
        ValueError: the seed is no whole number.
    """
    try:
        whole = None if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        whole = None
    if whole is None:
        raise ValueError(f"seed={seed!r}: a seed is a whole number")
    digest = hashlib.sha256("/".join(map(str, (whole, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Source:
    """Stands in for a generator where draws are noted, or were made beforehand."""

    def normal(self, like: Tensor) -> Tensor:
        """Gives standard normals of a tensor's shape, dtype and device."""
        raise NotImplementedError

    def uniform(self, like: Tensor) -> Tensor:
        """Gives uniform numbers in [0, 1) of a tensor's shape, dtype and device."""
        raise NotImplementedError


class Note(NamedTuple):
    """What was drawn: normal or uniform numbers, of what shape."""

    normal: bool
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def draw(self, values: Tensor, generator: Generator | None) -> None:
        """Fills a tensor with draws of this kind."""
        values.normal_(generator=generator) if self.normal else values.uniform_(generator=generator)


class Noting(Source):
    """Draws from a generator, and notes what."""

    def __init__(self, generator: Generator | None) -> None:
        self.generator, self.notes = generator, list[Note]()

    def normal(self, like: Tensor) -> Tensor:
        self.notes.append(Note(True, like.shape, like.dtype, like.device))
        return randn_like(like, self.generator)

    def uniform(self, like: Tensor) -> Tensor:
        self.notes.append(Note(False, like.shape, like.dtype, like.device))
        return rand_like(like, self.generator)


class Drawn(Source):
    """Hands out what was drawn beforehand, in turn."""

    def __init__(self, values: list[Tensor]) -> None:
        self.values, self.taken = values, 0

    def normal(self, like: Tensor) -> Tensor:
        self.taken += 1
        return self.values[self.taken - 1]

    uniform = normal


def randn_like(y: Tensor, generator: Generator | Source | None = None) -> Tensor:
    """Draws standard normals of y's shape, dtype and device."""
    if isinstance(generator, Source):
        return generator.normal(y)
    return torch.empty_like(y, memory_format=torch.contiguous_format).normal_(generator=generator)


def rand_like(y: Tensor, generator: Generator | Source | None = None) -> Tensor:
    """Draws uniform numbers in [0, 1) of y's shape, dtype and device."""
    if isinstance(generator, Source):
        return generator.uniform(y)
    return torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device)


def uniform(y: Tensor, low: float, high: float, generator: Generator | None = None) -> Tensor:
    """Draws uniform numbers in [low, high) of y's shape, dtype and device."""
    return low + (high - low) * torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device)


def random_states() -> dict[str, Any]:
    """Reads the states of the global generators, from which third-party components may draw."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Sets the states that `random_states` read."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seeds the global generators for a run, and restores the caller's states after it."""
    before = random_states()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        set_random_states(before)
