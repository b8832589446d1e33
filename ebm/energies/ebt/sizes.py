"""The named sizes of Energy-Based Transformers, and what a size given in numbers must satisfy."""

from __future__ import annotations

from typing import NamedTuple

from ebm.words import nearest


class Size(NamedTuple):
    """A transformer's depth (blocks), heads and width, and the learning rate of its authors."""

    depth: int
    heads: int
    dim: int
    lr: float


# Source: the reference implementation of arXiv 2507.02092. The feed-forward's hidden width is dim.
SIZES = {
    "4xs": Size(2, 2, 128, 2.4e-3),
    "3xs": Size(4, 4, 256, 1.8e-3),
    "xxs": Size(6, 6, 384, 1.2e-3),
    "xs": Size(12, 6, 384, 9e-4),
    "small": Size(12, 12, 768, 6e-4),
    "medium": Size(24, 16, 1024, 3e-4),
    "large": Size(24, 16, 1536, 2.5e-4),
    "xl": Size(24, 32, 2048, 2e-4),
}
SIZES["2xs"] = SIZES["xxs"]


def size_of(size: str | None, dim: int | None, depth: int | None, heads: int | None) -> Size:
    """Reads a size by name, or in numbers; numbers beside a name replace its own.

    Raises:
        ValueError: for an unknown name, no size at all, or heads that do not divide dim into even
            parts.

    >>> size_of("xxs", None, 2, None)
    Size(depth=2, heads=6, dim=384, lr=0.0012)
    """
    given = f"size={size!r}, dim={dim}, depth={depth}, heads={heads}"
    if size is not None and size not in SIZES:
        raise ValueError(f"{given}: no size is named {size!r}: {nearest(size, SIZES)}")
    if size is None and (dim is None or depth is None or heads is None):
        raise ValueError(f"{given}: pass the name of a size ({', '.join(SIZES)}), or dim, depth and heads")
    named = SIZES[size] if size is not None else Size(0, 0, 0, 0.0)
    found = named._replace(**{k: v for k, v in (("depth", depth), ("heads", heads), ("dim", dim)) if v is not None})
    if min(found[:3]) < 1 or found.dim % (2 * found.heads):
        raise ValueError(f"{given}: all are at least 1, and dim divides by 2 heads (rotary positions turn pairs of numbers)")
    return found
