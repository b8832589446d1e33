"""Laws of recovery: its sampler against hand-written loops, its likelihood against the closed forms of Gaussians."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.energies import GaussianMixture
from ebm.interfaces import Batch, Energy
from ebm.objectives import DiffusionRecoveryLikelihood
from ebm.samplers import MALA, Annealed, GradientDescent, LangevinDynamics, Monotone, Recovery, ReplayAugmented
from tests.helpers import Valley, close, gradient, grads, laws, normal, parameter, quadratic, seeded, seeds

LADDER = (2.0, 1.0, 0.5)


class Normals(Energy):
    """E_l(y) = (y − m_l)² / 2 v_l in one dimension, one column of chains for each column of m and log v (levels, columns)."""

    def __init__(self, means, variances):
        super().__init__()
        self.levels = len(means)
        self.means, self.logs = nn.Parameter(means), nn.Parameter(variances.log())

    def encode(self, context=None, level=-1):
        return level

    def forward(self, y, code=None):
        level = -1 if code is None else code
        return (y.squeeze(-1) - self.means[level]) ** 2 / (2 * self.logs[level].exp())


# ---------------------------------------------------------------------------------------------------------- the sampler


@laws
@given(seed=seeds, sigma=st.lists(st.floats(0.1, 3.0), min_size=1, max_size=3))
def test_the_sampler_equals_the_loop(seed, sigma):
    """Langevin steps of size ε s² on E_l(y) + |ỹ − y|²/2s², with ỹ the end of the landscape before."""
    functions, y, g = [Valley(seed=level) for level in range(len(sigma))], normal(4, 2, seed=seed), seeded(seed)
    expected, energies = y, []
    for function, s in zip(functions, sigma, strict=True):
        noised = expected
        for _ in range(3):
            at = expected.detach().requires_grad_()
            energy = function(at) + quadratic(at - noised) / s**2
            energies.append(energy.detach())
            noise = torch.randn(4, 2, generator=g, dtype=torch.float64)
            expected = at.detach() - 0.1 * s**2 * grads(energy.sum(), at)[0] + math.sqrt(0.2) * s * noise
    path = list(Recovery(LangevinDynamics(0.1, steps=3), sigma).trajectory(functions, y, generator=seeded(seed)))
    close(path[-1][0].y, expected)
    for (_, info), energy in zip(path, energies, strict=True):
        close(info.energy, energy)


@pytest.mark.parametrize("inner", [MALA(0.5, steps=30), LangevinDynamics(0.02, steps=200)])
def test_it_samples_the_conditional(inner):
    """y ~ N(m, v) and ỹ = y + s ξ: given ỹ, y is N((s² m + v ỹ)/(v + s²), v s²/(v + s²))."""
    mean, variance, s = 1.0, 2.0, 1.5
    noised = torch.full((4000, 1), -1.0, dtype=torch.float64)
    y = Recovery(inner, s).sample(lambda y: (y - mean).square().sum(-1) / (2 * variance), noised, generator=seeded())
    among = variance * s**2 / (variance + s**2)
    expected = (s**2 * mean - variance) / (variance + s**2)
    assert y.mean().item() == pytest.approx(expected, abs=4 * math.sqrt(among / 4000))
    assert y.var().item() == pytest.approx(among, abs=(4 * math.sqrt(2 / 4000) + 0.02) * among)  # ULA's variance is 1% too large


def test_generation_goes_from_noise_to_the_data():
    """On the exact landscapes of a mixture the ends are the mixture, its weights included; the last one alone is far off."""
    weights, centres = torch.tensor([0.8, 0.2], dtype=torch.float64), torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    ladder = [4.0, 2.0, 1.0, 0.7, 0.5, 0.35]
    own = [sum(s**2 for s in ladder[level + 1 :]) for level in range(len(ladder))]
    landscapes = [GaussianMixture(centres, torch.full((2,), 0.1 + v, dtype=torch.float64), weights) for v in own]
    n, g = 4000, seeded()
    start = landscapes[-1].sample(n, generator=g) + math.sqrt(sum(s**2 for s in ladder)) * normal(n, 1, seed=1)
    moving = MALA(0.4, steps=25)
    ends = Recovery(moving, ladder).sample(landscapes, start, generator=g)
    error = math.sqrt(0.8 * 0.2 / n)
    assert (ends < 0).double().mean().item() == pytest.approx(0.8, abs=4 * error)
    assert (ends + 2)[ends < 0].var().item() == pytest.approx(0.1, abs=4 * 0.1 * math.sqrt(2 / (0.8 * n)))
    blind = moving.sample(landscapes[-1], start, generator=g)
    assert (blind < 0).double().mean().item() < 0.8 - 10 * error


def test_landscapes_and_samplers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 noise levels for 1 landscape"):
        Recovery(MALA(0.1), LADDER).trajectory(quadratic, normal(2, 2))
    for make in (Recovery, DiffusionRecoveryLikelihood):
        with pytest.raises(ValueError, match="retracts y"):
            make(GradientDescent(0.1, retraction="softmax"), 0.1)
        with pytest.raises(ValueError, match="retracts y"):
            make(Monotone(LangevinDynamics(0.1, retraction="clamp")), 0.1)
        for sigma in (0.0, [], [1.0, -1.0], math.inf):
            with pytest.raises(ValueError, match="sigma="):
                make(MALA(0.1), sigma)


@pytest.mark.parametrize("wrap", [Monotone, Annealed])
def test_it_goes_around_other_wrappers(wrap):
    y, sigma = normal(4, 3), (1.0, 0.5)
    moving = Recovery(wrap(GradientDescent(0.1, steps=2)), sigma)
    expected = y
    for s in sigma:
        noised = expected
        for _ in range(2):
            expected = expected - 0.1 * s**2 * (expected + (expected - noised) / s**2)
    close(moving.sample([quadratic, quadratic], y), expected)


# -------------------------------------------------------------------------------------------------------- the objective


@laws
@given(seed=seeds, sigma=st.floats(0.1, 2.0), has_weight=st.booleans(), given_start=st.booleans())
def test_one_level_equals_the_loop(seed, sigma, has_weight, given_start):
    energy, data, g = Valley(seed=seed), normal(5, 2, seed=seed), seeded(seed)
    context, weight = normal(5, 3, seed=seed + 1), normal(5, seed=seed + 2).abs() if has_weight else None
    batch, moving = Batch(data, context, weight), MALA(0.2, steps=4)
    noised = data + sigma * torch.randn(5, 2, generator=g, dtype=torch.float64)
    start = noised + 1 if given_start else noised
    bound = energy.given(context)
    # The conditional over y itself: MALA of step ε s² makes the same moves as one of step ε over (y − ỹ)/s.
    tied = lambda y: bound(y) + quadratic(y - noised) / sigma**2  # noqa: E731
    path = list(MALA(0.2 * sigma**2, steps=4).trajectory(tied, start, generator=g))
    samples = path[-1][0].y
    expected = batch.mean(bound(data)) - batch.mean(bound(samples))
    loss = DiffusionRecoveryLikelihood(moving, sigma)(energy, batch, start=start if given_start else None, generator=seeded(seed))
    close(loss.value, expected, rtol=1e-7, atol=1e-9)
    held = (energy.inner, energy.outer, energy.heights)
    for got, hand in zip(grads(loss.value, *held), grads(expected, *held), strict=True):
        close(got, hand, rtol=1e-7, atol=1e-9)
    close(loss.terms["energy_gap"], expected.detach(), rtol=1e-7, atol=1e-9)
    close(loss.terms["displacement"], (samples - start).norm(dim=1).mean(), rtol=1e-7, atol=1e-9)
    close(loss.terms["grad_norm"], path[-1][1].grad_norm.mean(), rtol=1e-7, atol=1e-9)
    close(loss.terms["acceptance"], torch.stack([info.accepted.double().mean() for _, info in path]).mean())


class Asked(Energy):
    """Keeps the rows that every landscape was asked for, with their contexts."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.asked = levels, []
        self.stiffness = nn.Parameter(torch.linspace(1.0, 2.0, levels, dtype=torch.float64))

    def encode(self, context=None, level=-1):
        return level, context

    def forward(self, y, code=None):
        self.asked.append((code[0], y.detach().clone(), code[1]))
        return self.stiffness[code[0]] * quadratic(y - code[1])


@laws
@given(seed=seeds, rows=st.integers(1, 7))
def test_every_row_has_the_noise_and_the_context_of_its_landscape(seed, rows):
    """Levels are so far apart, and rows farther still, that where a row is asked for tells both."""
    ladder = (1e4, 1e2, 1.0)
    own = [math.sqrt(1e4 + 1), 1.0, 0.0]
    energy, data = Asked(3), 1e8 * torch.arange(rows, dtype=torch.float64)[:, None].repeat(1, 6)
    weight = normal(rows, seed=seed).abs() + 0.1  # tells in which order energies come back
    aim = DiffusionRecoveryLikelihood(GradientDescent(1e-12, steps=1), ladder)
    loss = aim(energy, Batch(data, data, weight), generator=seeded(seed))
    first, last = energy.asked[: min(rows, 3)], energy.asked[-2 * min(rows, 3) :]
    value, seen = 0.0, {}
    for level, y, context in first:  # the chains' starts: ỹ
        away = (y - context).square().mean(1).sqrt()
        assert bool(((away / math.sqrt(own[level] ** 2 + ladder[level] ** 2)).log().abs() < 2.3).all())
        seen |= {round(row.mean().item() / 1e8): level for row in context}
    assert sorted(seen) == list(range(rows))
    for sign, part in ((1, last[: len(first)]), (-1, last[len(first) :])):
        for level, y, context in part:
            if sign > 0:
                away = (y - context).square().mean(1).sqrt()
                assert bool((away < 10 * own[level] + 1e-6).all())
                assert bool((away > 0.1 * own[level] - 1e-6).all())
            own_weight = weight[(context[:, 0] / 1e8).round().long()] / weight.sum()
            value += sign * (own_weight * energy.stiffness[level] * quadratic(y - context)).sum()
    close(loss.value, value, rtol=1e-7)


@laws
@given(seed=seeds)
def test_gradients_equal_finite_differences_where_chains_stand_still(seed):
    energy, batch = Valley(levels=3, seed=seed), Batch(normal(5, 2, seed=seed), normal(5, 3, seed=seed + 1))
    aim, start = DiffusionRecoveryLikelihood(GradientDescent(0.1, steps=0), LADDER), normal(5, 2, seed=seed + 2)
    loss = aim(energy, batch, start=start, generator=seeded(seed))
    exact = grads(loss.value, energy.inner, energy.heights)
    for held, got in zip((energy.inner, energy.heights), exact, strict=True):
        kept = held.detach().clone()

        def value(values, held=held):
            with torch.no_grad():
                held.copy_(values)
                return aim(energy, batch, start=start, generator=seeded(seed)).value

        close(got, gradient(value, kept), rtol=1e-6, atol=1e-8)
        value(kept)


def test_the_mean_gradient_is_the_closed_form():
    """Data N(μ, w), model N(m, v): with chains that arrive, dL/dm is s² (m − μ) / (v (v + s²)) on average."""
    mu, w, v, s, rows = 1.0, 1.5, 2.0, 1.2, 40_000
    centre = parameter(0.2)
    data = mu + math.sqrt(w) * normal(rows, 1)
    aim = DiffusionRecoveryLikelihood(MALA(0.5, steps=30), s)
    loss = aim(lambda y: (y - centre).square().sum(-1) / (2 * v), Batch(data), generator=seeded(1))
    expected = s**2 * (0.2 - mu) / (v * (v + s**2))
    # y⁻ − y is a y + b ξ + the conditional's own noise, with a = v/(v + s²) − 1, b = a s, and its variance v s²/(v + s²).
    spread = (s**2 / (v + s**2)) ** 2 * w + (v / (v + s**2)) ** 2 * s**2 + v * s**2 / (v + s**2)
    assert grads(loss.value, centre)[0].item() == pytest.approx(expected, abs=4 * math.sqrt(spread / rows) / v)


def fitted(energy, data, aim, steps, seed=0):
    """Trains on one data set (rows, columns, 1) with the chains drawn anew at each step, and averages the second half."""
    optimizer, g, total = torch.optim.Adam(energy.parameters(), lr=0.05), seeded(seed), None
    for step in range(steps):
        optimizer.zero_grad()
        aim(energy, Batch(data), generator=g).value.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / steps)
        if step >= steps // 2:
            held = [p.detach().clone() for p in energy.parameters()]
            total = held if total is None else [a + b for a, b in zip(total, held, strict=True)]
    return [value / (steps - steps // 2) for value in total]


def check_estimates(estimates, truth, error):
    """Estimates (repeats,): right on average within 4 standard errors, and spread as theory says, not by three halves more."""
    repeats = len(estimates)
    assert estimates.mean().item() == pytest.approx(truth, abs=4 * error / math.sqrt(repeats))
    assert 0.6 * error < estimates.std().item() < 1.5 * error


def test_it_recovers_a_gaussian_from_its_samples():
    """Forty data sets at once, a column each: the standard errors are the maximum likelihood's, √(v/n) and √(2/n) of log v."""
    mu, v, rows, repeats = 1.0, 0.5, 200, 40
    data = mu + math.sqrt(v) * normal(rows, repeats, 1)
    zero = torch.zeros(1, repeats, dtype=torch.float64)
    aim = DiffusionRecoveryLikelihood(MALA(0.4, steps=12), sigma=0.7)
    means, logs = fitted(Normals(zero.clone(), zero + 1), data, aim, steps=300)
    check_estimates(means[0], mu, math.sqrt(v / rows))
    check_estimates(logs[0], math.log(v), math.sqrt(2 / rows))
    # It is the maximum likelihood's estimate, but for what 300 steps leave of the chains' own noise.
    assert (means[0] - data.mean(0).squeeze(-1)).abs().max() < 0.6 * math.sqrt(v / rows)
    assert (logs[0] - data.var(0, correction=0).squeeze(-1).log()).abs().max() < 0.6 * math.sqrt(2 / rows)


@pytest.mark.slow
def test_it_recovers_the_landscapes_of_a_ladder():
    """Every landscape is that of its noise: variances v + s_{l+1}² + …"""
    mu, v, rows, repeats, ladder = 1.0, 0.5, 300, 20, (1.0, 0.7, 0.5)
    data = mu + math.sqrt(v) * normal(rows, repeats, 1)
    zero = torch.zeros(3, repeats, dtype=torch.float64)
    aim = DiffusionRecoveryLikelihood(MALA(0.4, steps=12), ladder)
    means, logs = fitted(Normals(zero.clone(), zero + 1), data, aim, steps=600)
    for level, own in enumerate((0.7**2 + 0.5**2, 0.5**2, 0.0)):
        for found, truth, least in (
            (means[level], mu, math.sqrt(v / rows)),
            (logs[level], math.log(v + own), math.sqrt(2 / rows) * v / (v + own)),  # the noise is drawn anew, data are not
        ):
            error = found.std().item()
            assert found.mean().item() == pytest.approx(truth, abs=4 * error / math.sqrt(repeats))
            assert 0.5 * least < error < 2 * least


def test_a_ladder_for_other_landscapes_is_refused():
    with pytest.raises(ValueError, match="2 noise levels.*3 landscapes"):
        DiffusionRecoveryLikelihood(MALA(0.1), [1.0, 0.5])(Valley(levels=3), Batch(normal(4, 2)))
    with pytest.raises(ValueError, match=r"int64.*float"):
        DiffusionRecoveryLikelihood(MALA(0.1), 0.5)(quadratic, Batch(torch.ones(4, 2, dtype=torch.long)))


def test_a_replay_buffer_that_nothing_would_start_from_is_refused():
    replay = ReplayAugmented(LangevinDynamics(0.1), capacity=8)
    for sampler in (replay, Monotone(replay)):
        with pytest.raises(ValueError, match="pass the sampler inside"):
            DiffusionRecoveryLikelihood(sampler)
