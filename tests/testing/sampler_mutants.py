"""Test subjects for `check_sampler`: right samplers as plugins' authors write them, and samplers with one planted mistake each.

`CORRECT` maps a name to a function of the check's (arguments, keywords). `MUTANTS` maps a name to such a function and a
pattern (case does not count) that a message which is right about the mistake matches.

Names say what a sampler claims: nothing in brackets, it leaves p ∝ exp(-E) alone, exactly or up to O(step size); [optimiser],
it descends, and draws nothing or no noise that belongs to it; [tempered], it samples, but another distribution than exp(-E).
"""

import math
import random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ebm.energies import Gaussian, GaussianMixture
from ebm.interfaces import Info, Sampler, State, energy_and_grad, evaluate, left
from ebm.samplers import MALA, Annealed, GradientDescent, LangevinDynamics, Monotone, ReplayAugmented

CORRECT, MUTANTS = {}, {}


def gaussian():
    return Gaussian(mean=(1.0, -0.5), covariance=((1.0, 0.6), (0.6, 1.5)))


def correct(name, energy=None, **keywords):
    """Registers a class, which is built with these keywords, or a function that builds one."""

    def register(factory):
        CORRECT[name] = lambda: ((lambda: factory(**keywords),), {} if energy is None else {"energy": energy()})
        return factory

    return register


def mutant(name, pattern, **keywords):
    def register(factory):
        MUTANTS[name] = (lambda: ((lambda: factory(**keywords),), {}), pattern)
        return factory

    return register


def randn(y, generator):
    return torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)


def rand(like, generator):
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def per_chain(values, energy):
    return values.reshape(*energy.shape, -1).sum(-1)


def behind(energy):
    """The module behind an energy function, where there is one to be found."""
    while energy is not None and not isinstance(energy, nn.Module):
        energy = getattr(energy, "energy", None) or getattr(energy, "__self__", None)
    return energy


# ------------------------------------------------------------------------------------------------------- right: Langevin


class Ula(Sampler):
    """Unadjusted Langevin dynamics: right, and what most mutants change one line of."""

    def __init__(self, step_size=0.05, steps=10):
        super().__init__()
        self.step_size, self.steps = step_size, steps

    def look(self, energy, y, create_graph):
        return energy_and_grad(energy, y, create_graph=create_graph)

    def drift(self, grad):
        return -self.step_size * grad

    def noise(self, y, generator):
        return math.sqrt(2 * self.step_size) * randn(y, generator)

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = self.look(energy, state.y, create_graph)
        y = state.y + self.drift(grad) + self.noise(state.y, generator)
        return State(y, state.t + 1), Info(value, grad)


for size in (1e-4, 1e-3, 1e-2, 0.1, 0.5):
    correct(f"ula, step {size}", step_size=size)(Ula)
correct("ula on a given gaussian", energy=gaussian)(Ula)
correct("ula, a pair of steps", steps=(2, 6))(Ula)
correct("ula, no steps by default", steps=0)(Ula)


@correct("ula, tamed")
class Tamed(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        size = (per_chain(grad.square(), value) + 1e-12).sqrt()
        y = state.y - self.step_size * grad / left(1 + self.step_size * size, grad) + self.noise(state.y, generator)
        return State(y, state.t + 1), Info(value, grad)


@correct("ula, falling step size")
class Falling(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        size = self.step_size / (1 + 0.1 * state.t)
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        y = state.y - size * grad + math.sqrt(2 * size) * randn(state.y, generator)
        return State(y, state.t + 1), Info(value, grad)


@correct("ula, learnable step size")
class Learnable(Ula):
    def __init__(self):
        super().__init__()
        self.log_step = nn.Parameter(torch.tensor(-3.0))

    def step(self, energy, state, *, create_graph=False, generator=None):
        size = self.log_step.exp().to(state.y)
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        y = state.y - size * grad + (2 * size).sqrt() * randn(state.y, generator)
        return State(y, state.t + 1), Info(value, grad)


@correct("ula, step size drawn when built")
def drawn_when_built():
    own = torch.Generator().manual_seed(5)
    return Ula(0.02 + 0.05 * float(torch.rand((), generator=own)))


class Scaling(NamedTuple):
    y: torch.Tensor
    scale: Any = None


@correct("ula, a step scale per chain and trajectory")
class PerTrajectory(Ula):
    def init(self, energy, y, *, generator=None):
        return Scaling(y)

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        scale = state.scale
        if scale is None:
            scale = 0.5 + rand(value, generator) if self.training else torch.ones_like(value)
        size = left(self.step_size * scale.detach(), state.y)
        return Scaling(state.y - size * grad + (2 * size).sqrt() * randn(state.y, generator), scale), Info(value, grad)


@correct("ula, fixed diagonal preconditioner")
class Preconditioned(Ula):
    def diagonal(self, y, value):
        event = y.shape[value.ndim :]
        return 0.7 * (1 + torch.arange(event.numel(), device=y.device) % 2).to(y).reshape(event)

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        size = self.step_size * self.diagonal(state.y, value)
        return State(state.y - size * grad + (2 * size).sqrt() * randn(state.y, generator), state.t + 1), Info(value, grad)


@correct("ula, some coordinates at a time")
class SomeCoordinates(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        chosen = (rand(state.y, generator) < 0.5).to(state.y)
        return State(state.y + chosen * (self.drift(grad) + self.noise(state.y, generator)), state.t + 1), Info(value, grad)


@correct("ula, not reversible")
class NotReversible(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        flat = grad.reshape(*value.shape, -1)
        pairs = flat[..., : flat.shape[-1] // 2 * 2].unflatten(-1, (-1, 2))
        turned = torch.stack([pairs[..., 1], -pairs[..., 0]], -1).flatten(-2)  # an antisymmetric J: div(J ∇E p) = 0
        turned = F.pad(turned, (0, flat.shape[-1] - turned.shape[-1])).reshape(grad.shape)
        return State(state.y + self.drift(grad + turned) + self.noise(state.y, generator), state.t + 1), Info(value, grad)


class Moving(NamedTuple):
    y: torch.Tensor
    velocity: torch.Tensor


@correct("underdamped langevin, velocities in the state", step_size=0.1)
class Underdamped(Ula):
    friction = 1.0

    def keep(self):
        return math.exp(-self.friction * self.step_size)

    def strength(self):
        return math.sqrt(1 - self.keep() ** 2)

    def init(self, energy, y, *, generator=None):
        return Moving(y, randn(y, generator))

    def step(self, energy, state, *, create_graph=False, generator=None):
        half = self.step_size / 2
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        velocity = state.velocity - half * grad
        y = state.y + half * velocity
        velocity = self.keep() * velocity + self.strength() * randn(y, generator)
        y = y + half * velocity
        _, end = energy_and_grad(energy, y, create_graph=create_graph)
        return Moving(y, velocity - half * end), Info(value, grad)


# ----------------------------------------------------------------------------------------------- right: accept or reject


class Metropolis(Sampler):
    """Random-walk Metropolis, without gradients: right, and changed by mutants."""

    differentiable = False
    steps = 5

    def __init__(self, scale=0.8):
        super().__init__()
        self.scale = scale

    def propose(self, energy, y, value, generator):
        """A proposal, and log q(y | y') - log q(y' | y)."""
        return y + self.scale * randn(y, generator), torch.zeros_like(value)

    def decide(self, value, new, correction, generator):
        return rand(value, generator).log() < value - new + correction

    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through acceptance: leave create_graph=False")
        y = state.y
        with torch.no_grad():
            value = evaluate(energy, y)
            proposal, correction = self.propose(energy, y, value, generator)
            new = evaluate(energy, proposal)
            accepted = self.decide(value, new, correction, generator) & torch.isfinite(new)
            y = torch.where(left(accepted, y), proposal, y)
        return State(y, state.t + 1), Info(value, None, accepted)


correct("random-walk metropolis")(Metropolis)
correct("random-walk metropolis, tiny steps", scale=0.01)(Metropolis)
correct("random-walk metropolis on a given mixture", energy=lambda: GaussianMixture(((-1.0, 0.0), (1.0, 0.5)), 0.7))(Metropolis)


@correct("metropolis with heavy tails")
class HeavyTails(Metropolis):
    def propose(self, energy, y, value, generator):
        wide = torch.where(rand(value, generator) < 0.2, 4.0, 0.3).to(y)
        return y + left(wide, y) * randn(y, generator), torch.zeros_like(value)


@correct("independence sampler", scale=1.7)
class Independence(Metropolis):
    def propose(self, energy, y, value, generator):
        proposal = self.scale * randn(y, generator)
        return proposal, per_chain(proposal.square() - y.square(), value) / (2 * self.scale**2)


@correct("crank-nicolson proposals")
class CrankNicolson(Metropolis):
    def propose(self, energy, y, value, generator):
        proposal = 0.8 * y + 0.6 * randn(y, generator)  # leaves the standard normal alone
        return proposal, per_chain(proposal.square() - y.square(), value) / 2


@correct("scaling moves with their jacobian, or steps")
class ScalingMoves(Metropolis):
    def propose(self, energy, y, value, generator):
        log_factor, scales = 1.6 * rand(value, generator) - 0.8, rand(value, generator) < 0.5
        proposal = torch.where(left(scales, y), left(log_factor.exp(), y) * y, y + self.scale * randn(y, generator))
        return proposal, torch.where(scales, log_factor * (y.numel() // value.numel()), torch.zeros_like(value))


@correct("mala of its own", scale=0.3)
class OwnMala(Metropolis):
    def gradient(self, energy, y):
        return energy_and_grad(energy, y)[1]

    def propose(self, energy, y, value, generator):
        grad, noise = self.gradient(energy, y), math.sqrt(2 * self.scale) * randn(y, generator)
        proposal = y - self.scale * grad + noise
        back = y - proposal + self.scale * self.gradient(energy, proposal)
        return proposal, self.correction(per_chain(noise.square(), value), per_chain(back.square(), value))

    def correction(self, there, back):
        return (there - back) / (4 * self.scale)


@correct("barker proposals")
class Barker(OwnMala):
    def propose(self, energy, y, value, generator):
        grad, jump = self.gradient(energy, y), self.scale * randn(y, generator)
        jump = torch.where(rand(y, generator) < torch.sigmoid(-jump * grad), jump, -jump)
        back = self.gradient(energy, y + jump)
        return y + jump, per_chain(F.logsigmoid(jump * back) - F.logsigmoid(-jump * grad), value)


@correct("hmc", scale=0.4)
class Hmc(OwnMala):
    leapfrogs = 4

    def kinetic(self, momentum, value):
        return per_chain(momentum.square(), value) / 2

    def leapfrog(self, energy, y, momentum):
        momentum = momentum - self.scale / 2 * self.gradient(energy, y)
        for index in range(self.leapfrogs):
            y = y + self.scale * momentum
            share = 1 if index < self.leapfrogs - 1 else 0.5
            momentum = momentum - share * self.scale * self.gradient(energy, y)
        return y, momentum

    def propose(self, energy, y, value, generator):
        start = randn(y, generator)
        proposal, end = self.leapfrog(energy, y, start)
        return proposal, self.kinetic(start, value) - self.kinetic(end, value)


@correct("hmc with a path of random length")
class RandomHmc(Hmc):
    def propose(self, energy, y, value, generator):
        start = randn(y, generator)
        end, momentum = y, start
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            end, momentum = self.leapfrog(energy, end, momentum)
        return end, self.kinetic(start, value) - self.kinetic(momentum, value)


@correct("hmc with momenta that persist, flipped where rejected")
class PersistentHmc(Hmc):
    leapfrogs = 1

    def init(self, energy, y, *, generator=None):
        return Moving(y, randn(y, generator))

    def flip(self, momentum):
        return -momentum

    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through acceptance: leave create_graph=False")
        y, value = state.y, evaluate(energy, state.y).detach()
        momentum = 0.8 * state.velocity + 0.6 * randn(y, generator)
        proposal, end = self.leapfrog(energy, y, momentum)
        new = evaluate(energy, proposal).detach()
        change = self.kinetic(momentum, value) - self.kinetic(end, value)
        accepted = self.decide(value, new, change, generator) & torch.isfinite(new)
        chosen = left(accepted, y)
        y, momentum = torch.where(chosen, proposal, y), torch.where(chosen, end, self.flip(momentum))
        return Moving(y, momentum), Info(value, None, accepted)


class Caching(NamedTuple):
    y: torch.Tensor
    energy: Any = None


@correct("metropolis, energies cached in the state")
class CachedMetropolis(Metropolis):
    def init(self, energy, y, *, generator=None):
        return Caching(y)

    def enter(self, energy, state):
        return Caching(state.y)

    def keep(self, accepted, new, value):
        return torch.where(accepted, new, value)

    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through acceptance: leave create_graph=False")
        with torch.no_grad():
            value = evaluate(energy, state.y) if state.energy is None else state.energy
            proposal, correction = self.propose(energy, state.y, value, generator)
            new = evaluate(energy, proposal)
            accepted = self.decide(value, new, correction, generator) & torch.isfinite(new)
            y = torch.where(left(accepted, proposal), proposal, state.y)
        return Caching(y, self.keep(accepted, new, value)), Info(value, None, accepted)


@correct("slice sampling along a coordinate")
class Slice(Metropolis):
    """Neal, 2003: a height under the density, an interval stepped out around y, shrunk until a draw lies in the slice."""

    out, shrinks, checks = 6, 25, True

    def direction(self, y, value, generator):
        flat = y.reshape(*value.shape, -1)
        index = (rand(value, generator) * flat.shape[-1]).long().clamp(max=flat.shape[-1] - 1)
        return F.one_hot(index, flat.shape[-1]).to(y).reshape(y.shape)

    def height(self, value, generator):
        return value - rand(value, generator).log()

    @torch.no_grad()
    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through slices: leave create_graph=False")
        y, value = state.y, evaluate(energy, state.y)
        way, height = self.direction(y, value, generator), self.height(value, generator)

        def inside(place):
            return evaluate(energy, y + left(place, y) * way) < height

        low = -self.scale * rand(value, generator)
        high = low + self.scale
        room = (self.out * rand(value, generator)).floor()  # steps to the left; the others are for the right
        for index in range(self.out - 1):
            low = torch.where((index < room) & inside(low), low - self.scale, low)
            high = torch.where((index < self.out - 1 - room) & inside(high), high + self.scale, high)
        found, chosen = torch.zeros_like(value, dtype=torch.bool), torch.zeros_like(value)
        for _ in range(self.shrinks):
            place = low + (high - low) * rand(value, generator)
            good = inside(place) | (not self.checks)
            chosen, found = torch.where(good & ~found, place, chosen), found | good
            low, high = torch.where(place < 0, place, low), torch.where(place >= 0, place, high)
        return State(y + left(chosen, y) * way, state.t + 1), Info(value)


@correct("slice sampling along a random line")
class HitAndRun(Slice):
    def direction(self, y, value, generator):
        return randn(y, generator)


@correct("elliptical slice sampling")
class Elliptical(Slice):
    @torch.no_grad()
    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through slices: leave create_graph=False")
        y, value = state.y, evaluate(energy, state.y)
        other = randn(y, generator)

        def rest(y):
            return evaluate(energy, y) - per_chain(y.square(), value) / 2

        height = self.height(rest(y), generator)
        angle = 2 * math.pi * rand(value, generator)
        low, high, end, found = angle - 2 * math.pi, angle, y, torch.zeros_like(value, dtype=torch.bool)
        for _ in range(self.shrinks):
            proposal = left(angle.cos(), y) * y + left(angle.sin(), y) * other
            good = rest(proposal) < height
            end, found = torch.where(left(good & ~found, y), proposal, end), found | good
            low, high = torch.where(angle < 0, angle, low), torch.where(angle >= 0, angle, high)
            angle = low + (high - low) * rand(value, generator)
        return State(end, state.t + 1), Info(value)


# ------------------------------------------------------------------------------------------------------ right: optimisers


@correct("descent [optimiser]")
@correct("descent, huge steps [optimiser]", step_size=1.5)
@correct("descent, tiny steps [optimiser]", step_size=1e-7)
class Descent(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = self.look(energy, state.y, create_graph)
        return State(state.y + self.drift(grad), state.t + 1), Info(value, grad)


@correct("descent by signs [optimiser]")
class Signs(Descent):
    def drift(self, grad):
        return -self.step_size * grad.sign()


@correct("descent, momentum in the state [optimiser]")
class HeavyBall(Ula):
    def init(self, energy, y, *, generator=None):
        return Moving(y, torch.zeros_like(y))

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        velocity = 0.8 * state.velocity + grad
        return Moving(state.y - self.step_size * velocity, velocity), Info(value, grad)


class Moments(NamedTuple):
    y: torch.Tensor
    moments: dict
    t: int = 0


@correct("adam, moments in the state [optimiser]")
class Adam(Ula):
    def init(self, energy, y, *, generator=None):
        return Moments(y, {"first": torch.zeros_like(y), "second": torch.zeros_like(y)})

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        first = 0.9 * state.moments["first"] + 0.1 * grad
        second = 0.99 * state.moments["second"] + 0.01 * grad.square()
        t = state.t + 1
        y = state.y - self.step_size * (first / (1 - 0.9**t)) / (second / (1 - 0.99**t) + 1e-8).sqrt()
        return Moments(y, {"first": first, "second": second}, t), Info(value, grad)


@correct("descent with a line search per chain [optimiser]", step_size=0.8)
class LineSearch(Descent):
    differentiable = False

    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("the line search chooses, and no gradient passes through that: leave create_graph=False")
        value, grad = energy_and_grad(energy, state.y)
        size, slope = torch.full_like(value, self.step_size), per_chain(grad.square(), value)
        with torch.no_grad():
            for _ in range(12):
                new = evaluate(energy, state.y - left(size, grad) * grad)
                size = torch.where(new <= value - 0.3 * size * slope, size, size / 2)
        return State(state.y - left(size, grad) * grad, state.t + 1), Info(value, grad)


# -------------------------------------------------------------------------------------------------------- right: wrappers


class Around(Sampler):
    def __init__(self, inner=None):
        super().__init__()
        self.inner = Metropolis() if inner is None else inner
        self.steps, self.differentiable = self.inner.steps, self.inner.differentiable

    def init(self, energy, y, *, generator=None):
        return self.inner.init(energy, y, generator=generator)

    def enter(self, energy, state):
        return self.inner.enter(energy, state)


@correct("every third state of a metropolis with a cache")
class Thinned(Around):
    def __init__(self):
        super().__init__(CachedMetropolis())

    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = self.inner.step(energy, state, create_graph=create_graph, generator=generator)
        for _ in range(2):
            state, _ = self.inner.step(energy, state, generator=generator)
        return state, info


@correct("chains that rest at random")
class Lazy(Around):
    def __init__(self):
        super().__init__(Ula())

    def step(self, energy, state, *, create_graph=False, generator=None):
        moved, info = self.inner.step(energy, state, create_graph=create_graph, generator=generator)
        rests = left(rand(info.energy, generator) < 0.5, state.y)
        return moved._replace(y=torch.where(rests, state.y, moved.y)), info


# The core's own, and its wrappers.
correct("core langevin", step_size=0.05, steps=5)(LangevinDynamics)
correct("core langevin, learnable and scaled", step_size=0.02, learnable=True, step_scale=1.5)(LangevinDynamics)
correct("core langevin, given gaussian", energy=gaussian, step_size=0.02)(LangevinDynamics)
correct("core langevin, decoupled noise [tempered]", step_size=0.05, noise_std=0.005)(LangevinDynamics)
correct("core langevin, warm [tempered]", step_size=0.05, temperature=2.0)(LangevinDynamics)
correct("core langevin, cooling [tempered]", step_size=0.05, temperature=lambda t: 1 + 1 / (1 + t))(LangevinDynamics)
correct("core langevin, no noise [optimiser]", step_size=0.05, temperature=0.0)(LangevinDynamics)
correct("core mala", step_size=0.4, steps=5)(MALA)
correct("core mala, warm [tempered]", step_size=0.4, temperature=2.0)(MALA)
correct("core descent [optimiser]", step_size=0.1, steps=(1, 4))(GradientDescent)
correct("core descent, nesterov [optimiser]", step_size=0.05, momentum=0.7, nesterov=True)(GradientDescent)
correct("core descent, softmax [optimiser]", step_size=0.1, retraction="softmax")(GradientDescent)
correct("core descent, clamp [optimiser]", step_size=0.1, retraction="clamp")(GradientDescent)
correct("core langevin, clamp [tempered]", step_size=0.05, retraction="clamp")(LangevinDynamics)
correct("core descent, noise before [optimiser]", step_size=0.1, noise_std=0.1)(GradientDescent)
correct("core replay")(lambda: ReplayAugmented(LangevinDynamics(step_size=0.05, steps=4), capacity=50))
correct("core replay of a mala")(lambda: ReplayAugmented(MALA(step_size=0.3, steps=4), capacity=50))
correct("core annealed [tempered]")(lambda: Annealed(LangevinDynamics(step_size=0.02, steps=3), temperatures=[4.0, 2.0, 1.0]))
correct("core monotone descent [optimiser]")(lambda: Monotone(GradientDescent(step_size=0.1, momentum=0.5, steps=4)))


# --------------------------------------------------------------------------------------------------- mistakes: randomness

GENERATOR = r"generator|global|random"
STATIONARY = r"stationar|distribution|varianc|moment|bias|invarian|p-value|exp\(|sampl|too (wide|narrow)"
CHAINS = r"chain|batch|independent|row|permut"
KEPT = r"between runs|state|keep|kept|remember|second run|again|twice|same|repeat|determin|n \+ m|steps and then"


@mutant("noise without the generator", GENERATOR)
class NoGenerator(Ula):
    def noise(self, y, generator):
        return math.sqrt(2 * self.step_size) * torch.randn_like(y)


@mutant("noise of numpy", GENERATOR + "|numpy|" + KEPT)
class NumpyNoise(Ula):
    def noise(self, y, generator):
        return math.sqrt(2 * self.step_size) * torch.as_tensor(np.random.randn(*y.shape)).to(y)


@mutant("a step size of Python's random", GENERATOR + "|" + KEPT)
class PythonSteps(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        size = self.step_size * random.uniform(0.5, 1.5)
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        return State(state.y - size * grad + math.sqrt(2 * size) * randn(state.y, generator), state.t + 1), Info(value, grad)


@mutant("a generator of its own, seeded at every step", GENERATOR + "|noise|seed|" + STATIONARY)
class OwnSeed(Ula):
    def noise(self, y, generator):
        return super().noise(y, torch.Generator(y.device).manual_seed(0))


@mutant("a generator of its own, kept on self", GENERATOR + "|" + KEPT)
class OwnGenerator(Ula):
    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(0)

    def noise(self, y, generator):
        return super().noise(y, self.own)


@mutant("acceptance drawn from the global generator", GENERATOR)
class GlobalAcceptance(Metropolis):
    def decide(self, value, new, correction, generator):
        return torch.rand_like(value).log() < value - new + correction


@mutant("initial velocities from the global generator", GENERATOR)
class GlobalVelocities(Underdamped):
    def init(self, energy, y, *, generator=None):
        return Moving(y, torch.randn_like(y))


@mutant("coordinates chosen by the global generator", GENERATOR)
class GlobalCoordinates(Slice):
    def direction(self, y, value, generator):
        return super().direction(y, value, None)


@mutant("seeds the global generator", GENERATOR + "|seed")
class SeedsGlobal(Ula):
    def noise(self, y, generator):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return super().noise(y, None)


@mutant("seeds the generator that it was given", GENERATOR + "|seed|noise|" + STATIONARY)
class SeedsGiven(Ula):
    def noise(self, y, generator):
        return super().noise(y, None if generator is None else generator.manual_seed(generator.initial_seed()))


@mutant("draws from a copy of the generator", GENERATOR + "|noise|advance|copy|" + STATIONARY)
class CopiesGenerator(Ula):
    def noise(self, y, generator):
        return super().noise(y, None if generator is None else generator.clone_state())


@mutant("needs a generator", GENERATOR + "|None")
class NeedsGenerator(Ula):
    def noise(self, y, generator):
        return math.sqrt(2 * self.step_size) * torch.empty_like(y).normal_(generator=generator).to(generator.device)


@mutant("dropout on the gradient", GENERATOR + "|dropout")
class DropsGradients(Ula):
    def drift(self, grad):
        return super().drift(F.dropout(grad, 0.1))


# ---------------------------------------------------------------------------------------------- mistakes: the wrong density


@mutant("noise √ε", STATIONARY + "|noise")
class HalfNoise(Ula):
    def noise(self, y, generator):
        return math.sqrt(self.step_size) * randn(y, generator)


@mutant("noise twice as strong", STATIONARY + "|noise")
class DoubleNoise(Ula):
    def noise(self, y, generator):
        return 2 * super().noise(y, generator)


@mutant("noise 2ε", STATIONARY + "|noise")
class NoRoot(Ula):
    def noise(self, y, generator):
        return 2 * self.step_size * randn(y, generator)


@mutant("noise a fifth too strong", STATIONARY + "|noise")
class FifthMore(Ula):
    def noise(self, y, generator):
        return 1.2 * super().noise(y, generator)


@mutant("uniform noise of half the variance", STATIONARY + "|noise")
class UniformNoise(Ula):
    def noise(self, y, generator):
        return math.sqrt(12 * self.step_size) * (rand(y, generator) - 0.5)  # should be 24 ε


@mutant("half the gradient", STATIONARY + "|gradient|drift")
class HalfGradient(Ula):
    def drift(self, grad):
        return super().drift(grad) / 2


@mutant("uphill", STATIONARY + "|sign|ascen|uphill|ris|lower|energy|finite")
class Uphill(Ula):
    def drift(self, grad):
        return -super().drift(grad)


@mutant("unit gradients", STATIONARY + "|normalis|gradient|drift")
class UnitGradients(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        unit = grad / left((per_chain(grad.square(), value) + 1e-12).sqrt(), grad)
        return State(state.y + self.drift(unit) + self.noise(state.y, generator), state.t + 1), Info(value, grad)


@mutant("one noise for all coordinates", STATIONARY + "|noise|coordinate")
class OneForCoordinates(Ula):
    def noise(self, y, generator):
        return super().noise(y[..., :1], generator).expand_as(y)


@mutant("one noise for all chains", CHAINS + "|noise")
class OneForChains(Ula):
    def noise(self, y, generator):
        return super().noise(y[:1], generator).expand_as(y)


@mutant("antithetic noise", CHAINS + "|noise")
class Antithetic(Ula):
    def noise(self, y, generator):  # each chain is right, but a second half mirrors the first
        noise = super().noise(y, generator)
        half = len(y) // 2
        return torch.cat([noise[: len(y) - half], -noise[:half]])


@mutant("noise every other step", STATIONARY + "|noise")
class EveryOther(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        noise = self.noise(state.y, generator) if state.t % 2 == 0 else 0.0
        return State(state.y + self.drift(grad) + noise, state.t + 1), Info(value, grad)


@mutant("the same noise at every step of a trajectory", STATIONARY + "|noise")
class SameNoise(Underdamped):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        noise = math.sqrt(2 * self.step_size) * state.velocity
        return Moving(state.y + self.drift(grad) + noise, state.velocity), Info(value, grad)


@mutant("preconditions the gradient, not the noise", STATIONARY + "|noise")
class HalfPreconditioned(Preconditioned):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        y = state.y - self.step_size * self.diagonal(state.y, value) * grad + self.noise(state.y, generator)
        return State(y, state.t + 1), Info(value, grad)


@mutant("friction's noise too weak", STATIONARY + "|noise", step_size=0.2)
class WeakFriction(Underdamped):
    def strength(self):
        return math.sqrt(1 - self.keep())  # should be of the square


@mutant("clamps in silence", STATIONARY + "|clamp|clip|range")
class ClampsInSilence(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state._replace(y=state.y.clamp(-1, 1)), info


@mutant("mala without the proposals' correction", STATIONARY + "|correct|accept", scale=0.7)
class NoCorrection(OwnMala):
    def correction(self, there, back):
        return torch.zeros_like(there)


@mutant("mala, the correction's sign", STATIONARY + "|correct|accept", scale=0.5)
class WrongCorrection(OwnMala):
    def correction(self, there, back):
        return -super().correction(there, back)


@mutant("mala, the way back with the old gradient", STATIONARY + "|correct|accept", scale=0.7)
class OldGradient(OwnMala):
    def propose(self, energy, y, value, generator):
        grad, noise = self.gradient(energy, y), math.sqrt(2 * self.scale) * randn(y, generator)
        proposal = y - self.scale * grad + noise
        back = y - proposal + self.scale * grad  # ∇E(y), should be ∇E(y')
        return proposal, self.correction(per_chain(noise.square(), value), per_chain(back.square(), value))


@mutant("mala that always accepts", STATIONARY + "|accept", scale=0.8)
class AlwaysAccepts(OwnMala):
    def decide(self, value, new, correction, generator):
        return torch.ones_like(value, dtype=torch.bool)


@mutant("metropolis that always accepts", STATIONARY + "|accept")
class WalksOn(Metropolis):
    def decide(self, value, new, correction, generator):
        return torch.ones_like(value, dtype=torch.bool)


@mutant("metropolis, the ratio's sign", STATIONARY + "|accept|sign")
class WrongRatio(Metropolis):
    def decide(self, value, new, correction, generator):
        return rand(value, generator).log() < new - value


@mutant("metropolis that accepts only what is lower", STATIONARY + "|accept")
class OnlyLower(Metropolis):
    def decide(self, value, new, correction, generator):
        return new < value


@mutant("metropolis, u in place of log u", STATIONARY + "|accept")
class NoLogarithm(Metropolis):
    def decide(self, value, new, correction, generator):
        return rand(value, generator) < value - new + correction


@mutant("one decision for the whole batch", CHAINS + "|accept|" + STATIONARY)
class BatchDecision(Metropolis):
    def decide(self, value, new, correction, generator):
        ratio = (value - new + correction).sum()
        return (rand(ratio, generator).log() < ratio).expand_as(value)


@mutant("one draw for the whole batch", CHAINS + "|accept|draw")
class BatchDraw(Metropolis):
    def decide(self, value, new, correction, generator):
        return rand(value.new_empty(()), generator).log() < value - new + correction


@mutant("one decision for a row of chains", CHAINS + "|accept|ax[ei]s|several|" + STATIONARY)
class RowDecision(Metropolis):
    def decide(self, value, new, correction, generator):  # right where chains have one axis
        ratio = (value - new + correction).flatten(1).sum(1) if value.ndim > 1 else value - new + correction
        return left(rand(ratio, generator).log() < ratio, value).expand_as(value)


@mutant("proposes until it accepts", STATIONARY + "|accept|reject", scale=2.5)
class UntilAccepted(Metropolis):
    def propose(self, energy, y, value, generator):
        proposal, zero = super().propose(energy, y, value, generator)
        again = torch.ones_like(value, dtype=torch.bool)
        for _ in range(30):
            again &= rand(value, generator).log() >= value - evaluate(energy, proposal)
            proposal = torch.where(left(again, y), y + self.scale * randn(y, generator), proposal)
        return proposal, zero

    def decide(self, value, new, correction, generator):
        return torch.ones_like(value, dtype=torch.bool)


@mutant("scaling moves without their jacobian", STATIONARY + "|correct|accept")
class NoJacobian(ScalingMoves):
    def propose(self, energy, y, value, generator):
        return super().propose(energy, y, value, generator)[0], torch.zeros_like(value)


@mutant("independence sampler without its proposals' density", STATIONARY + "|correct|accept")
class NoDensity(Independence):
    def propose(self, energy, y, value, generator):
        return super().propose(energy, y, value, generator)[0], torch.zeros_like(value)


@mutant("hmc that forgets the kinetic energy", STATIONARY + "|accept|kinetic|momentum", scale=0.8)
class NoKinetic(Hmc):
    def kinetic(self, momentum, value):
        return torch.zeros_like(value)


@mutant("hmc without half steps", STATIONARY + "|accept|leapfrog|reversib", scale=0.8)
class NoHalfSteps(Hmc):
    def leapfrog(self, energy, y, momentum):  # keeps volume, but the way back is another
        for _ in range(self.leapfrogs):
            momentum = momentum - self.scale * self.gradient(energy, y)
            y = y + self.scale * momentum
        return y, momentum


@mutant("hmc, the last half step forgotten", STATIONARY + "|accept|leapfrog|reversib", scale=0.8)
class NoLastHalf(Hmc):
    def leapfrog(self, energy, y, momentum):
        momentum = momentum - self.scale / 2 * self.gradient(energy, y)
        for index in range(self.leapfrogs):
            y = y + self.scale * momentum
            if index < self.leapfrogs - 1:
                momentum = momentum - self.scale * self.gradient(energy, y)
        return y, momentum


@mutant("hmc, momenta of variance two", STATIONARY + "|momentum|kinetic", scale=0.5)
class WarmMomenta(Hmc):
    def propose(self, energy, y, value, generator):
        start = math.sqrt(2) * randn(y, generator)
        proposal, end = self.leapfrog(energy, y, start)
        return proposal, self.kinetic(start, value) - self.kinetic(end, value)


@mutant("hmc, persisting momenta not flipped", STATIONARY + "|momentum|flip|reject|reversib", scale=1.4)
class NotFlipped(PersistentHmc):
    leapfrogs = 2

    def flip(self, momentum):
        return momentum


@mutant("a slice of the wrong height", STATIONARY + "|slice")
class WrongHeight(Slice):
    def height(self, value, generator):
        return value + rand(value, generator)  # should be −log u


@mutant("slices without a look whether the draw is inside", STATIONARY + "|slice")
class NoLook(Slice):
    checks = False


@mutant("a cached energy not refreshed", STATIONARY + "|stale|cach|energy|info")
class StaleEnergy(CachedMetropolis):
    def keep(self, accepted, new, value):
        return value


@mutant("a cached energy refreshed by what was rejected", STATIONARY + "|stale|cach|energy|info|reject")
class RejectedEnergy(CachedMetropolis):
    def keep(self, accepted, new, value):
        return new


@mutant("a cached energy not dropped on a new landscape", r"enter|landscape|cach|stale|energy")
class NotDropped(CachedMetropolis):
    def enter(self, energy, state):
        return state


@mutant("accepts what is not finite", r"finite|nan|wall|inf", scale=0.3)
class AcceptsNan(OwnMala):
    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through acceptance: leave create_graph=False")
        y = state.y
        with torch.no_grad():
            value = evaluate(energy, y)
            proposal, correction = self.propose(energy, y, value, generator)
            new = evaluate(energy, proposal)
            accepted = ~(rand(value, generator).log() >= value - new + correction)  # true for NaN
        return State(torch.where(left(accepted, y), proposal, y), state.t + 1), Info(value, None, accepted)


@mutant("repairs what is not finite in silence", r"finite|nan|silen|repair")
class Repairs(Ula):
    def drift(self, grad):
        return super().drift(grad.nan_to_num(0.0, 0.0, 0.0))

    def look(self, energy, y, create_graph):
        value, grad = super().look(energy, y, create_graph)
        return value.nan_to_num(0.0, 0.0, 0.0), grad


# ------------------------------------------------------------------------------------------------------- mistakes: chains


@mutant("the gradient of the mean", CHAINS + "|gradient|mean|" + STATIONARY)
class MeanGradient(Ula):
    def look(self, energy, y, create_graph):
        value, grad = super().look(energy, y, create_graph)
        return value, grad / value.numel()


@mutant("the gradient divided by the batch's norm", CHAINS + "|normalis|" + STATIONARY)
class BatchNorm(Descent):
    def drift(self, grad):
        return super().drift(grad / (grad.norm() + 1e-12))


@mutant("the gradient clipped by the batch's norm", CHAINS + "|clip")
class BatchClip(Descent):
    def drift(self, grad):
        return super().drift(grad * (1.0 / (grad.norm() + 1e-12)).clamp(max=1.0))


@mutant("the worst chain replaced by the best", CHAINS + "|" + STATIONARY)
class Replaces(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        flat = info.energy.flatten()
        chosen = torch.arange(len(flat), device=flat.device)
        chosen[flat.argmax()] = flat.argmin()
        return state._replace(y=state.y.flatten(0, info.energy.ndim - 1)[chosen].reshape(state.y.shape)), info


@mutant("proposals from other chains", CHAINS + "|" + STATIONARY)
class Population(Metropolis):
    def propose(self, energy, y, value, generator):  # differential evolution: y + γ (a − b)
        return y + 0.7 * (y.roll(1, 0) - y.roll(2, 0)) + 0.1 * randn(y, generator), torch.zeros_like(value)


@mutant("chains sorted by energy", CHAINS + "|sort|order")
class Sorts(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        order = info.energy.flatten(1).sum(1).argsort() if info.energy.ndim > 1 else info.energy.argsort()
        return state._replace(y=state.y[order]), info


@mutant("drops the last chain", CHAINS + "|shape")
class Drops(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state._replace(y=state.y[:-1]), info


@mutant("decisions broadcast from the right", CHAINS + "|shape|broadcast|ax[ei]s|event|rais|fail")
class FromTheRight(Metropolis):
    def step(self, energy, state, *, create_graph=False, generator=None):
        if create_graph:
            raise ValueError("no gradient passes through acceptance: leave create_graph=False")
        y = state.y
        with torch.no_grad():
            value = evaluate(energy, y)
            proposal, correction = self.propose(energy, y, value, generator)
            new = evaluate(energy, proposal)
            accepted = self.decide(value, new, correction, generator) & torch.isfinite(new)
            y = torch.where(accepted.unsqueeze(-1), proposal, y)  # right for vectors only
        return State(y, state.t + 1), Info(value, None, accepted)


# ------------------------------------------------------------------------------------------------ mistakes: what is kept


@mutant("momentum on self", KEPT + "|momentum")
class MomentumOnSelf(Descent):
    velocity = None

    def drift(self, grad):
        if self.velocity is None or self.velocity.shape != grad.shape:
            self.velocity = torch.zeros_like(grad)
        self.velocity = 0.8 * self.velocity.to(grad) + grad
        return super().drift(self.velocity)


@mutant("a step counter on self", KEPT + "|counter|schedule")
class CounterOnSelf(Ula):
    def __init__(self):
        super().__init__()
        self.t, self.first = 0, self.step_size

    def step(self, energy, state, *, create_graph=False, generator=None):
        self.step_size = self.first / (1 + 0.2 * self.t)
        self.t += 1
        return super().step(energy, state, create_graph=create_graph, generator=generator)


@mutant("a step counter in a buffer", KEPT + "|counter|schedule|buffer")
class CounterInBuffer(Ula):
    def __init__(self):
        super().__init__()
        self.register_buffer("t", torch.zeros(()))

    def drift(self, grad):
        self.t += 1
        return super().drift(grad) / (1 + 0.1 * float(self.t))


@mutant("a step counter in a closure", KEPT + "|counter|schedule")
def counts_in_closure():
    taken = [0]

    class Counting(Ula):
        def drift(self, grad):
            taken[0] += 1
            return super().drift(grad) * (1 + 0.5 * math.cos(taken[0]))

    return Counting()


@mutant("the last gradient on self", KEPT + "|gradient|stale")
class GradientOnSelf(Ula):
    last = None

    def drift(self, grad):
        used = grad if self.last is None or self.last.shape != grad.shape else self.last.to(grad)
        self.last = grad
        return super().drift(used)


@mutant("the first energy on self", KEPT + "|energy|first")
class EnergyOnSelf(Ula):
    known = None

    def look(self, energy, y, create_graph):
        if self.known is None:
            self.known = (energy,)  # in a tuple, such that a module is not registered
        try:
            return super().look(self.known[0], y, create_graph)
        except (ValueError, RuntimeError):  # y of another kind
            self.known = (energy,)
            return super().look(energy, y, create_graph)


@mutant("mean squares of gradients on self", KEPT)
class SquaresOnSelf(Descent):
    squares = None

    def drift(self, grad):
        if self.squares is None or self.squares.shape != grad.shape:
            self.squares = torch.zeros_like(grad)
        self.squares = 0.9 * self.squares.to(grad) + 0.1 * grad.square()
        return super().drift(grad / (self.squares + 1e-8).sqrt())


@mutant("adapts its step size on self", KEPT + "|step.size|adapt")
class Adapts(OwnMala):
    def decide(self, value, new, correction, generator):
        accepted = super().decide(value, new, correction, generator)
        self.scale *= math.exp(0.2 * (float(accepted.float().mean()) - 0.57))
        return accepted


@mutant("goes on from the last end", KEPT + "|start")
class GoesOn(Ula):
    end = None

    def init(self, energy, y, *, generator=None):
        return State(y if self.end is None or self.end.shape != y.shape else self.end.to(y))

    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        self.end = state.y.detach()
        return state, info


RESUMES = r"n \+ m|n steps|steps and then|resum|goes? on|continu|state|split"


@mutant("a State given is begun anew", RESUMES)
class BegunAnew(HeavyBall):
    def trajectory(self, energy, y, **keywords):
        return super().trajectory(energy, getattr(y, "y", y), **keywords)


@mutant("forgets which step it is on", RESUMES)
class ForgetsStep(Falling):
    def trajectory(self, energy, y, **keywords):
        return super().trajectory(energy, y._replace(t=0) if isinstance(y, State) else y, **keywords)


@mutant("sample() ends with a step of its own", r"sample|trajectory|end|last|agree|differ|" + RESUMES)
class LastStep(Ula):
    def sample(self, energy, y, **keywords):
        end = super().sample(energy, y, **keywords)
        last = energy[-1] if isinstance(energy, list | tuple) else energy
        return Descent(self.step_size).sample(last, end, steps=1, unroll=keywords.get("unroll", "none"))


IN_PLACE = r"in.place|chang|mutat|modif|overwr|touch|alias|same tensor|share|start"


@mutant("moves the start in place", IN_PLACE)
class MovesStart(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        new, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        state.y.data.copy_(new.y)
        return new, info


@mutant("moves its state in place", IN_PLACE + "|state")
class MovesState(Ula):
    def init(self, energy, y, *, generator=None):
        return State(y.clone())

    def step(self, energy, state, *, create_graph=False, generator=None):  # states yielded before change as well
        new, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        state.y.data.copy_(new.y)
        return (new if create_graph else State(state.y, state.t + 1)), info


@mutant("moves along, and leaves y where it is", r"mov|still|same|nothing|start|lower|" + STATIONARY)
class Stays(Descent):
    def step(self, energy, state, *, create_graph=False, generator=None):
        _, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state, info


# ---------------------------------------------------------------------------------- mistakes: the energy is left as it was

TOUCHES = r"parameter|energy|module|chang|modif|touch|\.grad|weight"
MODE = r"mode|train|eval|buffer|statistic"


@mutant("leaves .grad on the parameters", TOUCHES)
class LeavesGrad(Ula):
    def look(self, energy, y, create_graph):
        if create_graph:
            return super().look(energy, y, create_graph)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = evaluate(energy, y)
            value.sum().backward()
        return value.detach(), y.grad


@mutant("clears the .grad of the parameters", TOUCHES)
class ClearsGrad(Ula):
    def look(self, energy, y, create_graph):
        if (module := behind(energy)) is not None:
            module.zero_grad()
        return super().look(energy, y, create_graph)


@mutant("freezes the parameters", TOUCHES + "|requires_grad|freez|frozen")
class Freezes(Ula):
    def look(self, energy, y, create_graph):
        if (module := behind(energy)) is not None:
            module.requires_grad_(False)
        return super().look(energy, y, create_graph)


@mutant("weight decay", TOUCHES)
class Decays(Ula):
    def look(self, energy, y, create_graph):
        if (module := behind(energy)) is not None:
            for parameter in module.parameters():
                parameter.data.mul_(0.999)
        return super().look(energy, y, create_graph)


@mutant("evaluates in train mode", MODE + "|" + TOUCHES)
class InTrainMode(Ula):
    def look(self, energy, y, create_graph):
        module = behind(energy)
        if module is None:
            return super().look(energy, y, create_graph)
        modes = [(part, part.training) for part in module.modules()]
        module.train()
        try:
            return super().look(energy, y, create_graph)
        finally:
            for part, training in modes:
                part.training = training


@mutant("leaves the energy in train mode", MODE + "|" + TOUCHES)
class LeavesTrainMode(Ula):
    def trajectory(self, energy, y, **keywords):
        first = energy[0] if isinstance(energy, list | tuple) else energy
        if (module := behind(first)) is not None:
            module.train()
        return super().trajectory(energy, y, **keywords)


@mutant("leaves the energy in eval mode", MODE + "|" + TOUCHES)
class LeavesEvalMode(Ula):
    def trajectory(self, energy, y, **keywords):
        first = energy[0] if isinstance(energy, list | tuple) else energy
        if (module := behind(first)) is not None:
            module.eval()
        return super().trajectory(energy, y, **keywords)


# ------------------------------------------------------------------------------------------- mistakes: graphs and results

GRAPH = r"graph|unroll|gradient|detach|differentiab|create_graph"


@mutant("ignores create_graph", GRAPH)
class NoGraph(Descent):
    def look(self, energy, y, create_graph):
        return super().look(energy, y, False)


@mutant("its state is detached", GRAPH)
class DetachedState(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state._replace(y=state.y.detach()), info


@mutant("the graph ends at every step's start", GRAPH)
class CutBetween(Ula):  # "full" is then "last"
    def step(self, energy, state, *, create_graph=False, generator=None):
        return super().step(energy, state._replace(y=state.y.detach()), create_graph=create_graph, generator=generator)


@mutant("keeps a graph where none is asked for", GRAPH + "|requires_grad|memory")
class KeepsGraph(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        with torch.enable_grad():
            return super().step(energy, state, create_graph=True, generator=generator)


@mutant("a learnable step size that gets no gradient", GRAPH + "|learn|parameter|step.size")
class NotLearned(Learnable):
    def step(self, energy, state, *, create_graph=False, generator=None):
        size = float(self.log_step.exp())
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        return State(state.y - size * grad + math.sqrt(2 * size) * randn(state.y, generator), state.t + 1), Info(value, grad)


@mutant("no noise where a graph is kept", GRAPH + "|value|agree|differ")
class QuietGraph(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        noise = 0.0 if create_graph else self.noise(state.y, generator)
        return State(state.y + self.drift(grad) + noise, state.t + 1), Info(value, grad)


@mutant("accepts or rejects, and says that it is differentiable", GRAPH + "|accept|reject|ValueError")
class SaysDifferentiable(Metropolis):
    differentiable = True

    def step(self, energy, state, *, create_graph=False, generator=None):
        return super().step(energy, state, generator=generator)


INFO = r"info|energy|energies|shape|taken from|report"


@mutant("energies with an axis too many", INFO)
class WideEnergies(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state, info._replace(energy=info.energy[..., None])


@mutant("one energy for all chains", INFO + "|chain")
class MeanEnergies(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state, info._replace(energy=info.energy.mean().expand_as(info.energy))


@mutant("energies of where the step ends", INFO)
class NewEnergies(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state, info._replace(energy=evaluate(energy, state.y))


@mutant("acceptance as one number", INFO + "|accept")
class AcceptanceRate(Metropolis):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state, info._replace(accepted=info.accepted.float().mean())


@mutant("float32 whatever y is", r"dtype|float32|float64|precision")
class Single(Ula):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state._replace(y=state.y.float()), info


@mutant("half precision on the way [optimiser]", r"dtype|half|float16|float32|float64|precision|lower|descen|agree|gradient")
class HalfInside(Descent):
    def step(self, energy, state, *, create_graph=False, generator=None):
        state, info = super().step(energy, state, create_graph=create_graph, generator=generator)
        return state._replace(y=state.y.half().to(state.y)), info


@mutant("uphill, without noise [optimiser]", r"lower|fall|ascen|uphill|ris|descen|sign|decreas|increas|energy|finite")
class Ascent(Descent):
    def drift(self, grad):
        return -super().drift(grad)


@mutant("no State, but a tuple", r"state|\.y|tuple|attribute")
class NoState(Ula):
    def init(self, energy, y, *, generator=None):
        return (y, 0)

    def step(self, energy, state, *, create_graph=False, generator=None):
        new, info = super().step(energy, State(*state), create_graph=create_graph, generator=generator)
        return tuple(new)[:2], info


# ---------------------------------------------------------------------------------------------- mistakes: the trajectory


@mutant("always as many steps as its own", r"steps")
class OwnSteps(Ula):
    def trajectory(self, energy, y, *, steps=None, **keywords):
        return super().trajectory(energy, y, **keywords)


@mutant("the first landscape only", r"landscape|sequence|steps|level")
class FirstOnly(Ula):
    def trajectory(self, energy, y, **keywords):
        return super().trajectory(energy[0] if isinstance(energy, list | tuple) else energy, y, **keywords)


@mutant("complains at the first iteration, not at the call", r"at the call|first iteration|lazy|late|ValueError|rais|argument")
class Late(Ula):
    def trajectory(self, energy, y, **keywords):
        yield from super().trajectory(energy, y, **keywords)


@mutant("yields inside no_grad", r"grad.mode|no_grad|grad mode|enabled|yield|gradient|graph")
class YieldsInside(Ula):
    def trajectory(self, energy, y, *, unroll="none", **keywords):
        walk = super().trajectory(energy, y, unroll=unroll, **keywords)
        return self.quietly(walk) if unroll == "none" else walk

    def quietly(self, walk):
        with torch.no_grad():
            yield from walk


@mutant("draws its step scale in eval mode [optimiser]", r"eval|scale|draw|train|random")
class ScalesInEval(Descent):
    def init(self, energy, y, *, generator=None):
        return Scaling(y)

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        scale = 0.5 + rand(value, generator) if state.scale is None else state.scale
        return Scaling(state.y - left(self.step_size * scale.detach(), grad) * grad, scale), Info(value, grad)


@mutant("a step size drawn when built, and not saved", r"drawn at construction|saved|state")
class DrawnWhenBuilt(Descent):
    def __init__(self):
        super().__init__(0.02 + 0.05 * float(torch.rand(())))


@mutant("clamps before each step, and not after [optimiser]", r"bound|inside|project|clamp")
class ClampsBefore(Descent):
    def point(self, y):
        return y.clamp(-0.5, 0.5)

    def step(self, energy, state, *, create_graph=False, generator=None):
        point = self.point(state.y)
        value, grad = energy_and_grad(energy, point, create_graph=create_graph)
        return state._replace(y=point - self.step_size * grad), Info(value, grad)


@mutant("a tuned step size that is not saved", r"tuned|saved|step size", step_size=0.1)
class ForgetsTuning(MALA):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        tuned, self.tuned = self.tuned, False
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self.tuned = tuned


@mutant("init makes another State than step [optimiser]", r"init|restored|State")
class AnotherState(Descent):
    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        velocity = (0.5 * state.velocity if isinstance(state, Moving) else 0) - self.step_size * grad
        return Moving(state.y + velocity, velocity), Info(value, grad)
