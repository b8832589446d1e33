"""The task, and a short run of the recipe."""

from pathlib import Path

import pytest
import torch

import ebm
from ebm import recipes
from ebm.registry import problems
from ebm.thinking import Thinker
from ebm_lattice import BinaryDigits, Gibbs


def test_digits_are_spins():
    task = BinaryDigits()
    batch = next(iter(task.loader("train", 16)))
    start = task.start(batch, generator=torch.Generator().manual_seed(0))
    for y in (batch.target, start):
        assert y.shape == (16, 1, 8, 8)
        assert bool((y.abs() == 1).all())
    assert abs(start.mean()) < 0.2
    assert task.spec["image_size"] == 8
    with pytest.raises(ValueError, match="choose 8"):
        BinaryDigits(size=9)


def test_evaluation_knows_independent_pixels():
    """An energy without couplings whose fields are the training split's frequencies has the
    reference's likelihood."""
    task = BinaryDigits()
    train = task.rows("train").target
    bright = ((train > 0).sum(0) + 0.5) / (len(train) + 1)
    energy = lambda y: -(y * (bright.log() - (1 - bright).log()) / 2).sum((-3, -2, -1))  # noqa: E731
    found = task.evaluate(Thinker(energy, Gibbs(steps=2)), limit=100, generator=torch.Generator().manual_seed(0))
    assert abs(found["pixel_nll"] - found["pixel_nll_reference"]) < 1e-5


def test_a_short_run_of_the_recipe_learns_and_loads(tmp_path: Path):
    assert not [problem for problem in problems() if "lattice" in str(problem)]
    settings = {"fit.steps": "200", "fit.evaluate_limit": "60", "fit.sampler.sampler.steps": "20"}
    parts = recipes.assemble(recipes.resolve(recipes.load("lattice"), settings))
    run = ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, out=tmp_path / "run", recipe=parts.recipe)
    assert run.metrics["pixel_nll"] < 0.8 * run.metrics["pixel_nll_reference"]
    assert run.metrics["auroc_shuffled"] > 0.95
    assert (tmp_path / "run" / "report.html").exists()
    loaded = ebm.load(tmp_path / "run")
    assert loaded.evaluate() == run.metrics
