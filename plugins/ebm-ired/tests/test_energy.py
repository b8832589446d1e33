"""Laws of the energies."""

from __future__ import annotations

import pytest
import torch
from ebm_ired import DiffusedEnergy, FeedForward
from torch import Tensor

BOX, SIDE = (1, 2), 2


@pytest.fixture
def energy() -> DiffusedEnergy:
    torch.manual_seed(0)
    made = DiffusedEnergy(BOX, dim=5, depth=2, levels=3).double()
    torch.nn.init.normal_(made.head.weight)  # so that what lies under the bowl counts
    return made


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clues(rows: int) -> Tensor:
    found = torch.zeros(rows, SIDE, SIDE, SIDE, dtype=torch.float64)
    found[::2, 0, 0, 1] = 1
    return found


def test_one_energy_a_chain_for_any_candidates(energy: DiffusedEnergy) -> None:
    function, y = energy.given(clues(3), 0), draw(4, 2, 3)
    assert function(y).shape == (4, 2, 3)
    assert torch.allclose(function(y)[1, 1], function(y[1, 1]))


def test_chains_are_independent(energy: DiffusedEnergy) -> None:
    y, context = draw(4), clues(4)
    before = energy.given(context)(y)
    y[2] += 1.0
    context[2] = 0
    context[2, 1, 1, 0] = 1
    after = energy.given(context)(y)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert before[2] != after[2]


def test_first_and_second_derivatives(energy: DiffusedEnergy) -> None:
    for level in range(3):
        function, y = energy.given(clues(2), level), draw(2).requires_grad_()
        assert torch.autograd.gradcheck(function, y)
        assert torch.autograd.gradgradcheck(function, y)


def test_levels_differ_and_are_all_known(energy: DiffusedEnergy) -> None:
    values = torch.stack([function(draw(2)) for function in energy.landscapes(clues(2))])
    assert len(values) == 3
    assert not torch.allclose(values[0], values[1])
    with pytest.raises(ValueError, match="level 3"):
        energy.given(clues(2), 3)


def test_a_guess_of_nothing_is_a_bowl(energy: DiffusedEnergy) -> None:
    torch.nn.init.zeros_(energy.head.weight)
    y, code = draw(2), energy.encode(clues(2), 1)
    assert torch.allclose(energy(y, code), y.square().sum((1, 2, 3)) / 2 / code.level.noise)


def test_digits_and_lines_have_no_names(energy: DiffusedEnergy) -> None:
    y, context = draw(3), clues(3)
    for axis in (-1, -2, -3):  # with boxes of 1 x 2, rows and (within their box) columns may change places, too
        assert torch.allclose(energy.given(context)(y), energy.given(context.flip(axis))(y.flip(axis)))


@pytest.mark.parametrize("make", [DiffusedEnergy, FeedForward])
def test_every_parameter_gets_a_gradient(make: type) -> None:
    made = make(BOX, dim=5, depth=2).double()
    y = draw(2).requires_grad_()
    value = made.given(clues(2))(y)
    (slope,) = torch.autograd.grad(value.sum(), y, create_graph=True)
    (value.sum() + slope.square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.parameters())


def test_wrong_shapes_restate_the_call(energy: DiffusedEnergy) -> None:
    with pytest.raises(ValueError, match=r"scores \(\*chains, 2, 2, 2\)"):
        energy(draw(2)[..., :1], energy.encode(clues(2)))
    with pytest.raises(ValueError, match="pass clues"):
        energy.encode(None)
    with pytest.raises(ValueError, match="depth=0"):
        DiffusedEnergy(depth=0)
