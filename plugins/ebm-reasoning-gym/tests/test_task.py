"""The task over a stand-in for reasoning-gym: what is drawn, left out, judged and read."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
from ebm_reasoning_gym import ReasoningGym
from fakes import install
from torch import Tensor

import ebm
from ebm import recipes
from ebm.commands.solve import solve
from ebm.interfaces import Batch
from ebm.testing import check_task

SIZES = {"question_length": 6, "answer_length": 7}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def made(n: int = 400, **keywords: object) -> ReasoningGym:
    return ReasoningGym("doubles", n=n, **{**SIZES, **keywords})


def spelt(task: ReasoningGym, batch: Batch, spell) -> Tensor:
    """Writes other answers in place of the batch's."""
    rows = zip(batch.context.tolist(), batch.target.tolist(), strict=True)
    return torch.stack([task.texts.target(task.texts.question_of(c), spell(task.texts.answer_of(t))) for c, t in rows])


def test_it_keeps_the_laws() -> None:
    check_task(made)


def test_what_is_left_out_is_counted() -> None:
    task = made(n=77)
    kept = sum(len(rows.target) for rows in task.splits.values())
    # of 77, 7 have no answer; of the others 10 are too long
    assert kept == len(task.entries) == 60
    assert task.reads == "60 problems of doubles, drawn (left out: 7 without an answer, 10 too long)"
    repeated = made(n=60, options={"low": 10, "high": 60})
    questions = [row.numpy().tobytes() for rows in repeated.splits.values() for row in rows.context]
    assert len(set(questions)) == len(questions)
    assert "repeated" in repeated.reads


def test_splits_are_parts_of_one_draw() -> None:
    task = made()
    count = {split: len(rows.target) for split, rows in task.splits.items()}
    total = sum(count.values())
    assert count == {
        "train": total - round(0.1 * total) - round(0.2 * total),
        "validation": round(0.1 * total),
        "test": round(0.2 * total),
    }
    held = {split: {row.numpy().tobytes() for row in rows.context} for split, rows in task.splits.items()}
    assert not held["train"] & held["test"]
    assert not held["train"] & held["validation"]
    assert not held["validation"] & held["test"]


def test_problems_are_a_function_of_the_seed_and_neighbouring_seeds_share_none() -> None:
    task, again, other = made(), made(), made(seed=1)
    assert torch.equal(task.rows("test").target, again.rows("test").target)
    assert len(task.entries.keys() & other.entries.keys()) < 0.05 * len(task.entries)
    state = random.getstate()
    made()
    assert random.getstate() == state


def test_targets_are_question_and_answer() -> None:
    task = made()
    batch = task.rows("test")
    assert task.spec == {"vocab_size": 11, "length": 13}  # ten digits, and padding
    assert batch.target.shape[1] == 13
    assert torch.equal(task.unknown(batch.context)[0], torch.arange(13) >= 6)
    for ids in batch.target.tolist():
        assert int(task.texts.answer_of(ids)) == 2 * int(task.texts.question_of(ids))


def test_the_verifier_judges_and_not_equality() -> None:
    task = made()
    batch = task.rows("test").rows(slice(8))
    assert bool(task.accepts(batch.target, batch).all())
    zeros = spelt(task, batch, lambda answer: f"0{answer}")
    assert not bool((zeros == batch.target).all(-1).any())
    assert bool(task.accepts(zeros, batch).all())
    near = spelt(task, batch, lambda answer: str(int(answer) + 1))
    assert not bool(task.accepts(near, batch).any())  # half of the score is not enough
    nothing = spelt(task, batch, lambda answer: "")
    assert not bool(task.accepts(nothing, batch).any())  # the verifier raises


def test_candidates_are_judged_each() -> None:
    task = made()
    batch = task.rows("test").rows(slice(3))
    wrong = spelt(task, batch, lambda answer: "1")
    several = torch.stack([torch.stack([batch.target, wrong]), torch.stack([wrong, wrong])])
    assert task.accepts(several, batch).tolist() == [[[True] * 3, [False] * 3], [[False] * 3, [False] * 3]]
    assert task.accepts(several[:0], batch).shape == (0, 2, 3)


def test_an_answer_to_another_question_is_not_accepted() -> None:
    task = made()
    batch = task.rows("test").rows(slice(4))
    changed = batch.target.clone()
    changed[:, 5] = changed[:, 5] % 10 + 1
    assert not bool(task.accepts(changed, batch).any())


def test_a_question_that_was_not_drawn_is_compared_with_its_target() -> None:
    task = made()
    context = task.read("11")[None] if "11" not in task.entries else task.read("12")[None]
    target = task.texts.target("11", "22")[None]
    assert task.accepts(target, Batch(target, context)).tolist() == [True]
    assert task.accepts(target, Batch(context.clamp(min=0), context)).tolist() == [False]
    empty = context.clamp(min=0)
    assert task.accepts(empty, Batch(empty, context)).tolist() == [False]  # no target: nothing to be equal to


def test_it_reads_and_shows() -> None:
    task = made()
    core, item = next(iter(task.entries.items()))
    context = task.read(f"What is twice the number {core} ?")
    assert torch.equal(context, task.read(core))
    target = task.texts.target(core, item["answer"])
    assert task.show(target, context) == f"What is twice the number {core} ?\n{item['answer']}"
    assert task.judges(context)
    assert not task.judges(task.read("11"))  # it was not drawn
    with pytest.raises(ValueError, match="characters 'x'"):
        task.read("1x")


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"name": "double"}, "did you mean 'doubles'"),
        ({"options": {"hihg": 3}}, "did you mean 'high'"),
        ({"options": {"low": 3, "high": 2}}, "low must not exceed high"),
        ({"options": {"seed": 3}}, "seed is the task's seed"),
        ({"options": {"size": 3}}, "size is the task's n"),
        ({"question_length": 2}, "longest question has 22 characters, the longest answer 6"),
        ({"answer_length": 0}, "each is at least 1"),
        ({"n": 5}, "10 are needed"),
        ({"options": {"low": 10, "high": 12}}, "repeated"),
    ],
)
def test_what_cannot_be_is_refused(keywords: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ReasoningGym(**{"name": "doubles", "n": 100, **SIZES, **keywords})


def test_without_reasoning_gym_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ImportError, match="pip install reasoning-gym"):
        made()


def test_a_tiny_run_is_judged_loaded_and_solves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipes.load("reasoning-gym")
    del recipe["thinking"]
    recipe["task"] = {"use": "reasoning-gym", "name": "doubles", "n": 200, **SIZES}
    small = {"energy.dim": "8", "energy.heads": "2", "fit.steps": "3", "fit.batch_size": "8", "fit.evaluate_limit": "8"}
    run = ebm.run(recipes.resolve(recipe, small), out=tmp_path / "run")
    assert set(run.metrics) >= {"solved", "cells", "loss"}
    loaded = ebm.load(tmp_path / "run")
    assert loaded.evaluate() == run.metrics
    solve(loaded, "What is twice the number 11 ?", steps=4, candidates=2)
    assert capsys.readouterr().out.startswith("What is twice the number 11 ?\n")
