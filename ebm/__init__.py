"""ebm: compose, train, sample and judge energy-based models.

Low energy is compatible; an energy is any callable whose output shape is a prefix of its input's shape.
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm.interfaces import (
        Batch,
        Energy,
        EnergyFn,
        Info,
        Loss,
        Objective,
        Prediction,
        Predictor,
        Sampler,
        State,
        Task,
        energy_and_grad,
    )
    from ebm.recipes.runs import load, run
    from ebm.registry import build, components
    from ebm.runs.run import Run
    from ebm.thinking import Thinker, Thought, think
    from ebm.training.loop import fit

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Energy",
    "EnergyFn",
    "Info",
    "Loss",
    "Objective",
    "Prediction",
    "Predictor",
    "Run",
    "Sampler",
    "State",
    "Task",
    "Thinker",
    "Thought",
    "build",
    "components",
    "energy_and_grad",
    "fit",
    "load",
    "run",
    "think",
]

# Loaded when first asked for: the command line answers without torch, and `import ebm` runs no plugin's code.
_LAZY = {
    **dict.fromkeys(
        ("Batch", "Energy", "EnergyFn", "Info", "Loss", "Objective", "Prediction", "Predictor", "Sampler", "State", "Task"),
        "ebm.interfaces",
    ),
    "energy_and_grad": "ebm.interfaces",
    "build": "ebm.registry",
    "components": "ebm.registry",
    "Thinker": "ebm.thinking",
    "Thought": "ebm.thinking",
    "think": "ebm.thinking",
    "Run": "ebm.runs.run",
    "fit": "ebm.training",
    "load": "ebm.recipes.runs",
    "run": "ebm.recipes.runs",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if not name.startswith("_") and find_spec(f"ebm.{name}") is not None:
        return import_module(f"ebm.{name}")
    raise AttributeError(f"module 'ebm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *(module.name for module in iter_modules(__path__))})
