"""Structured states: a tree of tensors moves as its flat vector does, whatever the sampler."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.energies import Constrained
from ebm.interfaces import Packing
from ebm.samplers import HMC, MALA, NUTS, Annealed, Conditioned, GradientDescent, LangevinDynamics, Structured
from tests.helpers import SAMPLERS, Valley, close, laws, normal, quadratic, sampler, seeded, seeds


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


def tree(chains=4, seed=0):
    return {"a": (normal(chains, seed=seed + 1), [normal(chains, 2, seed=seed + 2)]), "b": normal(chains, 2, 3, seed=seed)}


def joint(y):
    one, (two,) = y["a"]
    return y["b"].square().sum((-2, -1)) / 2 + (one - two.sum(-1)).square() + one.cos() + two.square().sum(-1) * 2


def flat(z):
    """The same energy written for the vector (a.0, a.1.0, b), by hand."""
    one, two, three = z[..., 0], z[..., 1:3], z[..., 3:9]
    return three.square().sum(-1) / 2 + (one - two.sum(-1)).square() + one.cos() + two.square().sum(-1) * 2


def by_hand(y):
    return torch.cat([y["a"][0][:, None], y["a"][1][0], y["b"].flatten(1)], -1)


# Softmaxes run along an axis, which a flat vector does not have.
MOVING = [label for label in SAMPLERS if not any(word in label for word in ("softmax", "mirror", "cooled"))]


@pytest.mark.parametrize("label", MOVING)
def test_every_sampler_moves_a_tree_as_its_vector(label):
    if label.startswith(("structured", "conditioned")):
        return
    y = tree()
    whole = [state.y for state, _ in Structured(sampler(label)).trajectory(joint, y, generator=seeded())]
    expected = list(sampler(label).trajectory(flat, by_hand(y), generator=seeded()))
    assert len(whole) == len(expected)
    for got, (state, _) in zip(whole, expected, strict=True):
        assert torch.equal(by_hand(got), state.y)
    end = Structured(sampler(label)).sample(joint, y, generator=seeded())
    assert torch.equal(by_hand(end), expected[-1][0].y)


@laws
@given(seeds, st.integers(0, 3), st.integers(0, 3))
def test_n_steps_and_then_m_are_n_plus_m(seed, n, m):
    moving, one, other = Structured(MALA(0.1)), seeded(seed), seeded(seed)
    whole = [state.y for state, _ in moving.trajectory(joint, tree(seed=seed), steps=n + m, generator=one)]
    parts = list(moving.trajectory(joint, tree(seed=seed), steps=n, generator=other))
    parts += moving.trajectory(joint, parts[-1][0] if parts else tree(seed=seed), steps=m, generator=other)
    assert all(torch.equal(by_hand(a), by_hand(b.y)) for a, (b, _) in zip(whole, parts, strict=True))


def test_steps_by_hand_are_those_of_a_trajectory():
    moving, g = Structured(MALA(0.1)), seeded()
    state = moving.init(joint, tree())
    for expected, _ in moving.trajectory(joint, tree(), steps=3, generator=seeded()):
        state, _ = moving.step(joint, state, generator=g)
        assert torch.equal(by_hand(state.y), by_hand(expected.y))


@pytest.mark.parametrize("kind", [tuple, list, lambda pair: Pair(*pair), lambda pair: dict(zip("ab", pair, strict=True))])
def test_the_same_kind_of_tree_comes_back(kind):
    start = kind((normal(5), normal(5, 2)))

    def energy(y):
        one, two = y.values() if isinstance(y, dict) else y
        return one.square() + two.square().sum(-1)

    end = Structured(MALA(0.1, steps=3)).sample(energy, start, generator=seeded())
    assert type(end) is type(start)
    one, two = end.values() if isinstance(end, dict) else end
    assert (one.shape, two.shape) == ((5,), (5, 2))


@laws
@given(seeds, st.integers(0, 2))
def test_packing_there_and_back(seed, more):
    y = tree(seed=seed)
    packing = Packing.of(y)
    assert packing.names == ("a.0", "a.1.0", "b")
    assert len(packing.labels()) == 9
    z = normal(*[2] * more, 4, 9, seed=seed)
    assert torch.equal(packing.pack(packing.unpack(z)), z)
    again = packing.unpack(packing.pack(y))
    assert torch.equal(by_hand(again), by_hand(y))
    assert torch.equal(packing.pack({"b": y["b"], "a": y["a"]}), by_hand(y))
    close(packing.energy(joint)(z), torch.stack([*map(joint, map(packing.unpack, z.reshape(-1, 9)))]).reshape(z.shape[:-1]))


def test_contexts_and_landscapes_are_the_energys():
    class Tree(Valley):
        def forward(self, y, code=None):
            return super().forward(torch.stack([y["a"], y["b"]], -1), code)

    y, context = {"a": normal(5), "b": normal(5, seed=1)}, normal(5, 3)
    energy = Tree(levels=2)
    packed = Packing.of(y).energy(energy)
    assert packed.levels == 2
    flat = Packing.of(y).pack(y)
    for level in range(2):
        close(packed.given(context, level)(flat), energy.given(context, level)(y))
    end = Structured(Annealed(LangevinDynamics(0.01, steps=2))).sample(energy.landscapes(context), y, generator=seeded())
    plain = Valley(levels=2)
    close(Packing.of(y).pack(end), LangevinDynamics(0.01, steps=2).sample(plain.landscapes(context), flat, generator=seeded()))


def test_modules_run_in_eval_mode():
    class Noted(Valley):
        modes: tuple[bool, ...] = ()

        def forward(self, y, code=None):
            self.modes = (*self.modes, self.training)
            return super().forward(y["a"], code)

    energy = Noted()
    Structured(MALA(0.1, steps=2)).sample(energy, {"a": normal(3, 2)}, generator=seeded())
    assert energy.modes
    assert not any(energy.modes)
    assert energy.training


def test_it_composes_with_constraints_and_with_parts_that_stay_still():
    law = torch.distributions.Gamma(torch.tensor(3.0, dtype=torch.float64), 2.0)

    def model(y):  # x | s ~ N(0, s), s ~ Gamma(3, 2)
        return y["x"].square() / (2 * y["s"]) + y["s"].log() / 2 - law.log_prob(y["s"])

    energy = Constrained(model, {"s": "positive", "x": "real"})
    start = {"s": torch.zeros(4000, dtype=torch.float64), "x": torch.full((4000,), 0.5, dtype=torch.float64)}
    still = Packing.of(start).pack({"s": torch.tensor(False), "x": torch.tensor(True)})
    moving = Structured(Conditioned(HMC(0.5, leapfrog_steps=3, steps=30), still))
    end = energy.constrain(moving.sample(energy, start, generator=seeded()))
    assert torch.equal(end["x"], start["x"])
    grid = torch.linspace(1e-4, 12, 40001, dtype=torch.float64)  # p(s | x) on a grid
    weight = (-model({"s": grid, "x": torch.full_like(grid, 0.5)})).exp()
    mean = (grid * weight).sum() / weight.sum()
    error = end["s"].std() / 4000**0.5
    assert abs(end["s"].mean() - mean) < 4.5 * error


def test_graphs_reach_the_start():
    y = {"a": normal(3, 2).requires_grad_(), "b": normal(3)}
    end = Structured(GradientDescent(0.1, steps=2)).sample(
        lambda y: quadratic(y["a"]) + y["b"].square(), y, unroll="full", generator=seeded()
    )
    (grad,) = torch.autograd.grad(end["a"].sum(), y["a"])
    close(grad, torch.full((3, 2), 0.81, dtype=torch.float64))
    assert not Structured(GradientDescent(0.1)).sample(lambda y: quadratic(y["a"]) + y["b"], y, steps=1)["a"].requires_grad


START = {"a": torch.ones(3, 2), "b": torch.ones(3)}


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ({}, "no tensor"),
        ({"a": torch.ones(3, 2), "n": torch.ones(3).long()}, "n is torch.int64"),
        ({"a": torch.ones(3, 2), "n": "label"}, "n is str"),
        ({"a": torch.ones(3, 2), "b": torch.ones(4)}, r"a \(3, 2\), b \(4,\).*chains=1"),
        ({"a": torch.ones(3, 2), "b": torch.ones(3).double()}, "b is torch.float64"),
    ],
)
def test_trees_that_do_not_fit_together_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        Structured(MALA(0.1)).trajectory(quadratic, y)


def test_an_energy_of_other_chains_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*chains are \(3,\) \(chains=1\)"):
        Structured(MALA(0.1)).sample(lambda y: y["a"] + y["b"][:, None], START)
    start = {"a": torch.ones(3, 2, 4), "b": torch.ones(3, 2)}
    end = Structured(MALA(0.1, steps=1), chains=2).sample(lambda y: y["a"].sum(-1) + y["b"], start)
    assert end["a"].shape == (3, 2, 4)


def test_a_softmax_along_an_axis_is_refused():
    for moving in (GradientDescent(0.1, retraction="softmax"), sampler("mirror-descent")):
        with pytest.raises(ValueError, match="axis of y"):
            Structured(moving).trajectory(lambda y: quadratic(y["a"]) + y["b"], START)
    end = Structured(LangevinDynamics(0.1, steps=2, retraction="clamp")).sample(lambda y: quadratic(y["a"]) + y["b"], START)
    assert end["b"].shape == (3,)


def test_another_kind_of_tree_is_not_packed():
    packing = Packing.of(START)
    for wrong in ({"a": torch.ones(3, 2)}, {"a": torch.ones(3, 3), "b": torch.ones(3)}, (torch.ones(3, 2), torch.ones(3))):
        with pytest.raises(ValueError, match="not of the kind"):
            packing.pack(wrong)


def test_a_plain_sampler_points_to_the_wrapper():
    with pytest.raises(ValueError, match="Structured"):
        MALA(0.1).trajectory(quadratic, START)


def test_a_joint_energy_has_the_marginals_of_its_linear_gaussian_model():
    """z ~ N(0, 1) and x | z ~ N(Wz, s²): x ~ N(0, WWᵀ + s²), z | x ~ N(SWᵀx/s², S) with S = (1 + WᵀW/s²)⁻¹."""
    loads, s = torch.tensor([[1.2, 0.4], [0.3, 0.9]], dtype=torch.float64), 0.5

    def energy(y):
        return quadratic(y["z"]) + quadratic(y["x"] - y["z"] @ loads.mT) / s**2

    y, chains = {"x": normal(10_000, 2), "z": normal(10_000, 2, seed=1)}, 10_000
    end = Structured(NUTS(0.3, steps=10)).sample(energy, y, generator=seeded())
    eye = torch.eye(2, dtype=torch.float64)
    known = loads @ loads.mT + s**2 * eye
    assert bool(((torch.cov(end["x"].mT) - known).abs() < 4 * known.diagonal().max() * math.sqrt(2 / chains)).all())

    seen, shared = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.linalg.inv(eye + loads.mT @ loads / s**2)
    y = {"x": seen.expand(chains, 2).clone(), "z": normal(chains, 2)}
    end = Structured(NUTS(0.3, steps=10)).sample(lambda z: energy({"x": y["x"], **z}), {"z": y["z"]}, generator=seeded())
    mean = shared @ loads.mT @ seen / s**2
    errors = 4 * shared.diagonal().sqrt() / math.sqrt(chains)
    assert bool(((end["z"].mean(0) - mean).abs() < errors).all())
    assert bool(((torch.cov(end["z"].mT) - shared).abs() < 4 * shared.diagonal().max() * math.sqrt(2 / chains)).all())
