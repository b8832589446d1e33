"""What tests of grids share: a study of a second, and a way to run it in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ebm.grids.grid import Grid, parse
from ebm.grids.plan import Job
from ebm.grids.work import work

# A bowl fitted to points: steps of it take milliseconds. Its recipe is a file, so that processes know it, too.
RECIPE = """
summary = "An energy of two moons."
[task]
use = "points"
name = "moons"
n = 60
[energy]
use = "mlp"
hidden = [4]
[objective]
use = "denoising-score-matching"
sigma = 0.5
[fit]
steps = 4
batch_size = 8
evaluate_limit = 8
checkpoint_every = 2
[fit.sampler]
use = "langevin"
step_size = 0.01
steps = 3
"""


def table(folder: Path, **changes: Any) -> dict[str, Any]:
    """Makes the table of a tiny grid: two arms, two points, two seeds."""
    recipe = folder / "tiny-recipe.toml"
    recipe.write_text(RECIPE)
    made: dict[str, Any] = {
        "claim": "A higher learning rate lowers the energy.",
        "source": "nowhere",
        "seeds": 2,
        "axis": {"label": "steps", "settings": {"fit.steps": [2, 4]}},
        "arms": {
            "slow": {"recipe": str(recipe), "settings": {"fit.lr": 1e-4}},
            "fast": {"recipe": str(recipe), "settings": {"fit.lr": 1e-2}},
        },
        "measure": {"metric": "energy"},
        "test": {"use": "gain", "against": "slow"},
    }
    return {**made, **changes}


def tiny(folder: Path, **changes: Any) -> Grid:
    return parse(table(folder, **changes))


class Done:
    """A run that was done in this process."""

    def done(self) -> bool:
        return True

    def stop(self) -> None: ...

    def wait(self) -> None: ...


class Here:
    """Starts runs in this process, and remembers which."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def __call__(self, folder: Path):
        def launch(job: Job) -> Done:
            self.started.append(job.name)
            work(folder, job)
            return Done()

        return launch
