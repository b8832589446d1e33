"""Energies against their enumeration, and against what is known of endless lattices."""

import math

import pytest
import torch
from enumeration import DOUBLE, ising, one_hot, potts, spins
from hypothesis import given, settings, strategies as st

from ebm import energy_and_grad
from ebm_lattice import Gibbs, Ising, Pairwise, Potts

shapes = st.sampled_from([(3,), (5,), (2, 3), (3, 3), (4, 2), (3, 1, 2), (1, 4)])


@settings(deadline=None, max_examples=25)
@given(shapes, st.booleans(), st.floats(-1.5, 1.5), st.integers(0, 10_000))
def test_the_transfer_matrix_is_the_enumeration(shape, periodic, coupling, seed):
    periodic = periodic and min(shape) > 2
    g = torch.Generator().manual_seed(seed)
    models = [ising(*shape, coupling=coupling, field=torch.randn(shape, generator=g, dtype=DOUBLE), periodic=periodic)]
    if math.prod(shape) < 7:
        field = torch.randn(*shape, 3, generator=g, dtype=DOUBLE)
        models.append(potts(*shape, values=3, coupling=coupling, field=field, periodic=periodic))
    for energy, _, every in models:
        p = (-energy(every)).softmax(0)
        torch.testing.assert_close(energy.log_z, (-energy(every)).logsumexp(0))
        torch.testing.assert_close(energy.mean, torch.einsum("c,c...->...", p, every))


def test_exact_samples_are_from_the_distribution():
    for model in (
        ising(3, 3, coupling=0.3, field=0.1),
        ising(2, 3, coupling=0.7, periodic=False),
        potts(3, values=3, coupling=1.0),
    ):
        y = model.energy.sample(20_000, generator=torch.Generator().manual_seed(0))
        assert y.dtype == DOUBLE
        assert model.chi_square(y) > 0.01
    other = ising(3, 3, coupling=0.35, field=0.1).energy.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert ising(3, 3, coupling=0.3, field=0.1).chi_square(other) < 1e-9  # the test can tell


def test_the_energy_is_the_sum_over_bonds():
    y = spins(3, 3)[torch.arange(0, 512, 7)]
    bonds = [((i, j), ((i + 1) % 3, j)) for i in range(3) for j in range(3)]
    bonds += [((i, j), (i, (j + 1) % 3)) for i in range(3) for j in range(3)]
    by_hand = -0.7 * sum(y[(..., *a)] * y[(..., *b)] for a, b in bonds) - 0.2 * y.sum((1, 2))
    torch.testing.assert_close(Ising((3, 3), 0.7, 0.2).double()(y), by_hand)


def test_potts_of_two_values_is_ising_at_half_the_coupling():
    y = one_hot(3, 3, 2)
    gap = Potts((3, 3), 2, 0.8).double()(y) - Ising((3, 3), 0.4).double()(y[..., 1] - y[..., 0])
    torch.testing.assert_close(gap, gap[:1].expand_as(gap))


def test_rings_and_the_critical_square_lattice():
    j = 0.6
    ring = Ising((12,), j).double()
    torch.testing.assert_close(ring.log_z, torch.tensor((2 * math.cosh(j)) ** 12 + (2 * math.sinh(j)) ** 12, dtype=DOUBLE).log())
    # Onsager's free energy at the critical coupling, and for a long strip of width L, Casimir's π /
    # (12 L²).
    catalan, strip = 0.915965594177219, Ising((96, 8), math.log(1 + math.sqrt(2)) / 2).double()
    expected = math.log(2) / 2 + 2 * catalan / math.pi + math.pi / (12 * 8**2)
    assert abs(strip.log_z.item() / (96 * 8) - expected) < 1e-4


def test_learnable_numbers_receive_gradients():
    coupling, field = (torch.nn.Parameter(torch.tensor(value, dtype=DOUBLE)) for value in (0.3, 0.1))
    energy = Ising((3, 3), coupling, field)
    energy.log_z.backward()
    y = energy.sample(20_000, generator=torch.Generator().manual_seed(0))
    (bonds,) = torch.autograd.grad(-energy(y).mean(), coupling)  # d log Z / dJ is the mean of the bonds
    assert abs(bonds - coupling.grad) < 0.1
    assert abs(y.sum((1, 2)).mean() - field.grad) < 0.1


def test_the_dtype_follows_y():
    for energy, y in ((Ising((3, 3)), torch.ones(2, 3, 3)), (Pairwise(3), torch.ones(2, 1, 3, 3))):
        for dtype in (torch.float32, DOUBLE):
            assert energy(y.to(dtype)).dtype == dtype


def test_pairwise_is_the_ising_model_where_couplings_say_so():
    energy, plain = Pairwise(4, radius=1).double(), Ising((4, 4), 0.4, 0.1, periodic=False).double()
    places = torch.ones(4, 4).nonzero()
    apart = (places[energy.pairs[0]] - places[energy.pairs[1]]).abs().sum(-1)
    with torch.no_grad():
        energy.couplings.copy_(0.4 * (apart == 1))
        energy.fields.fill_(0.1)
    y = Gibbs(steps=1).sample(plain, torch.ones(50, 4, 4, dtype=DOUBLE), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(energy(y[:, None]), plain(y))
    _, grad = energy_and_grad(energy.given(), y[:, None])
    torch.testing.assert_close(grad[:, 0], energy_and_grad(plain, y)[1])
    assert len(Pairwise(4).couplings) == 16 * 15 // 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ising((2, 2)), "neighbours twice"),
        (lambda: Ising(()), "axes"),
        (lambda: Potts((3, 3), 1), "two values"),
        (lambda: Ising((3, 3), math.nan), "finite"),
        (lambda: Ising((3, 3), field=torch.ones(2)), "broadcasts to"),
        (lambda: Ising((3, 3), coupling=torch.ones(9)), "one coupling"),
        (lambda: Ising((3, 3))(torch.ones(2, 3, 4)), r"\(2, 3, 4\)"),
        (lambda: Ising((12, 12)).log_z, "longest axis first"),
        (lambda: Ising((12, 12)).sample(1), "longest axis first"),
        (lambda: Pairwise(0), "at least 1"),
        (lambda: Pairwise(4)(torch.ones(2, 4, 4)), "images"),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
