"""Stopping by residual, and leaving the batch: the same results, for less."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm import Thinker, think
from ebm.energies import BeliefEBT
from ebm.interfaces import Batch, Energy
from ebm.samplers import Conditioned, GradientDescent, LangevinDynamics, MirrorDescent, SteinVariational
from tests.helpers import close, laws, normal, quadratic, seeded, seeds


class Pulled(Energy):
    """|y − c|² a / 2 with a row's own rate a: some rows settle early, others late."""

    scored = 0

    def forward(self, y, code=None):
        self.scored += y[..., 0].numel()
        target, rate = code
        return rate * (y - target).square().sum(-1) / 2


def problem(seed, rows=6):
    rates = torch.linspace(0.2, 1.0, rows, dtype=torch.float64)
    return normal(rows, 2, seed=seed), rates


@laws
@given(seed=seeds, candidates=st.integers(1, 3), residual=st.floats(1e-6, 1e-2), momentum=st.sampled_from([0.0, 0.4]))
def test_a_chain_stops_once_a_step_hardly_moves_it(seed, candidates, residual, momentum):
    context, start = problem(seed), normal(candidates, 6, 2, seed=seed + 1)
    energy, moving, steps = Pulled(), GradientDescent(0.9, momentum=momentum), 60
    thought = think(energy, moving, context, start, candidates=candidates, steps=steps, residual=residual)
    path = [start, *(state.y for state, _ in moving.trajectory(energy.given(context), start, steps=steps))]
    moved = torch.stack([(b - a).square().mean(-1).sqrt() for a, b in itertools.pairwise(path)])
    for row in range(6):
        ends, taken = [], []
        for candidate in range(candidates):
            small = [place for place in range(steps) if moved[place, candidate, row] < residual]
            taken.append(small[0] + 1 if small else steps)
            ends.append(path[taken[-1]][candidate, row])
        with torch.no_grad():
            values = energy.given((context[0][row : row + 1], context[1][row : row + 1]))(torch.stack(ends)[:, None])[:, 0]
        best = int(values.argmin())
        close(thought.y[row], ends[best], rtol=1e-7, atol=1e-9)
        assert thought.steps[row] == taken[best]
        close(thought.energies[-1, :, row], values, rtol=1e-7, atol=1e-12)


def test_who_stopped_costs_nothing_more():
    context, start = problem(0), normal(2, 6, 2, seed=1)
    energies = [Pulled(), Pulled()]
    few = Thinker(energies[0], GradientDescent(0.9), candidates=2, steps=200, residual=1e-4)
    found = few.predict(Batch(None, context), start)
    assert found.evaluations == pytest.approx(energies[0].scored / 6)
    all_along = 2 * 201
    assert found.evaluations < 0.3 * all_along
    assert found.evaluations < 1.6 * 2 * found.steps.double().mean().item()  # the batch is cut now and then, not at once
    plain = Thinker(energies[1], GradientDescent(0.9), candidates=2, steps=200).predict(Batch(None, context), start)
    assert plain.evaluations == all_along
    close(found.y, plain.y, rtol=0.0, atol=1e-3)


def test_patience_and_residual_agree_whether_chains_may_leave_or_not():
    """A plain function cannot be cut, an energy can: they end alike."""
    context, start = problem(3), normal(3, 6, 2, seed=4)
    target, rate = context

    def whole(y):
        return rate * (y - target).square().sum(-1) / 2

    for how in ({"patience": 2}, {"patience": 2, "tolerance": 0.01}, {"residual": 1e-3}, {"patience": 3, "residual": 1e-3}):
        one = think(Pulled(), GradientDescent(1.3), context, start, candidates=3, steps=50, **how)
        two = think(whole, GradientDescent(1.3), None, start, candidates=3, steps=50, **how)
        for got, expected in zip(one, two, strict=True):
            close(got, expected, rtol=1e-7, atol=1e-12)


def test_steps_that_draw_noise_keep_the_batch_whole():
    """So a run with patience takes the same draws as one without."""
    context, start = problem(0), normal(1, 6, 2)
    energy = Pulled()
    moving = LangevinDynamics(0.1)
    thought = think(energy, moving, context, start, steps=30, patience=2, generator=seeded())
    path = [state.y for state, _ in moving.trajectory(energy.given(context), start, steps=30, generator=seeded())]
    for row in range(6):
        kept = [y[0, row] for y in [start, *path]]
        assert any(torch.allclose(thought.y[row], y) for y in kept)


def test_who_pushes_others_stays():
    context, start = problem(0), normal(4, 6, 2)
    stein = SteinVariational(0.1)
    thought = think(Pulled(), stein, context, start, candidates=4, steps=8, residual=1e-3)
    assert thought.y.shape == (6, 2)


def test_hidden_units_and_contexts_are_cut_along():
    torch.manual_seed(0)
    energy = BeliefEBT(3, dim=8, heads=2, hidden=2).double()
    context = torch.randint(-1, 3, (7, 4))
    start = normal(2, 7, 4, 3)
    moving = MirrorDescent(0.5, hidden=2)
    thought = think(energy, moving, context, start, candidates=2, steps=80, residual=1e-3, generator=seeded())
    assert thought.y.shape == (7, 4, 5)
    assert int(thought.steps.max()) <= 80
    with pytest.raises(ValueError, match="residual=0"):
        think(energy, moving, context, start, candidates=2, residual=0.0)


@laws
@given(
    seed=seeds,
    familiar=st.floats(0.01, 4),
    candidates=st.integers(1, 2),
    stops=st.sampled_from([{}, {"patience": 1, "tolerance": 0.5}, {"patience": 1, "tolerance": 0.8}]),
)
def test_a_chain_that_starts_as_in_training_takes_one_step(seed, familiar, candidates, stops):
    """E = |y|²/2 over three numbers falls to a quarter with every step: others take all, or none where that is no fall."""
    start = 2 * normal(candidates, 4, 3, seed=seed)
    thought = think(quadratic, GradientDescent(0.5, steps=6), start=start, candidates=candidates, familiar=familiar, **stops)
    ends = []
    for y in start:
        known = quadratic(y) <= 3 * familiar
        taken = torch.where(known, 1, 6)
        kept = torch.where(known, 1, 0 if stops.get("tolerance") == 0.8 else 6)
        ends.append((torch.where((kept == 0), 1, taken), y / 2.0 ** kept[:, None]))
    chosen = torch.stack([quadratic(end) for _, end in ends]).argmin(0)
    rows = torch.arange(4)
    assert torch.equal(thought.steps, torch.stack([taken for taken, _ in ends])[chosen, rows])
    close(thought.y, torch.stack([end for _, end in ends])[chosen, rows])
    with pytest.raises(ValueError, match="familiar=nan: pass a finite energy"):
        think(quadratic, GradientDescent(0.5), start=start, candidates=candidates, familiar=float("nan"))


@pytest.mark.parametrize(
    "moving",
    [
        GradientDescent(torch.tensor([1.0, 0.1, 1.0, 1.0], dtype=torch.float64), steps=9),
        Conditioned(GradientDescent(1.0, steps=9), torch.tensor([[True, False], *3 * [[False, True]]]), chains=1),
    ],
    ids=["step sizes", "masks"],
)
def test_what_a_sampler_holds_for_each_chain_keeps_all_in_the_batch(moving):
    class Bowl(Energy):
        def forward(self, y, code=None):
            return y.square().sum(-1) / 2

    start = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    found = think(Bowl(), moving, start=start, patience=1)
    close(found.y, think(lambda y: y.square().sum(-1) / 2, moving, start=start, patience=1).y)


def test_particles_are_candidates_and_never_rows():
    stein, rows = SteinVariational(0.1, steps=3), normal(3, 2)
    found = think(quadratic, stein, start=rows[None])
    for row, end in zip(rows, found.y, strict=True):  # as if it were there alone
        close(end, think(quadratic, stein, start=row[None, None]).y[0])
    assert found.energies.shape == (4, 1, 3)
