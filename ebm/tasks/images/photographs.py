"""Reads photographs: bundled ones that need no network, local folders, hub datasets."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.optional import installed
from ebm.tasks.images.files import as_bytes, open_pictures
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

# What the sub-folder of a split may be called, in letters of any case.
NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}

Files = Iterable[tuple[str, Any]]  # names, and what `read_photograph` reads


class Photograph(NamedTuple):
    """A photograph: its name, unique in its source, and its pixels (C, H, W), 0 to 255."""

    name: str
    pixels: Tensor


def photographs(
    source: str | Sequence[str] = "bundled",
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

    What cannot be read, or is too small, is left out, and one warning counts and names it; another
    names files whose numbers are no bytes, and what was made of them.

    Arguments:
        source: "bundled" (16 photographs that come with scikit-image and scikit-learn); "foolbox"
            (20 that come with that package, all in test); a folder, whose sub-folders train,
            validation (or valid, val, dev) and test are the splits where it has them; or a hub
            dataset. What has no splits of its own is dealt out by the seed: 70, 10 and 20 %. Or a
            list of these, whose splits are joined: a folder in it need not have all of them.
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
    sources = [source] if isinstance(source, str) else list(source)
    if not sources or len(set(sources)) < len(sources):
        raise ValueError(f"source={source!r}: pass one name or folder, or a list of different ones")
    how: dict[str, Any] = {"channels": channels, "smallest": smallest, "strict": strict, "seed": seed}
    hub: dict[str, Any] = {"column": column, "hub_split": hub_split, "config": config}
    found: dict[str, list[Photograph]] = {split: [] for split in SPLITS}
    for each in sources:
        for split, photos in _photographs(each, whole=len(sources) == 1, **how, **hub).items():
            names = {photo.name for listed in found.values() for photo in listed}  # which decide a photograph's noise
            found[split] += [photo._replace(name=f"{each}: {photo.name}") if photo.name in names else photo for photo in photos]
    if sources != ["foolbox"]:
        check_splits(", ".join(sources), found, "photographs")
    return found


def _photographs(
    source: str,
    *,
    whole: bool,
    channels: int,
    smallest: int,
    strict: bool,
    column: str,
    hub_split: str,
    config: str | None,
    seed: int,
) -> dict[str, list[Photograph]]:
    """Reads one source; `whole` tells whether it needs all splits."""
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
        files = _of_folder(source, Path(source).expanduser(), whole)
    else:
        rows = media_from_hub(source, config, hub_split, column, "Image", ["bundled", "foolbox"])
        files = {"all": cells(rows, column)}
    found = _read(source, files, channels, smallest, strict)
    return deal(found["all"], seed) if "all" in found else found


def read_photograph(source: str | Path | bytes, channels: int = 3) -> Tensor:
    """Reads a picture upright, whatever its file says of its colours: uint8 (channels, H, W).

    Where it has other numbers than bytes, or several frames, a warning says what was made of it.

    Arguments:
        source: the file's path, or what is in it.
        channels: 3 (colours), or 1 (greys).

    >>> read_photograph(b"no picture")
    Traceback (most recent call last):
    ValueError: 10 bytes cannot be read as a picture (cannot identify image file)
    """
    pixels, said = photograph_of(source, channels)
    if said:
        what = f"{len(source)} bytes" if isinstance(source, bytes) else source
        warnings.warn(f"{what}: {'; '.join(said)}", stacklevel=2)
    return pixels


def photograph_of(source: str | Path | bytes, channels: int = 3) -> tuple[Tensor, list[str]]:
    """Reads a picture as `read_photograph` does, and what a person should know of how it was read.

    Pixels that nobody sees (alpha 0) have the colour of the nearest that is seen.
    """
    _check_channels(channels)
    file = open_pictures(source)
    said = [*file.said, *([f"it has {file.count} frames or pages, of which the first is read"] if file.count > 1 else [])]
    return torch.from_numpy(as_bytes(file.first(), channels)).movedim(-1, 0).contiguous(), said


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: choose 3 (colours) or 1 (greys)")


def _read(source: str, files: dict[str, Files], channels: int, smallest: int, strict: bool) -> dict[str, list[Photograph]]:
    """Reads the files of each split, leaving out what cannot be read or is too small."""
    found: dict[str, list[Photograph]] = {split: [] for split in files}
    bad: list[str] = []
    told: list[str] = []
    for split, listed in files.items():
        for name, file in listed:
            try:
                pixels, said = photograph_of(file, channels)
                if min(pixels.shape[1:]) < smallest:
                    raise ValueError(f"{pixels.shape[1]}x{pixels.shape[2]} pixels are fewer than {smallest} a side")
            except (FileNotFoundError, ImportError, ValueError) as error:
                if strict:
                    raise ValueError(f"{source}: {name}: {error}; strict=False leaves it out") from error
                bad.append(f"{name}: {error}")
            else:
                found[split].append(Photograph(name, pixels))
                told += [f"{name}: {words}" for words in said]
    if bad:
        count = len(bad) + sum(map(len, found.values()))
        warnings.warn(f"{source}: {len(bad)} of {count} photographs are left out: {few_of(bad)}", stacklevel=4)
    if told:
        warnings.warn(f"{source}: look at how these are read: {few_of(told)}", stacklevel=4)
    return found


def _of_folder(source: str, folder: Path, whole: bool = True) -> dict[str, Files]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {source}: name a folder of pictures, or bundled")
    parts: dict[str, Path] = {}
    for part in sorted(folder.iterdir()):
        split = next((split for split, names in NAMES.items() if part.name.lower() in names and part.is_dir()), None)
        if split is not None and parts.setdefault(split, part) != part:
            raise ValueError(f"{source} has {parts[split].name} and {part.name}, which both are {split}: rename one")
    if not parts:
        return {"all": _listed(source, folder, folder)}
    missing = [split for split in SPLITS if split not in parts]
    if missing and whole:
        there = ", ".join(part.name for part in parts.values())
        raise FileNotFoundError(
            f"{source} has the folders {there} and none of {' and '.join(missing)}: make it, or move all into one"
        )
    listed = {split: _listed(source, folder, parts[split]) for split in SPLITS if split in parts}
    if others := len(pictures_below(folder)) - sum(map(len, listed.values())):
        names = ", ".join(part.name for part in parts.values())
        warnings.warn(f"{source}: {others} pictures outside of {names} are left out", stacklevel=5)
    return {**listed}


def _listed(source: str, folder: Path, part: Path) -> list[tuple[str, Path]]:
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
