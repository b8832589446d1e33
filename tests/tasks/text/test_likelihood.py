"""Laws of log-likelihoods: each token once, with all the context that there is room for, as the task's distance says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm
from ebm.interfaces import Batch
from ebm.samplers import GradientDescent
from ebm.tasks import Dyck
from ebm.tasks.text.likelihood import likelihoods, windows
from ebm.thinking import Thinker
from tests.helpers import laws

IDS = st.lists(st.integers(0, 4), min_size=1, max_size=12)
TASK = Dyck(length=8, depth=(1, 2), deep=(3, 4), n=10)  # a window of 9 tokens, of 5 kinds


def predictors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        how = {"vocab_size": 5, "dim": 8, "depth": 1, "heads": 2}
        energies = [ebm.build("energy", name, **how).double() for name in ("text-ebt", "residual-text-ebt", "transformer")]
        for parameter in (p for energy in energies for p in energy.parameters()):
            torch.nn.init.normal_(parameter, std=0.7)
    sampler = GradientDescent(step_size=3.0, steps=2, retraction="softmax")
    return {"text-ebt": Thinker(energies[0], sampler), "residual": Thinker(energies[1], sampler), "transformer": energies[2]}


@given(st.integers(1, 9), st.lists(st.integers(0, 99), min_size=1, max_size=20), st.lists(st.integers(0, 99), max_size=40))
def test_windows_hold_each_token_once_behind_all_that_fits(size, before, tokens):
    found = list(windows(before, tokens, size))
    assert [token for _, part in found for token in part] == tokens
    whole, place = before + tokens, len(before)
    for context, part in found:
        assert len(context) >= 1
        assert len(context) + len(part) - 1 == min(size, place + len(part) - 1)
        assert context == whole[place - len(context) : place]
        place += len(part)


@pytest.mark.parametrize("name", ["text-ebt", "residual", "transformer"])
@laws
@given(pairs=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4), rows_at_once=st.integers(1, 3))
def test_a_log_likelihood_is_minus_the_sum_of_the_task_s_distances(name, pairs, rows_at_once):
    """Beside a slow oracle, which predicts one token at a time, without padding."""
    predictor = predictors()[name]
    with torch.random.fork_rng():
        torch.set_default_dtype(torch.float64)
        try:
            found = likelihoods(predictor, TASK, pairs, rows_at_once=rows_at_once)
            for (before, tokens), (logprob, greedy) in zip(pairs, found, strict=True):
                total, right = 0.0, True
                for context, part in windows(before, tokens, 9):
                    for place, token in enumerate(part):
                        ids = torch.tensor([[*context, *part[:place], token]])
                        batch = Batch(ids[:, 1:], ids[:, :-1])
                        y = predictor.predict(batch, TASK.start(batch)).y
                        total += float(TASK.distance(y, batch)[0, -1])
                        right &= int(y[0, -1].argmax()) == token
                assert logprob == pytest.approx(-total, abs=1e-5)
                assert greedy == right
        finally:
            torch.set_default_dtype(torch.float32)


def test_nothing_is_certain():
    assert likelihoods(predictors()["transformer"].float(), TASK, [([1], [])]) == [(0.0, True)]
