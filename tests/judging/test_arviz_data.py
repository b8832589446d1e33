"""Chains as ArviZ sees them: every draw and statistic in its place, whatever the state and the chain axes."""

import sys
import types
from itertools import islice

import pytest
import torch

from ebm.energies import Constrained
from ebm.judging import effective_sample_size, to_arviz
from ebm.samplers import HMC, MALA, NUTS, LangevinDynamics, SliceSampler, Structured
from tests.helpers import close, normal, quadratic, seeded

pytest.importorskip("arviz")


def test_draws_and_statistics_are_the_trajectorys():
    path = list(NUTS(0.4, steps=12).trajectory(quadratic, normal(3, 2), generator=seeded()))
    chains = to_arviz(iter(path), energy=quadratic)
    assert chains.posterior["y"].dims[:2] == ("chain", "draw")
    close(torch.tensor(chains.posterior["y"].values), torch.stack([state.y for state, _ in path], 1))
    stats = {name: torch.tensor(array.values) for name, array in chains.sample_stats.items()}
    expected = {
        "acceptance_rate": [info.acceptance for _, info in path],
        "diverging": [info.diverged for _, info in path],
        "tree_depth": [info.depth for _, info in path],
        "n_steps": [info.gradients for _, info in path],
        "lp": [-quadratic(state.y) for state, _ in path],
    }
    assert stats.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(stats[name], torch.stack(values, 1)), name


@pytest.mark.parametrize(
    ("sampler", "names"),
    [
        (MALA(0.5), {"acceptance_rate"}),
        (HMC(0.5, leapfrog_steps=2), {"acceptance_rate", "n_steps"}),
        (LangevinDynamics(0.1), set()),
        (SliceSampler(1.0), set()),
    ],
    ids=["mala", "hmc", "langevin", "slice"],
)
def test_there_are_the_statistics_that_a_sampler_has(sampler, names):
    chains = to_arviz(sampler.trajectory(quadratic, normal(3, 2), steps=5, generator=seeded()))
    assert set(getattr(chains, "sample_stats", {})) == names


def test_chain_axes_become_one_and_events_stay():
    path = MALA(0.1).trajectory(lambda y: y.square().sum((-2, -1)), normal(2, 3, 4, 5), steps=20, generator=seeded())
    chains = to_arviz(islice(path, 0, None, 4), name="field")
    assert chains.posterior["field"].shape == (6, 5, 4, 5)
    assert chains.sample_stats["acceptance_rate"].shape == (6, 5)
    alone = to_arviz(MALA(0.1).trajectory(lambda y: y.square().sum(), normal(5), steps=4, generator=seeded()))
    assert alone.posterior["y"].shape == (1, 4, 5)


def test_trees_have_names_and_a_view_is_what_is_kept():
    def energy(y):
        return quadratic(y["weights"]) + y["scale"].square() - y["scale"]

    bounded = Constrained(energy, {"scale": "positive", "weights": "real"})
    start = {"scale": normal(3), "weights": normal(3, 2)}
    path = list(Structured(MALA(0.1)).trajectory(bounded, start, steps=6, generator=seeded()))
    chains = to_arviz(path, energy=bounded, view=bounded.constrain)
    assert {name: array.shape for name, array in chains.posterior.items()} == {"scale": (3, 6), "weights": (3, 6, 2)}
    close(torch.tensor(chains.posterior["scale"].values[:, -1]), path[-1][0].y["scale"].exp())
    close(torch.tensor(chains.sample_stats["lp"].values[:, -1]), -bounded(path[-1][0].y))


def test_arviz_reads_it_as_we_do():
    import arviz

    path = list(MALA(0.5).trajectory(quadratic, normal(4, 2), steps=200, generator=seeded()))
    found = arviz.ess(to_arviz(path))["y"].values
    close(torch.tensor(found), effective_sample_size(torch.stack([state.y for state, _ in path])))


def test_an_empty_trajectory_and_a_missing_arviz_are_named(monkeypatch):
    with pytest.raises(ValueError, match="no steps"):
        to_arviz([])
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"ebm-toolkit\[arviz\]"):
        to_arviz([])


def test_later_versions_take_groups_as_one(monkeypatch):
    """ArviZ 1 makes a DataTree of from_dict({group: {name: array}})."""
    later = types.SimpleNamespace(__version__="1.0.0", from_dict=lambda groups: groups)
    monkeypatch.setitem(sys.modules, "arviz", later)
    groups = to_arviz(MALA(0.5).trajectory(quadratic, normal(4, 2), steps=3, generator=seeded()))
    assert groups["posterior"]["y"].shape == (4, 3, 2)
    assert groups["sample_stats"]["acceptance_rate"].shape == (4, 3)
