"""Laws of the descent through landscapes, and of the levels that it visits."""

from __future__ import annotations

import math

import pytest
import torch
from ebm_ired import LandscapeDescent, levels
from torch import Tensor


def bowl(y: Tensor) -> Tensor:
    return y.square().sum(-1) / 2


def ripples(y: Tensor) -> Tensor:
    return y.square().sum(-1) / 2 + (5 * y).cos().sum(-1)


def start(rows: int = 6) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_levels_keep_the_variance_and_lose_noise() -> None:
    ladder = levels(10)
    assert all(math.isclose(level.signal**2 + level.noise**2, 1) for level in ladder)
    assert [level.noise for level in ladder] == sorted((level.noise for level in ladder), reverse=True)
    assert ladder[0].noise > 0.98
    assert ladder[-1].noise < 0.15


def test_a_state_is_brought_to_every_landscapes_scale() -> None:
    # Steps this long are all rejected, so that nothing but the scale moves.
    end = LandscapeDescent(step_size=1e3, steps=2).sample([bowl] * 4, start())
    ladder = levels(4)
    torch.testing.assert_close(end, start() * ladder[-1].signal / ladder[0].signal)


def test_a_step_goes_as_far_as_the_landscapes_noise() -> None:
    ladder, path = levels(2), list(LandscapeDescent(step_size=0.5, steps=1).trajectory([bowl, bowl], start()))
    torch.testing.assert_close(path[0][0].y, start() * (1 - 0.5 * ladder[0].noise))
    growth = ladder[1].signal / ladder[0].signal
    torch.testing.assert_close(path[1][0].y, path[0][0].y * growth * (1 - 0.5 * ladder[1].noise))


def test_energy_never_rises_within_a_landscape_and_some_steps_are_rejected() -> None:
    walk = LandscapeDescent(step_size=0.6, steps=8).trajectory([ripples] * 3, start(50))
    energies, accepted = zip(*((info.energy, info.accepted) for _, info in walk), strict=True)
    by_landscape = torch.stack(energies).view(3, 8, 50)
    assert bool((by_landscape.diff(dim=1) <= 0).all())
    assert 0 < torch.stack(accepted).double().mean() < 1


def test_n_steps_and_m_are_n_plus_m() -> None:
    sampler = LandscapeDescent(step_size=0.3, noise=1.0)
    *_, (state, _) = sampler.trajectory(ripples, start(), steps=3)
    assert torch.equal(sampler.sample(ripples, state, steps=2), sampler.sample(ripples, start(), steps=5))


def test_noise_comes_from_the_generator_between_landscapes_only() -> None:
    sampler = LandscapeDescent(step_size=1e3, steps=2, noise=1.0)  # whose steps are all rejected

    def ends(seed: int, count: int) -> Tensor:
        return sampler.sample([bowl] * count, torch.zeros(4000, 3), generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert torch.equal(ends(0, 2), ends(0, 2))
    assert not torch.equal(ends(0, 2), ends(1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(ends(0, 1), torch.zeros(4000, 3))
    assert ends(0, 2).std().item() == pytest.approx(levels(2)[1].noise, rel=0.03)


def test_it_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="noise=-1"):
        LandscapeDescent(noise=-1.0)
    with pytest.raises(ValueError, match="unroll"):
        LandscapeDescent().trajectory(bowl, start(), unroll="full")
    with pytest.raises(ValueError, match="levels=0"):
        levels(0)
