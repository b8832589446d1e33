"""The ratio of two likelihoods as an energy: what it starts as, what it says, and what trains."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.baselines import LeftToRight, Transformer
from ebm.decoding.sequences import log_likelihood, one_hot
from ebm.energies import LikelihoodRatio, MLPEnergy
from ebm.interfaces import Batch
from ebm.objectives import SequenceNCE
from tests.helpers import close, laws, seeded, seeds


def transformer(seed: int) -> Transformer:
    torch.manual_seed(seed)
    made = Transformer(5, dim=8, depth=2, heads=2)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def ids(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(5, shape, generator=seeded(seed))


def trained(base, other) -> LikelihoodRatio:
    made = LikelihoodRatio(base)
    made.model.load_state_dict(other.state_dict())
    return made


@laws
@given(seed=seeds, prompt=st.integers(1, 3), count=st.integers(1, 4), pad=st.integers(0, 2), more=st.integers(0, 2))
def test_it_is_the_ratio_of_whole_likelihoods(seed, prompt, count, pad, more):
    """The oracle writes each row out alone, and lets both models say how likely it is."""
    base, other = transformer(seed), transformer(seed + 1)
    before, after = ids(2, prompt, seed=seed), ids(3, 2, count, seed=seed + 1)
    filled = torch.cat([torch.full((2, pad), -1), before], 1)
    y = one_hot(torch.cat([after, torch.full((3, 2, more), -1)], -1), 5)
    expected = log_likelihood(base, before, after) - log_likelihood(other, before, after)
    close(trained(base, other).given(filled)(y).double(), expected, rtol=1e-4, atol=1e-4)


@laws
@given(seed=seeds, order=st.sampled_from(["first", "last"]))
def test_answers_are_scored_after_their_questions(seed, order):
    torch.manual_seed(seed)
    base, other = (LeftToRight(3, dim=8, heads=2, order=order) for _ in range(2))
    asked, after = torch.randint(3, (2, 4), generator=seeded(seed)), torch.randint(3, (3, 2, 4), generator=seeded(seed + 1))
    expected = log_likelihood(base, asked, after) - log_likelihood(other, asked, after)
    close(trained(base, other).given(asked)(one_hot(after, 3)).double(), expected, rtol=1e-4, atol=1e-4)


def test_it_starts_as_the_base_and_only_the_copy_trains():
    base = transformer(0).requires_grad_(False)  # as an objective leaves it
    energy, objective = LikelihoodRatio(base), SequenceNCE(base, prompt=(1, 2))
    before, after = ids(2, 3, seed=0), ids(2, 4, seed=1)
    assert energy.given(before)(one_hot(after, 5)).tolist() == [0.0, 0.0]
    rows = ids(6, 6, seed=2)
    objective(energy, Batch(rows[:, 1:], rows[:, :-1]), generator=seeded(0)).value.backward()
    assert all(p.grad is None for part in (base, energy.base) for p in part.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in energy.model.parameters())
    other = transformer(1)
    energy.start_as(other)
    assert all(
        torch.equal(a, b)
        for part in (energy.base, energy.model)
        for a, b in zip(part.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("context", "y", "words"),
    [
        (None, torch.zeros(1, 3, 5), "the context is NoneType"),
        (torch.zeros(1, 2), torch.zeros(1, 3, 5), r"torch.float32 \(1, 2\)"),
        (torch.tensor([[1, 2], [-1, -1]]), torch.ones(2, 3, 5), "has no token"),
        (torch.tensor([[2, 5]]), torch.zeros(1, 3, 5), "from 0 to 5"),
        (torch.tensor([[2, 1]]), torch.zeros(1, 3, 4), r"\(\*more, 1, T, 5\)"),
        (torch.tensor([[2, 1]]), torch.zeros(2, 3, 5), r"\(\*more, 1, T, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(context, y, words):
    with pytest.raises(ValueError, match=words):
        LikelihoodRatio(transformer(0)).given(context)(y)


def test_prompts_are_their_tokens_wherever_they_stand():
    """As a row that has ended in its prompt, which what draws reads so, too."""
    energy, after = trained(transformer(0), transformer(1)), ids(1, 3, seed=0)
    found = [energy.given(torch.tensor([row]))(one_hot(after, 5)) for row in ([-1, -1, 2, 4], [2, -1, 4, -1], [2, 4])]
    close(found[0], found[1])
    close(found[0], found[2])


def test_a_model_without_likelihoods_is_refused():
    with pytest.raises(ValueError, match="the base is MLPEnergy, which says no sequence's likelihood"):
        LikelihoodRatio(MLPEnergy(2))
