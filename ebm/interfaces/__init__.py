"""The four interfaces (Energy, Sampler, Objective, Task) and the values that pass between them.

Low energy is compatible; an energy is any callable whose output shape is a prefix of its input's.
Data flow one way: task -> objective -> sampler -> energy.
"""

from ebm.interfaces.abilities import FeedForward, Paced, Represents, Scorer, ScoresPatches
from ebm.interfaces.arguments import plain, plainly
from ebm.interfaces.composed import Modified, ScaledEnergy, Several, SumEnergy, WeightedEnergy
from ebm.interfaces.energy import (
    Energy,
    EnergyFn,
    Given,
    Unconditional,
    check_configuration,
    energy_and_grad,
    evaluate,
    left,
    modules_of,
)
from ebm.interfaces.forms import Function, as_energy, bind, interface_of, landscapes, levels_of
from ebm.interfaces.sampler import Sampler, Unroll, check_steps, check_unroll, detach, eval_mode, raise_if_not_finite
from ebm.interfaces.task import Objective, Task
from ebm.interfaces.trees import Packed, Packing
from ebm.interfaces.values import Batch, Info, Loss, Prediction, Predictor, State, as_batch, savable

__all__ = [
    "Batch",
    "Energy",
    "EnergyFn",
    "FeedForward",
    "Function",
    "Given",
    "Info",
    "Loss",
    "Modified",
    "Objective",
    "Paced",
    "Packed",
    "Packing",
    "Prediction",
    "Predictor",
    "Represents",
    "Sampler",
    "ScaledEnergy",
    "Scorer",
    "ScoresPatches",
    "Several",
    "State",
    "SumEnergy",
    "Task",
    "Unconditional",
    "Unroll",
    "WeightedEnergy",
    "as_batch",
    "as_energy",
    "bind",
    "check_configuration",
    "check_steps",
    "check_unroll",
    "detach",
    "energy_and_grad",
    "eval_mode",
    "evaluate",
    "interface_of",
    "landscapes",
    "left",
    "levels_of",
    "modules_of",
    "plain",
    "plainly",
    "raise_if_not_finite",
    "savable",
]
