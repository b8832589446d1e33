"""Constrained variables: densities carried through bijections, against Jacobians by autograd and moments in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import AffineTransform, Beta, Dirichlet, Gamma, LKJCholesky, constraints
from torch.distributions.transforms import AbsTransform, LowerCholeskyTransform, SoftmaxTransform

import ebm
from ebm.energies import Constrained
from ebm.interfaces import Energy
from ebm.samplers import HMC, warm_up
from ebm.testing import check_energy
from tests.helpers import Valley, close, laws, normal, seeded, seeds


def below(matrix):
    rows, columns = torch.tril_indices(*matrix.shape[-2:], offset=-1)
    return matrix[..., rows, columns]


def same(y):
    return y


# name -> (what says it, how many numbers it is made of, the coordinates of y that are free)
SETS = {
    "positive": ("positive", 3, same),
    "interval": (constraints.interval(-1.0, 3.0), 3, same),
    "below": (constraints.less_than(2.0), 2, same),
    "vector": (constraints.independent(constraints.greater_than(1.0), 1), 3, same),
    "affine": (AffineTransform(2.0, -3.0), 2, same),
    "side by side": (constraints.cat([constraints.positive, constraints.unit_interval], -1, [1, 2]), 3, same),
    "real": ("real", 3, same),
    "unit-interval": ("unit-interval", 3, same),
    "simplex": ("simplex", 3, lambda y: y[..., :-1]),
    "ordered": ("ordered", 4, same),
    "correlation": ("correlation", 6, below),
    "correlation-cholesky": ("correlation-cholesky", 6, below),
}


def rough(y):
    """An energy of vectors or matrices, without symmetry."""
    flat = y if y.ndim < 3 else y.flatten(-2)
    weights = torch.linspace(-1, 2, flat.shape[-1], dtype=y.dtype)
    return (flat.square() * weights + (2 * flat).sin()).sum(-1)


@pytest.mark.parametrize("name", SETS)
@laws
@given(seeds)
def test_the_density_is_carried_by_the_determinant(name, seed):
    says, size, free = SETS[name]
    energy, z = Constrained(rough, says), normal(2, size, seed=seed)
    found = energy(z)
    for row, value in zip(z, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: free(energy.constrain(z[None])[0]), row)
        close(value, rough(energy.constrain(row[None]))[0] - torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SETS)
@laws
@given(seeds)
def test_there_and_back(name, seed):
    says, size, _ = SETS[name]
    energy, z = Constrained(rough, says), normal(5, size, seed=seed)
    y = energy.constrain(z)
    assert bool(energy.transform.codomain.check(y).all())
    close(energy.unconstrain(y), z, rtol=1e-6, atol=1e-6)


def drawn(energy, size, chains=4000, steps=30, step_size=0.5):
    """Ends of chains from a narrow start: far out, where a gap is e³, only far smaller steps are accepted."""
    sampler = HMC(lambda t: step_size * (0.7 + 0.3 * (t % 2)), leapfrog_steps=4, steps=steps)
    return energy.constrain(sampler.sample(energy, normal(chains, size) / 4, generator=seeded()))


def agrees(values, mean, variance):
    """Means and variances of independent chains are within 4.5 standard errors."""
    mean, variance = (torch.as_tensor(each, dtype=torch.float64) for each in (mean, variance))
    away = values - mean
    for found, expected in ((away, 0.0), (away.square(), variance)):
        off = (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(values)))
        assert bool((off.abs() < 4.5).all()), off


def number(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_moments_of_beta():
    law = Beta(*number(2.0, 5.0))
    agrees(drawn(Constrained(lambda y: -law.log_prob(y).sum(-1), "unit-interval"), 2), law.mean, law.variance)


def test_moments_of_gamma():
    law = Gamma(*number(3.0, 2.0))
    agrees(drawn(Constrained(lambda y: -law.log_prob(y).sum(-1), constraints.positive), 1), law.mean, law.variance)


def test_moments_of_a_uniform_law():
    agrees(drawn(Constrained(lambda y: 0 * y.sum(-1), constraints.interval(-1.0, 3.0)), 2, step_size=1.0), 1.0, 16 / 12)


def test_moments_of_dirichlet():
    law = Dirichlet(number(1.5, 2.0, 4.0))
    agrees(drawn(Constrained(lambda y: -law.log_prob(y), "simplex"), 2), law.mean, law.variance)


def test_moments_of_ordered_normals():
    """Order statistics of three standard normals."""
    edge = 3 / (2 * math.sqrt(math.pi))
    wide, middle = (4 * math.pi + 2 * math.sqrt(3) - 9) / (4 * math.pi), 1 - math.sqrt(3) / math.pi
    y = drawn(Constrained(lambda y: y.square().sum(-1) / 2, "ordered"), 3, steps=120)
    assert bool((y.diff(dim=-1) > 0).all())
    agrees(y, number(-edge, 0.0, edge), number(wide, middle, wide))


@pytest.mark.parametrize("concentration", [1.0, 2.5])
def test_moments_of_lkj(concentration):
    """An entry r of a d × d matrix has (r + 1)/2 ~ Beta(b, b), b = η − 1 + d/2: variance 1 / (2b + 1)."""
    dim = 3
    law = LKJCholesky(dim, number(concentration)[0])
    factor = drawn(Constrained(lambda y: -law.log_prob(y), "correlation-cholesky"), dim)
    matrix = drawn(Constrained(lambda y: -(concentration - 1) * torch.logdet(y), "correlation"), dim)
    variance = 1 / (2 * (concentration - 1 + dim / 2) + 1)
    for found in (factor @ factor.mT, matrix):
        agrees(below(found), torch.zeros(dim), torch.full((dim,), variance))


def test_a_dictionary_is_constrained_name_by_name():
    def joint(y):
        return -(Gamma(3.0, 2.0).log_prob(y["scale"]) + Dirichlet(number(2.0, 3.0, 4.0)).log_prob(y["shares"]))

    energy = Constrained(joint, {"scale": "positive", "shares": "simplex"})
    z = {"scale": normal(4), "shares": normal(4, 2, seed=1)}
    apart = [
        Constrained(lambda y: -Gamma(3.0, 2.0).log_prob(y), "positive")(z["scale"]),
        Constrained(lambda y: -Dirichlet(number(2.0, 3.0, 4.0)).log_prob(y), "simplex")(z["shares"]),
    ]
    close(energy(z), sum(apart))
    back = energy.unconstrain(energy.constrain(z))
    assert sorted(back) == ["scale", "shares"]
    close(back["shares"], z["shares"])


def test_contexts_and_landscapes_are_the_energys():
    energy = Valley(levels=2)
    wrapped, z, context = Constrained(energy, "positive"), normal(5, 2), normal(5, 3, seed=1)
    assert wrapped.levels == 2
    for level, function in enumerate(wrapped.landscapes(context)):
        close(function(z), energy.given(context, level)(z.exp()) - z.sum(-1))


def test_chains_may_be_single_numbers():
    assert Constrained(lambda y: y.square(), "positive")(normal(7)).shape == (7,)
    assert Constrained(lambda y: y.square().sum((-2, -1)), "simplex")(normal(7, 2, 3)).shape == (7,)


def test_it_warms_up():
    law = Dirichlet(number(1.5, 2.0, 4.0))
    energy = Constrained(lambda y: -law.log_prob(y), "simplex")
    warmed = warm_up(HMC(leapfrog_steps=4), energy, normal(64, 2), steps=100, generator=seeded())
    y = energy.constrain(warmed.y)
    close(y.sum(-1), torch.ones(64, dtype=torch.float64))


def test_it_is_registered_and_meets_the_laws():
    made = ebm.build("energy", "constrained", energy=lambda y: y.square().sum(-1), transform="positive")
    assert isinstance(made, Energy)
    check_energy(lambda: Constrained(ebm.build("energy", "mlp", dim=3), "simplex"), torch.randn(6, 2))


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (SoftmaxTransform(), "SoftmaxTransform has no Jacobian"),
        (AbsTransform(), "AbsTransform has no Jacobian"),
        (LowerCholeskyTransform(), "LowerCholeskyTransform has no Jacobian"),
        (constraints.positive_definite, "no bijection onto PositiveDefinite"),
        ("postive", "positive"),
        (3.0, "Transform or Constraint"),
    ],
)
def test_what_has_no_jacobian_is_refused_at_the_start(says, message):
    with pytest.raises(ValueError, match=message):
        Constrained(rough, says)


@pytest.mark.parametrize(
    ("says", "y"),
    [
        ("positive", number(1.0, -1.0)),
        ("positive", number(1.0, 0.0)),
        (constraints.interval(0.0, 2.0), number(1.0, 2.5)),
        ("simplex", number(0.5, 0.7)),
        ("ordered", number(1.0, 0.0)),
        ("correlation", 2 * torch.eye(3)),
        ("correlation", torch.ones(3, 3)),
    ],
)
def test_values_outside_are_refused(says, y):
    with pytest.raises(ValueError, match="outside"):
        Constrained(rough, says).unconstrain(y)


def test_chains_that_cut_an_event_are_refused():
    with pytest.raises(ValueError, match=r"Jacobian for each of \(4,\).*\(4, 3\)"):
        Constrained(lambda y: y.square(), "simplex")(normal(4, 2))
    with pytest.raises(ValueError, match=r"Jacobian for each of \(4,\).*\(4, 4\)"):
        Constrained(lambda y: y.square(), "ordered")(normal(4, 4))


@laws
@given(st.sampled_from(sorted(SETS)), st.sampled_from([torch.float32, torch.float64]))
def test_the_dtype_stays(name, dtype):
    says, size, _ = SETS[name]
    assert Constrained(rough, says)(normal(3, size).to(dtype)).dtype == dtype
