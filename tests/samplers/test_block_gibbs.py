"""Block Gibbs sampling of machines small enough to be enumerated, and the classical ways to train them."""

import pytest
import torch
from scipy import stats

from ebm.energies import RBM, MLPEnergy
from ebm.interfaces import Batch
from ebm.objectives import ContrastiveDivergence
from ebm.samplers import BlockGibbs, ReplayAugmented
from tests.helpers import close, seeded

VISIBLE, HIDDEN = 4, 2
STATES = torch.tensor([[float(n >> k & 1) for k in range(VISIBLE)] for n in range(2**VISIBLE)], dtype=torch.float64)


def machine(seed=0, scale=1.0):
    rbm = RBM(VISIBLE, HIDDEN).double()
    for parameter in rbm.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=seeded(seed + parameter.numel()), dtype=torch.float64)
    return rbm


def chi_square(y, rbm):
    counts = torch.bincount((y @ 2.0 ** torch.arange(VISIBLE, dtype=y.dtype)).long(), minlength=2**VISIBLE)
    return stats.chisquare(counts.numpy(), ((-rbm(STATES)).softmax(0) * len(y)).detach().numpy()).pvalue


@pytest.mark.parametrize("start", ["exact", "zeros", "noise"])
@pytest.mark.parametrize("seed", range(3))
def test_it_leaves_the_exact_distribution_alone_and_finds_it(start, seed):
    rbm, chains = machine(seed), 20_000
    starts = {
        "exact": lambda: rbm.sample(chains, generator=seeded(1)),
        "zeros": lambda: torch.zeros(chains, VISIBLE, dtype=torch.float64),
        "noise": lambda: torch.randn(chains, VISIBLE, generator=seeded(1), dtype=torch.float64),
    }
    y = BlockGibbs(steps=3 if start == "exact" else 60).sample(rbm.given(), starts[start](), generator=seeded(2))
    assert chi_square(y, rbm) > 1e-3
    if start != "exact":
        one = BlockGibbs(steps=1).sample(rbm, torch.zeros(chains, VISIBLE, dtype=torch.float64), generator=seeded(2))
        assert chi_square(one, rbm) < 1e-6  # what is wrong is found


def test_runs_are_functions_of_their_generator_and_can_go_on():
    rbm, y = machine(), torch.zeros(50, VISIBLE, dtype=torch.float64)
    before = torch.get_rng_state()
    whole = BlockGibbs().sample(rbm, y, steps=5, generator=seeded())
    draws = seeded()
    *_, (state, info) = BlockGibbs().trajectory(rbm, y, steps=2, generator=draws)
    assert torch.equal(BlockGibbs().sample(rbm, state, steps=3, generator=draws), whole)
    assert torch.equal(torch.get_rng_state(), before)
    assert info.energy.shape == (50,)
    assert info.grad_norm is None


def test_the_gradient_of_contrastive_divergence_is_that_of_the_likelihood():
    """Many sweeps from data: ∇L is the mean over data of ∇E minus its mean over the model, within its standard error."""
    rbm, data = machine(), machine(seed=7).sample(500, generator=seeded(3))
    exact = torch.autograd.grad(rbm(data).mean() + rbm.log_z, [*rbm.parameters()])
    draws = []
    for seed in range(60):
        loss = ContrastiveDivergence(BlockGibbs(steps=40))(rbm, Batch(data), generator=seeded(seed))
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss.value, [*rbm.parameters()])]))
    found = torch.stack(draws)
    away = (found.mean(0) - torch.cat([g.flatten() for g in exact])) / (found.std(0) / 60**0.5)
    assert bool((away.abs() < 4.5).all()), away


def test_persistent_contrastive_divergence_finds_the_distribution():
    truth, learner, g = machine(seed=11), machine(seed=5, scale=0.05), seeded(4)
    objective = ContrastiveDivergence(ReplayAugmented(BlockGibbs(steps=2), capacity=2000, fresh=0.0))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    chance = (-truth(STATES)).log_softmax(0).detach()

    @torch.no_grad()
    def divergence():
        return float((chance.exp() * (chance - (-learner(STATES)).log_softmax(0))).sum())

    before = divergence()
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 500)
        loss = objective(learner, Batch(truth.sample(1000, generator=g)), generator=g)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert before > 0.2
    assert divergence() < 0.01


def test_tempered_landscapes_are_gone_along():
    rbm = machine()
    ladder = [rbm.tempered(beta) for beta in (0.3, 0.6, 1.0)]
    y = BlockGibbs(steps=20).sample(ladder, torch.zeros(20_000, VISIBLE, dtype=torch.float64), generator=seeded())
    assert chi_square(y, rbm) > 1e-3


def test_errors():
    y = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="MLPEnergy has no sample_hidden"):
        BlockGibbs().sample(MLPEnergy(2), y)
    with pytest.raises(ValueError, match="unroll='full'"):
        BlockGibbs().trajectory(RBM(2, 2), y, unroll="full")
    with pytest.raises(ValueError, match="steps=-1"):
        BlockGibbs(steps=-1)
    close(BlockGibbs(steps=0).sample(RBM(2, 2), y), y)
