"""Reads data through `datasets`: local files, which leave nothing behind, and hub datasets."""

from __future__ import annotations

import glob
import mimetypes
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from ebm.optional import installed, no_progress_bars, reachable
from ebm.words import nearest

PICTURES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
PICTURES += (".avif", ".heic", ".heif", ".jp2", ".jfif", ".apng", ".pnm", ".tga", ".qoi")


def few_of(names: Sequence[str], most: int = 5) -> str:
    """Lists the first few names for a warning.

    >>> few_of(["a", "b", "c"], 2)
    'a; b; …'
    """
    return "; ".join(names[:most]) + ("; …" if len(names) > most else "")


def is_path(source: str) -> bool:
    """Tells whether a source means a local path, there or missing, and not a hub dataset."""
    return source.startswith((".", "~", "/")) or Path(source).expanduser().exists()


def load_files(kind: str, files: Iterable[Path], **options: Any) -> Any:
    """Reads local files as one dataset; nothing is left in a cache.

    `kind` is what `datasets` calls the files ("text", "json", "parquet", "csv"), and `options` are
    `load_dataset`'s; rows are kept in memory unless they stream. ValueError or DatasetsError where
    the files cannot be read.
    """
    installed("datasets")
    from datasets import load_dataset

    if not options.get("streaming"):
        options["keep_in_memory"] = True
    paths = [glob.escape(str(file)) for file in files]
    with tempfile.TemporaryDirectory() as cache, no_progress_bars():
        return load_dataset(kind, data_files=paths, split="train", cache_dir=cache, **options)


def pictures_below(folder: Path, pattern: str = "*") -> list[Path]:
    """Lists the picture files below a folder whose paths match a pattern, in their order.

    Also those of kinds that may not be readable, so that they are named and not passed over. What
    is hidden by a dot, such as a system's thumbnails, is no picture of anybody's.
    """
    found = (file for file in sorted(folder.rglob(pattern)) if _may_be_picture(file) and not file.is_dir())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _may_be_picture(file: Path) -> bool:
    suffix = file.suffix.lower()
    return suffix in PICTURES or _TYPES.types_map[True].get(suffix, "").startswith("image/")


_TYPES = mimetypes.MimeTypes(filenames=())  # Python's own, for a machine's are not another's


def from_hub(
    source: str,
    config: str | None = None,
    hub_split: str | None = "train",
    *,
    local: str,
    way_out: str,
    known: Iterable[str],
    **options: Any,
) -> Any:
    """Opens a hub dataset, and fails within seconds where the hub does not answer.

    Errors name what else the source might have been (`local`: "file" or "folder"), a `way_out` that
    needs no network, and the nearest of the `known` sources; `options` are `load_dataset`'s. A
    hub_split of None takes all splits, a dictionary.

    ValueError where the hub cannot be reached, or has no such dataset, configuration or split.
    """
    installed("datasets")
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        if not datasets.config.HF_HUB_OFFLINE:
            reachable(datasets.config.HF_ENDPOINT)
        return datasets.load_dataset(source, config, split=hub_split, **options)
    except OSError as error:
        what = f"{source!r} is no local {local}, and as a hub dataset it cannot be reached ({error})"
        offline = "with HF_HUB_OFFLINE=1 what was downloaded before is read"
        raise ValueError(f"{what}: {way_out}, and {offline}. {nearest(source, known)}") from error
    except (DatasetsError, ValueError) as error:
        raise ValueError(f"hub dataset {source!r}, config={config!r}, hub_split={hub_split!r}: {error}") from error


def media_from_hub(
    source: str, config: str | None, hub_split: str, column: str, feature: Literal["Image", "Video"], known: Sequence[str]
) -> Any:
    """Opens a hub dataset of pictures or videos, undecoded; ValueError for another column."""
    way_out = f"`--task.source {known[0]}` needs no network"
    rows = from_hub(source, config, hub_split, local="folder", way_out=way_out, known=known)
    import datasets

    kind = getattr(datasets, feature)
    if column not in rows.column_names:
        raise ValueError(f"{source} has no column {column!r}: {nearest(column, rows.column_names)}")
    if not isinstance(rows.features[column], kind):
        what = {"Image": "pictures", "Video": "videos"}[feature]
        raise ValueError(f"{source}, column {column!r} holds {rows.features[column]}, no {what}: name another column")
    return rows.cast_column(column, kind(decode=False))
