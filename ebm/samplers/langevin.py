"""Langevin dynamics (ULA): y⁺ = y − ε ∇E(y) + σ ξ, with σ = √(2εT)."""

from __future__ import annotations

from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, State, energy_and_grad
from ebm.samplers.retractions import Retraction
from ebm.samplers.stepping import Scheduled, SteppingSampler, Steps, StepSize, as_scheduled, at, plus, std_of


class LangevinDynamics(SteppingSampler):
    """Samples p ∝ exp(−E/T) by unadjusted Langevin dynamics (ULA), or with decoupled noise.

        y⁺ = p − ε ∇E(p) + σ ξ,    p = retraction(y),    σ = √(2εT) unless noise_std gives σ.

    The stationary distribution has a bias of O(ε), which `MALA` removes. With noise_std (image EBMs
    use a large ε and a small σ) the effective temperature is σ²/(2ε). Source: Roberts and Tweedie,
    1996, eq. (8); decoupled noise: Nijkamp et al., 2019 (arXiv 1904.09770), eq. (6).

    Arguments:
        step_size: ε: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        temperature: T; a number or a schedule.
        noise_std: σ, a number or a schedule, independent of ε and T; None means √(2εT).
        retraction: "softmax", "clamp" (to [-1, 1]) or a function R, applied before each step. One
            that projects (R(R(y)) = R(y), as a clamp does) is applied after it, too: states and
            samples lie in its image. Under another (softmax, tanh) they are raw; take `point(y)`.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.
        learnable: makes the step size a parameter.
        grad_clip: clamps every entry of the gradient to [-grad_clip, grad_clip].

    >>> g, normal = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2
    >>> y = LangevinDynamics(0.1, steps=200).sample(normal, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 1 / (1 - 0.1 / 2)) < 0.1    # ULA's variance on a standard normal
    True
    """

    steady = True

    def __init__(
        self,
        step_size: StepSize = 0.1,
        steps: Steps = 100,
        *,
        temperature: Scheduled = 1.0,
        noise_std: Scheduled | None = None,
        retraction: str | Retraction | None = None,
        step_scale: float = 1.0,
        learnable: bool = False,
        grad_clip: float | None = None,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale, learnable=learnable, retraction=retraction, grad_clip=grad_clip)
        self.temperature = as_scheduled("temperature", temperature)
        self.noise_std = None if noise_std is None else as_scheduled("noise_std", noise_std)

    @property
    def stationary(self) -> bool:  # type: ignore[override]
        plain = self.noise_std is None and self.retraction is None and self.grad_clip is None
        return plain and self.temperature == 1

    def step(
        self, energy: EnergyFn, state: State, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[State, Info]:
        point = self.point(state.y)
        value, grad = energy_and_grad(energy, point, create_graph=create_graph)
        scale = self.scale(state, value, generator)
        step_size = self.stride(state, scale, value, point)
        std = at(self.noise_std, state.t)
        if std is None:
            std = std_of(step_size, at(self.temperature, state.t))
        y = plus(point, -step_size, self.clipped(grad))
        if isinstance(std, Tensor) or std:
            noise = self.normals(point, generator)
            y = y.addcmul_(std, noise) if isinstance(std, Tensor) else y.add_(noise, alpha=std)
        return State(y if self.retraction is None else self.project(y), state.t + 1, scale, state.gain), Info(value, grad)
