"""Every sampler leaves exact distributions alone, and finds them from elsewhere."""

import pytest
import torch
from enumeration import DOUBLE, OTHERS, PAIRS, ising, network, one_hot, spins

from ebm import energy_and_grad
from ebm.samplers import Annealed, ParallelTempering, ReplayAugmented
from ebm_lattice import Gibbs, GibbsWithGradients, SwendsenWang
from ebm_lattice.states import evaluated_table, table

CHAINS = 4000
KINDS = {
    "gibbs": lambda states: Gibbs(states, steps=12),
    "gibbs by evaluations": lambda states: Gibbs(states, steps=12, differences="evaluations"),
    "gibbs with gradients": lambda states: GibbsWithGradients(states, steps=70),
    "swendsen-wang": lambda states: SwendsenWang(states, steps=25),
    "tempered gibbs": lambda states: ParallelTempering(Gibbs(states, steps=12), (1.0, 1.6, 2.5)),
    "tempered gibbs with gradients": lambda states: ParallelTempering(GibbsWithGradients(states, steps=70), (1.0, 2.0)),
    "tempered swendsen-wang": lambda states: ParallelTempering(SwendsenWang(states, steps=15), (1.0, 2.0)),
}
LINEAR = [(kind, name) for kind in KINDS for name in PAIRS]
ANY = [(kind, name) for kind in ("gibbs by evaluations", "gibbs with gradients") for name in OTHERS]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "name"), LINEAR + ANY)
def test_it_leaves_the_exact_distribution_alone_and_finds_it(kind, name):
    model = (PAIRS | OTHERS)[name]
    for start in (model.sample(CHAINS, generator(1)), model.all[-1:].expand(CHAINS, *model.all.shape[1:])):
        rates = []
        for state, info in KINDS[kind](model.states).trajectory(model.energy, start.clone(), generator=generator(2)):
            torch.testing.assert_close(info.energy, model.energy(start))
            rates.append(1.0 if info.accepted is None else info.accepted.double().mean().item())
            start = state.y
        assert 0 <= min(rates) <= max(rates) <= 1
        assert model.chi_square(start) > 1e-3
    assert model.chi_square(model.all[-1:].expand(CHAINS, *model.all.shape[1:])) < 1e-9


@pytest.mark.parametrize("name", ["ising", "potts"])
def test_a_checkerboard_is_two_colours(name):
    model, calls = PAIRS[name], 0

    def counted(y):
        nonlocal calls
        calls += 1
        return model.energy(y)

    y = model.all[-1:].expand(CHAINS, *model.all.shape[1:])
    end = Gibbs(model.states, "checkerboard", steps=12).sample(counted, y, generator=generator())
    assert calls == 1 + 2 * 12
    assert model.chi_square(end) > 1e-3
    lattice = y.shape[1:3]
    board = torch.ones(lattice).nonzero().sum(-1).reshape(lattice) % 2
    assert torch.equal(end, Gibbs(model.states, board, steps=12).sample(model.energy, y, generator=generator()))


@pytest.mark.parametrize("name", PAIRS)
def test_one_gradient_has_all_conditionals(name):
    energy, states, every = PAIRS[name]
    value, grad = energy_and_grad(energy, every)
    torch.testing.assert_close(table(every, grad, 1, states), evaluated_table(energy, every, 1, states))
    torch.testing.assert_close(value, energy(every))


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_functions_of_their_generator_and_can_go_on(kind):
    for model in (PAIRS["spin glass"], PAIRS["value glass"]):
        sampler, start, state = KINDS[kind](model.states), model.all[:20], torch.get_rng_state()
        whole = sampler.sample(model.energy, start, steps=5, generator=generator())
        draws, last = generator(), start
        for steps in (2, 1, 2):
            *_, (last, _) = sampler.trajectory(model.energy, last, steps=steps, generator=draws)
        assert torch.equal(last.y, whole)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(whole, sampler.sample(model.energy, start, steps=5, generator=generator(1)))
        apart = start.reshape(4, 5, *start.shape[1:])  # two axes of chains
        assert sampler.sample(model.energy, apart, steps=2, generator=generator()).shape == apart.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_landscape_is_looked_at_anew(kind):
    model, other = PAIRS["ising"], ising(2, 3, coupling=-0.5, field=0.2, periodic=False)
    sampler = KINDS[kind]("spins")
    y = sampler.sample([model.energy, other.energy], model.all[:1].expand(CHAINS, 2, 3), generator=generator())
    assert other.chi_square(y) > 1e-3


def test_annealing_and_replay_compose():
    model = PAIRS["spin glass"]
    annealed = Annealed(ParallelTempering(Gibbs(steps=10), (1.0, 2.0)), temperatures=[4.0, 2.0, 1.0])
    assert model.chi_square(annealed.sample(model.energy, model.all[:1].expand(CHAINS, 6), generator=generator())) > 1e-3
    replay = ReplayAugmented(ParallelTempering(Gibbs(steps=2), (1.0, 2.0)), capacity=10)
    assert replay.sample(model.energy, model.all[:3], generator=generator()).shape == (3, 6)


def test_clusters_move_where_single_sites_are_stuck():
    model = ising(3, 3, coupling=1.5)
    up = torch.ones(500, 3, 3, dtype=DOUBLE)
    assert SwendsenWang(steps=5).sample(model.energy, up, generator=generator()).mean().abs() < 0.15
    assert Gibbs(steps=5).sample(model.energy, up, generator=generator()).mean() > 0.8


# ---------------------------------------------------------------------------------------------------------------- errors


def run(sampler, energy=None, y=None, **keywords):
    energy = PAIRS["spin glass"].energy if energy is None else energy
    return sampler.sample(energy, spins(6)[:3] if y is None else y, **keywords)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gibbs("bits"), "spins or one-hot"),
        (lambda: Gibbs(differences="exact"), "evaluations"),
        (lambda: Gibbs(colours="stripes"), "checkerboard"),
        (lambda: run(Gibbs(colours=torch.zeros(5)), steps=1), r"lattice has \(6,\)"),
        (lambda: run(Gibbs(colours="checkerboard"), steps=1), "interact"),
        (lambda: run(Gibbs(steps=1), network("spins").energy, spins(5)), "not linear in each site"),
        (lambda: run(SwendsenWang(), network("spins").energy, spins(5)), "pairs of sites"),
        (lambda: run(SwendsenWang(), lambda y: y[..., 0] * y[..., 1] * y[..., 2]), "pairs of sites"),
        (lambda: run(SwendsenWang(), lambda y: y.square().sum(-1)), "at site 0"),
        *[(lambda s=s: run(s, y=torch.rand(3, 6)), "-1 and 1") for s in (Gibbs(), GibbsWithGradients(), SwendsenWang())],
        *[
            (lambda s=s: run(s, y=one_hot(2, 3)[:3] / 2), "one among zeros")
            for s in (Gibbs("one-hot"), GibbsWithGradients("one-hot"), SwendsenWang("one-hot"))
        ],
        *[
            (lambda s=s: run(s, unroll="full"), "accepts or rejects")
            for s in (Gibbs(), GibbsWithGradients(), SwendsenWang(), ParallelTempering(Gibbs()))
        ],
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_proposal_that_is_not_finite_is_rejected():
    def walled(y):
        return torch.where(y[..., 0] > 0, torch.nan, PAIRS["spin glass"].energy(y))

    y = run(GibbsWithGradients(steps=50), walled, spins(6)[:3], generator=generator())
    assert (y[:, 0] == -1).all()
