"""Closed forms of energy diffusion, on bowls E(y) = c |y|² / 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from ebm_ired import DiffusedEnergy, EnergyDiffusion, levels
from torch import Tensor

from ebm.interfaces import Batch, Energy


def bowl(curvature: float) -> Callable[[Tensor], Tensor]:
    return lambda y: curvature * y.square().sum(-1) / 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_denoising_of_a_bowl() -> None:
    (signal, noise), curvature = levels(1)[0], 0.7
    batch = Batch(torch.full((50_000, 2), 1.5, dtype=torch.float64))
    loss = EnergyDiffusion(contrast=0.0)(bowl(curvature), batch, generator=seeded())
    # ∇E − ε = c a y* + (c s − 1) ε
    expected = (curvature * signal * 1.5) ** 2 + (curvature * noise - 1) ** 2
    assert loss.value.item() == pytest.approx(expected, rel=0.01)


def test_contrast_of_a_bowl() -> None:
    signal = levels(1)[0].signal
    batch = Batch(torch.zeros(1000, 2, dtype=torch.float64))

    def wrong(batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.ones_like(batch.target)

    # One point's energy is linear in y here, so that the noise, which both share, cancels.
    loss = EnergyDiffusion(contrast=2.0, corrupt=wrong)(lambda y: y.sum(-1), batch, generator=seeded())
    margin = torch.tensor(2 * signal, dtype=torch.float64)
    torch.testing.assert_close(loss.terms["contrast"], F.softplus(-margin))
    torch.testing.assert_close(loss.value, loss.terms["denoising"] + 2 * F.softplus(-margin))
    assert loss.terms["ranked"] == 1


class Ladder(Energy):
    """A bowl at each level, which notes what was asked for."""

    levels = 5

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def encode(self, context: Tensor | None = None, level: int = -1) -> int:
        self.seen.append((level, 0 if context is None else len(context)))
        return level

    def forward(self, y: Tensor, code: int = 0) -> Tensor:
        return y.square().sum(-1) / 2


def test_rows_are_dealt_out_evenly_over_levels_that_are_drawn() -> None:
    energy, batch = Ladder(), Batch(torch.ones(14, 2), torch.ones(14, 1))
    EnergyDiffusion(visited=4)(energy, batch, generator=seeded())
    assert sorted(count for _, count in energy.seen) == [3, 3, 4, 4]
    for seed in range(20):
        EnergyDiffusion(visited=4)(energy, batch, generator=seeded(seed))
    assert {level for level, _ in energy.seen} == set(range(5))


def test_rows_without_weight_have_no_say() -> None:
    target = torch.randn(8, 2, generator=seeded())
    weight = torch.tensor([1.0] * 4 + [0.0] * 4)
    spoiled = target.clone()
    spoiled[4:] = 1e6
    one, other = (EnergyDiffusion()(Ladder(), Batch(t, None, weight), generator=seeded()).value for t in (target, spoiled))
    assert torch.equal(one, other)
    assert EnergyDiffusion()(Ladder(), Batch(target, None, 0 * weight), generator=seeded()).value == 0


def test_it_draws_from_the_generator_alone_and_trains_every_parameter() -> None:
    energy, clues = DiffusedEnergy((1, 2), dim=4, depth=1, levels=2), torch.eye(2).expand(6, 2, 2, 2)
    batch, state = Batch(torch.randn(6, 2, 2, 2, generator=seeded()), clues), torch.get_rng_state()
    loss = EnergyDiffusion()(energy, batch, generator=seeded())
    assert torch.equal(loss.value, EnergyDiffusion()(energy, batch, generator=seeded()).value)
    assert torch.equal(state, torch.get_rng_state())
    loss.value.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in energy.parameters())
    assert not any(term.requires_grad for term in loss.terms.values())


def test_it_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="visited=0"):
        EnergyDiffusion(visited=0)
    with pytest.raises(ValueError, match="leave it out"):
        EnergyDiffusion()(bowl(1.0), Batch(torch.ones(2, 2)), start=torch.ones(2, 2))
