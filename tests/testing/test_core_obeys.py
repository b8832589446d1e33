"""The toolkit's own components keep the laws that `ebm.testing` holds others to."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import nn

import ebm
from ebm.energies import RBM, JointClassifier, MLPEnergy
from ebm.interfaces import Batch
from ebm.samplers import BlockGibbs
from ebm.tasks import Arithmetic, Denoising, Digits, Dyck, Frames, Points, Puzzles, Text
from ebm.testing import check_energy, check_objective, check_sampler, check_task
from ebm.testing.collecting import checks_of
from tests.energies.test_laws import ENERGIES
from tests.helpers import OBJECTIVES, SAMPLERS, Valley, objective, sampler

TASKS = {
    "points": lambda: Points("moons", n=500),
    "points/airports": lambda: Points("airports", n=1000),
    "points/iris": lambda: Points("iris"),  # whose rows repeat
    "digits": lambda: Digits(size=8),
    "dyck": Dyck,
    "text": Text,
    "denoising": Denoising,
    "frames": Frames,
    "arithmetic": lambda: Arithmetic(n=100),
    "arithmetic/narrow": lambda: Arithmetic(width=(1, 2), n=1000),  # a third of whose problems are held out
    "puzzles": lambda: Puzzles(n=600),
}


def sampled(names, every):
    """Marks all but one of `every` names as slow: their checks take seconds each."""
    return [pytest.param(name, marks=[pytest.mark.slow] if place % every else []) for place, name in enumerate(names)]


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.filterwarnings("ignore:.*moves all energies alike")
def test_energies(name):
    make, event = ENERGIES[name]
    check_energy(make, torch.randn(6, *event))


@pytest.mark.parametrize("name", sampled(SAMPLERS, every=3))
def test_samplers(name):
    check_sampler(lambda: sampler(name))


@pytest.mark.parametrize("units", ["binary", "gaussian"])
def test_block_gibbs(units):
    torch.manual_seed(0)
    rbm = RBM(3, 2, units=units)
    rbm.weights.data.normal_()
    check_sampler(lambda: BlockGibbs(steps=5), energy=rbm)


@pytest.mark.parametrize("name", sampled(OBJECTIVES, every=4))
def test_objectives(name):
    energy = Valley(levels=3) if name.endswith("ladder") else MLPEnergy(dim=2)
    check_objective(lambda: objective(name), energy, Batch(torch.randn(12, 2)))


@pytest.mark.parametrize("name", ["cross-entropy", "joint"])
def test_objectives_of_labels(name):
    chains = {"sampler": sampler("replay")} if name == "joint" else {}
    energy = JointClassifier(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3)), event=1)
    labelled = Batch(torch.randn(12, 2), torch.arange(12) % 3)
    check_objective(lambda: ebm.build("objective", name, **chains), energy, labelled)


@pytest.mark.parametrize("name", TASKS)
def test_tasks(name):
    check_task(TASKS[name])


@pytest.mark.parametrize("name", TASKS)
def test_a_training_batch_has_all_its_rows(name):
    """So that it divides over processes, and a step is of the size that was asked for."""
    task = TASKS[name]()
    for seed in range(2):
        counts = {len(batch.target) for batch in islice(task.loader("train", 8, seed=seed), 10)}
        assert counts == {8}


def test_everything_registered_is_checked():
    """What the command line checks by itself, without these tables."""
    listed = checks_of("ebm-toolkit")
    assert {"energy mlp", "sampler mala", "objective reconstruction", "task digits", "recipe text"} <= set(listed)
    listed["energy mlp"]()
    listed["recipe density"]()
