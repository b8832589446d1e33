"""What `ebm study NAME` does: reads the grid, and conducts it as it is asked."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ebm.grids.budget import seconds_of
from ebm.grids.cluster import check, options_in, typed
from ebm.grids.conducting import STUDY, conduct
from ebm.grids.findings import Finding
from ebm.grids.grid import Grid, load, parse, slug, spelled
from ebm.grids.launching import cores, launcher
from ebm.grids.workers import Clock
from ebm.processes import use_threads


def conduct_by_name(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    seeds: int | str | list[int] | None = None,
    budget: str | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    cluster: str = "none",
    threads: int | None = None,
) -> tuple[Finding, Path]:
    """Conducts a grid by its name or file: what was found, and the folder.

    Arguments:
        name: a registered grid, or the path of a file.
        settings: of all runs, as {"fit.batch_size": 8}, beside the grid's own.
        seeds: how many, or which.
        budget: how long it may take, as "30m".
        out: the study's folder; by default studies/NAME.
        jobs: how many runs are done at a time; by default one for each core, one with an
            accelerator, and all on a cluster.
        cluster: "none", "local" or "slurm".
        threads: that a run computes with; by default one.

    Raises:
        ValueError: for what cannot be: as `conduct`, or an argument out of range.
        ImportError: submitit is not installed.
    """
    began = Clock() if budget is None else Clock(seconds_of(budget))
    options, mine = options_in(settings or {})
    check(cluster, options)
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: do at least one run at a time")
    grid = changed(load(name), mine, seeds)
    called = name_of(name)
    folder = Path(out) if out is not None else Path("studies") / slug(called)
    at_once = jobs or (1_000 if cluster == "slurm" else 1 if torch.cuda.is_available() and cluster == "none" else cores())
    use_threads(count := threads or 1)
    words = ["ebm", "study", Path(name).name if name.endswith(".toml") else name]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    words += [] if budget is None else ["--budget", budget]
    words += [part for key, value in mine.items() for part in (f"--{key}", str(value))]
    try:
        found = conduct(
            grid,
            folder,
            lambda place: launcher(place, cluster, options, count),
            name=called,
            at_once=at_once,
            clock=began,
            command=shlex.join(words),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; the same command goes on with the study in {folder}") from None
    return found, folder


def name_of(name: str) -> str:
    """Names a study: by its registered name, its file, or the folder of its study.toml.

    >>> name_of("thinking"), name_of("my/own.toml"), name_of("studies/x/study.toml")
    ('thinking', 'own', 'x')
    """
    path = Path(name)
    if path.suffix != ".toml":
        return name
    return path.absolute().parent.name if path.name == STUDY else path.stem


def changed(grid: Grid, settings: Mapping[str, Any], seeds: int | str | list[int] | None) -> Grid:
    """Makes of a grid one with further settings, and other seeds.

    Raises:
        ValueError: a setting is one that the grid varies, or seeds are no numbers.
    """
    varied = {key: f"arm {arm}" for arm, about in grid.arms.items() for key in about.settings}
    varied |= dict.fromkeys(grid.axis.settings, "the axis") if grid.axis is not None else {}
    varied |= {grid.tune.setting: "[tune]"} if grid.tune is not None else {}
    varied = {spelled(key): what for key, what in varied.items()}
    if taken := [key for key in settings if spelled(key) in varied or key == "seed"]:
        what = varied.get(spelled(taken[0]), "--seeds")
        raise ValueError(f"--{taken[0]}: {what} of this study says it: copy the study's file, and change it there")
    table = grid.model_dump(exclude_none=True)
    table["settings"] = {**table["settings"], **settings}
    if seeds is not None:
        table["seeds"] = typed(seeds)
    return parse(table, "the study")
