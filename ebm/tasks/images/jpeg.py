"""JPEG files as their blocks have them: brightness apart from colours, not yet turned, and its table."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ebm.optional import installed
from ebm.tasks.images.files import open_pictures
from ebm.tasks.images.files.picture import upright


@dataclass(frozen=True)
class Jpeg:
    """A JPEG picture: brightness (H, W) of 0 to 255, colours (H, W, 2) or None, the brightness's
    table (8, 8), and the number by which EXIF says how it is turned."""

    brightness: Tensor
    colours: np.ndarray | None
    table: Tensor
    orientation: int = 1

    def with_brightness(self, brightness: Tensor) -> np.ndarray:
        """Makes pixels (H, W, 1 or 3), upright, of another brightness (H, W) of -1 to 1, and the same colours."""
        from PIL import Image

        pixels = brightness.add(1).mul(127.5).round().clamp(0, 255).byte().cpu().numpy()[..., None]
        if self.colours is not None:
            whole = np.ascontiguousarray(np.concatenate([pixels, self.colours], -1))
            pixels = np.array(Image.fromarray(whole, mode="YCbCr").convert("RGB"))
        return upright(pixels, self.orientation)


def read_jpeg(photo: Path, quality: int | None = None) -> Jpeg:
    """Reads a JPEG file's pixels beside its own table, or what was one beside that of a quality.

    Arguments:
        photo: the file.
        quality: for a file of another format: what the JPEG was written with, 1 to 100, by libjpeg's
            tables; its blocks must begin at the upper left.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; it is no JPEG and no quality is said, or is one and says its
            own; its brightness is not stored apart, or it has more than 8 bits.
    """
    installed("PIL")
    from PIL import Image

    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: it is 1 to 100")
    file = open_pictures(photo)
    if file.format != "JPEG":
        if quality is None:
            raise ValueError(
                f"{photo} is {file.format}, no JPEG, and says no tables: pass --quality, what the JPEG was written with"
            )
        pixels = file.first().visible()
        if pixels.dtype != np.uint8:
            raise ValueError(f"{photo} has more than 8 bits, as no JPEG has: it is not what a JPEG was decoded to")
        grey = pixels.shape[-1] == 1
        bands = pixels if grey else np.array(Image.fromarray(pixels).convert("YCbCr"))
        example = BytesIO()
        Image.new("L", (8, 8)).save(example, "JPEG", quality=quality)
        with Image.open(example) as written:
            return _jpeg(bands, written.quantization[0], 1)  # type: ignore[attr-defined]
    if quality is not None:
        raise ValueError(f"quality={quality}: {photo} is a JPEG and says its own tables, so leave --quality out")
    with Image.open(photo) as image:
        if image.mode not in ("L", "RGB") or (image.mode == "RGB" and image.info.get("adobe_transform") == 0):
            stored = "RGB, untransformed" if image.mode == "RGB" else image.mode
            raise ValueError(f"{photo} stores {stored}, no brightness apart from colours: ebm denoise takes any")
        table = image.quantization[image.layer[0][3]]  # type: ignore[attr-defined]
        orientation = image.getexif().get(274, 1)
        image.draft("YCbCr", None)  # as it is stored, where it has colours
        bands = np.array(image)
    return _jpeg(bands if bands.ndim == 3 else bands[..., None], table, orientation)


def _jpeg(bands: np.ndarray, table: list[int], orientation: int) -> Jpeg:
    colours = bands[..., 1:] if bands.shape[-1] > 1 else None
    grid = torch.tensor(table, dtype=torch.float32).reshape(8, 8)
    return Jpeg(torch.from_numpy(bands[..., 0].copy()), colours, grid, orientation)
