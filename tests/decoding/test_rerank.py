"""Choosing among draws: the lowest energy, or by importance, and what that gives."""

import pytest
import torch

from ebm.baselines import LeftToRight, Transformer
from ebm.decoding.rerank import Reranker, choose, rerank
from ebm.decoding.sequences import draw, log_likelihood
from ebm.energies import BeliefEBT, SequenceEBT
from ebm.interfaces import Batch
from tests.helpers import close, seeded

V = 3


def base() -> Transformer:
    torch.manual_seed(0)
    return Transformer(V, dim=8, depth=1, heads=2)


def number_of_ones(y):
    return -2.0 * y[..., 1].sum(-1)


def test_the_lowest_energy_is_chosen_for_each_prompt():
    found = rerank(number_of_ones, base(), torch.tensor([[0], [2]]), 12, length=4, generator=seeded())
    assert found.ids.shape == (12, 2, 4)
    ones = (found.ids == 1).sum(-1)
    assert torch.equal(found.energies, -2.0 * ones)
    assert ((found.best == 1).sum(-1) == ones.amax(0)).all()


def test_resampling_draws_the_model_times_its_weights():
    """Of many draws it gives p_base exp(−E) / Z, sequence by sequence."""
    model, times, n = base(), 3000, 64
    prompts = torch.zeros(times, 1, dtype=torch.long)
    found = rerank(number_of_ones, model, prompts, n, length=1, resample=True, generator=seeded()).best[:, 0]
    each = torch.arange(V)[:, None, None]
    weights = log_likelihood(model, prompts[:1], each)[:, 0] + 2.0 * (torch.arange(V) == 1)
    expected = weights.softmax(0)
    seen = torch.bincount(found, minlength=V) / times
    assert (seen - expected).abs().max() < 0.03  # the bias of 64 draws, and three standard deviations


def test_draws_are_those_of_the_base():
    prompts = torch.tensor([[0], [1]])
    found = rerank(number_of_ones, base(), prompts, 3, length=4, generator=seeded(5))
    assert torch.equal(found.ids, draw(base(), prompts, 3, length=4, generator=seeded(5)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_energies_that_are_no_numbers_choose_nothing(value):
    with pytest.raises(FloatingPointError, match="not finite"):
        choose(torch.tensor([[0.0], [value]]))


def test_answers_are_marginals_of_weighed_draws():
    torch.manual_seed(0)
    writer = LeftToRight(V, dim=8, heads=2, fixed=False)
    scored = BeliefEBT(V, dim=8, heads=2, fixed=False, head="scalar")
    batch = Batch(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[0, 1, 2], [2, 2, 0]]))
    found = Reranker(scored, writer, n=5).predict(batch, generator=seeded())
    drawn = rerank(scored, writer, batch.context, 5, generator=seeded())
    weights = (-drawn.energies).softmax(0)
    expected = sum(w[:, None, None] * torch.nn.functional.one_hot(ids, V) for w, ids in zip(weights, drawn.ids, strict=True))
    close(found.y.exp(), expected, rtol=1e-5, atol=1e-6)
    close(found.energy, drawn.energies.amin(0))


def test_next_tokens_are_the_base_s_own():
    model, scored = base(), SequenceEBT(V, dim=8, depth=1, heads=2)
    batch = Batch(torch.tensor([[1, 2]]), torch.tensor([[0, 1]]))
    close(Reranker(scored, model).predict(batch).y, model.logits(batch.context).detach())
    with pytest.raises(ValueError, match="n=0"):
        Reranker(scored, model, 0)
