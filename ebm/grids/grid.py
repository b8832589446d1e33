"""A grid: a claim, and the runs that test it, read from a TOML file. Reading one runs no code."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebm.grids.arms import LIKE, likened, merged
from ebm.registry import component, components
from ebm.words import nearest

READINGS = {"power-law": 3, "gain": 1, "slope": 2, "ablation": 1, "level": 1}  # with how many points they need
MEASURES = ("parameters", "flops")  # by which a run may lie along the axis
ALONE = "level"  # the one that compares nothing


class Strict(BaseModel):
    """A table whose keys are known, and whose numbers are numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Measure(Strict):
    """What is measured of a run: a metric of its end, or of a study that is asked of it."""

    metric: str
    better: Literal["lower", "higher"] = "lower"
    study: str = ""  # "": the run's end
    keywords: dict[str, Any] = {}  # of the study
    where: dict[str, Any] = {}  # which of the study's rows: column -> value
    mean_over: list[str] = []  # columns over whose values rows are averaged


class Axis(Strict):
    """What is varied: settings of runs, or a column of what a study finds of one run."""

    label: str
    settings: dict[str, list[Any]] = {}  # each a list of one value for each point
    column: str = ""
    values: list[Any] = []  # of the column
    x: list[float] | Literal["parameters", "flops", ""] = ""  # where points lie; "": the first setting's values, or the column's
    scale: Literal["linear", "log"] = "linear"


class Arm(Strict):
    """What is compared: a recipe with settings, and what of it is looked at."""

    recipe: str
    settings: dict[str, Any] = {}
    measure: dict[str, Any] = {}  # where it differs from the grid's
    values: list[Any] = []  # of the axis' column, where they differ from the axis'
    against: str = ""  # the arm that it is compared with; by default [test]'s
    tune: list[float] = []


class Tune(Strict):
    """How a setting is tuned for each arm: at one point, on validation data, by a seed of its own."""

    setting: str = "fit.lr"
    point: str = ""  # "": the first
    seed: int = 1000


class Test(Strict):
    """How a measured table is read: by which reading, and its keywords."""

    use: str
    against: str = ""
    points: list[str] = []
    rising: list[str] = []
    floor: float | Literal["fit"] = 0.0

    @property
    def keywords(self) -> dict[str, Any]:
        """What the reading is told."""
        return {key: value for key, value in self.model_dump(exclude_defaults=True).items() if key != "use"}


class Grid(Strict):
    """A claim, where it stands, and the runs that test it.

    Arguments:
        claim: what is claimed, in a sentence.
        source: where.
        seeds: of the runs: how many, or which.
        minutes: of one core that all of it takes, about.
        settings: of all runs.
        axis: what is varied; without one there is one point.
        arms: what is compared, by name.
        measure: what is measured.
        tune: what is tuned for each arm.
        test: how the measured table is read.
    """

    claim: str = Field(min_length=1)
    source: str = Field(min_length=1)
    seeds: int | list[int] = 3
    minutes: float = 0.0
    settings: dict[str, Any] = {}
    axis: Axis | None = None
    arms: dict[str, Arm] = Field(min_length=1)
    measure: Measure
    tune: Tune | None = None
    test: Test

    def drawn(self) -> list[int]:
        """Lists the seeds."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def measure_of(self, arm: str) -> Measure:
        """Says what is measured of an arm; of tables what it says is added."""
        return _checked(Measure, merged(self.measure.model_dump(), self.arms[arm].measure), f"arms.{arm}.measure")

    def points_of(self, arm: str) -> list[str]:
        """Names the points along the axis, of which an arm's runs, or rows, are."""
        if self.axis is None:
            return [""]
        if self.axis.column:
            return [str(value) for value in self.arms[arm].values or self.axis.values]
        values = list(self.axis.settings.values())
        return [str(value) for value in values[0]]

    def points_of_runs(self) -> list[str]:
        """Names the points that runs differ by: one, where the axis is a study's column."""
        return [""] if self.axis is None or self.axis.column else self.points_of(next(iter(self.arms)))

    def places_of(self, arm: str) -> list[float]:
        """Says where an arm's points lie; not a number where that is measured."""
        if self.axis is None:
            return [0.0]
        if isinstance(self.axis.x, list):
            return self.axis.x
        if self.axis.x:
            return [math.nan] * len(self.points_of(arm))
        first = self.axis.values if self.axis.column else next(iter(self.axis.settings.values()))
        return [float(value) for value in (self.arms[arm].values or first if self.axis.column else first)]

    def against(self, arm: str) -> str:
        """Names the arm that one is compared with; "" where it is none."""
        other = self.arms[arm].against or self.test.against
        return "" if other == arm else other


def read(path: str | Path) -> Grid:
    """Reads a grid's file, and checks all that can be checked without building a run.

    Raises:
        ValueError: it cannot be read, is not TOML, or says what cannot be; names the place, and the
            nearest known key.
    """
    try:
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"study {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"study {path} is not TOML: {error}") from error
    return parse(table, f"study {path}")


def load(name: str) -> Grid:
    """Reads a grid by its registered name, or from a file."""
    return read(name if name.endswith(".toml") else component("grid", name).factory)


def parse(table: Mapping[str, Any], what: str = "the study") -> Grid:
    """Checks a grid's table; as `read`."""
    try:
        arms = table.get("arms")
        grid = _checked(Grid, {**table, "arms": likened(arms)} if isinstance(arms, dict) else table)
        _check(grid)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return grid


def _checked(kind: type[Any], table: Mapping[str, Any], where: str = "") -> Any:
    """Validates a table; the first error is told with its place."""
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        place = _place(first["loc"])
        if first["type"] == "extra_forbidden":
            above, _, key = place.rpartition(".")
            said = f"{above or 'it'} has no place for {key!r}: {nearest(key, _keys_at(kind, first['loc'][:-1]))}"
        elif first["type"] == "missing":
            said = f"{place} is missing"
        else:
            reasons = dict.fromkeys(each["msg"] for each in error.errors() if _place(each["loc"]) == place)
            said = f"{place} = {first['input']!r}: {', or '.join(reason[0].lower() + reason[1:] for reason in reasons)}"
        raise ValueError(f"{where}: {said}" if where else said) from error


def _place(loc: tuple[Any, ...]) -> str:
    """Names a place of a file: without the kinds that pydantic tries a value as."""
    return ".".join(str(part) for part in loc if not re.fullmatch(r"int|float|(list|literal)\[.*\]", str(part)))


def _keys_at(kind: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Lists the keys that the table at a place may have."""
    for part in place:
        if part in kind.model_fields:
            hint = kind.model_fields[part].annotation
            models = [each for each in (hint, *get_args(hint)) if isinstance(each, type) and issubclass(each, BaseModel)]
            kind = models[0] if models else kind
    return [*kind.model_fields, *([LIKE] if kind is Arm else [])]


def _check(grid: Grid) -> None:
    """Raises ValueError for what contradicts itself."""
    seeds = grid.drawn()
    if not seeds or min(seeds) < 0 or len({*seeds}) < len(seeds):
        raise ValueError(f"seeds = {grid.seeds!r}: write how many, or a list of different whole numbers of at least 0")
    slugs = [slug(name) for name in grid.arms]
    if len({*slugs}) < len(slugs):
        raise ValueError(f"arms are {', '.join(grid.arms)}: two would have one folder; tell them apart by letters and digits")
    _check_axis(grid)
    used = grid.test.use
    if used not in READINGS:
        raise ValueError(f"test.use = {used!r}: no reading has this name: {nearest(str(used), READINGS)}")
    if used != ALONE and not any(map(grid.against, grid.arms)):
        raise ValueError(f"test: {used} compares arms: name the one to compare with, as in against = {next(iter(grid.arms))!r}")
    if (count := len(grid.points_of(next(iter(grid.arms))))) < READINGS[used]:
        raise ValueError(f"test: {used} needs {READINGS[used]} points along an axis, and here are {count}")
    if wrong := [each for each in grid.test.points if any(each not in grid.points_of(arm) for arm in grid.arms)]:
        raise ValueError(
            f"test.points: {wrong[0]!r} is no point of all arms: {nearest(str(wrong[0]), grid.points_of(next(iter(grid.arms))))}"
        )
    if wrong := [each for each in grid.test.rising if each not in grid.arms or not grid.against(each)]:
        gaining = [arm for arm in grid.arms if grid.against(arm)]
        raise ValueError(f"test.rising: {wrong[0]!r} is no arm that is compared with another: {nearest(wrong[0], gaining)}")
    for name, arm in grid.arms.items():
        measure = grid.measure_of(name)
        if used == "power-law" and measure.better == "higher":
            raise ValueError(f"test: power-law reads how a loss falls, and of arms.{name} more is better: measure what falls")
        if measure.study and measure.study not in components("study"):
            where = f"arms.{name}.measure.study = {measure.study!r}"
            raise ValueError(f"{where}: no study has this name: {nearest(measure.study, components('study'))}")
        if not measure.study and (measure.keywords or measure.where or measure.mean_over):
            raise ValueError(f"arms.{name}: measure.keywords, where and mean_over are of a study's rows: name measure.study, too")
        if not measure.study and grid.axis is not None and grid.axis.column:
            raise ValueError(f"axis.column = {grid.axis.column!r} is one of a study's rows: name arms.{name}.measure.study, too")
        other = arm.against or grid.test.against
        if other and other not in grid.arms:
            raise ValueError(f"arms.{name} is compared with {other!r}: no arm has this name: {nearest(other, grid.arms)}")
        if other and grid.points_of(other) != grid.points_of(name):
            raise ValueError(f"arms.{name} and arms.{other}, with which it is compared, have different points along the axis")
    if grid.tune is not None:
        counts = {name: len(arm.tune) for name, arm in grid.arms.items()}
        if len({*counts.values()}) > 1 or not all(counts.values()):
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(f"tune: arms are tuned with equal effort, and try as many values each, but here: {said}")
        if any(grid.measure_of(name).study for name in grid.arms):
            raise ValueError("tune: what is tuned is chosen by a metric of the run's end: leave measure.study out")
    elif any(arm.tune for arm in grid.arms.values()):
        raise ValueError("an arm lists values to tune, but no [tune] says of which setting: add the table")
    _check_settings(grid)


def _check_settings(grid: Grid) -> None:
    """Raises ValueError where two places say a setting, of which one would not be heard."""
    axis = {} if grid.axis is None else grid.axis.settings
    said = {
        "settings": grid.settings,
        "axis.settings": axis,
        **{f"arms.{n}.settings": arm.settings for n, arm in grid.arms.items()},
    }
    tuned = {} if grid.tune is None else {grid.tune.setting: None}
    for place, keys in {**said, "tune.setting": tuned}.items():
        if "seed" in keys:
            raise ValueError(f"{place} says seed, and so does seeds: write seeds = [5] at the top, and leave the other out")
    varied = {**{spelled(key): "the axis" for key in axis}, **{spelled(key): "[tune]" for key in tuned}}
    if both := [key for key in axis if varied[spelled(key)] == "[tune]"]:
        raise ValueError(f"axis.settings says {both[0]}, and [tune] sets it at all points alike: leave one of them out")
    for name, arm in grid.arms.items():
        if both := [key for key in arm.settings if spelled(key) in varied]:
            what = varied[spelled(both[0])]
            raise ValueError(f"arms.{name}.settings says {both[0]}, and {what} sets it for all arms: leave one of them out")
    if grid.tune is not None and grid.tune.point and grid.tune.point not in (known := grid.points_of_runs()):
        raise ValueError(f"tune.point = {grid.tune.point!r} is no point of the axis: {nearest(grid.tune.point, known)}")
    if grid.tune is not None and grid.tune.seed in grid.drawn():
        raise ValueError(f"tune.seed = {grid.tune.seed} is one of seeds, too, and what is tuned needs its own: choose another")


def spelled(key: str) -> str:
    """Spells a setting as recipes do: fit.batch-size as fit.batch_size."""
    return key.replace("-", "_")


def _check_axis(grid: Grid) -> None:
    axis = grid.axis
    if axis is None:
        return
    if bool(axis.settings) == bool(axis.column):
        raise ValueError("axis: write either settings, each a list of values, or the column of a study's rows, with its values")
    counts = {len(values) for values in axis.settings.values()} or {len(axis.values)}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f"axis: all lists need the same length, a value for each point, but here are {sorted(counts)}")
    if isinstance(axis.x, list) and len(axis.x) not in counts:
        raise ValueError(f"axis.x has {len(axis.x)} numbers for {counts.pop()} points")
    for name, arm in grid.arms.items():
        points = grid.points_of(name)
        if len({*points}) < len(points):
            raise ValueError(f"axis: two points of {name} are the same: {', '.join(points)}")
        if arm.values and not axis.column:
            raise ValueError(f"arms.{name}.values are of an axis along a column, and this one is along settings")
        if isinstance(axis.x, list) and len(points) != len(axis.x):
            raise ValueError(f"arms.{name}.values has {len(points)} points, and axis.x {len(axis.x)} numbers")
        try:
            places = grid.places_of(name)
        except (TypeError, ValueError) as error:
            raise ValueError(f"axis: its points {', '.join(points)} are no numbers: say by axis.x where they lie") from error
        if axis.x in MEASURES:
            continue
        said, least = ", ".join(map(str, places)), READINGS.get(grid.test.use, 1)
        if not all(map(math.isfinite, places)):
            raise ValueError(f"axis: {name} has points at {said}: write numbers that are finite")
        for what in ["axis.scale = 'log'"] * (axis.scale == "log") + ["test.use = 'power-law'"] * (grid.test.use == "power-law"):
            if min(places) <= 0:
                raise ValueError(f"{what}, but {name} has a point at {min(places)}: points have to lie above 0")
        if len({*places}) < least <= len(places):
            raise ValueError(f"test: {grid.test.use} needs {least} points at different places, and those of {name} lie at {said}")


def slug(name: str) -> str:
    """Makes of a name what a folder may be called.

    >>> slug("ours, 8 steps")
    'ours-8-steps'
    """
    return re.sub(r"[^\w.+]+", "-", name).strip("-.") or "arm"
