"""Predictor-corrector: a reverse-diffusion step to each noise level, then sampling on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, energy_and_grad, eval_mode, savable
from ebm.randomness import randn_like
from ebm.samplers.schedules import noise_levels
from ebm.samplers.wrapper import Wrapper, moved


@savable
class PredictorCorrectorState(NamedTuple):
    """The inner state, the landscape `here` with its number, and whether the predictor is due."""

    inner: Any
    here: EnergyFn | None
    level: int = 0
    due: bool = False

    @property
    def y(self) -> Tensor:
        return self.inner.y

    def __reduce__(self) -> tuple[Any, ...]:
        # A landscape is code; what goes on after loading goes on on its own one, which it is passed.
        return type(self), (self.inner, None, self.level, self.due)


class PredictorCorrector(Wrapper):
    """Draws through landscapes of falling noise σ_0 > … > σ_{L−1}, from noise of deviation σ_0.

        y ← y − (σ_{l−1}² − σ_l²) ∇E_{l−1}(y) + √(σ_{l−1}² − σ_l²) ξ

    is the first step on landscape l ≥ 1, the predictor: a step of the reverse-time diffusion
    (variance exploding). All others are correctors, the inner sampler's steps, so `steps=1` leaves
    predictors alone. Levels that lie far apart need more correctors.
    Source: Song et al., 2021 (arXiv 2011.13456), appendix G, algorithm 2.

    Arguments:
        sampler: the corrector; its `steps` per landscape include the predictor's. `Annealed` scales
            its step size by level.
        sigma: σ_0 … σ_{L−1}, falling, in the order of the landscapes (of `NoiseConditional`, or
            trained by `DenoisingScoreMatching(sigma)`).

    >>> from ebm.samplers import LangevinDynamics
    >>> sigma, g = [8.0, 4.0, 2.0, 1.0, 0.5], torch.Generator().manual_seed(0)    # data: N(0, 1)
    >>> ladder = [lambda y, s=s: y.square().sum(-1) / (2 * (1 + s**2)) for s in sigma]
    >>> sampler = PredictorCorrector(LangevinDynamics(step_size=0.1, steps=10), sigma)
    >>> y = sampler.sample(ladder, 8 * torch.randn(4000, 1, generator=g), generator=g)
    >>> abs(y.var().item() / 1.25 - 1) < 0.2
    True
    """

    stationary = False

    def __init__(self, sampler: Sampler, sigma: float | Sequence[float]) -> None:
        super().__init__(sampler)
        self.sigma = noise_levels(sigma)
        if any(low >= high for high, low in zip(self.sigma, self.sigma[1:], strict=False)):
            raise ValueError(f"sigma={[*self.sigma]}: pass levels that fall, in the order of the landscapes")

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        routed = self.sampler.route(energies)
        if len(routed) != len(self.sigma):
            raise ValueError(f"{len(self.sigma)} noise levels for {len(routed)} landscapes: pass one sigma for each")
        return routed

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> PredictorCorrectorState:
        return PredictorCorrectorState(self.sampler.init(energy, y, generator=generator), energy)

    def enter(self, energy: EnergyFn, state: PredictorCorrectorState) -> PredictorCorrectorState:
        inner = self.sampler.enter(energy, state.inner)
        # The predictor needs a generator, so it is the next step, by the old landscape's slope.
        return PredictorCorrectorState(inner, state.here, state.level + 1, due=True)

    def step(
        self, energy: EnergyFn, state: PredictorCorrectorState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[PredictorCorrectorState, Info]:
        if not state.due:
            inner, info = self.sampler.step(energy, state.inner, create_graph=create_graph, generator=generator)
            return PredictorCorrectorState(inner, energy, state.level), info
        if state.here is None:
            raise ValueError(
                "a loaded state stands between two landscapes, of which the one before is not saved: save after a step"
            )
        y = self.point(state.y)
        with eval_mode(state.here):
            value, grad = energy_and_grad(state.here, y, create_graph=create_graph)
        gained = self.sigma[state.level - 1] ** 2 - self.sigma[state.level] ** 2
        y = self.project(y - gained * grad + gained**0.5 * randn_like(y, generator))
        return PredictorCorrectorState(moved(state.inner, y), energy, state.level), Info(value, grad)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"
