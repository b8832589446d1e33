"""Simulation-based calibration (Talts et al., 2018, arXiv 1804.06788): the truth has no place of its own among posterior draws.

θ ~ prior, data ~ p(· | θ), and L draws of the posterior by a sampler: the rank of θ among them is uniform on 0 … L. Every
replication is a chain of one trajectory, whose data are its context. Ranks are taken of each coordinate of θ, and of the
posterior's energy, which sees a wrong temperature at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import softplus

import ebm
from ebm.interfaces import Energy, Sampler
from ebm.samplers import MALA, LangevinDynamics
from tests.helpers import seeded

DRAWS = 31  # L
SEEDS, ROWS = 3, 1200  # every seed's ranks are judged on their own
DIM = 2


def noise(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Model(NamedTuple):
    """What a datum is like given θ (*rows, 2): draws of the data, and minus their log-likelihood up to a constant."""

    draw: Callable[[Tensor, torch.Generator], Tensor]
    misfit: Callable[[Tensor, Tensor], Tensor]


class Posterior(Energy):
    """E(θ | data) = |θ|²/2 − log p(data | θ)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, y, code=None):
        return y.square().sum(-1) / 2 + self.model.misfit(y, code)


MIXING = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.5, 1.5]], dtype=torch.float64)
DESIGN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [2.0, 1.0], [-1.0, 2.0]], dtype=torch.float64)


def line(theta: Tensor, generator: torch.Generator) -> Tensor:
    return theta @ MIXING.T + 0.7 * noise(*theta.shape[:-1], len(MIXING), generator=generator)


def coins(theta: Tensor, generator: torch.Generator) -> Tensor:
    chance = (theta @ DESIGN.T).sigmoid()
    return (torch.rand(chance.shape, generator=generator, dtype=torch.float64) < chance).double()


def outliers(theta: Tensor, generator: torch.Generator) -> Tensor:
    """Three observations of θ with Student's noise of two degrees of freedom: a normal over the root of an exponential."""
    shape = (*theta.shape[:-1], 3, DIM)
    exponential = -torch.log1p(-torch.rand(shape, generator=generator, dtype=torch.float64))
    return theta[..., None, :] + 0.7 * noise(*shape, generator=generator) / exponential.sqrt()


MODELS = {
    "gaussian": Model(line, lambda theta, data: (data - theta @ MIXING.T).square().sum(-1) / (2 * 0.7**2)),
    "logistic": Model(coins, lambda theta, data: (softplus(theta @ DESIGN.T) - data * (theta @ DESIGN.T)).sum(-1)),
    "student": Model(
        outliers, lambda theta, data: 1.5 * torch.log1p(((data - theta[..., None, :]) / 0.7).square() / 2).sum((-2, -1))
    ),
}


def build(name: str, **keywords: Any) -> Sampler:
    return ebm.build("sampler", name, **keywords)


class Row(NamedTuple):
    make: Callable[[], Sampler]
    thin: int  # steps between draws, at which they are all but independent


def mala() -> Sampler:
    return build("mala", step_size=0.2)


def hmc() -> Sampler:
    # Two step sizes by turns: with one, leapfrogs may come to a whole turn of a posterior, and a chain is back where it was.
    return build("hmc", step_size=lambda t: 0.3 + 0.15 * (t % 2), leapfrog_steps=4)


# "registered name/variant" -> what makes it. A sampler that leaves exp(−E) alone exactly belongs here.
EXACT = {
    "mala": Row(mala, 12),
    "random-walk": Row(lambda: build("random-walk", step_size=0.6), 24),
    "slice": Row(lambda: build("slice", step_size=1.0), 8),
    "hmc": Row(hmc, 4),
    "nuts": Row(lambda: build("nuts", step_size=0.4), 3),
    "parallel-tempering/hmc": Row(lambda: build("parallel-tempering", sampler=hmc(), temperatures=(1.0, 2.0)), 4),
}
models = pytest.mark.parametrize("name", MODELS)
USUAL = {  # others are slow
    ("mala", "gaussian"),
    ("random-walk", "gaussian"),
    ("slice", "student"),
    ("hmc", "logistic"),
    ("nuts", "student"),
    ("parallel-tempering/hmc", "student"),
}


def p_values(sampler: Sampler, name: str, thin: int, *, seeds: int = SEEDS, rows: int = ROWS, stream: int = 0) -> np.ndarray:
    """The p-values (seeds, 3) of "ranks are uniform", by Kolmogorov's test, of both coordinates and of the energy."""
    g = seeded(stream)
    theta = noise(seeds, rows, DIM, generator=g)
    energy = Posterior(MODELS[name]).given(MODELS[name].draw(theta, g))

    def seen(y: Tensor) -> Tensor:
        return torch.cat([y, energy(y)[..., None]], -1)

    truth = seen(theta)
    # A rank is an integer: a share of the place between it and the next makes it as good as continuous.
    ranks = torch.rand(truth.shape, generator=g, dtype=torch.float64)
    # Starts are draws of the prior, which know nothing of θ; a third as many steps as are used are left to forget them.
    late = thin * DRAWS // 3
    path = sampler.trajectory(energy, noise(seeds, rows, DIM, generator=g), steps=late + thin * DRAWS, generator=g)
    for index, (state, _) in enumerate(path, start=1):
        if index > late and (index - late) % thin == 0:
            ranks += seen(state.y) < truth
    share = (ranks / (DRAWS + 1)).numpy()
    return np.array([[stats.kstest(column, "uniform").pvalue for column in of_seed.T] for of_seed in share])


@pytest.mark.parametrize(
    ("label", "name"),
    [pytest.param(label, name, marks=[] if (label, name) in USUAL else [pytest.mark.slow]) for label in EXACT for name in MODELS],
)
def test_ranks_are_uniform(label, name):
    make, thin = EXACT[label]
    found = p_values(make(), name, thin)
    assert found.min() > 1e-3 / found.size, found


@pytest.mark.slow
@models
@pytest.mark.parametrize("label", EXACT)
def test_ranks_are_uniform_over_many_rows_and_seeds(label, name):
    make, thin = EXACT[label]
    found = p_values(make(), name, thin, seeds=10, rows=8000, stream=1)
    assert found.min() > 1e-3 / found.size, found
    assert min(stats.kstest(values, "uniform").pvalue for values in found.T) > 1e-3 / 3, found


class Unchecked(MALA):
    """Takes every proposal."""

    def step(self, energy, state, *, create_graph=False, generator=None):
        end, info = LangevinDynamics(self.step_size).step(energy, state, generator=generator)
        return state._replace(y=end.y), info


@models
@pytest.mark.parametrize("wrong", [MALA(0.2, temperature=1.2), Unchecked(0.25)], ids=["temperature", "unchecked"])
def test_what_is_wrong_is_found(wrong, name):
    assert p_values(wrong, name, 6, seeds=1, rows=3 * ROWS).min() < 1e-6
