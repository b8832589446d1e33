"""TIFF files of any depth: read by tifffile, and written with Pillow's directories of tags, EXIF and places included."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ebm.optional import installed
from ebm.tasks.images.files.belongings import ORIENTATION, of_tags, tags
from ebm.tasks.images.files.picture import Picture, picture_of, upright

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0")  # of such files; the last of more than 4 GB
STRIP, LARGEST = 2**18, 2**32 - 2**20  # bytes that are compressed together, and of a file


def directories(source: str | Path | bytes) -> list[Any]:
    """Lists the tags of each page, as `PIL.Image.Exif` has them."""
    with _opened(source) as (file, raw):
        return [_tags(file, raw, page) for page in file.pages]


def pictures(source: str | Path | bytes) -> Iterator[Picture]:
    """Iterates over the pages, upright, with what belongs to them; their white is that of their dtype.

    Raises:
        ImportError: tifffile is not installed.
        ValueError: it has a compression that tifffile cannot read, or pages of other shapes.
    """
    with _opened(source) as (file, raw):
        for each in file.pages:
            held, (pixels, alpha) = _tags(file, raw, each), _pixels(each.aspage())
            pixels = upright(pixels, held.get(ORIENTATION, 1))
            yield picture_of(pixels, alpha, **of_tags(held, (pixels.shape[1], pixels.shape[0])))


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[tuple[Any, Any]]:
    installed("tifffile")
    import tifffile

    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as raw, tifffile.TiffFile(raw) as file:
        yield file, raw


def _tags(file: Any, raw: Any, page: Any) -> Any:
    from PIL import Image

    found = Image.Exif()
    found.endian, found.bigtiff = file.byteorder, file.is_bigtiff
    found.load_from_fp(raw, page.offset)
    return found


def _pixels(page: Any) -> tuple[np.ndarray, bool]:
    """Reads a page's pixels (H, W, C), and whether the last channel is alpha."""
    pixels = page.asarray()
    if page.planarconfig == 2 and pixels.ndim == 3:  # planes side by side
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or page.photometric not in (0, 1, 2):
        raise ValueError(f"a page of it has shape {pixels.shape} and is {page.photometric.name.lower()}")
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1.0
    extra = [int(each) for each in page.extrasamples]
    alpha = pixels.shape[-1] in (2, 4) and bool({1, 2} & {*extra})
    if page.photometric == 0 and pixels.dtype.kind == "u":  # 0 is white
        pixels = np.concatenate([full - pixels[..., :1], pixels[..., 1:]], -1)
    if alpha and 1 in extra:  # colours were multiplied by it
        cover = np.maximum(pixels[..., -1:].astype(np.float64), full / 65536)
        colours = (pixels[..., :-1] * (full / cover)).clip(0, full)
        colours = colours if pixels.dtype.kind == "f" else colours.round()
        pixels = np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], -1)
    return pixels, alpha


def write(path: Path, pictures: Iterable[Picture], *, compressed: bool) -> None:
    """Writes pictures as the pages of a TIFF file (6.0, 1992), each with its own size, depth and belongings.

    Raises:
        ValueError: it would have more than 4 GB.
    """
    from PIL import TiffImagePlugin

    with path.open("wb") as file:
        file.write(b"II*\0" + bytes(4))
        link = 4  # where the next directory's place is written
        for picture in pictures:
            pixels = picture.channels()
            rows = max(1, STRIP // pixels[0].nbytes)
            size = rows * pixels[0].nbytes
            flat = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1).data
            strips: list[Any] = [flat[start : start + size] for start in range(0, len(flat), size)]
            strips = [zlib.compress(strip) for strip in strips] if compressed else strips
            sizes = [*map(len, strips)]
            found = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
            for tag, value in {**tags(picture), **_layout(pixels, picture.alpha is not None, compressed)}.items():
                found[tag] = value
            found[273], found[278], found[279] = (*np.cumsum([0, *sizes[:-1]]).tolist(),), rows, (*sizes,)
            place = file.seek(0, 2)
            place += place % 2
            if place + sum(sizes) > LARGEST:
                raise ValueError("a TIFF file has at most 4 GB, choose a name that ends in .png")
            file.seek(link)
            file.write(place.to_bytes(4, "little"))
            file.seek(place)
            file.write(found.tobytes(place))  # which moves the strips' places behind itself
            file.writelines(strips)
            link = place + 2 + 12 * len(found)


def _layout(pixels: np.ndarray, alpha: bool, compressed: bool) -> dict[int, Any]:
    """Lists the tags that say how pixels (H, W, C) lie."""
    height, width, channels = pixels.shape
    colours = channels - alpha
    found = {256: width, 257: height, 258: (8 * pixels.itemsize,) * channels, 259: 8 if compressed else 1}
    found |= {262: 2 if colours == 3 else 1, 277: channels, 284: 1, 339: (3 if pixels.dtype.kind == "f" else 1,) * channels}
    return found | ({338: 2} if alpha else {})  # 2: colours are not multiplied by it
