"""Reads picture files of any kind that Pillow reads, and of 16 bits and floats, with all that belongs to the pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ebm.optional import installed
from ebm.tasks.images.files import deep, tiff
from ebm.tasks.images.files.belongings import ORIENTATION, belongings
from ebm.tasks.images.files.formats import SEVERAL, know_heif
from ebm.tasks.images.files.picture import Picture, picture_of, upright
from ebm.tasks.images.files.ranges import range_of, white_of

Source = str | Path | bytes


@dataclass(frozen=True)
class PictureFile:
    """A picture file that was opened: iterates over its frames or pages, one `Picture` at a time.

    Arguments:
        source: its path, or what is in it.
        name: what errors call it.
        format: what Pillow calls its format.
        count: how many pictures it has.
        decoder: what reads its pixels: "pillow", "tifffile", or FFmpeg's "png" or "ppm".
        how: what a file of this format is written with so that it is like this one.
        said: what a person should know of how it is read.
        white: the number that stands for white, of pixels that are not bytes.
    """

    source: Source
    name: str
    format: str
    count: int
    decoder: str
    how: dict[str, Any]
    said: tuple[str, ...]
    white: float | None = None

    def __iter__(self) -> Generator[Picture]:
        with _named(self.name):
            for picture in _pictures(self.source, self.count, self.decoder):
                yield picture if self.white is None else replace(picture, white=self.white)

    def first(self) -> Picture:
        """Reads the first picture alone."""
        with closing(iter(self)) as pictures:
            return next(pictures)


def open_pictures(source: Source, white: float | None = None) -> PictureFile:
    """Opens a picture file, of any kind that Pillow reads, and of 16 bits and floats.

    Bytes have 255 for white. Where 16 bits have small numbers alone, they are taken as the 8, 10,
    12 or 14 bits that hold them; floats of up to 1 have 1 for white, and others of up to 255 have 255.
    Either is said (`said`), and other numbers are refused, unless `white` says what stands for white.

    Arguments:
        source: the file's path, or what is in it.
        white: what stands for white, in files of other numbers than bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that it needs is not installed.
        ValueError: it cannot be read as a picture, or nobody knows what stands for white.

    >>> open_pictures(b"no picture")
    Traceback (most recent call last):
    ValueError: 10 bytes cannot be read as a picture (cannot identify image file)
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
    if white is not None and not 0 < white < math.inf:
        raise ValueError(f"white={white}: pass the number that stands for white, above 0")
    with _named(name), _opened(source) as image:
        if image is None:
            tags, *others = tiff.directories(source)
            file = PictureFile(source, name, "TIFF", 1 + len(others), "tifffile", {}, ())
        else:
            file, tags = _described(source, name, image), image.getexif() if image.format == "TIFF" else {}
        if file.format == "TIFF":
            file.how["compressed"] = tags.get(259, 1) != 1
        bits, signed = int(np.max(tags.get(258, 16))), 2 in np.atleast_1d(tags.get(339, 1))
        if signed and bits == 8:
            raise ValueError("its bytes have a sign: convert them to bytes without one")
        if file.decoder == "pillow" and image.mode[0] not in "FI":
            return file
        low, high, kind = range_of(picture.pixels for picture in _pictures(source, file.count, file.decoder))
        if kind == "u1":
            return file
        if white is None:
            white, said = white_of(low, high, kind, bits, signed)
            return replace(file, white=white, said=(*file.said, *said))
        if high > white and kind == "u2":
            raise ValueError(f"white={white:g}: it has numbers up to {high:g}, pass one that is not below")
        return replace(file, white=white)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the file in what goes wrong inside: Pillow and others report it in a dozen ways."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {name}") from error
    except ImportError:
        raise
    except MemoryError as error:
        raise ValueError(f"{name} is too large for this machine's memory") from error
    except Exception as error:
        reason = str(error).partition(" <_io")[0].removesuffix(f" {name!r}").removeprefix(f"{name}: ") or type(error).__name__
        raise ValueError(f"{name} cannot be read as a picture ({reason})") from error


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Opens a file by Pillow, or gives None for a TIFF file of a kind that only tifffile knows."""
    installed("PIL")
    from PIL import Image, UnidentifiedImageError

    if not isinstance(source, bytes):
        know_heif(Path(source))
    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as raw:
        try:
            # Up to twice this size Pillow only warns, and 100 megapixels are no bomb.
            with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
                image = Image.open(raw)
        except UnidentifiedImageError:
            if _begin(source, 4) not in tiff.BEGINNINGS:
                raise
            image = None
        yield image


def _begin(source: Source, count: int = 2**20) -> bytes:
    """Reads how a file begins."""
    if isinstance(source, bytes):
        return source[:count]
    with open(source, "rb") as file:
        return file.read(count)


def _described(source: Source, name: str, image: Any) -> PictureFile:
    """Reads what a file is, of which Pillow has read the head."""
    format, count, decoder, said = image.format, getattr(image, "n_frames", 1), "pillow", []
    if count > 1 and format not in SEVERAL:
        said.append(f"it has {count} pictures, of which the first is read: frames of {', '.join(SEVERAL)} are all read")
        count = 1
    begin = _begin(source)
    bits = deep.bits_of(image, begin)
    if bits > 8 and image.mode[0] not in "FI":  # then Pillow cuts them
        if format == "TIFF":
            decoder = "tifffile"
        elif format in ("PNG", "PPM") and count == 1:
            decoder = format.lower()
        else:
            said.append(f"its {bits} bits a colour are read as 8: 16 are read of TIFF, and of a PNG of one picture")
    how = {name: image.info[name] for name in ("loop", "default_image") if name in image.info and count > 1}
    if format in ("JPEG", "MPO"):
        from PIL import JpegImagePlugin

        format, sampling = "JPEG", JpegImagePlugin.get_sampling(image)
        how = {"subsampling": sampling} if sampling >= 0 else {}
        if image.info.get("progressive"):
            how["progressive"] = True
    elif format == "WEBP":
        how["lossless"] = b"VP8L" in begin and b"VP8 " not in begin.partition(b"VP8L")[0]
    if image.mode == "CMYK" or (image.mode in ("YCbCr", "LAB", "HSV") and format != "JPEG"):
        said.append(f"its pixels are {image.mode}, and they are read and written as RGB")
    return PictureFile(source, name, format, count, decoder, how, (*said,))


def _pictures(source: Source, count: int, decoder: str) -> Iterator[Picture]:
    """Iterates over the pictures of a file, upright; their white is that of their dtype."""
    if decoder == "tifffile":
        pages = tiff.pictures(source)
        try:
            first = next(pages)
        except ValueError as error:  # a compression that tifffile leaves to another package
            if count > 1 or "requires" not in str(error):
                raise
            decoder = "tiff"
        else:
            yield first
            yield from pages
            return
    with _opened(source) as image:
        for number in range(count):
            if count > 1:
                image.seek(number)
            icc: dict[str, bytes] = {}
            if decoder == "pillow":
                image.load()
                pixels, alpha, icc = _of_pillow(image)
            else:
                pixels = deep.decoded(source if isinstance(source, bytes) else Path(source).read_bytes(), decoder)
                alpha = pixels.shape[-1] in (2, 4)
            pixels = upright(pixels, image.getexif().get(ORIENTATION, 1))
            yield picture_of(pixels, alpha, **belongings(image, (pixels.shape[1], pixels.shape[0])) | icc)


def _of_pillow(image: Any) -> tuple[np.ndarray, bool, dict[str, bytes]]:
    """Converts what Pillow has read to pixels (H, W, C), whether the last is alpha, and the profile where that is another."""
    if image.mode[0] in "FI":
        pixels, key = np.array(image)[..., None], image.info.get("transparency")
        if not isinstance(key, int):
            return pixels, False, {}
        return np.concatenate([pixels, np.where(pixels == key, 0, 65535).astype(pixels.dtype)], -1), True, {}
    icc = {}
    if image.mode == "CMYK":
        image, icc["icc"] = _of_inks(image)
    alpha = image.has_transparency_data
    target = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + "A" * alpha
    if image.mode == "1" and alpha:
        image = image.convert("L")
    pixels = np.array(image if image.mode == target else image.convert(target))
    return pixels if pixels.ndim == 3 else pixels[..., None], alpha, icc


def _of_inks(image: Any) -> tuple[Any, bytes]:
    """Converts CMYK to RGB, by its profile where it has one: the picture, and its new profile."""
    from PIL import ImageCms

    if profile := image.info.get("icc_profile"):
        try:
            screen = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            found = ImageCms.profileToProfile(image, BytesIO(profile), screen, outputMode="RGB")
            return found, screen.tobytes()
        except (ImageCms.PyCMSError, OSError):  # a broken profile, as many files have
            pass
    return image.convert("RGB"), b""
