"""Sequences drawn from models: their frequencies are their likelihoods, and their ends are ends."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.baselines import LeftToRight, Transformer
from ebm.decoding.sequences import check_base, draw, ended, log_likelihood, one_hot, score
from ebm.energies import SequenceEBT, TextEBT
from tests.helpers import close, laws, seeded, seeds

V = 3


def writer(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(V, dim=8, depth=1, heads=2).double()


def answerer(order: str = "first") -> LeftToRight:
    torch.manual_seed(0)
    return LeftToRight(V, dim=8, heads=2, context_vocab=4, fixed=False, order=order, relations={"kind": "order"}).double()


def every_sequence(length: int, end: int | None) -> torch.Tensor:
    """All sequences of at most `length` tokens, each once, as (N, 1, T)."""
    rows = torch.tensor([*itertools.product(range(V), repeat=length)])
    return ended(rows, end).unique(dim=0).unsqueeze(1)


@pytest.mark.parametrize("end", [None, 2])
@pytest.mark.parametrize("prompt", [[[0]], [[1, 0, 1]], [[-1, -1, 1]]])
def test_the_likelihoods_of_all_sequences_add_up_to_one(prompt, end):
    found = log_likelihood(writer(), torch.tensor(prompt), every_sequence(3, end))
    close(found.exp().sum(0), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("order", ["first", "last"])
def test_the_likelihoods_of_all_answers_add_up_to_one(order):
    found = log_likelihood(answerer(order), torch.tensor([[3, 0, 1]]), every_sequence(3, None))
    close(found.exp().sum(0), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("base", "prompt", "how"),
    [
        (writer(), [[-1, 1], [0, 1]], {"length": 2, "end": 2}),
        (answerer(), [[3, 0], [1, 2]], {}),
        (answerer("last"), [[3, 0], [1, 2]], {}),
    ],
)
def test_sequences_are_drawn_as_often_as_they_are_likely(base, prompt, how):
    prompt, count = torch.tensor(prompt), 4000
    drawn = draw(base, prompt, count, generator=seeded(), **how)
    everything = every_sequence(2, how.get("end")).expand(-1, len(prompt), -1)
    chances = log_likelihood(base, prompt, everything).exp()
    seen = (drawn[None] == everything[:, None]).all(-1).double().mean(1)
    assert ((seen - chances).abs() < 4.5 * (chances * (1 - chances) / count).sqrt()).all()  # 18 numbers: once in 10,000


@laws
@given(seed=seeds, pads=st.integers(0, 3))
def test_a_likelihood_does_not_depend_on_padding(seed, pads):
    prompt, ids = torch.randint(V, (2, 2), generator=seeded(seed)), torch.randint(V, (3, 2, 3), generator=seeded(seed + 1))
    nothing = torch.full((2, pads), -1)
    padded = log_likelihood(writer(), torch.cat([nothing, prompt], 1), torch.cat([ids, nothing.expand(3, -1, -1)], 2))
    close(padded, log_likelihood(writer(), prompt, ids))


def test_a_likelihood_is_the_sum_of_the_tokens():
    base, prompt, ids = writer(), torch.tensor([[0, 1]]), torch.tensor([[[2, 1]]])
    rows = base.logits(torch.tensor([[0, 1, 2]])).log_softmax(-1)[0]
    close(log_likelihood(base, prompt, ids)[0, 0], rows[1, 2] + rows[2, 1])


def test_draws_are_repeated_by_their_generator_and_leave_the_global_one():
    state = torch.random.get_rng_state()
    first, second = (draw(writer(), torch.tensor([[0]]), 5, length=4, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.shape == (5, 1, 4)


def test_temperature_zero_draws_the_likeliest_token():
    base = writer()
    found = draw(base, torch.tensor([[0]]), 2, length=1, temperature=0.0)
    assert found.flatten().tolist() == base.logits(torch.tensor([[0]])).argmax(-1).flatten().tolist() * 2


def test_what_has_no_likelihood_is_refused():
    for base in (TextEBT(V, dim=8, depth=1, heads=2), torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="says no sequence's likelihood"):
            check_base(base)
    with pytest.raises(ValueError, match="length is missing"):
        draw(writer(), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="count=0"):
        draw(writer(), torch.tensor([[0]]), 0, length=1)


def test_scores_are_the_energies_of_one_hot_vectors():
    torch.manual_seed(0)
    energy = SequenceEBT(V, dim=8, depth=1, heads=2)
    torch.nn.init.normal_(energy.head.weight)
    prompt, ids = torch.tensor([[0, 1]]), torch.tensor([[[2, 1]], [[0, -1]]])
    found = score(energy, prompt, ids, V)
    close(found, energy.given(prompt)(one_hot(ids, V)).detach(), rtol=1e-5, atol=1e-6)
    assert found.shape == (2, 1)
    assert not found.requires_grad
