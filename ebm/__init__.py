"""ebm: compose, train, sample and judge energy-based models.

Low energy is compatible; an energy is any callable whose output shape is a prefix of its input's shape.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ebm.interfaces import Batch, Energy, EnergyFn, Info, Loss, Objective, Prediction, Predictor, Sampler, State, Task
from ebm.interfaces import energy_and_grad as energy_and_grad

if TYPE_CHECKING:
    from ebm.registry import build, components
    from ebm.thinking import Thinker, Thought, think
    from ebm.training import Run, fit, load

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
    "think",
]

# Loaded when first asked for, so that `import ebm` costs little more than `import torch` and runs no plugin's code.
_LAZY = {
    "build": "ebm.registry",
    "components": "ebm.registry",
    "Thinker": "ebm.thinking",
    "Thought": "ebm.thinking",
    "think": "ebm.thinking",
    "Run": "ebm.training",
    "fit": "ebm.training",
    "load": "ebm.training",
}
_SUBPACKAGES = {"energies", "samplers", "objectives", "tasks", "encoders", "baselines", "interop", "testing"}
_SUBPACKAGES |= {"recipes", "registry", "training", "generation", "study", "noising", "tiling", "restoring", "probe"}
_SUBPACKAGES |= {"rollout", "filming", "scaffold"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _SUBPACKAGES:
        return import_module(f"ebm.{name}")
    raise AttributeError(f"module 'ebm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
