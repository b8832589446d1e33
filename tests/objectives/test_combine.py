"""Laws of weighted sums: value, gradient, terms, and what they are made of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import Batch
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching, WeightedSum
from tests.helpers import Valley, close, grads, langevin, laws, normal, objective, quadratic, seeded, seeds

PARTS = ("denoising-score-matching", "reconstruction/last", "contrastive-divergence")


@laws
@given(seed=seeds, weights=st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3) | st.just([]))
def test_a_sum_is_the_sum(seed, weights):
    energy, batch = Valley(), Batch(normal(5, 2, seed=seed), normal(5, 3, seed=seed + 1), normal(5, seed=seed + 2).abs())
    parts, g = [objective(label) for label in PARTS], seeded(seed)
    whole = WeightedSum(parts, weights)(energy, batch, generator=seeded(seed))
    losses = [part(energy, batch, generator=g) for part in parts]
    factors = weights or [1.0] * 3
    expected = sum(factor * loss.value for factor, loss in zip(factors, losses, strict=True))
    close(whole.value, expected)
    parameters = (*energy.parameters(), *parts[1].parameters())
    for one, two in zip(grads(whole.value, *parameters), grads(expected, *parameters), strict=True):
        close(one, two, rtol=1e-6)
    terms = {f"{i}.{name}": term for i, loss in enumerate(losses) for name, term in loss.terms.items()}
    terms |= {f"{i}.loss": loss.value.detach() for i, loss in enumerate(losses)}
    assert whole.terms.keys() == terms.keys()
    for name, term in terms.items():
        close(whole.terms[name], term)


def test_start_and_generator_reach_every_part():
    batch, start = Batch(normal(4, 2)), normal(4, 2, seed=1)
    parts = [DenoisingScoreMatching(0.5), ContrastiveDivergence(langevin())]
    g = seeded()
    expected = [part(quadratic, batch, start=start, generator=g).value for part in parts]
    close(WeightedSum(parts)(quadratic, batch, start=start, generator=seeded()).value, sum(expected))


def test_its_parts_are_its_own():
    parts = [objective("reconstruction"), objective("reconstruction/last")]
    whole = WeightedSum(parts)
    assert len(list(whole.parameters())) == 2
    assert not any(part.sampler.training for part in whole.eval().objectives)
    assert whole.sampler is parts[0].sampler
    assert WeightedSum([DenoisingScoreMatching(0.1), parts[1]]).sampler is parts[1].sampler
    assert WeightedSum([DenoisingScoreMatching(0.1)]).sampler is None
    nested = WeightedSum([WeightedSum([DenoisingScoreMatching(0.1)]), parts[1]])
    assert nested.sampler is parts[1].sampler
    assert "0.0.loss" in nested(quadratic, Batch(normal(4, 2)), generator=seeded()).terms


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_other_numbers_of_weights_are_refused(weights):
    with pytest.raises(ValueError, match=f"2 objectives and {len(weights)} weights"):
        WeightedSum([DenoisingScoreMatching(0.1)] * 2, weights)
    with pytest.raises(ValueError, match="0 objectives"):
        WeightedSum([])


def test_a_weight_of_zero_silences_a_part():
    energy, batch = Valley(), Batch(normal(4, 2), normal(4, 3))
    parts = [DenoisingScoreMatching(0.5), ContrastiveDivergence(langevin())]
    loss = WeightedSum(parts, [1.0, 0.0])(energy, batch, generator=seeded())
    close(loss.value, parts[0](energy, batch, generator=seeded()).value)
    assert torch.equal(loss.terms["0.loss"], loss.value.detach())
