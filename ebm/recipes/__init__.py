"""Recipes: data that name components; assembling, running and loading what they say."""

from __future__ import annotations

from pathlib import Path

from ebm.recipes.recipe import Parts, assemble, baseline_of, baselines_of, load, read, resolve, study_keywords
from ebm.recipes.runs import load as load_run
from ebm.recipes.runs import run
from ebm.registry import hookimpl

__all__ = ["Parts", "assemble", "baseline_of", "baselines_of", "load", "load_run", "read", "resolve", "run", "study_keywords"]


@hookimpl
def ebm_recipes() -> dict[str, Path]:
    """Offers the bundled recipes."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}
