"""The gradient-step energy of a transformer: its step, its seams, and what it is told of the noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.energies import GradientStepEBT
from ebm.interfaces import Batch, energy_and_grad, evaluate
from ebm.objectives import InTurn, Reconstruction
from ebm.samplers import FixedPoint, GradientDescent
from ebm.tasks.images.noising import AdditiveNoise, NoiseSchedule, Noisy
from tests.energies.test_laws import stirred
from tests.helpers import close, laws, normal, seeds


def make(size=(4, 6), patch=2, channels=2, seed=0, **options):
    torch.manual_seed(seed)
    return stirred(GradientStepEBT(size, patch, channels, dim=8, depth=2, heads=2, **options)).double()


@laws
@given(
    seed=seeds,
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    patch=st.integers(1, 3),
    channels=st.integers(1, 4),
    overlap=st.integers(0, 4),
)
def test_any_size_that_patches_divide_and_any_channels(seed, rows, columns, patch, channels, overlap):
    size = (patch * rows, patch * columns)
    energy, y = make(size, patch, channels, overlap=overlap), normal(3, 2, channels, *size, seed=seed)
    code = energy.encode(torch.tensor([0.1, 0.4], dtype=torch.float64))
    assert energy.patch_energies(y, code).shape == (3, 2, rows, columns)
    close(energy.patch_energies(y, code).sum((-2, -1)), energy(y, code))
    assert [found.shape for found in energy.representations(y[0])] == [(2, 32)] * 3


@laws
@given(seed=seeds)
def test_a_picture_s_energy_and_gradient_are_its_own(seed):
    energy, y, std = make(), normal(4, 3, 2, 4, 6, seed=seed), torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    together, grads = energy_and_grad(energy.given(std), y)
    for row in range(3):
        alone, grad = energy_and_grad(energy.given(std[row].item()), y[1, row : row + 1])
        close(alone[0], together[1, row])
        close(grad[0], grads[1, row])


def test_a_step_takes_the_residual_off_through_its_jacobian():
    """y⁺ = y − Jᵀ R: the oracle computes J whole."""
    energy, y = make(), normal(1, 2, 4, 6, seed=3)
    code = energy.encode(0.3)
    jacobian = torch.autograd.functional.jacobian(lambda y: energy.noise(y, code), y).reshape(48, 48)
    noise = energy.noise(y, code).detach()
    close(evaluate(energy.given(0.3), y), noise.square().sum((1, 2, 3)) / 2)
    moved = GradientDescent(float(energy.natural_step)).sample(energy.given(0.3), y)
    close(moved.flatten(), y.flatten() - jacobian.T @ noise.flatten())
    close(FixedPoint().sample(energy.given(0.3), y), y - noise)


@laws
@given(seed=seeds, candidates=st.integers(1, 2))
def test_colours_apart_are_the_greys_energies_of_three_axes(seed, candidates):
    """The oracle weighs the axes by hand, and lets a network of greys of the same weights see each alone."""
    grey, colour = make(channels=1, seed=seed), make(channels=3, seed=seed, colours="apart")
    colour.load_state_dict(grey.state_dict())
    y, std = normal(candidates, 2, 3, 4, 6, seed=seed), torch.tensor([0.1, 0.4], dtype=torch.float64)
    axes = [[3**-0.5] * 3, [2**-0.5, 0, -(2**-0.5)], [6**-0.5, -2 * 6**-0.5, 6**-0.5]]
    seen = [sum(weight * y[:, :, [channel]] for channel, weight in enumerate(axis)) for axis in axes]
    alone = [grey.noise(axis, grey.encode(std)) for axis in seen]
    expected = sum(part * torch.tensor(axis, dtype=torch.float64).view(3, 1, 1) for part, axis in zip(alone, axes, strict=True))
    close(colour.noise(y, colour.encode(std)), expected)
    close(colour.given(std)(y), sum(grey.given(std)(axis) for axis in seen))
    close(colour.given(std)(y[:, :, :1]), grey.given(std)(y[:, :, :1]))  # greys are seen as they are
    features = [grey.representations(axis[0]) for axis in seen]
    for depth, found in enumerate(colour.representations(y[0])):
        close(found, torch.cat([axis[depth] for axis in features], -1))


def test_no_noise_moves_nothing_and_weak_noise_little():
    energy, y = make(), normal(2, 2, 4, 6)
    steps = [(GradientDescent(1.0).sample(energy.given(std), y) - y).abs().max() for std in (0.0, 1e-3, 0.1)]
    assert steps[0] == 0
    assert 0 < steps[1] < 0.05 * steps[2]


def test_contexts_of_both_kinds_of_noise_say_their_deviation():
    energy, y = make(strongest=0.4), normal(2, 2, 4, 6)
    schedule, steps = NoiseSchedule(), torch.tensor([99, 9])
    knowing = make(strongest=0.4, deviations=schedule.std.tolist())
    close(knowing.given(Noisy(y, steps))(y), energy.given(schedule.std[steps])(y), rtol=1e-5)  # a table in float32
    close(knowing.given(0.1)(y), energy.given(0.1)(y))
    close(energy.given(AdditiveNoise().seen(y, steps))(y), energy.given(steps.double() / 1275)(y))
    assert not torch.allclose(energy.given(0.1)(y), energy.given(0.2)(y))
    close(energy.given(0.9)(y), energy.given(0.4)(y))  # stronger noise counts as the strongest
    close(make(levels=2, decay=0.3).landscapes(0.5)[1](y), make().given(0.15)(y))
    for context in (None, Noisy(y, steps)):
        with pytest.raises(ValueError, match="says no deviation"):
            energy.given(context)


def test_windows_add_up_as_a_slow_sum_says():
    """U is the sum of what tokens predict of their windows; what falls beyond the edge is left out."""
    energy, side, overlap = make((4, 6), 2, 1, overlap=1), 2, 1
    tokens = normal(1, 6, 8)
    expected = torch.zeros(1, 1, 4 + 2 * overlap, 6 + 2 * overlap, dtype=torch.float64)
    for place in range(6):
        row, column = side * (place // 3), side * (place % 3)
        window = (energy.stream.head.weight @ tokens[0, place]).reshape(4, 4)
        expected[0, 0, row : row + 4, column : column + 4] += window
    close(energy.stream.pictured(tokens), expected[..., 1:-1, 1:-1])


def test_a_token_reads_around_its_patch():
    energy, y = make((4, 8), 4, 1, overlap=1), normal(1, 1, 4, 8)
    there = y.clone()
    there[..., 3] += 1.0  # the last column of the first patch, which the second one's window holds
    moved = (energy.stream.patches(there) - energy.stream.patches(y)).abs().sum(-1)
    assert moved[0, 1] > 1e-4
    there = y.clone()
    there[..., 2] += 1.0
    close(energy.stream.patches(there)[0, 1], energy.stream.patches(y)[0, 1])


def test_it_learns_to_take_noise_off_first_as_a_network_then_as_an_energy():
    torch.manual_seed(0)
    schedule = NoiseSchedule()
    energy = GradientStepEBT(4, 2, 1, dim=16, depth=1, heads=2, overlap=1, deviations=schedule.std.tolist())

    def start(batch, generator=None):
        return batch.context.image

    def distance(y, batch):
        return (y - batch.target).square().mean((-3, -2, -1))

    how = {"start": start, "distance": distance}
    objective = InTurn([Reconstruction(FixedPoint(), **how), Reconstruction(GradientDescent(1.0), **how)], steps=[60])
    optimizer = torch.optim.Adam(energy.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        clean = torch.rand(16, 1, 1, 1, generator=generator).mul(2).sub(1).expand(16, 1, 4, 4)
        step = torch.full((16,), 129)
        seen = schedule.noised(clean, step, torch.randn(clean.shape, generator=generator))
        loss = objective(energy, Batch(clean, schedule.seen(seen, step)))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.value < 0.04  # a quarter of the noise's variance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (4, 5)}, r"image_size=\(4, 5\), patch_size=2.*patches tile the image"),
        ({"patch": 0}, "patch_size=0"),
        ({"overlap": -1}, "overlap=-1"),
        ({"levels": 0}, "levels=0"),
        ({"strongest": -1.0}, "strongest=-1.0"),
        ({"colours": "apart"}, "channels=2: choose together, or with 3 channels apart"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_another_shape_or_no_context_is_refused_at_the_call():
    with pytest.raises(ValueError, match=r"y has shape \(1, 2, 4, 5\).*scores \(\*chains, 2, 4, 6\)"):
        make().given(0.1)(normal(1, 2, 4, 5))
    with pytest.raises(ValueError, match="bind it"):
        make()(normal(1, 2, 4, 6))
