"""Objectives against their formulas by enumeration, and what they recover."""

import pytest
import torch
from enumeration import DOUBLE, OTHERS, PAIRS, spins

from ebm import Batch
from ebm_lattice import Ising, Potts, PseudoLikelihood, RatioMatching
from ebm_lattice.states import read


def conditionals(model, y):
    """p(value of site | all others), (rows, sites, values), straight from the joint distribution."""
    all_values, values = read(model.all, 1, model.states), read(y, 1, model.states)
    count = 2 if model.states == "spins" else y.shape[-1]
    found = torch.zeros(*values.shape, count, dtype=DOUBLE)
    for row, site in torch.ones(values.shape).nonzero().tolist():
        others = torch.arange(values.shape[1]) != site
        fits = (all_values[:, others] == values[row, others]).all(-1)
        for number in range(count):
            found[row, site, number] = model.p[fits & (all_values[:, site] == number)].sum()
    return found / found.sum(-1, keepdim=True), values


@pytest.mark.parametrize("name", [*PAIRS, *OTHERS])
def test_losses_are_their_formulas(name):
    model = (PAIRS | OTHERS)[name]
    y = model.sample(12, torch.Generator().manual_seed(0))
    p, values = conditionals(model, y)
    right = p.gather(-1, values[..., None]).squeeze(-1)
    hits = torch.nn.functional.one_hot(values, p.shape[-1])
    for differences in ("gradient", "evaluations") if name in PAIRS else ("evaluations",):
        loss = PseudoLikelihood(model.states, differences)(model.energy, Batch(y))
        torch.testing.assert_close(loss.value.detach(), -right.log().sum(-1).mean())
        torch.testing.assert_close(loss.terms["accuracy"], (p.argmax(-1) == values).double().mean())
        loss = RatioMatching(model.states, differences)(model.energy, Batch(y))
        torch.testing.assert_close(loss.value.detach(), ((p - hits) ** 2).sum((-2, -1)).mean() / 2)
        if model.states == "spins":
            torch.testing.assert_close(loss.value.detach(), ((1 - right) ** 2).sum(-1).mean())


@pytest.mark.parametrize("make", [PseudoLikelihood, RatioMatching])
@pytest.mark.parametrize("kind", ["ising", "potts"])
def test_couplings_are_recovered_within_their_error(make, kind):
    def model(coupling, field):
        coupling, field = (torch.nn.Parameter(torch.tensor(value, dtype=DOUBLE)) for value in (coupling, field))
        return Ising((4, 3), coupling, field) if kind == "ising" else Potts((4, 3), 3, coupling, field)

    def numbers(energy):  # a field that is common to all values says nothing
        field = energy.field.detach()
        return torch.cat([energy.coupling.detach()[None], field.reshape(-1) if kind == "ising" else field[1:] - field[0]])

    objective, found = make("spins" if kind == "ising" else "one-hot"), []
    exact = model(0.35, 0.15 if kind == "ising" else [0.3, 0.0, -0.2])
    for seed in range(16):
        batch = Batch(exact.sample(500, generator=torch.Generator().manual_seed(seed)))
        energy = model(0.0, 0.0 if kind == "ising" else [0.0, 0.0, 0.0])
        optimizer = torch.optim.LBFGS(energy.parameters(), max_iter=30, line_search_fn="strong_wolfe")

        def loss(energy=energy, optimizer=optimizer, batch=batch):
            optimizer.zero_grad()
            value = objective(energy, batch).value
            value.backward()
            return value

        optimizer.step(loss)
        found.append(numbers(energy))
    estimates = torch.stack(found)
    error = estimates.std(0) / len(found) ** 0.5
    assert bool((error < 0.02).all())
    assert bool(((estimates.mean(0) - numbers(exact)).abs() < 4 * error).all())


@pytest.mark.parametrize("make", [PseudoLikelihood, RatioMatching])
def test_weights_say_what_counts(make):
    model, objective = PAIRS["ising"], make()
    y = model.all[:8]
    weight = torch.tensor([1.0, 1, 0, 0, 1, 0, 1, 0], dtype=DOUBLE)
    torch.testing.assert_close(
        objective(model.energy, Batch(y, weight=weight)).value, objective(model.energy, Batch(y[weight > 0])).value
    )
    assert objective(model.energy, Batch(y, weight=0 * weight)).value == 0


@pytest.mark.parametrize("make", [PseudoLikelihood, RatioMatching])
def test_it_trains_every_parameter_and_names_broken_input(make):
    parts = [torch.nn.Parameter(torch.tensor(0.2)) for _ in range(2)]
    make()(Ising((2, 3), *parts, periodic=False), Batch(spins(2, 3).float())).value.backward()
    assert all(bool(p.grad) for p in parts)
    with torch.no_grad():
        assert not make()(Ising((2, 3), periodic=False), Batch(spins(2, 3).float())).value.requires_grad
    with pytest.raises(ValueError, match="-1 and 1"):
        make()(Ising((3, 3)), Batch(torch.rand(5, 3, 3)))
    with pytest.raises(ValueError, match="spins or one-hot"):
        make("bits")
