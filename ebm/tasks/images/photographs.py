"""Reads photographs: bundled ones that need no network, local folders, hub datasets."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.optional import installed
from ebm.tasks.rows import SPLITS, check_splits, deal
from ebm.tasks.sources import PICTURES, few_of, is_path, media_from_hub, pictures_below

# split -> package, folder, files
BUNDLED: dict[str, list[tuple[str, str, str]]] = {
    "train": [
        (
            "skimage",
            "data",
            "rocket.jpg motorcycle_left.png hubble_deep_field.jpg camera.png brick.png grass.png gravel.png coins.png "
            "retina.jpg ihc.png moon.png",
        ),
        ("sklearn", "datasets/images", "china.jpg"),
    ],
    "validation": [("skimage", "data", "chelsea.png")],
    "test": [("skimage", "data", "astronaut.png coffee.png"), ("sklearn", "datasets/images", "flower.jpg")],
}

Files = Iterable[tuple[str, Any]]  # names, and what `read_photograph` reads


class Photograph(NamedTuple):
    """A photograph: its name, unique in its source, and its pixels (C, H, W), 0 to 255."""

    name: str
    pixels: Tensor


def photographs(
    source: str = "bundled",
    *,
    channels: int = 3,
    smallest: int = 32,
    strict: bool = False,
    column: str = "image",
    hub_split: str = "train",
    config: str | None = None,
    seed: int = 0,
) -> dict[str, list[Photograph]]:
    """Reads all photographs of a source, by split: each is in one of train, validation and test.

    What cannot be read, or is too small, is left out, and one warning counts and names it.

    Arguments:
        source: "bundled" (16 photographs that come with scikit-image and scikit-learn); "foolbox"
            (20 that come with that package, all in test); a folder, whose sub-folders train,
            validation and test are the splits where it has them; or a hub dataset. What has no
            splits of its own is dealt out by the seed: 70, 10 and 20 %.
        channels: 3 (colours), or 1 (greys).
        smallest: pixels that height and width have at least.
        strict: whether a file that would be left out is an error.
        column: where the picture of a hub dataset's row is.
        hub_split: which split of a hub dataset is read, and then dealt out.
        config: the hub dataset's configuration, where it has several.
        seed: decides the split of each photograph.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no picture.
        ImportError: a package that the source needs is not installed.
        ValueError: a hub dataset cannot be reached, there are too few photographs for three splits,
            or with `strict` one cannot be read or is too small.

    >>> {split: len(found) for split, found in photographs().items()}
    {'train': 12, 'validation': 1, 'test': 3}
    >>> photographs()["validation"][0].pixels.shape
    torch.Size([3, 300, 451])
    """
    _check_channels(channels)
    installed("PIL")
    files: dict[str, Files]
    if source == "bundled":
        files = {
            split: [(file, installed(package) / folder / file) for package, folder, names in parts for file in names.split()]
            for split, parts in BUNDLED.items()
        }
    elif source == "foolbox":
        try:
            folder = installed("foolbox") / "data"
        except ImportError:
            raise ImportError("foolbox is not installed: pip install foolbox") from None
        files = {"train": [], "validation": [], "test": [(path.name, path) for path in sorted(folder.glob("imagenet_*.jpg"))]}
    elif is_path(source):
        files = _of_folder(source, Path(source).expanduser())
    else:
        rows = media_from_hub(source, config, hub_split, column, "Image", ["bundled", "foolbox"])
        files = {"all": cells(rows, column)}
    found = _read(source, files, channels, smallest, strict)
    if "all" in found:
        found = deal(found["all"], seed)
    if source != "foolbox":
        check_splits(source, found, "photographs")
    return found


def read_photograph(source: str | Path | bytes, channels: int = 3) -> Tensor:
    """Reads a picture upright, whatever its file says of its colours: uint8 (channels, H, W).

    Arguments:
        source: the file's path, or what is in it.
        channels: 3 (colours), or 1 (greys).

    >>> read_photograph(b"no picture")
    Traceback (most recent call last):
    ValueError: 10 bytes cannot be read as a picture (cannot identify image file)
    """
    _check_channels(channels)
    installed("PIL")
    import numpy as np
    from PIL import Image, ImageOps

    what = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's conversion would cut off at 255
                image = Image.fromarray((np.asarray(image) / 257).astype("uint8"))
            pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {source!s}") from error
    except Exception as error:  # a file's fault, which Pillow reports in a dozen ways
        reason = str(error).partition(" <_io")[0].removesuffix(f" {str(source)!r}")
        raise ValueError(f"{what} cannot be read as a picture ({reason})") from error
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], channels).movedim(-1, 0).contiguous()


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: choose 3 (colours) or 1 (greys)")


def _read(source: str, files: dict[str, Files], channels: int, smallest: int, strict: bool) -> dict[str, list[Photograph]]:
    """Reads the files of each split, leaving out what cannot be read or is too small."""
    found: dict[str, list[Photograph]] = {split: [] for split in files}
    bad: list[str] = []
    for split, listed in files.items():
        for name, file in listed:
            try:
                pixels = read_photograph(file, channels)
                if min(pixels.shape[1:]) < smallest:
                    raise ValueError(f"{pixels.shape[1]}x{pixels.shape[2]} pixels are fewer than {smallest} a side")
            except (FileNotFoundError, ValueError) as error:
                if strict:
                    raise ValueError(f"{source}: {name}: {error}; strict=False leaves it out") from error
                bad.append(f"{name}: {error}")
            else:
                found[split].append(Photograph(name, pixels))
    if bad:
        count = len(bad) + sum(map(len, found.values()))
        warnings.warn(f"{source}: {len(bad)} of {count} photographs are left out: {few_of(bad)}", stacklevel=3)
    return found


def _of_folder(source: str, folder: Path) -> dict[str, Files]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {source}: name a folder of pictures, or bundled")
    if any((folder / split).is_dir() for split in SPLITS):
        return {split: _listed(source, folder, folder / split) for split in SPLITS}
    return {"all": _listed(source, folder, folder)}


def _listed(source: str, folder: Path, part: Path) -> Files:
    """Lists the pictures below a part of a folder."""
    files = pictures_below(part)
    if not files:
        raise FileNotFoundError(f"{source} holds no picture in {part}: name a folder with files of {', '.join(PICTURES)}")
    return [(path.relative_to(folder).as_posix(), path) for path in files]


def cells(rows: Any, column: str) -> Iterator[tuple[str, Any]]:
    """Iterates over a dataset's pictures: a row's name, and what `read_photograph` reads."""
    for index, row in enumerate(rows.select_columns(column)):
        cell = row[column] or {"bytes": b"", "path": None}
        yield f"row {index}", cell["path"] if cell["bytes"] is None else cell["bytes"]
