"""Samplers move y downhill, or through, a landscape. Each file is one update formula."""

from collections.abc import Callable
from typing import Any

from ebm.interfaces import Sampler
from ebm.registry import hookimpl
from ebm.samplers.adaptation import warm_up
from ebm.samplers.anneal import Annealed
from ebm.samplers.block_gibbs import BlockGibbs
from ebm.samplers.compiled import Compiled
from ebm.samplers.conditioned import Conditioned
from ebm.samplers.cooled import Cooled
from ebm.samplers.descent import GradientDescent
from ebm.samplers.fixed_point import FixedPoint, Halving
from ebm.samplers.hmc import HMC
from ebm.samplers.hopping import BasinHopping
from ebm.samplers.langevin import LangevinDynamics
from ebm.samplers.mala import MALA
from ebm.samplers.mirror import MirrorDescent
from ebm.samplers.monotone import Monotone
from ebm.samplers.nuts import NUTS
from ebm.samplers.preconditioned import PreconditionedLangevin, RMSpropLangevin
from ebm.samplers.predictor_corrector import PredictorCorrector
from ebm.samplers.proximal import ProximalGradient
from ebm.samplers.random_walk import RandomWalk
from ebm.samplers.recovery import Recovery
from ebm.samplers.replay import ReplayAugmented
from ebm.samplers.retractions import clamp, softmax
from ebm.samplers.saving import from_tensors, to_tensors
from ebm.samplers.schedules import Cosine, Geometric, Linear, Polynomial
from ebm.samplers.slice import SliceSampler
from ebm.samplers.stein import SteinVariational
from ebm.samplers.structured import Structured
from ebm.samplers.tempered_transitions import TemperedTransitions
from ebm.samplers.tempering import ParallelTempering
from ebm.samplers.underdamped import UnderdampedLangevin
from ebm.samplers.wrapper import Wrapper

__all__ = [
    "HMC",
    "MALA",
    "NUTS",
    "Annealed",
    "BasinHopping",
    "BlockGibbs",
    "Compiled",
    "Conditioned",
    "Cooled",
    "Cosine",
    "FixedPoint",
    "Geometric",
    "GradientDescent",
    "LangevinDynamics",
    "Linear",
    "MirrorDescent",
    "Monotone",
    "ParallelTempering",
    "Polynomial",
    "PreconditionedLangevin",
    "PredictorCorrector",
    "ProximalGradient",
    "RMSpropLangevin",
    "RandomWalk",
    "Recovery",
    "ReplayAugmented",
    "Sampler",
    "SliceSampler",
    "SteinVariational",
    "Structured",
    "TemperedTransitions",
    "UnderdampedLangevin",
    "Wrapper",
    "clamp",
    "from_tensors",
    "softmax",
    "to_tensors",
    "warm_up",
]


@hookimpl
def ebm_examples() -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    """Builds the samplers that `ebm.testing` cannot build from the registry alone."""
    return {
        ("sampler", "basin-hopping"): lambda: {"factory": lambda: BasinHopping(MirrorDescent(0.2, steps=6), every=2)},
        ("sampler", "compiled"): lambda: {"factory": lambda: Compiled(MALA(0.3, steps=5), together=2, backend="eager")},
        ("sampler", "conditioned"): lambda: {"factory": lambda: Conditioned(MALA(0.3, steps=5), still=False)},
        ("sampler", "cooled"): lambda: {"factory": lambda: Cooled(MirrorDescent(0.2, steps=4))},
        ("sampler", "fixed-point"): lambda: {"factory": lambda: FixedPoint(steps=4), "energy": Halving()},
        ("sampler", "parallel-tempering"): lambda: {"factory": lambda: ParallelTempering(MALA(0.3, steps=5))},
        ("sampler", "tempered-transitions"): lambda: {"factory": lambda: TemperedTransitions(MALA(0.3, steps=5))},
        ("sampler", "predictor-corrector"): lambda: {"factory": lambda: PredictorCorrector(LangevinDynamics(0.02), 1.0)},
        ("sampler", "preconditioned-langevin"): lambda: {"factory": lambda: PreconditionedLangevin(0.5, 0.04, steps=4)},
    }
