"""Laws of a task's default evaluation: weighted means of its scores over exactly the rows that are asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ebm.interfaces import Batch, Prediction, Task
from ebm.thinking import Considered
from tests.helpers import laws, normal, seeded, seeds


class Written(Task):
    """What an author writes: rows of five tokens, which have weights."""

    rows_at_once = 4

    def __init__(self, rows=10, weighted=True, seed=0):
        self.spec = {"dim": 3}
        self.y, self.weight = normal(rows, 5, 3, seed=seed), normal(rows, 5, seed=seed + 1).clamp(min=0) if weighted else None

    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows = Batch(self.y, {"row": torch.arange(len(self.y))}, self.weight)
        return DataLoader(range(len(self.y)), batch_size, collate_fn=rows.rows, generator=seeded(seed))

    def start(self, batch, *, generator=None):
        return torch.randn(batch.target.shape, generator=generator)

    def distance(self, y, batch):
        return (y - batch.target).square().mean(-1)


class Scoring(Written):
    def scores(self, prediction, batch):
        assert not torch.is_grad_enabled()
        return {"right": (prediction.y - batch.target).abs().amax(-1) < 1, "loss": self.distance(prediction.y, batch)}


class Off:
    """Predicts the target and an error, the same for every row."""

    def __init__(self, by=0.5, energy=True, at=None):
        self.by, self.energy, self.at, self.seen = by, energy, at, []

    def predict(self, batch, start, *, generator=None):
        self.seen += batch.context["row"].tolist()
        y = batch.target + self.by
        if self.at is not None:
            y[batch.context["row"] == self.at[0], self.at[1]] = math.nan
        return Prediction(y, y.sum(-1) if self.energy else None, 7)


@laws
@given(st.integers(1, 12), st.none() | st.integers(1, 15), st.booleans(), seeds)
def test_scores_are_averaged_by_weight_over_the_first_rows(rows, limit, weighted, seed):
    task, predictor = Written(rows, weighted, seed), Off()
    y, weight = task.y[:limit], torch.ones(rows, 5)[:limit] if task.weight is None else task.weight[:limit]
    if not weight.any():
        with pytest.raises(ValueError, match=f"split 'test' has no chain to score .limit={limit}"):
            task.evaluate(predictor, limit=limit)
        return
    found = task.evaluate(predictor, limit=limit)
    assert predictor.seen == list(range(min(rows, limit or rows)))
    assert list(found) == ["loss", "energy", "evaluations"]
    assert found["loss"] == pytest.approx(0.25)
    assert found["energy"] == pytest.approx((weight * (y + 0.5).sum(-1)).sum().item() / weight.sum().item())
    assert found["evaluations"] == pytest.approx(7)


def test_an_authors_scores_are_all_that_has_to_be_written():
    assert Scoring().evaluate(Off(2.0, energy=False)) == {"right": 0.0, "loss": pytest.approx(4.0), "evaluations": 7.0}
    task = Scoring(weighted=False)
    task.y[:5] += 10  # what is predicted depends on the rows, of which a half is judged right
    wrong = Off()
    wrong.predict = lambda batch, start, generator=None: Prediction(torch.zeros_like(batch.target).add(10), None, 1)
    right = (task.y - 10).abs().amax(-1) < 1
    assert task.evaluate(wrong)["right"] == pytest.approx(right.double().mean().item())


def test_steps_are_counted_where_a_predictor_counts_them():
    class Counting(Off):
        def predict(self, batch, start, *, generator=None):
            found = Considered(*super().predict(batch, start))
            found.steps = batch.context["row"][:, None].expand(-1, 5)
            return found

    assert Written(weighted=False).evaluate(Counting())["steps"] == 4.5


def test_candidates_have_starts_of_their_own_and_draws_come_from_the_generator():
    class Chooses(Off):
        candidates = 3

        def predict(self, batch, start, *, generator=None):
            assert start.shape == (3, *batch.target.shape)
            return Prediction(start[0], None, 1)

    task, before = Written(), torch.get_rng_state()
    first, again, other = (task.evaluate(Chooses(), generator=seeded(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_what_has_no_weight_has_no_say_and_what_has_stops_where_it_is_not_finite():
    task = Written()
    out, counted = (task.weight == 0).nonzero().tolist(), (task.weight > 0).nonzero().tolist()
    assert task.evaluate(Off(at=out[0]))["loss"] == pytest.approx(0.25)
    with pytest.raises(FloatingPointError, match="a prediction of Off on split 'validation' is NaN"):
        task.evaluate(Off(at=counted[0]), split="validation")
    with pytest.raises(FloatingPointError, match="the mean loss on split 'test' is inf"):
        task.evaluate(Off(math.inf))


@pytest.mark.parametrize("name", ["row", "energy"])
def test_scores_are_one_number_per_chain(name):
    class Rows(Written):
        def scores(self, prediction, batch):
            return super().scores(prediction, batch) | ({"row": torch.ones(len(batch.target))} if name == "row" else {})

    predictor = Off(energy=False)
    if name == "energy":
        predictor.predict = lambda batch, start, generator=None: Prediction(batch.target, batch.target.sum(), 1)
    with pytest.raises(ValueError, match=rf"{name} has shape \((4,)?\): pass one number per chain, \(4, 5\)"):
        Rows().evaluate(predictor)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_leaves_an_example(limit):
    with pytest.raises(ValueError, match=f"limit={limit}: at least one example is needed"):
        Written().evaluate(Off(), limit=limit)


def test_means_can_be_concluded_from():
    class Share(Scoring):
        headline = "share"

        def conclude(self, scores, split):
            means = super().conclude(scores, split)
            return {"share": means.pop("right") / means["loss"], "split": float(len(split)), **means}

    found = Share().evaluate(Off(), split="train")
    assert (found["share"], found["split"], Share.headline, Written.headline) == (pytest.approx(4.0), 5.0, "share", "loss")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
def test_batches_go_where_the_generator_is():
    class Watching(Off):
        def predict(self, batch, start, *, generator=None):
            assert {part.device.type for part in (batch.target, batch.context["row"], batch.weight)} == {"cuda"}
            return super().predict(batch, start)

    Written().evaluate(Watching(), generator=torch.Generator("cuda"))
