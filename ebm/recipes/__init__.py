"""Recipes: data that name components; assembling, running and loading what they say."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm.recipes.recipe import Parts, assemble, baseline_of, baselines_of, load, read, resolve, study_keywords
    from ebm.recipes.runs import load as load_run
    from ebm.recipes.runs import run

__all__ = ["Parts", "assemble", "baseline_of", "baselines_of", "load", "load_run", "read", "resolve", "run", "study_keywords"]

# Loaded when first asked for: what prints a recipe needs no torch.
_LAZY = dict.fromkeys(__all__, ("ebm.recipes.recipe", "")) | {
    "load_run": ("ebm.recipes.runs", "load"),
    "run": ("ebm.recipes.runs", "run"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, called = _LAZY[name]
        return getattr(import_module(module), called or name)
    if not name.startswith("_") and find_spec(f"ebm.recipes.{name}") is not None:
        return import_module(f"ebm.recipes.{name}")
    raise AttributeError(f"module 'ebm.recipes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
