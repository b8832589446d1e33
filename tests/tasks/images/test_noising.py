"""Laws of noising: the schedule's numbers, and that measured noise is what it says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.tasks.images.noising import AdditiveNoise, NoiseSchedule
from tests.helpers import laws, seeded, seeds

SCHEDULE = NoiseSchedule()


def test_the_schedule_is_the_papers():
    assert SCHEDULE.betas[0].item() == pytest.approx(1e-4)
    assert SCHEDULE.betas[-1].item() == pytest.approx(0.02)
    for step, kept in ((99, 0.8970), (199, 0.6590)):
        assert SCHEDULE.signal[step].item() ** 2 == pytest.approx(kept, abs=5e-5)
        assert SCHEDULE.std[step].item() == pytest.approx(math.sqrt(1 - kept), abs=1e-3)
    for table in (SCHEDULE.betas, SCHEDULE.signal, SCHEDULE.std):
        assert table.shape == (1000,)
        assert table.dtype == torch.float64


@laws
@given(st.integers(21, 3000))
def test_signal_falls_and_noise_grows(steps):
    schedule = NoiseSchedule(steps)
    torch.testing.assert_close(schedule.signal**2 + schedule.std**2, torch.ones(steps, dtype=torch.float64))
    assert (schedule.std.diff() >= 0).all()
    assert 0 < schedule.betas.min() <= schedule.betas.max() < 1
    # How noisy the end is hardly depends on the number of steps.
    assert schedule.signal[-1] < 0.01


@laws
@given(st.integers(0, 999), st.sampled_from([torch.float32, torch.float64]), seeds)
def test_noise_is_as_strong_as_the_schedule_says(step, dtype, seed):
    clean = torch.rand(2, 3, 64, 64, generator=seeded(seed), dtype=dtype) * 2 - 1
    steps, noise = torch.tensor([step, 0]), torch.randn(clean.shape, generator=seeded(seed + 1), dtype=dtype)
    noised = SCHEDULE.noised(clean, steps, noise)
    assert noised.dtype == dtype
    for row, own in enumerate(steps.tolist()):
        added = noised[row] - SCHEDULE.signal[own] * clean[row]
        assert added.std().item() == pytest.approx(SCHEDULE.std[own].item(), rel=0.04)
    assert torch.equal(SCHEDULE.noised(clean, steps, torch.zeros_like(clean))[0], SCHEDULE.signal[step].to(dtype) * clean[0])


@laws
@given(st.integers(0, 999), st.floats(-0.45, 0.45))
def test_a_step_is_found_by_its_noise(step, away):
    gap = SCHEDULE.std.diff()[min(step, 998)].item() if away > 0 else SCHEDULE.std.diff()[max(step - 1, 0)].item()
    std = SCHEDULE.std[step].item() + away * gap
    if SCHEDULE.std[0] <= std <= SCHEDULE.std[-1]:
        assert SCHEDULE.step_of(std) == step


@pytest.mark.parametrize("std", [0.0, -1.0, 1.0, math.nan])
def test_noise_outside_the_schedule_is_refused(std):
    with pytest.raises(ValueError, match=rf"std={std}: the noise of this schedule has 0.01 to "):
        SCHEDULE.step_of(std)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="steps=20: a schedule needs more than 20"):
        NoiseSchedule(20)


def test_additive_noise_leaves_the_picture_and_says_its_deviation():
    noise, clean = AdditiveNoise(), torch.rand(3, 1, 4, 4) * 2 - 1
    steps, drawn = torch.tensor([0, 255, 2550]), torch.randn(3, 1, 4, 4)
    seen = noise.seen(noise.noised(clean, steps, drawn), steps)
    torch.testing.assert_close(seen.std, torch.tensor([0.0, 25.5, 255.0]) / 127.5)
    torch.testing.assert_close(seen.image, clean + seen.std[:, None, None, None] * drawn)
    assert [noise.step_of(sigma / 127.5) for sigma in (0, 0.1, 25, 255)] == [0, 1, 250, 2550]
    with pytest.raises(ValueError, match="the noise of this schedule has 0 to 2"):
        noise.step_of(2.1)
