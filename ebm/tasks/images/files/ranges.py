"""Which number stands for white, where pixels are no bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

DEPTHS = (8, 10, 12, 14)  # bits of cameras and scanners, whose files have 16


def range_of(pages: Iterable[np.ndarray]) -> tuple[float, float, str]:
    """Finds the lowest and the highest number of all pages, and their kind: "u1", "u2" or "f4".

    Raises:
        ValueError: pages are of several kinds, or have numbers that are not finite.
    """
    low, high, kinds = math.inf, -math.inf, set()
    for pixels in pages:
        low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
        kinds.add(pixels.dtype.str[1:])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{(~np.isfinite(pixels)).sum()} of its numbers are not finite: replace them first")
    if len(kinds) > 1:
        raise ValueError(f"its pages have pixels of {len(kinds)} kinds ({', '.join(sorted(kinds))}): divide them first")
    return low, high, kinds.pop()


def white_of(low: float, high: float, kind: str, bits: int = 16, signed: bool = False) -> tuple[float, list[str]]:
    """Finds what stands for white, and what a person should know of it.

    Arguments:
        low: the lowest number of all pages.
        high: the highest.
        kind: "u2" (whole numbers up to 65535) or "f4".
        bits: of a number in the file.
        signed: whether the file has whole numbers with a sign.

    Raises:
        ValueError: nobody knows what stands for white.

    >>> white_of(0, 4000, "u2")[0]
    4095
    """
    if kind == "u2":
        own = bits - 1 if signed else bits
        taken = next((each for each in (*DEPTHS, min(own, 16)) if 0 < high < 2**each), 16)
        said = f"its {'signed ' * signed}{bits} bits have numbers of up to {high:g} alone, so they are taken as {taken} bits"
        said += f", {2**taken - 1} for white{', and written without a sign' * signed}"
        return 2**taken - 1, [said] if taken < bits else []
    if low >= 0 and high <= 1:
        return 1.0, [f"its numbers are {low:.4g} to {high:.4g}, so 1 is taken as white"]
    if low >= 0 and 2 <= high <= 255:
        return 255.0, [f"its numbers are {low:.4g} to {high:.4g}, so 255 is taken as white"]
    raise ValueError(
        f"its numbers are {low:.4g} to {high:.4g}, and nothing says which is white: scale them to 0 to 1, "
        f"or say it where a picture is denoised (--white NUMBER; black is 0)"
    )
