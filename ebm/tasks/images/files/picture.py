"""A picture: its pixels, upright, and all that its file says of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ebm.optional import installed


@dataclass(frozen=True)
class Picture:
    """A picture, upright: its pixels and what its file says of it.

    Arguments:
        pixels: (H, W, 1) greys or (H, W, 3) colours, of uint8, uint16 or float32.
        white: the number that stands for white; 0 stands for black.
        alpha: (H, W), how much each pixel covers, of the same dtype, up to 255, 65535 or 1.
        exif: as Pillow writes it, without an orientation.
        icc: the colour profile.
        dpi: dots an inch, across and down.
        duration: milliseconds for which a frame is shown.
        texts: what else is written in a file, by the keyword of Pillow that writes it.

    >>> Picture(np.zeros((2, 3, 1), np.uint8)).is_grey()
    True
    """

    pixels: np.ndarray
    white: float = 255
    alpha: np.ndarray | None = None
    exif: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None
    duration: float | None = None
    texts: dict[str, Any] = field(default_factory=dict)

    @property
    def full(self) -> float:
        """The largest value that a pixel can have, and the alpha of what covers all: 255, 65535 or 1."""
        return 1.0 if self.pixels.dtype.kind == "f" else float(np.iinfo(self.pixels.dtype).max)

    def is_grey(self) -> bool:
        """Tells whether all colours are alike, whatever the file calls them."""
        return all(bool(np.array_equal(self.pixels[..., 0], self.pixels[..., c])) for c in range(1, self.pixels.shape[-1]))

    def channels(self) -> np.ndarray:
        """Returns pixels and alpha as one array (H, W, 1 to 4), with alpha last."""
        whole = self.pixels if self.alpha is None else np.concatenate([self.pixels, self.alpha[..., None]], -1)
        return np.ascontiguousarray(whole)

    def visible(self) -> np.ndarray:
        """Returns pixels in which those that nobody sees (alpha 0) have the colour of the nearest that is seen."""
        if self.alpha is None or self.alpha.all():
            return self.pixels
        installed("scipy")
        from scipy.ndimage import distance_transform_edt

        found, band, reach = self.pixels.copy(), 512, 128  # reach: beyond it no model looks that far
        for top in range(0, len(found), band):
            first, last = max(0, top - reach), top + band + reach
            hidden, inside = self.alpha[first:last] == 0, slice(top - first, top - first + band)
            if hidden.all():
                found[top : top + band] = self.white / 2
            elif hidden[inside].any():
                rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
                found[top : top + band] = self.pixels[first:last][rows[inside], columns[inside]]
        return found

    def with_visible(self, pixels: np.ndarray) -> Picture:
        """Replaces the pixels (H, W, C) that are seen; those under alpha 0 stay what they were."""
        if self.alpha is not None and not self.alpha.all():
            pixels = np.where(self.alpha[..., None] == 0, self.pixels, pixels)
        return replace(self, pixels=pixels)

    def rescaled(self, dtype: Any) -> Picture:
        """Converts pixels and alpha to uint8 or uint16 of the full range."""
        if self.pixels.dtype == dtype:
            return self
        top = np.iinfo(dtype).max

        def scaled(numbers: np.ndarray, white: float) -> np.ndarray:
            return (numbers * np.float32(top / white)).round().clip(0, top).astype(dtype)

        alpha = None if self.alpha is None else scaled(self.alpha, self.full)
        return replace(self, pixels=scaled(self.pixels, self.white), alpha=alpha, white=float(top))

    def on_white(self) -> Picture:
        """Lays the picture on white, so that nothing of it is see-through."""
        if self.alpha is None:
            return self
        cover = (self.alpha / self.full)[..., None].astype(np.float32)
        laid = self.pixels * cover + self.white * (1 - cover)
        return replace(self, pixels=laid.round().astype(self.pixels.dtype), alpha=None)


def picture_of(pixels: np.ndarray, alpha: bool, **belongings: Any) -> Picture:
    """Makes a picture of an array (H, W, C) of any numbers, whose last channel may be alpha; its white is its dtype's.

    Whole numbers that are no bytes become 16 bits where they fit, and else floats.

    Raises:
        ValueError: there are not 1 or 3 channels beside alpha.
    """
    if pixels.dtype.kind not in "uif":
        raise ValueError(f"its pixels are {pixels.dtype}: whole numbers and floats are read")
    if pixels.dtype != np.uint8:
        fits = pixels.dtype.kind != "f" and pixels.min() >= 0 and pixels.max() <= 65535
        pixels = pixels.astype(np.uint16 if fits else np.float32, copy=False)
    colours = pixels[..., :-1] if alpha else pixels
    if colours.shape[-1] not in (1, 3):
        raise ValueError(f"it has {colours.shape[-1]} channels: pictures of 1 (greys) or 3 (colours) are read")
    found = Picture(colours, alpha=pixels[..., -1] if alpha else None, **belongings)
    return replace(found, white=found.full)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels (H, W, C) as EXIF's orientation, 1 to 8, says."""
    turned = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    return np.ascontiguousarray(turned[::-1] if orientation in (3, 4, 7, 8) else turned)


def as_bytes(picture: Picture, channels: int) -> np.ndarray:
    """Converts a picture's pixels to uint8 (H, W, channels), greys or colours; what is hidden has its neighbours' colour."""
    from PIL import Image

    pixels = replace(picture, pixels=picture.visible(), alpha=None).rescaled(np.uint8).pixels
    if pixels.shape[-1] == channels:
        return pixels
    return np.array(Image.fromarray(pixels).convert("L"))[..., None] if channels == 1 else np.repeat(pixels, 3, -1)
