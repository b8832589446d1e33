"""What `ebm show NAME` says of a grid, without a run: of a bundled one from its file alone, which takes no torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebm.grids.arms import likened, merged
from ebm.registry import CORE, component

SEEDS = 3  # where a grid says nothing


def shown_grid(name: str) -> tuple[dict[str, Any], str]:
    """Describes a grid: as data, and as text.

    Raises:
        ValueError: the file is none of a grid.
    """
    owner = "a file" if name.endswith(".toml") else component("grid", name).distribution
    path = Path(name if name.endswith(".toml") else str(component("grid", name).factory))
    if owner != CORE:
        from ebm.grids.grid import read

        read(path)
    grid = tomllib.loads(path.read_text(encoding="utf-8"))
    arms, axis, measure = likened(grid["arms"]), grid.get("axis"), grid["measure"]
    points = [] if axis is None else axis["values"] if axis.get("column") else next(iter(axis["settings"].values()))
    said = []
    for arm, about in arms.items():
        other = about.get("against") or grid["test"].get("against", "")
        said.append(f"  {arm}: {about['recipe']}{_settings(about)}" + (f" (against {other})" if other not in ("", arm) else ""))
    along = "one point" if axis is None else f"{axis['label']}: {', '.join(map(str, points))}"
    by = f", by the study {measure['study']}" if measure.get("study") else ""
    lines = [
        f"grid {name} ({owner})",
        "",
        f"claim: {grid['claim']}",
        f"source: {grid['source']}",
        f"arms:{_settings(grid, ' all with')}",
        *said,
        f"axis: {along}",
        f"seeds: {', '.join(map(str, _seeds(grid)))}",
        f"measured: {measure['metric']} ({measure.get('better', 'lower')} is better){by}",
        f"read by: {grid['test']['use']}",
        f"cost: {cost(grid)}",
    ]
    return {"from": owner, **grid, "cost": cost(grid)}, "\n".join(lines)


def cost(grid: Mapping[str, Any]) -> str:
    """Says how many runs and training steps a grid's table takes, and about how long."""
    columns = list(grid.get("axis", {}).get("settings", {}).items())
    steps: dict[str, int] = {}  # of each run, but for seeds
    tries, tuned = 0, 0
    for about in likened(grid["arms"]).values():
        measure = merged(grid["measure"], about.get("measure", {}))
        tune = about.get("tune", [])
        for point in range(len(columns[0][1]) if columns else 1):
            settings = {
                **grid.get("settings", {}),
                **about.get("settings", {}),
                **{key: values[point] for key, values in columns},
            }
            asked = [about["recipe"], settings, measure.get("study"), measure.get("keywords"), tune]
            taken = int(settings.get("fit.steps") or _own_steps(about["recipe"]))
            steps[json.dumps(asked, sort_keys=True)] = taken
            tries, tuned = (tries + len(tune), tuned + taken * len(tune)) if point == 0 else (tries, tuned)
    seeds = len(_seeds(grid))
    runs = f"{len(steps) * seeds} runs" + (f", and {tries} to tune" if tries else "")
    said = f"{runs}: {sum(steps.values()) * seeds + tuned:,} training steps"
    return said + (f", about {grid['minutes']:g} minutes of one core" if grid.get("minutes") else "")


def _seeds(grid: Mapping[str, Any]) -> list[int]:
    seeds = grid.get("seeds", SEEDS)
    return list(range(seeds)) if isinstance(seeds, int) else seeds


def _own_steps(recipe: str) -> int:
    path = recipe if recipe.endswith(".toml") else str(component("recipe", recipe).factory)
    return int(tomllib.loads(Path(path).read_text(encoding="utf-8")).get("fit", {}).get("steps", 0))


def _settings(table: Mapping[str, Any], word: str = " with") -> str:
    settings = table.get("settings", {})
    return f"{word} {', '.join(f'{key} = {value}' for key, value in settings.items())}" if settings else ""
