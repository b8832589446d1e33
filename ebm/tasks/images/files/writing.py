"""Writes pictures as files of any kind, and says what such a file cannot hold."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ebm.files import atomic
from ebm.tasks.images.files import deep, tiff
from ebm.tasks.images.files.belongings import named, options
from ebm.tasks.images.files.formats import ALPHA, BELONGINGS, DEEP, LOSSY, SEVERAL, format_of
from ebm.tasks.images.files.picture import Picture
from ebm.tasks.images.files.reading import PictureFile

QUALITY = 95


def lost(file: PictureFile, out: Path, first: Picture) -> list[str]:
    """Lists what a file of another kind cannot hold of a picture, in words; ValueError for frames.

    Arguments:
        file: what was read.
        out: what will be written.
        first: its first picture.
    """
    format, found = format_of(out), []
    if file.count > 1 and format not in SEVERAL:
        raise ValueError(
            f"out={str(out)!r}: {file.name} has {file.count} frames or pages, which such a file cannot hold: "
            f"choose a name that ends in .tif, .png, .webp or .gif"
        )
    if first.pixels.dtype != np.uint8 and _eight(format, file.count):
        found.append("its numbers become 8 bits (.png and .tif hold 16)")
    elif first.pixels.dtype.kind == "f" and format != "TIFF":
        found.append("its floats become 16 bits (.tif holds them)")
    if first.alpha is not None and format not in ALPHA:
        found.append("it holds no alpha, so the picture is laid on white (.png, .tif and .webp hold it)")
    if words := [BELONGINGS[name][0] for name in named(first) if format not in BELONGINGS[name][1]]:
        found.append(f"it holds no {' and no '.join(words)}, left out ({format})")
    return found


def write_pictures(
    path: Path, pictures: Iterable[Picture], *, like: PictureFile | None = None, quality: int | None = None
) -> None:
    """Writes pictures as a file, atomically, with all that belongs to them.

    Arguments:
        path: the file, whose name says its format.
        pictures: its pictures.
        like: the file that they come from, which decides compression, subsampling and loops.
        quality: of JPEG, WebP, AVIF and HEIF, 1 to 100; 95 if None.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_pictures(Path(folder, "a.tif"), [Picture(np.zeros((2, 3, 1), np.uint16), 65535)])
    """
    format, count = format_of(path), 1 if like is None else like.count
    how = {} if like is None else like.how if like.format == format else {k: like.how[k] for k in ("loop",) if k in like.how}
    fitted = (_fitted(picture, format, count) for picture in pictures)
    with atomic(path) as draft:
        if format == "TIFF":
            return tiff.write(draft, fitted, compressed=how.get("compressed", False))
        first = next(fitted)
        if first.pixels.dtype != np.uint8:  # then the file is a PNG of one picture, and Pillow writes a small one
            small = BytesIO()
            _image(Picture(np.zeros((1, 1, 1), np.uint8))).save(small, "PNG", **options(first, "PNG"))
            draft.write_bytes(deep.encoded_png(first.channels(), small.getvalue()))
        else:
            _save(draft, format, chain([first], fitted), how, quality)


def _save(path: Path, format: str, pictures: Iterable[Picture], how: dict[str, Any], quality: int | None) -> None:
    """Writes pictures of bytes by Pillow."""
    choices, images, times = dict(how), list[Any](), list[int]()
    for picture in pictures:
        if not images:
            choices |= options(picture, format)
        images.append(_image(picture))
        times.append(round(picture.duration or 0))
    if format in LOSSY:
        choices["quality"] = QUALITY if quality is None else quality
    if format == "JPEG":
        choices.setdefault("subsampling", 0)  # where none was lost before, none is lost now
    elif format == "WEBP":  # what lies under alpha 0 stays
        choices |= {"exact": True, "lossless": how.get("lossless", False) and quality is None}
    elif format == "ICO":
        choices["sizes"] = [images[0].size]  # and no smaller ones
    elif format == "GIF" and len(images) > 1 and images[0].mode.endswith("A"):
        choices["disposal"] = 2  # else what was there would show through
    if len(images) > 1:
        times = times[bool(choices.get("default_image")) :]
        choices |= {"save_all": True, "append_images": images[1:], "duration": times}
    images[0].save(path, format=format, **choices)


def _eight(format: str, count: int) -> bool:
    """Tells whether a file of so many pictures holds 8 bits alone."""
    return format not in DEEP or (format == "PNG" and count > 1)


def _fitted(picture: Picture, format: str, count: int) -> Picture:
    """Converts a picture to what a format holds."""
    if _eight(format, count):
        picture = picture.rescaled(np.uint8)
    elif picture.pixels.dtype.kind == "f" and format != "TIFF":
        picture = picture.rescaled(np.uint16)
    return picture if format in ALPHA else picture.on_white()


def _image(picture: Picture) -> Any:
    """Makes a Pillow image of bytes."""
    from PIL import Image

    channels = picture.channels()
    return Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)
