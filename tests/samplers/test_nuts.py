"""NUTS: against a recursion that is slow and obvious, what it costs, and where its paths end."""

from functools import partial

import pytest
import torch
from torch import Tensor

from ebm.interfaces import energy_and_grad
from ebm.samplers import NUTS
from ebm.samplers.hamiltonian import Mass, Phase, leapfrogs
from ebm.samplers.nuts import leaf_by_leaf, trailing_ones
from ebm.samplers.tree import begun, doubled
from tests.helpers import close, normal, quadratic, seeded

MASS = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


def bent(y):
    return y.square().sum(-1) / 2 + (2 * y[..., 0] - y[..., 1]).sin()


def turns(points: list[Phase], mass: Mass) -> bool:
    rho = sum(point.momentum for point in points) - (points[0].momentum + points[-1].momentum) / 2
    return any(float((mass.velocity(end.momentum, 1) * rho).sum()) <= 0 for end in (points[0], points[-1]))


def turns_across(points: list[Phase], mass: Mass) -> bool:
    """Says whether a path turns back, or one of its halves with the nearest point of the other."""
    half = len(points) // 2
    return turns(points, mass) or turns(points[: half + 1], mass) or turns(points[half - 1 :], mass)


def whole(points: list[Phase], mass: Mass) -> bool:
    """Says whether neither a path of 2^j points nor any half of a half … of it turns back."""
    if len(points) == 1:
        return True
    half = len(points) // 2
    return whole(points[:half], mass) and whole(points[half:], mass) and not turns_across(points, mass)


def slowly(start: Phase, mass: Mass, step_size: float, ways: list[int]) -> tuple[list[Phase], int]:
    """Doubles one chain's path along given ways, in plain recursion: (its points in time's order, how often it doubled)."""
    points = [start]
    for depth, way in enumerate(ways):
        new, end = [], points[-1] if way > 0 else points[0]
        for _ in range(2**depth):
            end = leapfrogs(bent, end, mass, way * step_size, 1.0)
            new.append(end)
        if not whole(new, mass):
            return points, depth
        points = points + new if way > 0 else new[::-1] + points
        if turns_across(points, mass):
            return points, depth + 1
    return points, len(ways)


@pytest.mark.parametrize("mass", [None, MASS], ids=["identity", "dense"])
@pytest.mark.parametrize("seed", range(12))
def test_paths_are_those_of_the_recursion(seed, mass):
    y, mass, draws = normal(4, 2, seed=seed), Mass(mass), seeded(seed)
    start = Phase(y, mass.draw(y, 1, draws), *energy_and_grad(bent, y))
    motion, tree = begun(bent, mass, 0.25, start)
    ways, doublings = [], []
    for depth in range(6):
        asked: list[Tensor] = []

        def uniform(_, asked=asked):
            asked.append(torch.rand(4, generator=draws, dtype=y.dtype))
            return asked[-1]

        doublings.append(tree.going)
        tree, drawn = doubled(motion, tree, uniform, partial(leaf_by_leaf, 2**depth))
        assert drawn == len(asked)
        ways.append(torch.where(asked[0] < 0.5, 1, -1))
        if not tree.going.any():
            break
    for chain in range(4):
        own = [int(way[chain]) for way, going in zip(ways, doublings, strict=True) if going[chain]]
        row = slice(chain, chain + 1)
        points, depth = slowly(Phase(*(part[row] for part in start)), mass, 0.25, own)
        assert depth >= len(own) - 1
        close(tree.backward.y[row], points[0].y)
        close(tree.forward.y[row], points[-1].y)
        close(tree.total[row], sum(point.momentum for point in points))
        assert any(torch.allclose(tree.found.y[row], point.y) for point in points)
        level = points[0].value * 0 + motion.level[row]
        weights = torch.stack([level - point.value - mass.kinetic(point.momentum, 1) for point in points])
        close(tree.weight[row], weights.logsumexp(0))


def test_a_chain_costs_its_own_gradients_and_all_together_the_longest():
    calls = []

    def counted(y):
        calls.append(len(y))
        return quadratic(y)

    path = NUTS(0.3).trajectory(counted, normal(6, 2), steps=5, generator=seeded())
    for number, (_, info) in enumerate(path):
        paid, calls = len(calls) - 2 * (number == 0), []
        assert info.gradients.min() >= 1
        assert info.gradients.max() == paid


def test_paths_span_about_half_a_turn():
    """On |y|²/2 the motion turns with period 2π: paths end after π, up to a doubling. (In few dimensions some begin at one.)"""
    y = torch.randn(500, 50, generator=seeded(), dtype=torch.float64)
    ((_, info),) = NUTS(0.05).trajectory(quadratic, y, steps=1, generator=seeded())
    turned = 0.05 * info.gradients
    assert (turned > torch.pi / 2).double().mean() > 0.95
    assert turned.max() < 4 * torch.pi


def test_a_path_is_doubled_at_most_so_often():
    ((_, info),) = NUTS(1e-3, max_depth=3).trajectory(quadratic, normal(5, 2), steps=1, generator=seeded())
    assert (info.gradients == 7).all()


def test_a_fall_out_of_the_level_set_is_a_divergence_and_moves_nothing():
    y = normal(5, 2)
    ((state, info),) = NUTS(100.0).trajectory(quadratic, y, steps=1, generator=seeded())
    assert info.diverged.all()
    assert not info.accepted.any()
    assert torch.equal(state.y, y)
    assert (info.acceptance < 1e-6).all()


def test_a_wall_is_not_crossed():
    def walled(y):
        return torch.where(y[..., 0] > 0, quadratic(y), torch.inf)

    y = normal(500, 2).abs()
    end = NUTS(0.3, steps=20).sample(walled, y, generator=seeded())
    assert (end[:, 0] > 0).all()
    assert (end != y).any(-1).all()


def testtrailing_ones():
    assert [trailing_ones(number) for number in range(8)] == [0, 1, 0, 2, 0, 1, 0, 3]


def test_errors_restate_the_call():
    with pytest.raises(ValueError, match="max_depth=0: .*a path is doubled at least once"):
        NUTS(0.1, max_depth=0)
