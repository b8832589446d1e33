"""Warm-up: finds a sampler's step size and mass, or covariance, which then stay fixed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, eval_mode, plainly
from ebm.samplers.compiled import Compiled
from ebm.samplers.hamiltonian import Mass
from ebm.samplers.hmc import HMC
from ebm.samplers.mala import MALA
from ebm.samplers.nuts import NUTS
from ebm.samplers.random_walk import RandomWalk
from ebm.samplers.rehearsal import rehearsal
from ebm.samplers.stepping import SteppingSampler, at

NEVER = 1e-3  # an acceptance below is none
GAIN, DELAY, POWER = 0.05, 10.0, 0.75  # γ, t₀ and κ of Hoffman and Gelman, section 3.2.1
# Shares of the first steps, which find the typical set, and of the last, which settle the step size
# (with Stan's tenth 0.74 are accepted for a target of 0.65); windows gather the covariance between.
FIRST, LAST, WINDOW = 0.15, 0.2, 25
METRICS = ("mass", "preconditioner", "covariance")  # what samplers call theirs
PRIOR, PRIOR_VARIANCE = 5.0, 1e-3  # the prior counts as 5 draws of this variance (Stan's)


class Warmed(NamedTuple):
    """A tuned sampler, and where its chains ended."""

    sampler: Any
    y: Tensor


class DualAveraging:
    """Nesterov's dual averaging of log ε towards a mean acceptance δ:

        x_{t+1} = μ − √t/γ · 1/(t + t₀) Σ (δ − a_s),    x̄_{t+1} = t^−κ x_{t+1} + (1 − t^−κ) x̄_t,

    with ε = e^x, the present `step_size`, μ = log 10 ε₁, and the average e^x̄ as `found`.
    Source: Hoffman and Gelman, 2014 (JMLR 15), section 3.2.

    >>> search = DualAveraging(1.0, target=0.8)
    >>> for _ in range(2000):
    ...     search.see(math.exp(-search.step_size))    # a sampler that accepts e^-ε
    >>> round(math.exp(-search.found), 2)
    0.8
    """

    def __init__(self, step_size: float, target: float) -> None:
        self.target, self.step_size, self.found = target, step_size, step_size
        self._centre, self._lack, self._average, self._t = math.log(10 * step_size), 0.0, 0.0, 0

    def see(self, acceptance: float) -> None:
        """Takes in the mean acceptance at `step_size`, and sets the next one."""
        self._t += 1
        self._lack += (self.target - acceptance - self._lack) / (self._t + DELAY)
        here = self._centre - math.sqrt(self._t) / GAIN * self._lack
        share = self._t**-POWER
        self._average = share * here + (1 - share) * self._average
        self.step_size, self.found = math.exp(here), math.exp(self._average)


class Moments:
    """Gathers mean and covariance over chains and steps by Welford's update for batches."""

    def __init__(self, dense: bool) -> None:
        self.dense, self.count = dense, 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def see(self, y: Tensor, chains: int) -> None:
        y = y.detach().to(torch.promote_types(y.dtype, torch.float32))
        draws = y.reshape(math.prod(y.shape[:chains]), -1)
        centre = draws.mean(0)
        away = draws - centre
        spread = away.mT @ away if self.dense else away.square().sum(0)
        if self.mean is None or self.scatter is None:
            self.mean, self.scatter = centre, spread
        else:
            shift = centre - self.mean
            share = self.count * len(draws) / (self.count + len(draws))
            self.scatter = self.scatter + spread + share * (torch.outer(shift, shift) if self.dense else shift.square())
            self.mean = self.mean + shift * len(draws) / (self.count + len(draws))
        self.count += len(draws)

    def mass(self, event: torch.Size) -> Tensor:
        """Inverts the covariance, shrunk a little towards a small multiple of the identity."""
        assert self.scatter is not None
        covariance = self.scatter / max(1, self.count - 1) * (self.count / (self.count + PRIOR))
        little = PRIOR_VARIANCE * PRIOR / (self.count + PRIOR)
        if not self.dense:
            return (1 / (covariance + little)).reshape(event)
        inverse = torch.linalg.inv(covariance + little * torch.eye(len(covariance)).to(covariance))
        return (inverse + inverse.mT) / 2


@plainly
def warm_up(
    sampler: SteppingSampler,
    energy: EnergyFn,
    y: Tensor,
    *,
    steps: int = 500,
    target: float | None = None,
    mass: Literal["diagonal", "dense"] | None = "diagonal",
    generator: Generator | None = None,
) -> Warmed:
    """Tunes a sampler to an energy: returns a new sampler that does not adapt.

    What was found is in its `state_dict()`, and a fresh sampler that loads it is the tuned one.
    Dual averaging of the acceptance over all chains finds the step size; ValueError if there is
    none. The mass is the inverse of the draws' (co)variance in windows that double, as in Stan; the
    preconditioner of `MALA` and the covariance of `RandomWalk` are that (co)variance.

    Samplers without a test are tuned by one that has it: `LangevinDynamics` and
    `PreconditionedLangevin` to steps of which a `MALA` accepts 97 to 99%, `UnderdampedLangevin` to
    those of which an `HMC` of eight leapfrogs accepts about as many. (ULA's variances are then 10%
    too large on a Gaussian of one dimension, 2% of a hundred.) `ParallelTempering` and
    `TemperedTransitions` are tuned by their sampler at temperature 1, `Structured` and
    `Conditioned` by the coordinates that they move.
    Others have no criterion, which is a ValueError. A warning tells of chains that accepted nothing
    in the second half: all share one step size, which a steeper place forbids.
    Source: Hoffman and Gelman, 2014 (JMLR 15), section 3.2 and algorithm 4; windows: Stan reference
    manual.

    Arguments:
        sampler: what to tune, from its step size on; it stays as it is.
        energy: the landscape.
        y: starts (*chains, *event); few chains need more steps.
        steps: steps of tuning in all, at least 20.
        target: the mean acceptance to reach, in (0, 1): by default 0.8 for HMC and NUTS, 0.574 for
            MALA, 0.234 for a random walk (0.44 in one dimension), and as above without a test.
        mass: "diagonal" or "dense"; None leaves the mass, or the covariance, as it is.
        generator: where draws come from.

    >>> from ebm.samplers import HMC
    >>> scales, g = torch.tensor([1.0, 100.0]), torch.Generator().manual_seed(0)
    >>> energy, start = lambda y: (y / scales).square().sum(-1) / 2, torch.randn(64, 2, generator=g)
    >>> mass = warm_up(HMC(leapfrog_steps=5), energy, start, generator=g).sampler.mass.values
    >>> bool((mass.rsqrt() / scales - 1).abs().max() < 0.2)    # 1 / √mass is the scale
    True
    """
    if (other := rehearsal(sampler, energy, y)) is not None:
        aim = other.target if target is None else target
        kind = mass if other.metric else None
        found = warm_up(other.sampler, other.energy, other.y, steps=steps, target=aim, mass=kind, generator=generator)
        return Warmed(other.adopt(found.sampler), other.back(found.y))
    tuned, training = copy.deepcopy(sampler), sampler.training
    core: Any = tuned.sampler if isinstance(tuned, Compiled) else tuned  # what holds the step size
    if not isinstance(core, HMC | NUTS | MALA | RandomWalk):
        tuned_are = "HMC, NUTS, MALA and RandomWalk by their acceptance, and Langevin samplers by that of a test of their steps"
        raise ValueError(f"warm_up tunes {tuned_are}, and {type(core).__name__} is none of them")
    if steps < 20 or mass not in ("diagonal", "dense", None):
        raise ValueError(f"warm_up(steps={steps}, mass={mass!r}): pass at least 20 steps, and diagonal, dense or None")
    if target is not None and not 0 < target < 1:
        raise ValueError(f"target={target}: an acceptance to aim at lies in (0, 1)")
    tuned.eval()  # no random scale of the step while its size is looked for
    size = at(core.step_size, 0)
    core.set_tuned(float(size.detach().mean() if isinstance(size, Tensor) else size))
    state = tuned.init(energy, y, generator=generator)
    adapts, metric = mass is not None, next(name for name in METRICS if hasattr(core, name))
    core.step_size = _doubled(core, energy, state, generator)
    aim = target if target is not None else _usual_target(core, energy, state.y)
    search, moments = DualAveraging(core.step_size, aim), Moments(mass == "dense")
    stuck: Tensor | bool = True
    for number, (gathering, ending) in enumerate(_plan(steps if adapts else 0, steps)):
        ((state, info),) = tuned.trajectory(energy, state, steps=1, generator=generator)
        acceptance = acceptance_of(info)
        stuck = stuck & (acceptance < NEVER) if number >= steps // 2 else stuck
        search.see(float(acceptance.mean()))
        core.step_size = search.step_size
        if gathering:
            moments.see(state.y, info.energy.ndim)
        if ending:
            values = moments.mass(state.y.shape[info.energy.ndim :])
            if metric != "mass":  # what multiplies steps is the covariance
                values = torch.linalg.inv(values) if moments.dense else 1 / values
            setattr(core, metric, Mass((values + values.mT) / 2 if moments.dense else values, name=metric))
            core.step_size = _doubled(core, energy, state, generator)
            search, moments = DualAveraging(core.step_size, aim), Moments(mass == "dense")
    core.step_size = search.found
    if bool((stuck := torch.as_tensor(stuck)).any()):
        warnings.warn(
            f"warm_up({type(core).__name__}): {int(stuck.sum())} of {stuck.numel()} chains accepted nothing in the last "
            f"{steps - steps // 2} steps: where they stand the energy is too steep for the step size of the others. Start them "
            "elsewhere, or warm up longer with a smaller step_size",
            stacklevel=3,
        )
    tuned.train(training)
    return Warmed(tuned, state.y)


def _usual_target(sampler: Any, energy: EnergyFn, y: Tensor) -> float:
    """Looks up the acceptance that is best in many dimensions, and in one for a random walk."""
    if not isinstance(sampler, RandomWalk):
        return 0.574 if isinstance(sampler, MALA) else 0.8
    with torch.no_grad(), eval_mode(energy):
        return 0.44 if energy(y).numel() == y.numel() else 0.234


def acceptance_of(info: Any) -> Tensor:
    """Reads a step's acceptance probability (*chains,), or else whether it was accepted."""
    acceptance = getattr(info, "acceptance", None)
    return info.accepted.to(info.energy.dtype) if acceptance is None else acceptance


def _plan(adapting: int, steps: int) -> Iterator[tuple[bool, bool]]:
    """Tells for every step whether its draw is gathered, and whether a window ends there."""
    first, last = int(FIRST * adapting), int(LAST * adapting)
    ends, window, at = set(), WINDOW, first
    while adapting and at < adapting - last:
        # A window takes all that is left if the next one, twice as long, would not fit.
        at = adapting - last if at + 3 * window > adapting - last else at + window
        window *= 2
        ends.add(at - 1)
    for step in range(steps):
        yield first <= step < adapting - last, step in ends


def _doubled(sampler: Any, energy: EnergyFn, state: Any, generator: Generator | None) -> float:
    """Finds, by doubling or halving, a step size with about half of single leapfrogs accepted."""
    probe = sampler
    if not isinstance(sampler, MALA | RandomWalk):  # whose steps are single leapfrogs
        probe = HMC(sampler.step_size, leapfrog_steps=1, temperature=getattr(sampler, "temperature", 1.0)).eval()
        probe.mass = sampler.mass
    size, grows = sampler.step_size, None
    for _ in range(50):
        probe.step_size = size
        ((_, info),) = probe.trajectory(energy, state, steps=1, generator=generator)
        high = float(acceptance_of(info).mean()) > 0.5
        grows = high if grows is None else grows
        if grows != high:
            return size
        size *= 2.0 if grows else 0.5
    what = f"no step size between {sampler.step_size:.1g} and {size:.1g} changes whether steps are accepted"
    raise ValueError(f"{what}: the energy is all but flat where the chains start, or infinite around them")
