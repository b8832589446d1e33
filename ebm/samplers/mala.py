"""MALA: Langevin proposals y' = y − ε ∇E(y) + √(2εT) ξ with a Metropolis-Hastings test."""

from __future__ import annotations

from typing import Any

from torch import Generator

from ebm.interfaces import EnergyFn, Info, energy_and_grad
from ebm.samplers.accepting import AcceptingSampler, AcceptingState, chance, finite_chains
from ebm.samplers.hamiltonian import Mass
from ebm.samplers.stepping import Scheduled, Steps, StepSize, as_scheduled, at, at_temperature_one, std_of


class MALA(AcceptingSampler):
    """Samples p ∝ exp(−E/T) exactly: Langevin proposals with a Metropolis-Hastings test per chain.

        y' = y − ε P ∇E(y) + √(2εT) P^(1/2) ξ,    P(accept) = min(1, p(y') q(y | y') / (p(y) q(y' | y))).

    It rejects proposals whose energy or gradient is not finite. A step costs one gradient, the
    first one two and an evaluation, which finds energies that are drawn anew at each call. Aim at an
    acceptance of about 0.57; `warm_up` finds ε, and P.
    Source: Roberts and Tweedie, 1996, section 1.4; P: Roberts and Stramer, 2002.

    Arguments:
        step_size: ε: a number, a tensor (*chains,), or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        preconditioner: P, about the covariance: None (identity), a positive number, a diagonal of
            the event's shape, or a matrix (d, d).
        temperature: T > 0; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.

    >>> g, normal = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2
    >>> y = MALA(step_size=0.5, steps=100).sample(normal, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 1) < 0.1
    True
    """

    stationary = at_temperature_one
    steady = True

    def __init__(
        self,
        step_size: StepSize = 0.1,
        steps: Steps = 100,
        *,
        preconditioner: Any = None,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale)
        self.preconditioner = Mass(preconditioner, name="preconditioner")
        self.temperature = as_scheduled("temperature", temperature, positive=True)

    def step(
        self, energy: EnergyFn, state: AcceptingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AcceptingState, Info]:
        y, (value, grad) = state.y, self.here(energy, state, create_graph)
        scale = self.scale(state, value, generator)
        temperature = at(self.temperature, state.t, positive=True)
        step_size, metric, chains = self.stride(state, scale, value, y), self.preconditioner, value.ndim
        noise = std_of(step_size, temperature) * metric.draw(y, chains, generator)
        proposal = y - step_size * metric.times(grad, chains) + noise
        value_new, grad_new = energy_and_grad(energy, proposal)
        # log q(y | y') − log q(y' | y): Gaussians of covariance 2εT P around one drift step.
        back = y - proposal + step_size * metric.times(grad_new, chains)
        squares = noise * metric.velocity(noise, chains) - back * metric.velocity(back, chains)
        log_ratio = (squares / (4 * temperature * step_size)).reshape(*value.shape, -1).sum(-1)
        log_ratio = log_ratio + (value - value_new) / temperature
        draw = chance(value, generator)
        accepted = (draw.log() < log_ratio) & finite_chains(value_new, grad_new)
        kept = self.settled(state, scale, accepted, (proposal, value_new, grad_new), (y, value, grad))
        return kept, Info(value, grad, accepted)
