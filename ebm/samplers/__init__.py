"""Samplers: how y moves downhill, or through, a landscape. The update formula is the file."""

from ebm.interfaces import Sampler
from ebm.registry import hookimpl
from ebm.samplers.adaptation import warm_up
from ebm.samplers.anneal import Annealed
from ebm.samplers.descent import GradientDescent
from ebm.samplers.hmc import HMC
from ebm.samplers.langevin import LangevinDynamics
from ebm.samplers.mala import MALA
from ebm.samplers.monotone import Monotone
from ebm.samplers.nuts import NUTS
from ebm.samplers.preconditioned import PreconditionedLangevin, RMSpropLangevin
from ebm.samplers.predictor_corrector import PredictorCorrector
from ebm.samplers.recovery import Recovery
from ebm.samplers.replay import ReplayAugmented
from ebm.samplers.retractions import clamp, softmax
from ebm.samplers.schedules import Cosine, Geometric, Linear, Polynomial
from ebm.samplers.stein import SteinVariational
from ebm.samplers.tempering import ParallelTempering
from ebm.samplers.underdamped import UnderdampedLangevin
from ebm.samplers.wrapper import Wrapper

__all__ = [
    "HMC",
    "MALA",
    "NUTS",
    "Annealed",
    "Cosine",
    "Geometric",
    "GradientDescent",
    "LangevinDynamics",
    "Linear",
    "Monotone",
    "ParallelTempering",
    "Polynomial",
    "PreconditionedLangevin",
    "PredictorCorrector",
    "RMSpropLangevin",
    "Recovery",
    "ReplayAugmented",
    "Sampler",
    "SteinVariational",
    "UnderdampedLangevin",
    "Wrapper",
    "clamp",
    "softmax",
    "warm_up",
]


@hookimpl
def ebm_samplers() -> dict[str, type[Sampler]]:
    return {
        "annealed": Annealed,
        "gradient-descent": GradientDescent,
        "hmc": HMC,
        "langevin": LangevinDynamics,
        "mala": MALA,
        "monotone": Monotone,
        "nuts": NUTS,
        "parallel-tempering": ParallelTempering,
        "preconditioned-langevin": PreconditionedLangevin,
        "predictor-corrector": PredictorCorrector,
        "recovery": Recovery,
        "replay": ReplayAugmented,
        "rmsprop-langevin": RMSpropLangevin,
        "stein": SteinVariational,
        "underdamped-langevin": UnderdampedLangevin,
    }
