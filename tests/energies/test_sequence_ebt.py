"""The energy of whole sequences: what is not there counts for nothing, and all that is there is seen."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.decoding.sequences import one_hot
from ebm.energies import SequenceEBT
from tests.helpers import close, laws, seeded, seeds


def energy(seed: int = 0) -> SequenceEBT:
    torch.manual_seed(seed)
    made = SequenceEBT(vocab_size=5, dim=8, depth=2, heads=2).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def ids(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(5, shape, generator=seeded(seed))


@laws
@given(seed=seeds, prompt=st.integers(0, 3), count=st.integers(1, 4), more=st.integers(0, 3))
def test_places_without_a_token_change_nothing(seed, prompt, count, more):
    scored, before, after = energy(), ids(2, prompt, seed=seed), ids(2, count, seed=seed + 1)
    plain = scored.given(before)(one_hot(after, 5).double())
    nothing = torch.full((2, more), -1)
    padded = scored.given(torch.cat([nothing, before], 1))(one_hot(torch.cat([after, nothing], 1), 5).double())
    close(padded, plain, rtol=1e-6, atol=1e-6)  # rotary positions are turned in float32
    if not prompt:
        close(scored.given()(one_hot(after, 5).double()), plain, rtol=1e-6, atol=1e-6)


@laws
@given(seed=seeds)
def test_candidates_are_scored_as_each_alone(seed):
    scored, before, after = energy(), ids(2, 2, seed=seed), ids(3, 2, 4, seed=seed + 1)
    y = one_hot(after, 5).double()
    close(scored.given(before)(y), torch.stack([scored.given(before)(each) for each in y]))
    close(scored.given(before)(y)[:, 1], scored.given(before[1:])(y[:, 1:])[:, 0])


@pytest.mark.parametrize("place", range(4))
def test_every_token_moves_it(place):
    scored, after = energy(), ids(1, 4, seed=1)
    other = after.clone()
    other[0, place] = (other[0, place] + 1) % 5
    before = ids(1, 2, seed=2)
    assert not torch.isclose(*(scored.given(before)(one_hot(each, 5).double()) for each in (after, other)))
    assert not torch.isclose(*(scored.given(each)(one_hot(after, 5).double()) for each in (before, (before + 1) % 5)))


def test_it_begins_at_zero_as_the_model_that_it_corrects():
    scored = SequenceEBT(vocab_size=5, dim=8, depth=1, heads=2)
    assert scored.given(ids(2, 3, seed=0))(one_hot(ids(2, 4, seed=1), 5)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("context", "y", "words"),
    [
        (torch.zeros(1, 2), torch.zeros(1, 3, 5), "ids"),
        (torch.full((1, 2), 5), torch.zeros(1, 3, 5), "from 5 to 5"),
        (torch.full((1, 2), -2), torch.zeros(1, 3, 5), "from -2"),
        (torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 3, 4), r"\(\*more, 1, T, 5\)"),
        (torch.zeros(1, 2, dtype=torch.long), torch.zeros(2, 3, 5), r"\(\*more, 1, T, 5\)"),
        (None, torch.zeros(3, 5), r"\(\*more, B, T, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(context, y, words):
    with pytest.raises(ValueError, match=words):
        energy().float().given(context)(y)
