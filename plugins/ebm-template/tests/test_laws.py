import torch

from ebm_template import Bowl, Cloud, Metropolis, ScoreMatching
from ebm import Batch
from ebm.testing import check_energy, check_objective, check_sampler, check_task


def test_the_energy_keeps_the_laws():
    check_energy(lambda: Bowl(dim=3), torch.randn(6, 3))


def test_the_sampler_keeps_the_laws():
    check_sampler(Metropolis)


def test_the_objective_keeps_the_laws():
    check_objective(ScoreMatching, Bowl(dim=3), Batch(torch.randn(12, 3)))


def test_the_task_keeps_the_laws():
    check_task(Cloud)
