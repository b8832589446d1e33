"""Points of a plane or of a table's columns, as a density to learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from ebm.interfaces import Batch
from ebm.optional import installed
from ebm.randomness import randn_like, stream
from ebm.tasks.learned import read_tensors
from ebm.tasks.rows import RowTask, draw_splits
from ebm.tasks.tables import read_table
from ebm.words import nearest


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _choice(n: int, options: int, generator: torch.Generator) -> Tensor:
    return torch.randint(options, (n,), generator=generator)


def _circle(angle: Tensor, radius: Tensor) -> Tensor:
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


def _moons(n: int, generator: torch.Generator) -> Tensor:
    curve = _circle(math.pi * _uniform(n, generator), torch.ones(n, dtype=torch.float64))
    return torch.where(_choice(n, 2, generator).bool()[:, None], curve, curve.new_tensor([1.0, 0.5]) - curve)


def _checkerboard(n: int, generator: torch.Generator) -> Tensor:
    column, pair = _choice(n, 4, generator), _choice(n, 2, generator)
    corner = torch.stack([column, 2 * pair + column % 2], dim=1)
    return corner + torch.stack([_uniform(n, generator), _uniform(n, generator)], dim=1)


def _rings(n: int, generator: torch.Generator) -> Tensor:
    return _circle(2 * math.pi * _uniform(n, generator), 1.0 + _choice(n, 3, generator).double())


def _eight_gaussians(n: int, generator: torch.Generator) -> Tensor:
    return _circle(math.pi / 4 * _choice(n, 8, generator).double(), torch.ones(n, dtype=torch.float64))


# name -> what draws the shape (n, 2), and the standard deviation of the noise around it
SHAPES: dict[str, tuple[Callable[[int, torch.Generator], Tensor], float]] = {
    "moons": (_moons, 0.1),  # two half circles of radius 1
    "checkerboard": (_checkerboard, 0.0),  # eight squares of a 4 x 4 board
    "rings": (_rings, 0.1),  # circles of radius 1, 2 and 3, equally likely
    "eight-gaussians": (_eight_gaussians, 0.1),  # centres on a circle of radius 1
}

# name -> package, its file, the columns taken, keywords of the reader
TABLES: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any]]] = {
    "airports": ("vega_datasets", "_data/airports.csv", ("longitude", "latitude"), {}),
    "iris": (
        "sklearn",
        "datasets/data/iris.csv",
        ("petal_length", "petal_width"),
        # The file's own first line holds counts and species.
        {"header": 0, "names": ["sepal_length", "sepal_width", "petal_length", "petal_width", "species"]},
    ),
}


SCALES = "points.safetensors"  # in a run's folder: the columns' means and standard deviations


class Points(RowTask):
    """Points of a 2-D density (moons, rings, airports …) or of columns of a table.

    Each column is standardised by the training split: x = task.mean + task.std * y takes a sample y
    back to its units. Chains start at standard normal noise. Airports are of vega_datasets, iris of
    scikit-learn.

    Arguments:
        name: moons, checkerboard, rings, eight-gaussians (synthetic), airports, iris (real), or the
            path of a .csv or .parquet file.
        n: how many points are drawn, or taken at most from real data: 70 % train, 10 % validation,
            20 % test.
        noise: standard deviation of the noise around a synthetic shape, before it is standardised;
            0.1 by default, and 0 for the checkerboard.
        columns: the table's columns; longitude and latitude, or petal length and width, by default.
        seed: decides synthetic points, and the split of each point.
        learned: what a run of this task keeps; with it a table is read when its rows are needed.

    Raises:
        ValueError: an unknown name, split or column, data that are empty, not finite or constant,
            a keyword that the named data do not have.
        FileNotFoundError: there is no such file.
        ImportError: a package that real data need is not installed.

    >>> task = Points("moons", n=1000)
    >>> task.spec, {split: len(rows.target) for split, rows in task.splits.items()}
    ({'dim': 2}, {'train': 700, 'validation': 100, 'test': 200})
    >>> batch = next(iter(task.loader("train", 64)))
    >>> batch.target.shape, task.distance(task.start(batch), batch).shape
    (torch.Size([64, 2]), torch.Size([64]))
    """

    inherits: ClassVar = ("columns",)
    paths: ClassVar = {"name": [*SHAPES, *TABLES]}

    unit = "point"

    def __init__(
        self,
        name: str | Path = "moons",
        n: int | None = 20_000,
        noise: float | None = None,
        columns: Sequence[str] | None = None,
        seed: int = 0,
        learned: Path | None = None,
    ) -> None:
        name, columns = str(name), (columns,) if isinstance(columns, str) else columns
        self._read: Callable[[], Tensor]
        if name in SHAPES:
            self._read = partial(self._shape, name, n, noise, columns, seed)
        elif noise is not None:
            raise ValueError(f"noise={noise} with {name!r}: noise is a keyword of synthetic points, {', '.join(SHAPES)}")
        elif name in TABLES:
            package, file, usual, options = TABLES[name]
            columns = columns or usual
            self._read = lambda: read_table(installed(package) / file, columns, **options)
        elif name.lower().endswith((".csv", ".csv.gz", ".parquet")):
            if not columns:
                raise ValueError(f"columns={columns}: name the columns of {name} to take, as in columns=['lon', 'lat']")
            self._read = lambda: read_table(Path(name).expanduser(), columns)
        else:
            raise ValueError(f"unknown name {name!r}: {nearest(name, [*SHAPES, *TABLES])}, or a path ending in .csv or .parquet")
        self.name, self.columns, self.n, self.seed = name, columns, n, seed
        dtype = torch.get_default_dtype()
        if learned is None:
            self._mean, self._std = self._moments()
        else:
            found = read_tensors(learned / SCALES, "mean", "std")
            self._mean, self._std = found["mean"], found["std"]
        self.mean, self.std = self._mean.to(dtype), self._std.to(dtype)
        self.spec = {"dim": len(self.mean)}

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read."""
        count = sum(len(rows.target) for rows in self.splits.values())
        return f"{count:,} {'points of' if self.name in SHAPES else 'rows of'} {self.name}"

    @cached_property
    def _points(self) -> Tensor:
        return self._read()

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        return draw_splits(len(self._points), self.n, self.seed)

    def _moments(self) -> tuple[Tensor, Tensor]:
        train = self._points[self._rows["train"]]
        std = train.std(0, correction=0)
        constant = [column for column, each in zip(self.columns or "xy", std, strict=True) if not each > 0]
        if constant:
            raise ValueError(f"{self.name}: {constant} are constant over the {len(train)} training rows, and cannot be scaled")
        return train.mean(0), std

    @cached_property
    def splits(self) -> dict[str, Batch]:  # type: ignore[override]
        """The standardised points of each split."""
        dtype = torch.get_default_dtype()
        scaled = {split: (self._points[rows] - self._mean) / self._std for split, rows in self._rows.items()}
        return {split: Batch(points.to(dtype)) for split, points in scaled.items()}

    def save_learned(self, folder: Path) -> None:
        """Writes the columns' means and standard deviations."""
        save_file({"mean": self._mean, "std": self._std}, folder / SCALES)

    def blank(self, n: int) -> Batch:
        """Makes a batch of n points to draw, without data."""
        return Batch(torch.zeros(n, len(self.mean)))

    @staticmethod
    def _shape(name: str, n: int | None, noise: float | None, columns: Sequence[str] | None, seed: int) -> Tensor:
        draw, usual = SHAPES[name]
        if columns is not None:
            raise ValueError(f"columns={columns} with {name!r}: columns is a keyword of tables")
        if n is None or n < 1:
            raise ValueError(f"n={n}: say how many points of {name!r} are drawn, at least one")
        noise = usual if noise is None else noise
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise={noise}: it is a standard deviation, at least 0")
        generator = stream(seed, "points")
        shape = draw(n, generator)
        return shape + noise * randn_like(shape, generator)

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard normal noise of the target's shape."""
        return randn_like(batch.target, generator)
