"""Writing left to right: no symbol sees a later one, greedy decoding by hand, what is known, and the objective that trains it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm
from ebm.baselines import LeftToRight
from ebm.baselines.left_to_right import written_in_order
from ebm.energies.ebt.relations import order as ordered_places
from ebm.interfaces import Batch, FeedForward, energy_and_grad
from ebm.objectives import NextSymbol
from ebm.samplers import GradientDescent
from ebm.tasks import Arithmetic
from ebm.testing import check_energy, check_objective
from tests.helpers import close, laws, normal, quadratic, seeded, seeds

CONTEXT = torch.tensor([[-1, 2, -1, 0], [-1, -1, 1, -1]])
FORMS = {
    "plain": {},
    "related": {"relations": {"kind": "order", "reach": 2}},
    "window": {"relations": {"kind": "order", "reach": 1, "window": True}},
    "loose": {"fixed": False, "context_vocab": 7, "relations": {"kind": "order", "reach": 2}},
    "placed": {"length": 4, "depth": 1},
}
ORDERS = ("first", "last")
every = pytest.mark.parametrize("form", FORMS)
either = pytest.mark.parametrize("order", ORDERS)


def made(form="related", order="first", seed=0) -> LeftToRight:
    torch.manual_seed(seed)
    model = LeftToRight(3, order=order, **{"dim": 8, "heads": 2, **FORMS[form]}).double()
    for block in model.blocks:
        torch.nn.init.normal_(block.bias)
    return model


def places(order: str) -> list[int]:
    return [0, 1, 2, 3] if order == "first" else [3, 2, 1, 0]


def answers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, shape, generator=seeded(seed))


# --------------------------------------------------------------------------------------------------------------- the network


@every
@either
def test_as_an_energy_it_keeps_the_laws(form, order):
    def make():
        return LeftToRight(3, order=order, **{"dim": 8, "heads": 2, **FORMS[form]})

    check_energy(make, torch.randn(6, 4, 3), CONTEXT[:1].repeat(6, 1))


@every
@either
@laws
@given(seed=seeds)
def test_a_symbol_sees_what_is_written_before_it_and_nothing_else(form, order, seed):
    model, target = made(form, order), answers(2, 4, seed=seed)
    logits, written = model.teacher_forced(CONTEXT, target), places(order)
    for step in range(4):
        changed = target.clone()
        changed[:, written[step]] = (changed[:, written[step]] + 1 + seed % 2) % 3
        moved = (model.teacher_forced(CONTEXT, changed) - logits).abs().amax(-1) > 1e-9
        assert not moved[:, written[: step + 1]].any()
        if step < 3:
            following = written[step + 1]
            assert torch.equal(moved[:, following], CONTEXT[:, following] < 0 if model.fixed else torch.tensor([True, True]))


@every
@either
def test_the_whole_question_is_seen_unless_a_window_hides_it(form, order):
    model, question = made(form, order), torch.full((1, 4), -1)
    logits = model.teacher_forced(question, answers(1, 4))
    for place in range(4):
        changed = question.clone()
        changed[:, place] = 1
        moved = (model.teacher_forced(changed, answers(1, 4)) - logits).abs().amax(-1)[0] > 1e-9
        near = torch.tensor([form != "window" or abs(place - other) <= 2 for other in range(4)])  # a window of 1, two blocks deep
        assert moved[near].all()
        assert moved.any()


@every
@either
@laws
@given(seed=seeds)
def test_it_decodes_greedily(form, order, seed):
    """Step by step: what is not written yet is nonsense, which changes with every step."""
    model = made(form, order, seed)
    found = model.predict(Batch(CONTEXT, CONTEXT))
    written, logits = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, 3, dtype=torch.float64)
    for step, place in enumerate(places(order)):
        guess = answers(2, 4, seed=seed + step)
        for earlier in places(order)[:step]:
            guess[:, earlier] = written[:, earlier]
        with torch.no_grad():
            logits[:, place] = model.teacher_forced(CONTEXT, guess)[:, place]
        written[:, place] = logits[:, place].argmax(-1)
    close(found.y, logits)
    assert torch.equal(found.y.argmax(-1), written)
    assert found.evaluations == 4
    assert found.energy is None


@either
def test_what_is_known_is_kept_and_seen_by_what_is_written_later(order):
    model, known = made("placed", order), CONTEXT >= 0
    found = model.predict(Batch(CONTEXT, CONTEXT)).y
    assert torch.equal(found.argmax(-1)[known], CONTEXT[known])
    assert (found.softmax(-1).amax(-1)[known] > 1 - 1e-9).all()
    kept = found.argmax(-1)
    close(found, model.teacher_forced(CONTEXT, kept).detach())  # it is shown what is known, too
    loose = made("loose", order)
    assert not torch.equal(loose.predict(Batch(CONTEXT, CONTEXT)).y.argmax(-1)[known], CONTEXT[known])


@laws
@given(seed=seeds, order=st.sampled_from(ORDERS))
def test_its_energy_is_a_bowl_around_what_it_writes(seed, order):
    model, y = made(order=order), normal(5, 2, 4, 3, seed=seed)
    prediction = model.predict(Batch(CONTEXT, CONTEXT)).y
    value, slope = energy_and_grad(model.given(CONTEXT), y)
    close(value, (y - prediction).square().sum((-2, -1)) / 2)
    close(slope, y - prediction)
    close(GradientDescent(1.0, steps=1).sample(model.given(CONTEXT), y), prediction.expand_as(y))
    assert isinstance(model, FeedForward)


def test_predicting_leaves_modes_and_gradients_alone():
    model = made().train()
    assert not model.predict(Batch(CONTEXT, CONTEXT)).y.requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("window", [False, True])
@either
def test_relations_are_those_of_places_and_of_what_is_whose(order, window):
    one = ordered_places(1, window)
    both = written_in_order(one, order)
    numbers, places_of = both.among(3), one.among(3)
    assert torch.equal(numbers[:3, :3], places_of)
    assert (numbers[:3, 3:] == both.kinds - 1).all()
    assert torch.equal(numbers[3:, :3], places_of + one.kinds)
    for i in range(3):
        for j in range(3):
            written = j <= i if order == "first" else j >= i
            assert numbers[3 + i, 3 + j] == (places_of[i, j] + 2 * one.kinds if written else both.kinds - 1)
    assert set(both.hidden) == {kind + part * one.kinds for part in range(3) for kind in one.hidden} | {both.kinds - 1}
    assert torch.equal(both.hints[:, :-1], one.hints.repeat(1, 3))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"order": "middle"}, "order='middle': choose first or last"),
        ({"dim": 9}, r"LeftToRight\(vocab_size=3, dim=9"),
        ({"context_vocab": 5}, "fixed=False"),
    ],
)
def test_what_cannot_be_built_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        LeftToRight(3, **{"dim": 8, "heads": 2, **how})


def test_what_does_not_fit_is_refused():
    model = made("placed")
    with pytest.raises(ValueError, match="the context is NoneType"):
        model.encode()
    with pytest.raises(ValueError, match="3 positions, but LeftToRight has length=4"):
        model.encode(CONTEXT[:, :3])
    for target in (answers(2, 3), answers(1, 4), normal(2, 4)):
        with pytest.raises(ValueError, match=r"the context \(2, 4\): pass whole numbers, a symbol for each"):
            model.teacher_forced(CONTEXT, target)
    with pytest.raises(ValueError, match="scores y given a context"):
        model(normal(2, 4, 3))
    with pytest.raises(ValueError, match="3 probabilities"):
        model.given(CONTEXT)(normal(2, 4, 2))


# ------------------------------------------------------------------------------------------------------------- the objective


@either
def test_the_objective_keeps_the_laws(order):
    task = Arithmetic(width=(2, 2), n=20)
    torch.manual_seed(0)
    model = LeftToRight(**task.spec, dim=8, heads=2, order=order)
    check_objective(lambda: NextSymbol(task), model, task.rows("test").rows(slice(12)))


def test_the_loss_is_the_cross_entropy_of_what_is_asked_for():
    model, target, weight = made(), answers(2, 4), torch.tensor([1.0, 3.0], dtype=torch.float64)
    target = torch.where(CONTEXT >= 0, CONTEXT, target)

    def distance(logits, batch):
        picked = logits.gather(-1, batch.target[..., None])[..., 0]
        return -(picked * (batch.context < 0)).sum(-1)

    loss = NextSymbol(distance=distance)(model, Batch(target, CONTEXT, weight))
    logits = model.teacher_forced(CONTEXT, target).log_softmax(-1)
    rows = [-sum(logits[row, i, target[row, i]] for i in range(4) if CONTEXT[row, i] < 0) for row in range(2)]
    close(loss.value, (rows[0] + 3 * rows[1]) / 4)
    close(loss.terms["cross_entropy"], loss.value.detach())
    loss.value.backward()
    assert all(bool(parameter.grad.any()) for parameter in model.parameters())


def test_calls_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="pass task, or distance"):
        NextSymbol()
    batch = Batch(answers(2, 4), CONTEXT)
    with pytest.raises(ValueError, match="function has no teacher_forced"):
        NextSymbol(Arithmetic(n=10))(quadratic, batch)
    with pytest.raises(ValueError, match="leave it out"):
        NextSymbol(Arithmetic(n=10))(made(), batch, start=batch.target)


@either
def test_it_learns_to_carry_on_what_it_wrote(order):
    """Each symbol is the sum of a question's symbols up to it, in the order of writing: the last symbol and one more."""
    torch.manual_seed(0)
    model = LeftToRight(2, fixed=False, relations={"kind": "order", "reach": 1, "window": True}, dim=16, heads=2, order=order)

    def problems(count, wide, seed):
        question = torch.randint(2, (count, wide), generator=seeded(seed))
        ordered = question if order == "first" else question.flip(1)
        sums = ordered.cumsum(1) % 2
        return Batch(sums if order == "first" else sums.flip(1), question)

    def distance(logits, batch):
        return torch.nn.functional.cross_entropy(logits.mT, batch.target, reduction="none").mean(-1)

    aim, optimizer = NextSymbol(distance=distance), torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        optimizer.zero_grad()
        aim(model, problems(32, 4, step)).value.backward()
        optimizer.step()
    longer = problems(100, 12, 1000)
    assert (model.predict(longer).y.argmax(-1) == longer.target).float().mean() > 0.99


# --------------------------------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize(("recipe", "order"), [("arithmetic-causal", "first"), ("arithmetic-causal-highest-first", "last")])
def test_its_recipes_run(tmp_path, recipe, order):
    settings = {"fit.steps": 2, "fit.batch_size": 4, "fit.evaluate_limit": 4, "energy.dim": 8, "task.n": 20}
    run = ebm.run(recipe, settings, out=tmp_path / "run")
    assert run.thinker is run.energy
    assert (run.energy.order, run.energy.vocab_size, run.energy.context_vocab) == (order, 10, 100)
    assert {"solved", "cells", "loss"} <= run.evaluate("hard", limit=4).keys()
    assert run.evaluate("hard", limit=4)["evaluations"] == 11
    with pytest.raises(ValueError, match="LeftToRight is feed-forward"):
        run.predictor(steps=3)
