"""Formats of picture files: what each holds, and which one a file's name means."""

from __future__ import annotations

from pathlib import Path

from ebm.optional import installed

SEVERAL = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # formats whose pictures are frames or pages; of others the first counts
DEEP = ("PNG", "TIFF")  # formats that hold 16 bits
ALPHA = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "HEIF", "JPEG2000", "ICO", "TGA")
LOSSY = ("JPEG", "WEBP", "AVIF", "HEIF")  # formats with a quality
PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF")
# What belongs to a picture, by the keyword of Pillow that writes it: its name, and the formats that hold it.
BELONGINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "exif": ("EXIF", PHOTOGRAPHS),
    "icc_profile": ("colour profile", PHOTOGRAPHS),
    "xmp": ("XMP", PHOTOGRAPHS),
    "dpi": ("resolution", ("JPEG", "PNG", "TIFF", "BMP")),
    "comment": ("comment", ("JPEG", "GIF")),
    "pnginfo": ("texts", ("PNG",)),
}


def format_of(path: Path) -> str:
    """Finds the format to write by a file's name, before any work is done for nothing.

    Raises:
        ImportError: Pillow or pillow-heif is not installed.
        ValueError: such files cannot be written.

    >>> format_of(Path("a.jpg"))
    'JPEG'
    """
    installed("PIL")
    from PIL import Image

    know_heif(path)
    format = Image.registered_extensions().get(path.suffix.lower())
    if format not in Image.SAVE:
        raise ValueError(
            f"out={str(path)!r}: pictures of that kind cannot be written, choose a name that ends in .png"
            + ("" if path.suffix else ", or if it is a folder, make it first")
        )
    return format


def know_heif(path: Path) -> None:
    """Lets Pillow know HEIF where a file is named so; ImportError names the extra for it."""
    if path.suffix.lower() not in (".heic", ".heif", ".hif"):
        return
    try:
        import pillow_heif
    except ImportError:
        raise ImportError(f"{path} needs pillow-heif, which is not installed: pip install 'ebm-toolkit[heif]'") from None
    pillow_heif.register_heif_opener()
