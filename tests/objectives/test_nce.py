"""Laws of noise-contrastive estimation: the classifier's loss by hand, noise that is the data, known models and their log Z."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ebm
from ebm.energies import DoubleWell, Gaussian, GaussianMixture, MLPEnergy
from ebm.interfaces import Batch
from ebm.objectives import NoiseContrastiveEstimation
from ebm.objectives.nce import Noise
from tests.estimation import (
    GAUSSIAN,
    ball,
    by_differences,
    by_row,
    estimates,
    gaussian,
    gaussian_likeliest,
    gaussian_samples,
    is_zero_in_the_mean,
    recovers,
)
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

LOG_2PI = math.log(2 * math.pi)


def wide():
    """Noise as an energy: a correlated Gaussian over the plane."""
    return Gaussian(torch.tensor([0.5, 0.0], dtype=torch.float64), torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64))


@laws
@given(seed=seeds, std=st.floats(0.5, 3.0), ratio=st.integers(1, 4), log_z=st.floats(-2, 2), has_weight=st.booleans())
def test_value_and_gradient_for_a_gaussian(seed, std, ratio, log_z, has_weight):
    """With h(u) = p/(p + νq): L = −mean log h(x) − ν mean log(1 − h(y)), and its gradient that of G, by h − 1 and h."""
    data, centre, width = normal(5, 2, seed=seed), parameter(0.5, -0.3), parameter(0.2)
    weight = normal(5, seed=seed + 1).abs() if has_weight else None
    aim = NoiseContrastiveEstimation(std, ratio, log_z).double()
    loss = aim(lambda y: quadratic(y - centre) * torch.exp(-2 * width), Batch(data, weight=weight), generator=seeded(seed))

    w = torch.full((5,), 0.2, dtype=torch.float64) if weight is None else weight / weight.sum()
    noise = std * torch.randn(ratio, 5, 2, generator=seeded(seed), dtype=torch.float64)
    m, precision = centre.detach(), math.exp(-0.4)

    def h(u):
        p = torch.exp(-quadratic(u - m) * precision - aim.log_z.detach())
        return p / (p + ratio * torch.exp(-quadratic(u / std)) / (2 * math.pi * std**2))

    close(loss.value.detach(), -(w @ h(data).log() + (w * (1 - h(noise)).log()).sum()))
    at_data, at_noise = w * (h(data) - 1), w * h(noise)
    by_centre = [(at[..., None] * (u - m) * precision).reshape(-1, 2).sum(0) for at, u in ((at_data, data), (at_noise, noise))]
    close(grads(loss.value, centre)[0], by_centre[0] + by_centre[1])
    by_width = [(at * 2 * quadratic(u - m) * precision).sum() for at, u in ((at_data, data), (at_noise, noise))]
    close(grads(loss.value, width)[0], by_width[0] + by_width[1])
    close(grads(loss.value, aim.log_z)[0], -(at_data.sum() + at_noise.sum()))
    close(loss.terms["energy_data"], w @ quadratic(data - m) * precision)
    close(loss.terms["energy_noise"], (w * quadratic(noise - m).mean(0)).sum() * precision)
    close(loss.terms["accuracy"], (w @ (h(data) > 0.5).double() + (w * (h(noise) < 0.5)).mean(0).sum()) / 2)


@pytest.mark.parametrize("noise", [2.0, wide()])
@pytest.mark.parametrize("ratio", [1, 5])
def test_noise_that_is_the_model_cannot_be_told_from_it(noise, ratio):
    """p = q: h = 1/(1 + ν) everywhere, so that L = log(1 + ν) + ν log(1 + 1/ν), and log Z has no slope in the mean."""
    energy = noise if isinstance(noise, Gaussian) else lambda y: quadratic(y) / 4
    log_z = noise.log_z.item() if isinstance(noise, Gaussian) else LOG_2PI + math.log(4)
    aim = NoiseContrastiveEstimation(noise, ratio, log_z).double()
    loss = aim(energy, Batch(normal(7, 2)), generator=seeded(1))
    close(loss.value.item(), math.log(1 + ratio) + ratio * math.log(1 + 1 / ratio), rtol=1e-6)
    close(grads(loss.value, aim.log_z)[0].item(), 0.0, atol=1e-6)
    assert loss.terms["log_z"] == aim.log_z


@laws
@given(seed=seeds, constant=st.floats(-2, 2))
def test_log_z_is_a_constant_of_the_energy(seed, constant):
    energy, batch = Valley(), Batch(normal(5, 2, seed=seed), normal(5, 3, seed=seed + 1))
    one = NoiseContrastiveEstimation(log_z=constant).double()(energy, batch, generator=seeded(seed))
    other = NoiseContrastiveEstimation()(energy + (lambda y: constant + 0 * y.sum(-1)), batch, generator=seeded(seed))
    close(one.value, other.value, rtol=1e-6)


@laws
@given(seed=seeds)
def test_a_number_is_the_gaussian_of_that_deviation(seed):
    noise, y = Noise(1.7), normal(3, 5, 2, seed=seed)
    same = Gaussian(torch.zeros(2, dtype=torch.float64), 1.7**2)
    close(noise.log_density(y, (3, 5)), -same(y) - same.log_z)
    close(noise.log_density(y, (3, 5)), Noise(same).log_density(y, (3, 5)))
    assert noise.draw(4, y, (3, 5), seeded(seed)).shape == Noise(same).draw(4, y, (3, 5), seeded(seed)).shape == (4, 3, 5, 2)


@pytest.mark.parametrize("noise", [1.5, wide(), GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).double(), 2.0)])
def test_noise_has_the_density_that_it_says(noise):
    """The mean of p/q over the noise is 1, for a normalised p within it."""
    drawn = Noise(noise).draw(50_000, torch.zeros(1, 2, dtype=torch.float64), (1,), seeded())
    narrow = torch.exp(-quadratic(drawn) - LOG_2PI - Noise(noise).log_density(drawn, (50_000, 1)))
    assert is_zero_in_the_mean(narrow[:, 0] - 1)


@pytest.mark.parametrize("ratio", [1, 4])
def test_gradients_equal_differences(ratio):
    energy, batch = Valley(), Batch(normal(4, 2), normal(4, 3, seed=1), normal(4, seed=2).abs())
    aim = NoiseContrastiveEstimation(1.5, ratio).double()
    held = [*energy.parameters(), aim.log_z]
    loss = aim(energy, batch, generator=seeded())
    for one, found in zip(held, grads(loss.value, *held), strict=True):
        close(found, by_differences(aim, energy, one, batch), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ratio", [1, 4])
def test_the_truth_has_no_slope_in_the_mean(ratio):
    theta = torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64)
    data = theta[:2] + theta[2].exp() * normal(20_000, 2)
    aim = NoiseContrastiveEstimation(2.0, ratio, log_z=LOG_2PI + 0.6).double()
    assert is_zero_in_the_mean(by_row(aim, ball, theta, data))
    assert not is_zero_in_the_mean(by_row(aim, ball, theta + 0.05, data))


@pytest.mark.parametrize("noise", [2.0, wide()])
@pytest.mark.parametrize(("ratio", "worse"), [(1, 3.0), (8, 1.6)])
def test_a_gaussian_and_its_log_z_are_recovered(noise, ratio, worse):
    """log Z is each replica's own here, as a sixth parameter: that of θ is log 2π − log det L."""
    data = gaussian_samples(replicas=40, rows=600)
    log_z = torch.tensor([LOG_2PI], dtype=torch.float64) - GAUSSIAN[2] - GAUSSIAN[4]
    aim = NoiseContrastiveEstimation(noise, ratio).double()
    found = estimates(aim, lambda theta, y: gaussian(theta[..., :5], y) + theta[..., 5], torch.zeros(6).double(), data)
    best = gaussian_likeliest(data)
    best = torch.cat([best, (LOG_2PI - best[:, 2] - best[:, 4])[:, None]], 1)
    recovers(found, torch.cat([GAUSSIAN, log_z]), best, worse)


def test_the_log_z_of_a_double_well_is_learned_beside_it():
    """E = b (u² − 1)²: both numbers within four of the errors that the spread of forty fits says."""
    source = DoubleWell(dim=1, barrier=torch.tensor(1.5, dtype=torch.float64), location=1.0)
    data = source.sample(20_000, generator=seeded()).reshape(500, 40, 1)

    def well(theta, y):
        return theta[..., 0] * (y[..., 0] ** 2 - 1) ** 2 + theta[..., 1]

    truth = torch.stack([source.barrier, source.log_z])
    found = estimates(NoiseContrastiveEstimation(1.0, 4), well, torch.tensor([1.0, 0.0]).double(), data)
    assert is_zero_in_the_mean(found - truth)
    whole = estimates(NoiseContrastiveEstimation(1.0, 4), well, torch.tensor([1.0, 0.0]).double(), data.reshape(-1, 1, 1))[0]
    error = found.std(0) / math.sqrt(40)
    assert bool(((whole - truth).abs() < 4 * error).all())
    least = 1 / ((data**2 - 1) ** 2).std().item() / math.sqrt(20_000)  # maximum likelihood's, by the information Var (u² − 1)²
    assert 0.7 * least < error[0] < 3 * least


def test_a_plain_loop_trains_log_z():
    aim, scale = NoiseContrastiveEstimation(2.0, ratio=4).double(), nn.Parameter(torch.zeros((), dtype=torch.float64))
    data, g = 1.5 * normal(5000, 2), seeded(1)
    optimizer = torch.optim.Adam([scale, *aim.parameters()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        aim(lambda y: quadratic(y) * torch.exp(-2 * scale), Batch(data), generator=g).value.backward()
        optimizer.step()
    assert scale.item() == pytest.approx(math.log(1.5), abs=0.1)
    assert aim.log_z.item() == pytest.approx(LOG_2PI + 2 * math.log(1.5), abs=0.15)


def test_noise_is_paired_with_each_rows_context():
    """E(y | c) = |y − c|²/2 + far, where c is not the row's own."""
    contexts = 100.0 * torch.arange(4, dtype=torch.float64)[:, None].expand(4, 3)

    class Paired(ebm.Energy):
        def forward(self, y, code=None):
            assert y.shape[-2:] == (4, 2)
            assert code is contexts
            return quadratic(y)

    NoiseContrastiveEstimation(ratio=3)(Paired(), Batch(normal(4, 2), contexts), generator=seeded())


def test_noise_is_held_constant():
    """Were it learned, it would flee from the data, and make the task easy."""
    noise = Gaussian(nn.Parameter(torch.zeros(2).double()), torch.eye(2).double())
    loss = NoiseContrastiveEstimation(noise).double()(Valley(), Batch(normal(4, 2)), generator=seeded())
    assert grads(loss.value, noise.mean)[0].abs().sum() == 0


def test_noise_takes_the_datas_dtype_and_shape():
    picture = NoiseContrastiveEstimation(0.5)(lambda y: quadratic(y).sum((-2, -1)), Batch(torch.rand(3, 1, 4, 4)))
    assert picture.value.dtype == torch.float32
    single = NoiseContrastiveEstimation(Gaussian())
    assert single(lambda y: quadratic(y), Batch(torch.rand(3, 2))).value.dtype == torch.float32
    with pytest.raises(ValueError, match=r"Gaussian draws noise of shape \(2,\).*\(3,\)"):
        single(quadratic, Batch(torch.rand(5, 3)))


def test_a_recipe_writes_noise_as_a_number():
    table = {"task": {"use": "points", "n": 100}, "energy": {"use": "mlp"}, "objective": {"use": "nce", "noise": 1.5, "ratio": 2}}
    parts = ebm.recipes.assemble(ebm.recipes.resolve(table))
    assert parts.objective.noise.std == 1.5
    assert parts.recipe["objective"] == {"use": "nce", "noise": 1.5, "ratio": 2, "log_z": 0.0}
    assert [name for name, _ in parts.objective.named_parameters()] == ["log_z"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"noise": 0.0}, "noise 0.0"),
        ({"noise": math.inf}, "noise inf"),
        ({"noise": MLPEnergy(2)}, r"sample\(n, generator=\) and log_z"),
        ({"ratio": 0}, "ratio=0"),
        ({"log_z": math.nan}, "log_z=nan"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        NoiseContrastiveEstimation(**keywords)


def test_a_start_is_refused():
    with pytest.raises(ValueError, match="moves no chains"):
        NoiseContrastiveEstimation()(quadratic, Batch(normal(4, 2)), start=normal(4, 2))
