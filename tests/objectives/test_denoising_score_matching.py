"""Laws of denoising score matching: closed forms for Gaussians, and ladders against a loop over rows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.energies import GaussianMixture, MLPEnergy, NoiseConditional
from ebm.interfaces import Batch, Energy
from ebm.objectives import DenoisingScoreMatching
from ebm.samplers import Annealed, LangevinDynamics
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

SIGMAS = (1e2, 1.0, 1e-2)  # so far apart that the noise itself tells its level


@laws
@given(seed=seeds, sigma=st.floats(0.05, 2.0), spread=st.floats(0.5, 2.0), given_start=st.booleans())
def test_value_and_gradient_for_a_gaussian(seed, sigma, spread, given_start):
    """E = |y − m|²/2s²: the loss is mean ½ |r|² with r = σ (x + σξ − m)/s² − ξ, and its gradient −σ mean(r)/s²."""
    data, centre = normal(5, 3, seed=seed), parameter(0.5, -0.3, 0.1)
    noise = torch.randn(5, 3, generator=seeded(seed), dtype=torch.float64)
    noised = data + sigma * noise
    residual = sigma * (noised - centre.detach()) / spread**2 - noise
    loss = DenoisingScoreMatching(sigma)(
        lambda y: quadratic(y - centre) / spread**2, Batch(data), start=noised if given_start else None, generator=seeded(seed)
    )
    close(loss.value.detach(), residual.square().sum(-1).mean() / 2)
    close(grads(loss.value, centre)[0], -sigma * residual.mean(0) / spread**2)
    slope = (noised - centre.detach()) / spread**2
    close(loss.terms["grad_norm"], slope.norm(dim=1).mean())
    close(loss.terms["energy_data"], (quadratic(noised - centre.detach()) / spread**2).mean())


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("variance", [0.5, 1.0, 3.0])
def test_its_mean_over_standard_normal_data(sigma, variance):
    """½ d (σ²/v² + (σ²/v − 1)²), least where v = 1 + σ²."""
    rows = 40_000
    data = torch.randn(rows, 2, generator=seeded(), dtype=torch.float64)
    loss = DenoisingScoreMatching(sigma)(lambda y: quadratic(y) / variance, Batch(data), generator=seeded(1)).value.item()
    per_axis = sigma**2 / variance**2 + (sigma**2 / variance - 1) ** 2
    assert loss == pytest.approx(per_axis, abs=4 * per_axis / math.sqrt(rows))  # a sum of two ½ r², r normal


class Ladder(Energy):
    """E_l(y | c) = |y − c|² / 2v_l, which records the rows that every level was asked for."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.asked = levels, []
        self.variances = nn.Parameter(torch.linspace(1.0, 2.0, levels, dtype=torch.float64))

    def encode(self, context=None, level=-1):
        return level, 0.0 if context is None else context

    def forward(self, y, code=None):
        level, shift = code
        self.asked.append((level, y.detach().clone(), shift))
        return quadratic(y - shift) / self.variances[level]


@pytest.mark.parametrize("levels", [1, 3])
@laws
@given(seed=seeds, rows=st.integers(1, 8), has_weight=st.booleans(), has_context=st.booleans())
def test_a_ladder_equals_the_loop_over_rows(levels, seed, rows, has_weight, has_context):
    energy = Ladder(levels)
    # Rows are a million apart, so that a noised row is known by where it is.
    data = 1e6 * torch.arange(rows, dtype=torch.float64)[:, None] + normal(rows, 6, seed=seed)
    context = data + normal(rows, 6, seed=seed + 1) if has_context else None
    weight = normal(rows, seed=seed + 2).abs() + 0.1 if has_weight else None
    loss = DenoisingScoreMatching(SIGMAS)(energy, Batch(data, context, weight), generator=seeded(seed))

    expected, used = {}, []
    for level, noised, shifts in energy.asked:
        for place, y in enumerate(noised):
            row = round(y.mean().item() / 1e6)
            away = (y - data[row]).square().mean().sqrt().item()
            sigma = min(SIGMAS, key=lambda s: abs(math.log(away / s)))
            if levels > 1:
                assert sigma == SIGMAS[level]
            if has_context:
                assert torch.equal(shifts[place], context[row])
            noise = (y - data[row]) / sigma
            slope = (y - (context[row] if has_context else 0.0)) / energy.variances[level]
            expected[row] = (sigma * slope - noise).square().sum() / 2
            used.append(sigma)
    assert sorted(expected) == list(range(rows))
    counts = [used.count(sigma) for sigma in SIGMAS]
    assert max(counts) - min(counts) <= 1
    weights = torch.ones(rows, dtype=torch.float64) if weight is None else weight
    value = sum(weights[row] * expected[row] for row in range(rows)) / weights.sum()
    close(loss.value, value, rtol=1e-6)  # the noise is read off far-away rows
    close(grads(loss.value, energy.variances)[0], grads(value, energy.variances)[0], rtol=1e-6)


def test_the_levels_of_rows_change_from_batch_to_batch():
    energy, aim, found = Ladder(3), DenoisingScoreMatching(SIGMAS), []
    data = 1e6 * torch.arange(6, dtype=torch.float64)[:, None] + normal(6, 6)
    for seed in range(20):
        energy.asked.clear()
        aim(energy, Batch(data), generator=seeded(seed))
        found.append({round(y.mean().item() / 1e6): level for level, rows, _ in energy.asked for y in rows})
    for row in range(6):
        assert {levels[row] for levels in found} == {0, 1, 2}


def test_terms_of_a_ladder():
    loss = DenoisingScoreMatching(SIGMAS)(Ladder(3), Batch(normal(9, 2)), generator=seeded())
    assert set(loss.terms) == {"energy_data", "grad_norm", "loss_0", "loss_1", "loss_2"}
    close(loss.value.detach(), sum(loss.terms[f"loss_{level}"] for level in range(3)) / 3)
    single = DenoisingScoreMatching(SIGMAS)(quadratic, Batch(normal(9, 2)), generator=seeded())
    assert set(single.terms) == {"energy_data", "grad_norm"}


def test_terms_of_a_ladder_are_weighted_as_the_loss_is():
    weight = torch.tensor([1.0, 0.0] * 6, dtype=torch.float64)
    data = normal(12, 2)
    data[1::2] = 1e3  # masked rows, far off
    loss = DenoisingScoreMatching(SIGMAS)(Ladder(3), Batch(data, weight=weight), generator=seeded())
    assert all(loss.terms[f"loss_{level}"] <= 12 * loss.value.detach() for level in range(3))


@pytest.mark.parametrize("energy", [Valley(), quadratic])
def test_chains_may_have_several_axes(energy):
    data, context, weight = normal(2, 3, 2), normal(2, 3, 3), normal(2, 3).abs()
    loss = DenoisingScoreMatching((1.0, 0.5))(energy, Batch(data, context, weight), generator=seeded())
    assert loss.value.shape == ()
    flat = DenoisingScoreMatching(0.5)(energy, Batch(data, context, weight), start=data + 0.5 * normal(2, 3, 2, seed=5))
    one = Batch(data.flatten(0, 1), context.flatten(0, 1), weight.flatten())
    start = one.target + 0.5 * normal(2, 3, 2, seed=5).flatten(0, 1)
    close(flat.value, DenoisingScoreMatching(0.5)(energy, one, start=start).value)


# ------------------------------------------------------------------------- noise-conditional score networks, and what they draw

LEVELS = [4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35]  # falling by √2
HEAVY, AWAY, WIDTH = 0.8, 2.0, 0.3  # 0.8 N(−2, 0.3²) + 0.2 N(2, 0.3²)


class Noised(Energy):
    """A mixture of two normals on a line, in landscape l with noise σ_l: weights, means and width are learned."""

    def __init__(self, sigma, logit=0.0, means=(-1.0, 1.0), width=1.0):
        super().__init__()
        self.sigma, self.levels = sigma, len(sigma)
        self.logit, self.means, self.log_width = parameter(logit), parameter(*means), parameter(math.log(width))

    def encode(self, context=None, level=-1):
        return self.sigma[level]

    def forward(self, y, code=None):
        variance = (2 * self.log_width).exp() + code**2
        logs = torch.nn.functional.logsigmoid(torch.stack([self.logit, -self.logit]))
        return -(logs - (y - self.means) ** 2 / (2 * variance) - variance.log() / 2).logsumexp(-1)


def two_modes(rows, seed):
    left = torch.rand(rows, generator=seeded(seed)) < HEAVY
    return torch.where(left, -AWAY, AWAY)[:, None].double() + WIDTH * normal(rows, 1, seed=seed + 1)


def test_a_ladder_recovers_a_mixture_from_its_samples():
    """Of sixteen data sets: weights, means and width on average within 4 standard errors, and these near the data's own."""
    rows, repeats, found = 1000, 16, []
    aim = DenoisingScoreMatching([4.0, 2.0, 1.0, 0.5])
    for seed in range(repeats):
        energy, batch = Noised(aim.sigma), Batch(two_modes(rows, 10 * seed))
        optimizer = torch.optim.LBFGS(energy.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure(energy=energy, batch=batch, optimizer=optimizer, seed=seed):
            optimizer.zero_grad()
            value = aim(energy, batch, generator=seeded(seed)).value
            value.backward()
            return value

        optimizer.step(closure)
        found.append([energy.logit.sigmoid().item(), *energy.means.tolist(), energy.log_width.exp().item()])
    found = torch.tensor(found, dtype=torch.float64)
    error = found.std(0) / math.sqrt(repeats)
    assert bool(((found.mean(0) - torch.tensor([HEAVY, -AWAY, AWAY, WIDTH])).abs() < 4 * error).all())
    light = 1 - HEAVY
    own = torch.tensor([(HEAVY * light) ** 0.5, WIDTH / HEAVY**0.5, WIDTH / light**0.5, WIDTH / 2**0.5])
    assert bool((error < 6 * own / math.sqrt(rows * repeats)).all())  # of means over the data, whose parts are known


def annealed(steps=300):
    scales = [(level / LEVELS[-1]) ** 2 for level in LEVELS]
    return Annealed(LangevinDynamics(0.05 * LEVELS[-1] ** 2, steps=steps), step_scales=scales)


def test_annealed_langevin_dynamics_finds_the_weights_that_the_last_landscape_alone_does_not():
    n, moving = 4000, annealed()  # with 60 steps a level the modes part too early, and 0.03 of the weight is lost
    start, energy = LEVELS[0] * normal(n, 1), Noised(LEVELS, math.log(HEAVY / (1 - HEAVY)), (-AWAY, AWAY), WIDTH)
    ends = moving.sample(energy.landscapes(), start, generator=seeded())
    error = math.sqrt(HEAVY * (1 - HEAVY) / n)
    assert (ends < 0).double().mean().item() == pytest.approx(HEAVY, abs=4 * error)
    alone = moving.sampler.sample(energy.given(), start, steps=300 * len(LEVELS), generator=seeded())
    assert (alone < 0).double().mean().item() < HEAVY - 10 * error


@pytest.mark.slow
def test_a_network_over_noise_levels_learns_a_mixture_and_its_weights():
    """NCSN from end to end: one perceptron divided by the levels, trained on the ladder, sampled by annealing."""
    centres = torch.tensor([[-AWAY, 0.0], [AWAY, 0.0]])
    data = GaussianMixture(centres, torch.full((2, 2), WIDTH**2), torch.tensor([HEAVY, 1 - HEAVY]))
    torch.manual_seed(0)
    energy, aim, g = NoiseConditional(MLPEnergy(2), LEVELS), DenoisingScoreMatching(LEVELS), seeded()
    optimizer = torch.optim.Adam(energy.parameters(), lr=2e-3)
    for _ in range(2500):
        optimizer.zero_grad()
        aim(energy, Batch(data.sample(256, generator=g)), generator=g).value.backward()
        optimizer.step()
    start = LEVELS[0] * torch.randn(2000, 2, generator=g)
    ends = annealed(steps=100).sample(energy.landscapes(), start, generator=g)
    assert (ends[:, 0] < 0).float().mean().item() == pytest.approx(HEAVY, abs=0.1)


@pytest.mark.parametrize("sigma", [0.0, -1.0, [], [1.0, 0.0], math.nan, math.inf])
def test_noise_levels_that_cannot_work_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma="):
        DenoisingScoreMatching(sigma)


def test_ladders_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"2 noise levels.*3 landscapes"):
        DenoisingScoreMatching([1.0, 0.5])(Ladder(3), Batch(normal(4, 2)))
    with pytest.raises(ValueError, match="ladder"):
        DenoisingScoreMatching([1.0, 0.5])(quadratic, Batch(normal(4, 2)), start=normal(4, 2))


def test_integer_data_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"int64.*float"):
        DenoisingScoreMatching(0.1)(quadratic, Batch(torch.ones(4, 2, dtype=torch.long)))
