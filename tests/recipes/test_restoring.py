"""What two minutes of the recipe restore must reach on the bundled photographs, in grey."""

from __future__ import annotations

import pytest
import torch

import ebm
from ebm import recipes
from ebm.baselines.classical import by_total_variation
from ebm.reports.helping import TOLD, outcomes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the recipe, shortened: 700 feed-forward steps, then 500 of the energy, in two minutes."""
    recipe = {name: part for name, part in recipes.load("restore").items() if name not in ("baseline", "pace", "thinking")}
    short = {"fit.steps": 1200, "objective.steps": [700], "fit.warmup": 30, "fit.evaluate_every": 1200, "fit.ema": 0.98}
    settings = {"task.crop": 192, "fit.checkpoint_every": 1200, "fit.log_every": 100}
    return ebm.run(recipe, short | settings, out=tmp_path_factory.mktemp("runs") / "restore")


def test_it_beats_the_noisy_photograph_and_total_variation(run):
    task = run.judge()
    with torch.no_grad():
        own, smooth = (task.evaluate(who, split="sigma-25") for who in (run.thinker, by_total_variation(task)))
    assert own["psnr"] > own["noisy_psnr"] + 7
    assert own["psnr"] > smooth["psnr"] + 0.2


def test_weak_noise_that_is_told_is_not_made_worse(run):
    gains = {outcome.sigma: outcome.gains[TOLD] for outcome in outcomes(run, 0)}
    assert min(gains[1.0]) > -0.3
    assert min(gains[3.0]) > -0.3
    assert min(gains[25.0]) > 4
