"""Picture files: reads a picture with all that belongs to it, and writes it back so."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ebm.files import atomic
from ebm.optional import installed
from ebm.tasks.images import deep_pixels as deep

DEPTHS = (8, 10, 12, 14)  # bits of cameras and scanners, whose files have 16
SEVERAL = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # formats whose pictures are frames or pages; of others the first counts
DEEP = ("PNG", "TIFF")  # formats that hold 16 bits
ALPHA = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "HEIF", "JPEG2000", "ICO", "TGA")
NAMED_BY_HEIF = (".heic", ".heif", ".hif")
QUALITY = 95
# The tags of a TIFF file that say how its pixels lie, and not what they show.
LAYOUT = {*range(254, 260), 262, 263, 264, 265, 266, 273, 274, *range(277, 285), 288, 289, 290, 291, 292, 293, 296, 301, 317}
LAYOUT |= {*range(318, 326), 330, *range(332, 348), *range(512, 533), 34675}
DIRECTORIES = (deep.EXIF, 0x8825)  # of EXIF and of places
WIDTH, HEIGHT = 0xA002, 0xA003  # what EXIF says of them


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
        return 1.0 if self.pixels.dtype.kind == "f" else np.iinfo(self.pixels.dtype).max

    def is_grey(self) -> bool:
        """Tells whether all colours are alike, whatever the file calls them."""
        return all(bool(np.array_equal(self.pixels[..., 0], self.pixels[..., c])) for c in range(1, self.pixels.shape[-1]))

    def visible(self) -> np.ndarray:
        """Returns pixels in which those that nobody sees (alpha 0) have the colour of the nearest that is seen."""
        if self.alpha is None or self.alpha.all():
            return self.pixels
        installed("scipy")
        from scipy.ndimage import distance_transform_edt

        found, band, reach = self.pixels.copy(), 512, 128  # reach: beyond it no model looks that far
        for top in range(0, len(found), band):
            first, last = max(0, top - reach), top + band + reach
            hidden = self.alpha[first:last] == 0
            if hidden.all():
                found[top : top + band] = self.white / 2
            elif hidden[top - first : top - first + band].any():
                rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
                inside = slice(top - first, top - first + band)
                found[top : top + band] = self.pixels[first:last][rows[inside], columns[inside]]
        return found

    def with_visible(self, pixels: np.ndarray) -> Picture:
        """Replaces the pixels (H, W, C) that are seen; those under alpha 0 stay what they were."""
        if self.alpha is not None and not self.alpha.all():
            pixels = np.where(self.alpha[..., None] == 0, self.pixels, pixels)
        return replace(self, pixels=pixels)


@dataclass(frozen=True)
class PictureFile:
    """A picture file that was opened: iterates over its frames or pages, one `Picture` at a time.

    Arguments:
        source: its path, or what is in it.
        name: what errors call it.
        format: what Pillow calls its format.
        count: how many pictures it has.
        how: what a file of this format is written with so that it is like this one.
        said: what a person should know of how it is read.
        white: the number that stands for white, of pixels that are not bytes.
    """

    source: str | Path | bytes
    name: str
    format: str
    count: int
    how: dict[str, Any]
    said: tuple[str, ...]
    white: float | None

    def __iter__(self) -> Generator[Picture]:
        with _named(self.name):
            for picture in _pictures(self.source, self.count):
                yield self._scaled(picture)

    def first(self) -> Picture:
        """Reads the first picture alone."""
        with closing(iter(self)) as pictures:
            return next(pictures)

    def _scaled(self, picture: Picture) -> Picture:
        return picture if self.white is None else replace(picture, white=self.white)


def open_pictures(source: str | Path | bytes, white: float | None = None) -> PictureFile:
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
    with _named(name):
        format, count, how, said = _header(source)
        low, high, kind = math.inf, -math.inf, "u1"
        if _numbers_differ(source):
            kinds = set()
            for picture in _pictures(source, count):
                low, high = min(low, float(picture.pixels.min())), max(high, float(picture.pixels.max()))
                kinds.add(picture.pixels.dtype.str[1:])
                if not (math.isfinite(low) and math.isfinite(high)):
                    wrong = int((~np.isfinite(picture.pixels)).sum())
                    raise ValueError(f"{wrong} of its numbers are not finite: replace them first")
            if len(kinds) > 1:
                raise ValueError(f"its pages have pixels of {len(kinds)} kinds ({', '.join(sorted(kinds))}): divide them first")
            kind = kinds.pop()
        if kind == "u1":
            return PictureFile(source, name, format, count, how, tuple(said), None)
        found, words = (white, []) if white is not None else _white_of(low, high, kind)
        if white is not None and high > white and kind == "u2":
            raise ValueError(f"white={white:g}: it has numbers up to {high:g}, pass one that is not below")
        return PictureFile(source, name, format, count, how, (*said, *words), found)


def _white_of(low: float, high: float, kind: str) -> tuple[float, list[str]]:
    """Finds what stands for white, from the numbers of all pages, and what to say of it."""
    if kind == "u2":
        bits = next((bits for bits in DEPTHS if 0 < high < 2**bits), 16)
        white = 2**bits - 1
        said = f"its 16 bits have numbers of up to {high:g} alone, so they are taken as {bits} bits, {white} for white"
        return white, [said] if bits < 16 else []
    if low >= 0 and high <= 1:
        return 1.0, [f"its numbers are {low:.4g} to {high:.4g}, so 1 is taken as white"]
    if low >= 0 and 2 <= high <= 255:
        return 255.0, [f"its numbers are {low:.4g} to {high:.4g}, so 255 is taken as white"]
    raise ValueError(
        f"its numbers are {low:.4g} to {high:.4g}, and nothing says which is white: scale them to 0 to 1, "
        f"or say it where a picture is denoised (--white NUMBER; black is 0)"
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the file in what goes wrong inside: Pillow and others report it in a dozen ways."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {name}") from error
    except ImportError:
        raise
    except GeneratorExit:
        raise
    except MemoryError as error:
        raise ValueError(f"{name} is too large for this machine's memory") from error
    except Exception as error:
        reason = str(error).partition(" <_io")[0].removesuffix(f" {name!r}").removeprefix(f"{name}: ") or type(error).__name__
        raise ValueError(f"{name} cannot be read as a picture ({reason})") from error


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[Any]:
    """Opens a file by Pillow, or gives None for a TIFF file of a kind that only tifffile knows."""
    installed("PIL")
    from PIL import Image, UnidentifiedImageError

    if not isinstance(source, bytes) and Path(source).suffix.lower() in NAMED_BY_HEIF:
        try:
            import pillow_heif
        except ImportError:
            raise ImportError(
                f"{source} is read by pillow-heif, which is not installed: pip install 'ebm-toolkit[heif]'"
            ) from None
        pillow_heif.register_heif_opener()
    file = None
    with warnings.catch_warnings():
        # Up to twice this size Pillow only warns, and 100 megapixels are no bomb.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            file = Image.open(BytesIO(source) if isinstance(source, bytes) else source)
        except UnidentifiedImageError:
            if _begins(source, 4) not in deep.TIFF:
                raise
    if file is None:
        yield None
        return
    with file:
        yield file


def _begins(source: str | Path | bytes, count: int) -> bytes:
    """Reads how a file begins."""
    if isinstance(source, bytes):
        return source[:count]
    with open(source, "rb") as file:
        return file.read(count)


def _header(source: str | Path | bytes) -> tuple[str, int, dict[str, Any], list[str]]:
    """Reads a file's format, how many pictures it has, how it is written like this one, and what to say."""
    with _opened(source) as image:
        if image is None:
            return "TIFF", len(_tiff(source)), {"compression": None}, []
        format, count, how, said = image.format, getattr(image, "n_frames", 1), {}, []
        if count > 1 and format not in SEVERAL:
            said.append(f"it has {count} pictures, of which the first is read: frames of {', '.join(SEVERAL)} are all read")
            count = 1
        if format in ("JPEG", "MPO"):
            from PIL import JpegImagePlugin

            format, sampling = "JPEG", JpegImagePlugin.get_sampling(image)
            how = {"subsampling": sampling} if sampling >= 0 else {}
            if image.info.get("progressive"):
                how["progressive"] = True
        elif format == "TIFF":
            how = {"compression": image.info.get("compression")}
        elif format == "WEBP":
            begin = _begins(source, 2**20)
            how = {"lossless": b"VP8L" in begin and b"VP8 " not in begin.partition(b"VP8L")[0]}
        how |= {name: image.info[name] for name in ("loop", "default_image") if name in image.info and count > 1}
        if (image.mode in ("CMYK", "YCbCr", "LAB", "HSV") and format != "JPEG") or image.mode == "CMYK":
            said.append(f"its pixels are {image.mode}, and they are read and written as RGB")
        return format, count, how, said


def _numbers_differ(source: str | Path | bytes) -> bool:
    """Tells whether a file's pixels are other numbers than bytes."""
    with _opened(source) as image:
        return image is None or bool(_codec(source, image)) or image.mode == "F" or image.mode.startswith("I")


def _codec(source: str | Path | bytes, image: Any) -> str:
    """Names what reads pixels that Pillow would cut to 8 bits, or nothing."""
    if (
        image.format == "PNG"
        and image.mode in ("RGB", "RGBA")
        and _begins(source, 26)[24] == 16
        and getattr(image, "n_frames", 1) == 1
    ):
        return "png"
    if image.format == "PPM" and image.mode == "RGB":
        found = re.match(rb"P6\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+(\d+)", _begins(source, 1024))
        return "ppm" if found and int(found[1]) > 255 else ""
    if image.format == "TIFF" and len(bits := image.tag_v2.get(258, (1,))) > 1 and max(bits) > 8:
        return "tiff"
    return ""


def _tiff(source: str | Path | bytes) -> list[Any]:
    return deep.tiff_pages(BytesIO(source) if isinstance(source, bytes) else source)


def _pictures(source: str | Path | bytes, count: int) -> Iterator[Picture]:
    """Iterates over the pictures of a file, upright; their white is that of their dtype."""
    with _opened(source) as image:
        if image is None:
            for pixels, alpha, tags in _tiff(source):
                dpi = tuple(float(tags[tag][0] / tags[tag][1]) for tag in (282, 283)) if {282, 283} <= tags.keys() else None
                # 2 is inches, 3 is centimetres
                dpi = {2: dpi, 3: dpi and (dpi[0] * 2.54, dpi[1] * 2.54)}.get(int(tags.get(296, 1)))
                yield _picture_of(pixels, alpha, dpi=dpi, icc=bytes(tags.get(34675, b"")))
            return
        if codec := _codec(source, image):
            yield from _deep_pictures(source, image, codec, count)
            return
        for number in range(count):
            if count > 1:
                image.seek(number)
            image.load()
            yield _picture(image if image.getexif().get(0x0112, 1) == 1 else _turned(image))


def _turned(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _deep_pictures(source: str | Path | bytes, image: Any, codec: str, count: int) -> Iterator[Picture]:
    """Iterates over pictures of 16 bits or floats a colour, with what Pillow says of them."""
    pages: list[tuple[np.ndarray, bool]]
    content = source if isinstance(source, bytes) else None
    if codec == "tiff":
        try:
            pages = [(pixels, alpha) for pixels, alpha, _ in _tiff(source)]
        except (ValueError, ImportError) as error:  # a compression that tifffile leaves to another package
            if count > 1 or "requires" not in str(error):
                raise
            codec, pages = "tiff", []
    else:
        pages = []
    if not pages:
        pixels = deep.decoded(Path(source).read_bytes() if content is None else content, codec)  # type: ignore[arg-type]
        pages = [(pixels, pixels.shape[-1] in (2, 4))]
    for number, (pixels, alpha) in enumerate(pages):
        if count > 1:
            image.seek(number)
        turn = image.getexif().get(0x0112, 1)
        said = _belongings(image)
        yield _picture_of(_upright(pixels, turn), alpha, **said)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels (H, W, C) as EXIF's orientation says."""
    turned = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    return np.ascontiguousarray(turned[::-1] if orientation in (3, 4, 7, 8) else turned)


def _picture_of(pixels: np.ndarray, alpha: bool, **belongings: Any) -> Picture:
    """Makes a picture of an array (H, W, C), whose last channel may be alpha."""
    if pixels.dtype.kind == "f" and pixels.dtype.itemsize != 4:
        pixels = pixels.astype(np.float32)
    elif pixels.dtype not in (np.uint8, np.uint16, np.float32):
        pixels = _whole(pixels)
    elif not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    colours = pixels[..., :-1] if alpha else pixels
    if colours.shape[-1] not in (1, 3):
        raise ValueError(f"it has {colours.shape[-1]} channels: pictures of 1 (greys) or 3 (colours) are read")
    found = Picture(colours, alpha=pixels[..., -1] if alpha else None, **belongings)
    return replace(found, white=float(found.full))


def _whole(pixels: np.ndarray) -> np.ndarray:
    """Converts whole numbers of other kinds to 16 bits where they fit, and else to floats."""
    fits = pixels.min() >= 0 and pixels.max() <= 65535
    return pixels.astype(np.uint16 if fits else np.float32)


def _picture(image: Any) -> Picture:
    """Makes a picture of what Pillow has read."""
    belongings = _belongings(image)
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        pixels = np.array(image)
        key = image.info.get("transparency")
        if isinstance(key, int):
            full = 65535 if pixels.max() <= 65535 else 1
            pixels = np.stack([pixels, np.where(pixels == key, 0, full).astype(pixels.dtype)], -1)
            return _picture_of(pixels, True, **belongings)
        return _picture_of(pixels[..., None], False, **belongings)
    see_through = mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info
    if mode == "CMYK":
        image, belongings["icc"] = _of_inks(image)
    target = ("L" if mode in ("1", "L", "LA", "La") else "RGB") + ("A" if see_through else "")
    if mode == "La":
        image = image.convert("LA")
    if mode == "1" and see_through:
        image = image.convert("L")
    pixels = np.array(image if image.mode == target else image.convert(target))
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return _picture_of(pixels, see_through, **belongings)


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


def _belongings(image: Any) -> dict[str, Any]:
    """Reads what belongs to a picture that Pillow has opened, and has turned upright."""
    info = image.info
    if image.format == "TIFF":  # of which Pillow tells what earlier pages had, too
        info = {name: info.get(name) for name, tag in (("dpi", 282), ("icc_profile", 34675)) if tag in image.tag_v2}
    dpi = info.get("dpi")
    found: dict[str, Any] = {"icc": info.get("icc_profile") or b"", "exif": _exif_of(image)}
    if dpi and tuple(dpi) != (1, 1) and all(math.isfinite(float(each)) and float(each) > 0 for each in dpi):
        found["dpi"] = (float(dpi[0]), float(dpi[1]))
    if info.get("duration"):
        found["duration"] = float(info["duration"])
    texts = {name: info[name] for name in ("xmp", "comment") if info.get(name)}
    plain = {**getattr(image, "text", {})} if image.format == "PNG" else {}
    if plain := {key: text for key, text in plain.items() if not key.startswith(("Raw profile", "XML:"))}:
        texts["pnginfo"] = plain
    if texts:
        found["texts"] = texts
    return found


def _exif_of(image: Any) -> bytes:
    """Writes a picture's EXIF anew, without its orientation and the layout of a file."""
    from PIL import Image

    try:
        kept = Image.Exif()
        if written := image.info.get("exif"):
            kept.load(written)
            for tag in LAYOUT & kept.keys():
                del kept[tag]
        else:  # a TIFF file's own tags
            held = image.getexif()
            for tag in held.keys() - LAYOUT:
                kept[tag] = dict(held.get_ifd(tag)) if tag in DIRECTORIES else held[tag]
        if not len(kept):
            return b""
        if deep.EXIF in kept:
            inner = kept[deep.EXIF] if isinstance(kept[deep.EXIF], dict) else kept.get_ifd(deep.EXIF)
            inner.update({tag: size for tag, size in ((WIDTH, image.width), (HEIGHT, image.height)) if tag in inner})
        return kept.tobytes()
    except Exception as error:  # a camera's own, which no library can read
        warnings.warn(f"its EXIF cannot be read, and is left out ({error})", stacklevel=2)
        return b""


# --------------------------------------------------------------------------------------------------------------- writing


def format_of(path: Path) -> str:
    """Finds the format to write by a file's name, before any work is done for nothing.

    Raises:
        ImportError: Pillow or pillow-heif is not installed.
        ValueError: such files cannot be written.
    """
    installed("PIL")
    from PIL import Image

    if path.suffix.lower() in NAMED_BY_HEIF:
        try:
            import pillow_heif
        except ImportError:
            raise ImportError(
                f"{path} is written by pillow-heif, which is not installed: pip install 'ebm-toolkit[heif]'"
            ) from None
        pillow_heif.register_heif_opener()
    format = Image.registered_extensions().get(path.suffix.lower())
    if format not in Image.SAVE:
        raise ValueError(f"out={str(path)!r}: pictures of that kind cannot be written, choose a name that ends in .png")
    return format


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
    if first.pixels.dtype != np.uint8 and (format not in DEEP or (format == "PNG" and file.count > 1)):
        found.append("its numbers become 8 bits (.png and .tif hold 16)")
    elif first.pixels.dtype.kind == "f" and format != "TIFF":
        found.append("its floats become 16 bits (.tif holds them)")
    if first.alpha is not None and format not in ALPHA:
        found.append("it holds no alpha, so the picture is laid on white (.png, .tif and .webp hold it)")
    return found


def write_pictures(
    path: Path, pictures: Iterable[Picture], *, like: PictureFile | None = None, quality: int | None = None
) -> None:
    """Writes pictures as a file, atomically, with all that belongs to them.

    Arguments:
        path: the file, whose name says its format.
        pictures: its pictures, of which the first decides what kind of pixels all have.
        like: the file that they come from, which decides compression, subsampling and loops.
        quality: of JPEG, WebP, AVIF and HEIF, 1 to 100; 95 if None.
    """
    format = format_of(path)
    several = iter(pictures)
    first = next(several)
    how = dict(like.how) if like is not None and like.format == format else {}
    if like is not None and like.count > 1:
        how |= {name: like.how[name] for name in ("loop",) if name in like.how}
    if format in ("JPEG", "WEBP", "AVIF", "HEIF"):
        how["quality"] = QUALITY if quality is None else quality
    if format == "JPEG":
        how.setdefault("subsampling", 0)  # where none was lost before, none is lost now
    if format == "WEBP":  # what lies under alpha 0 stays
        how |= {"exact": True, "lossless": how.get("lossless", False) and quality is None}
    count = 1 if like is None else like.count
    fitted = partial(_fitted, format=format, eight=format not in DEEP or (format == "PNG" and count > 1))
    with atomic(path) as draft:
        if format == "TIFF" and (first.pixels.dtype != np.uint8) and not (_simple(first) and count == 1):
            compressed = how.get("compression") not in (None, "raw")
            deep.write_tiff(draft, (_page(fitted(picture), compressed) for picture in chain([first], several)))
        elif format == "PNG" and first.pixels.dtype != np.uint8 and count == 1 and not _simple(fitted(first)):
            draft.write_bytes(_png(fitted(first)))
        else:
            _save(draft, format, map(fitted, chain([first], several)), count, how)


def _simple(picture: Picture) -> bool:
    """Tells whether Pillow holds pixels of more than 8 bits."""
    return picture.pixels.shape[-1] == 1 and picture.alpha is None


def _fitted(picture: Picture, format: str, eight: bool) -> Picture:
    """Converts a picture to what a format holds."""
    dtype = picture.pixels.dtype
    if dtype != np.uint8 and eight:
        picture = _rescaled(picture, np.uint8)
    elif dtype.kind == "f" and format != "TIFF":
        picture = _rescaled(picture, np.uint16)
    if picture.alpha is not None and format not in ALPHA:
        cover = (picture.alpha / picture.full)[..., None].astype(np.float32)
        laid = picture.pixels * cover + picture.white * (1 - cover)
        picture = replace(picture, pixels=laid.round().astype(picture.pixels.dtype), alpha=None)
    return picture


def _rescaled(picture: Picture, dtype: Any) -> Picture:
    """Converts pixels and alpha to another kind of whole numbers."""
    top = np.iinfo(dtype).max

    def scaled(numbers: np.ndarray, white: float) -> np.ndarray:
        return (numbers * np.float32(top / white)).round().clip(0, top).astype(dtype)

    alpha = None if picture.alpha is None else scaled(picture.alpha, picture.full)
    return replace(picture, pixels=scaled(picture.pixels, picture.white), alpha=alpha, white=float(top))


def as_bytes(picture: Picture, channels: int) -> np.ndarray:
    """Converts a picture's pixels to uint8 (H, W, channels), greys or colours; what is hidden has its neighbours' colour."""
    from PIL import Image

    picture = replace(picture, pixels=picture.visible(), alpha=None)
    pixels = (picture if picture.pixels.dtype == np.uint8 else _rescaled(picture, np.uint8)).pixels
    if pixels.shape[-1] == channels:
        return pixels
    return np.array(Image.fromarray(pixels).convert("L"))[..., None] if channels == 1 else np.repeat(pixels, 3, -1)


def _as_image(picture: Picture) -> Any:
    """Makes a Pillow image; of 16 bits and floats of one channel only."""
    from PIL import Image

    pixels = picture.pixels if picture.alpha is None else np.concatenate([picture.pixels, picture.alpha[..., None]], -1)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _options(picture: Picture, format: str) -> dict[str, Any]:
    """Lists what Pillow writes beside pixels."""
    from PIL import PngImagePlugin

    found: dict[str, Any] = {"exif": picture.exif, "icc_profile": picture.icc, "dpi": picture.dpi}
    found = {name: value for name, value in found.items() if value}
    for name, value in picture.texts.items():
        if name == "pnginfo" and format == "PNG":
            found[name] = PngImagePlugin.PngInfo()
            for key, text in value.items():
                found[name].add_itxt(key, text) if isinstance(text, PngImagePlugin.iTXt) else found[name].add_text(key, text)
        elif (name, format) in {("xmp", "JPEG"), ("xmp", "WEBP"), ("xmp", "AVIF"), ("comment", "JPEG"), ("comment", "GIF")}:
            found[name] = value
    return found


def _save(path: Path, format: str, pictures: Iterator[Picture], count: int, how: dict[str, Any]) -> None:
    """Writes pictures by Pillow."""
    first = next(pictures)
    image, options = _as_image(first), {**how, **_options(first, format)}
    if format == "TIFF" and options.get("compression") not in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        options["compression"] = "tiff_adobe_deflate" if options.get("compression") else None
    if format == "ICO":
        options["sizes"] = [image.size]  # and no smaller ones
    if count == 1:
        image.save(path, format=format, **options)
        return
    durations = [first.duration or 0]

    def more() -> Iterator[Any]:
        for picture in pictures:
            durations.append(picture.duration or 0)
            following = _as_image(picture)
            if format == "TIFF":  # each page has what belongs to it
                following.encoderinfo = {"exif": b"", "icc_profile": None, "dpi": None, **_options(picture, format)}
            yield following

    rest = [*more()]
    if format != "TIFF":
        options["duration"] = [round(each) for each in durations[bool(options.get("default_image")) :]]
    if format == "GIF" and first.alpha is not None:
        options["disposal"] = 2  # else what was there would show through
    image.save(path, format=format, save_all=True, append_images=rest, **options)


def _page(picture: Picture, compressed: bool) -> tuple[np.ndarray, bool, dict[str, Any]]:
    """Says what tifffile writes of a picture."""
    from PIL import Image, TiffImagePlugin, TiffTags

    pixels = picture.pixels if picture.alpha is None else np.concatenate([picture.pixels, picture.alpha[..., None]], -1)
    tags, directory = {}, None
    if picture.exif:
        held = Image.Exif()
        held.load(picture.exif)
        for number, value in held.items():
            if isinstance(value, str) and TiffTags.lookup(number).type == TiffTags.ASCII and value.isascii():
                tags[number] = (("s", 0), value)
        if part := dict(held.get_ifd(deep.EXIF)):

            def directory(place: int) -> bytes:
                found = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
                for number, value in part.items():
                    found[number] = value
                return found.tobytes(place)

    belongings = {"dpi": picture.dpi, "icc": picture.icc, "compressed": compressed, "tags": tags, "exif": directory}
    return np.ascontiguousarray(pixels), picture.alpha is not None, belongings


def _png(picture: Picture) -> bytes:
    """Writes a PNG file of 16 bits a colour, with the chunks that Pillow writes of a small one."""
    from PIL import Image

    pixels = picture.pixels if picture.alpha is None else np.concatenate([picture.pixels, picture.alpha[..., None]], -1)
    small, found = BytesIO(), deep.encoded_png(pixels)
    Image.new("RGB", (1, 1)).save(small, "PNG", **_options(picture, "PNG"))
    chunks, place, data = [], 8, small.getvalue()
    while place < len(data):
        size, kind = 12 + int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            chunks.append(data[place : place + size])
        place += size
    head = 8 + 25  # the signature and IHDR
    rest, kept = found[head:], []
    while rest:  # without what FFmpeg guesses of resolution and colours
        size = 12 + int.from_bytes(rest[:4], "big")
        if rest[4:8] in (b"IDAT", b"IEND"):
            kept.append(rest[:size])
        rest = rest[size:]
    return b"".join([found[:head], *chunks, *kept])
