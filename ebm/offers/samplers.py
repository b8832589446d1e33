"""Samplers, by name."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_samplers() -> dict[str, str]:
    """Offers the samplers of the toolkit."""
    return {
        "annealed": "ebm.samplers.anneal:Annealed",
        "basin-hopping": "ebm.samplers.hopping:BasinHopping",
        "block-gibbs": "ebm.samplers.block_gibbs:BlockGibbs",
        "compiled": "ebm.samplers.compiled:Compiled",
        "conditioned": "ebm.samplers.conditioned:Conditioned",
        "cooled": "ebm.samplers.cooled:Cooled",
        "gradient-descent": "ebm.samplers.descent:GradientDescent",
        "fixed-point": "ebm.samplers.fixed_point:FixedPoint",
        "hmc": "ebm.samplers.hmc:HMC",
        "langevin": "ebm.samplers.langevin:LangevinDynamics",
        "mala": "ebm.samplers.mala:MALA",
        "mirror-descent": "ebm.samplers.mirror:MirrorDescent",
        "monotone": "ebm.samplers.monotone:Monotone",
        "nuts": "ebm.samplers.nuts:NUTS",
        "parallel-tempering": "ebm.samplers.tempering:ParallelTempering",
        "preconditioned-langevin": "ebm.samplers.preconditioned:PreconditionedLangevin",
        "predictor-corrector": "ebm.samplers.predictor_corrector:PredictorCorrector",
        "random-walk": "ebm.samplers.random_walk:RandomWalk",
        "recovery": "ebm.samplers.recovery:Recovery",
        "replay": "ebm.samplers.replay:ReplayAugmented",
        "rmsprop-langevin": "ebm.samplers.preconditioned:RMSpropLangevin",
        "slice": "ebm.samplers.slice:SliceSampler",
        "stein": "ebm.samplers.stein:SteinVariational",
        "structured": "ebm.samplers.structured:Structured",
        "tempered-transitions": "ebm.samplers.tempered_transitions:TemperedTransitions",
        "underdamped-langevin": "ebm.samplers.underdamped:UnderdampedLangevin",
    }
