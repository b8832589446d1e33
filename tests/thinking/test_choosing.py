"""Ways of choosing among candidates: each by its own measure, chain by chain."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm import think
from ebm.samplers import GradientDescent, MirrorDescent
from ebm.thinking import Candidates
from ebm.thinking.choosing import CHOICES, choice_of, pick
from tests.helpers import close, laws, normal, quadratic, seeds


def drawn(seed, candidates=5, chains=(3,), positions=4, symbols=3):
    y = normal(candidates, *chains, positions, symbols, seed=seed)
    energy, first, residual = (normal(candidates, *chains, seed=seed + i) for i in (1, 2, 3))
    return Candidates(y, energy, first, residual.abs())


def by_hand(name, found, chain):
    """Scores the candidates of one chain, each by itself."""
    scores = []
    answers = [tuple(row.argmax(-1).tolist()) for row in found.y[:, chain]]
    for place, y in enumerate(found.y[:, chain]):
        energy, first = float(found.energy[place, chain]), float(found.first[place, chain])
        lower = sum(float(other) < energy for other in found.energy[:, chain])
        scores.append(
            {
                "min": -energy,
                "max": energy,
                "max-drop": first - energy,
                "residual": -float(found.residual[place, chain]),
                "confidence": sum(float(row.log_softmax(0).max()) for row in y) / len(y),
                "vote": answers.count(answers[place]) - lower / len(answers),
            }[name]
        )
    return scores.index(max(scores))


@pytest.mark.parametrize("name", CHOICES)
@laws
@given(seed=seeds, symbols=st.integers(2, 3), positions=st.integers(1, 2))
def test_each_way_of_choosing_is_what_it_says(name, seed, symbols, positions):
    found = drawn(seed, positions=positions, symbols=symbols)
    chosen = choice_of(name)(found).argmax(0)
    assert chosen.tolist() == [by_hand(name, found, chain) for chain in range(3)]


@laws
@given(seed=seeds)
def test_what_is_picked_is_the_chosen_candidate(seed):
    found = drawn(seed, chains=(2, 3))
    chosen = found.energy.argmin(0)
    y = pick(chosen, found.y)
    for row in range(2):
        for column in range(3):
            assert torch.equal(y[row, column], found.y[chosen[row, column], row, column])


def test_a_thinker_chooses_by_residual_vote_or_a_function():
    start = normal(4, 6, 2, 3)
    costs = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    energy = lambda p: (p * (p.clamp(min=1e-30).log() + costs)).sum((-2, -1))  # noqa: E731
    moving = MirrorDescent(0.2)
    path = [start, *(state.y for state, _ in moving.trajectory(energy, start, steps=3))]
    moved = (path[-1].softmax(-1) - path[-2].softmax(-1)).square().mean((-2, -1)).sqrt()
    calm = think(energy, moving, None, start, candidates=4, steps=3, select="residual")
    close(calm.y, pick(moved.argmin(0), path[-1]))
    own = think(energy, moving, None, start, candidates=4, steps=3, select=lambda found: -found.first)
    close(own.y, pick(energy(start.softmax(-1)).argmin(0), path[-1]))
    voted = think(energy, moving, None, start, candidates=4, steps=3, select="vote")
    answers = path[-1].argmax(-1)
    for chain in range(6):
        listed = [tuple(answer) for answer in answers[:, chain].flatten(1).tolist()]
        mine = tuple(voted.y[chain].argmax(-1).flatten().tolist())
        assert listed.count(mine) == max(map(listed.count, listed))


def test_numbers_without_symbols_cannot_be_voted_on():
    with pytest.raises(ValueError, match="no axis of symbols"):
        think(lambda y: y.square(), GradientDescent(0.1), None, normal(3, 5), candidates=3, steps=1, select="vote")
    assert think(quadratic, GradientDescent(0.1), None, normal(3, 5, 2), candidates=3, steps=1, select="confidence").y.shape == (
        5,
        2,
    )
