"""Rehearsals: what warm-up tunes in the place of a sampler that has no acceptance of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from ebm.interfaces import EnergyFn
from ebm.samplers.charted import Charted
from ebm.samplers.compiled import Compiled
from ebm.samplers.hmc import HMC
from ebm.samplers.langevin import LangevinDynamics
from ebm.samplers.mala import MALA
from ebm.samplers.preconditioned import PreconditionedLangevin
from ebm.samplers.structured import Structured
from ebm.samplers.tempered_transitions import TemperedTransitions
from ebm.samplers.tempering import ParallelTempering
from ebm.samplers.underdamped import UnderdampedLangevin

# Of its steps, so many are to pass a Metropolis test; a few hundred steps of dual averaging end one
# or two in a hundred below. ULA's variances are then 10 % too large on a
# Gaussian of one dimension, 4 % of ten and 2 % of a hundred; BAOAB's bias is of a higher order.
UNTESTED = {LangevinDynamics: 0.99, PreconditionedLangevin: 0.99, UnderdampedLangevin: 0.98}
PATH = 8  # leapfrogs of the HMC that stands in for BAOAB: enough to go through a Gaussian


class Rehearsal(NamedTuple):
    """A sampler with an acceptance, and how what is found for it is taken over."""

    sampler: Any
    energy: EnergyFn
    y: Any
    adopt: Callable[[Any], Any]  # from the tuned stand-in to the sampler that was asked for
    target: float | None = None  # None: the stand-in's own
    metric: bool = True  # whether the sampler can take a mass over
    back: Callable[[Any], Any] = lambda y: y  # from the stand-in's y


def rehearsal(sampler: Any, energy: EnergyFn, y: Any) -> Rehearsal | None:
    """Finds what stands in for a sampler; None for one that is tuned itself.

    Raises:
        ValueError: for one whose steps no Metropolis test belongs to.
    """
    if isinstance(sampler, Compiled):
        inner = rehearsal(sampler.sampler, energy, y)
        if inner is None:
            return None
        made = _inside(sampler, inner.sampler)
        return inner._replace(sampler=made, adopt=lambda tuned: _inside(sampler, inner.adopt(tuned.sampler)))
    if isinstance(sampler, ParallelTempering | TemperedTransitions):  # the acceptance at temperature 1
        return Rehearsal(sampler.sampler, energy, y, lambda tuned: _inside(sampler, tuned))
    if isinstance(sampler, Structured) and not isinstance(y, dict | tuple | list):
        return Rehearsal(sampler.sampler, energy, y, lambda tuned: _inside(sampler, tuned))
    if isinstance(sampler, Charted):
        chart = sampler.chart(y)
        z = chart.pack(y)
        sampler.check_point(chart, z)
        return Rehearsal(sampler.sampler, chart.energy(energy), z, lambda tuned: _inside(sampler, tuned), back=chart.unpack)
    target = UNTESTED.get(type(sampler))
    if target is None:
        return None
    heat = {"temperature": sampler.temperature}
    if isinstance(sampler, LangevinDynamics):
        altered = [name for name in ("noise_std", "retraction", "grad_clip") if getattr(sampler, name) is not None]
        if altered:
            what = f"LangevinDynamics with {' and '.join(altered)} has no law that a Metropolis test could hold it to"
            raise ValueError(f"{what}: warm_up has no criterion for its step_size")
        return Rehearsal(MALA(sampler.step_size, **heat), energy, y, lambda tuned: _sized(sampler, tuned), target, metric=False)
    if isinstance(sampler, PreconditionedLangevin):
        stand_in = MALA(sampler.step_size, preconditioner=sampler.preconditioner.values, **heat)
        return Rehearsal(stand_in, energy, y, lambda tuned: _sized(sampler, tuned, "preconditioner"), target)
    path = HMC(sampler.step_size, leapfrog_steps=PATH, mass=sampler.mass.values, **heat)
    return Rehearsal(path, energy, y, lambda tuned: _sized(sampler, tuned, "mass"), target)


def _inside(wrapper: Any, tuned: Any) -> Any:
    """Copies a wrapper with another sampler inside."""
    made = copy.copy(wrapper)  # shares buffers, such as masks
    made._modules = {**wrapper._modules, "sampler": tuned}
    return made


def _sized(sampler: Any, tuned: Any, metric: str | None = None) -> Any:
    """Copies a sampler with the step size, and the metric, that were found."""
    made = copy.deepcopy(sampler)
    learnable = isinstance(made.step_size, nn.Parameter)
    del made.step_size
    made._set_step_size(tuned.step_size, learnable)
    if metric is not None:
        setattr(made, metric, getattr(tuned, metric))
    return made
