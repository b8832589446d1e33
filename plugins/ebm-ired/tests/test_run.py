"""A tiny run from a recipe learns, and can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ebm
from ebm import recipes
from ebm.thinking import Thinker

SMALL = {
    "task.box": "[2, 2]",
    "task.clues": "[6, 10]",
    "task.hard": "5",
    "task.n": "400",
    "energy.dim": "16",
    "energy.depth": "2",
    "energy.levels": "4",
    "fit.steps": "250",
    "fit.evaluate_limit": "20",
    "fit.lr": "1e-2",
}


@pytest.mark.parametrize("name", ["ired", "ired-feed-forward"])
def test_recipes_resolve(name: str) -> None:
    resolved = recipes.resolve(recipes.load(name))
    baseline = recipes.baseline_of(resolved)
    if name == "ired":
        assert baseline is not None
        assert {key: baseline["energy"][key] for key in ("dim", "depth")} == {"dim": 32, "depth": 4}


def test_a_tiny_run_learns_and_loads(tmp_path: Path) -> None:
    recipe = recipes.load("ired")
    del recipe["baseline"], recipe["pace"], recipe["thinking"]
    parts = recipes.assemble(recipes.resolve(recipe, SMALL))

    def judge(energy: ebm.Energy, candidates: int) -> dict[str, float]:
        thinker, generator = Thinker(energy, parts.fit["sampler"], candidates=candidates), torch.Generator().manual_seed(0)
        return parts.task.evaluate(thinker, split="test", generator=generator)

    untrained = judge(parts.energy, 1)
    run = ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, out=tmp_path / "run", recipe=parts.recipe)
    one, several = judge(run.energy, 1), judge(run.energy, 8)
    assert untrained["solved"] < 0.1
    assert one["solved"] > 0.5
    assert several["solved"] >= one["solved"]  # the energy tells which candidate is right
    loaded = ebm.load(tmp_path / "run")
    assert loaded.evaluate() == run.metrics
    assert (tmp_path / "run" / "report.html").exists()
