"""Laws of the boards and of the task."""

from __future__ import annotations

import random

import pytest
import torch
from ebm_ired import Sudoku
from ebm_ired.boards import by_logic, grids, solutions
from torch import Tensor

from ebm.interfaces import Batch, Prediction

BOX = (2, 3)


@pytest.fixture(scope="module")
def task() -> Sudoku:
    return Sudoku(n=240, seed=3)


class Oracle:
    """Predicts the answer, with some rows spoiled."""

    def __init__(self, spoiled: int = 0) -> None:
        self.spoiled = spoiled

    def predict(self, batch: Batch, start: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        y = batch.target.clone()
        y[: self.spoiled] = -y[: self.spoiled]
        return Prediction(y, None, 3)


def units(grid: Tensor) -> Tensor:
    """Lists the digits (n, 18, 6) of all rows, columns and boxes."""
    boxes = grid.view(-1, 3, 2, 2, 3).transpose(2, 3).reshape(-1, 6, 6)
    return torch.cat([grid, grid.transpose(1, 2), boxes], 1)


def test_grids_are_latin_in_rows_columns_and_boxes() -> None:
    drawn = grids(50, BOX, seed=1)
    assert torch.equal(units(drawn).sort(-1).values, torch.arange(6).expand(len(drawn), 18, 6))
    assert len({tuple(grid.flatten().tolist()) for grid in drawn}) == len(drawn) > 45
    assert torch.equal(drawn, grids(50, BOX, seed=1))
    assert not torch.equal(drawn[0], grids(50, BOX, seed=2)[0])


def test_search_finds_all_4x4_grids() -> None:
    assert len(solutions([-1] * 16, (2, 2), limit=1000)) == 288  # a known count
    assert len(set(solutions([-1] * 16, (2, 2), limit=1000, rng=random.Random(0)))) == 288


def test_search_finds_nothing_where_clues_clash() -> None:
    assert solutions([0, -1, -1, -1, -1, 0] + [-1] * 10, (2, 2)) == []


@pytest.mark.parametrize("split", ["train", "validation", "test", "hard", "hardest"])
def test_every_board_has_one_solution_and_it_is_the_target(task: Sudoku, split: str) -> None:
    target, clues, _ = task.rows(split)
    for grid, board in zip(target[:20].argmax(-1).flatten(1), clues[:20], strict=True):
        digits = torch.where(board.sum(-1) > 0, board.argmax(-1), -1).flatten()
        assert solutions(digits.tolist(), BOX) == [tuple(grid.tolist())]
    assert torch.equal(by_logic(clues, BOX)[0], (target + 1) / 2)


def test_clues_are_as_many_as_a_split_says_and_fewer_need_more_rounds(task: Sudoku) -> None:
    count = {split: rows.context.sum((1, 2, 3)) for split, rows in task.splits.items()}
    for split in ("train", "validation", "test"):
        assert 16 <= count[split].min() <= count[split].max() <= 24
    assert bool((count["hard"] == 13).all())
    assert count["hardest"].max() <= 13
    rounds = [by_logic(task.rows(split).context, BOX)[1].double().mean() for split in ("test", "hard", "hardest")]
    assert rounds[0] < rounds[1] < rounds[2]


def test_splits_are_disjoint_in_their_solutions(task: Sudoku) -> None:
    seen = [tuple(row.argmax(-1).flatten().tolist()) for rows in task.splits.values() for row in rows.target]
    assert len(set(seen)) == len(seen)


def test_boards_are_a_function_of_the_seed(task: Sudoku) -> None:
    again, other = Sudoku(n=240, seed=3), Sudoku(n=240, seed=4)
    assert torch.equal(task.rows("hard").context, again.rows("hard").context)
    assert not torch.equal(task.rows("hard").target[0], other.rows("hard").target[0])


def test_the_loader_shuffles_train_by_its_seed_alone(task: Sudoku) -> None:
    def first(seed: int, split: str = "train") -> Tensor:
        return next(iter(task.loader(split, 8, seed=seed))).context

    state = torch.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(first(0, "test"), first(1, "test"))
    assert torch.equal(state, torch.get_rng_state())


def test_the_start_draws_from_the_generator_and_does_not_read_the_answer(task: Sudoku) -> None:
    batch = next(iter(task.loader("test", 8)))
    one, other = (task.start(b, generator=torch.Generator().manual_seed(0)) for b in (batch, batch._replace(target=None)))
    assert torch.equal(one, other)


def test_corruption_changes_cells_without_a_clue_only(task: Sudoku) -> None:
    batch = task.rows("train")
    wrong = task.corrupt(batch, generator=torch.Generator().manual_seed(0))
    changed = (wrong != batch.target).any(-1)
    # 16 of 36 cells are blank, a quarter of them is drawn anew, and 5 of 6 draws are another digit
    assert changed.double().mean().item() == pytest.approx(16 / 36 / 4 * 5 / 6, abs=0.015)
    assert not bool((changed & (batch.context.sum(-1) > 0)).any())
    assert torch.equal((wrong > 0).sum(-1), torch.ones_like(wrong[..., 0], dtype=torch.long))


def test_evaluation_counts_boards_and_cells(task: Sudoku) -> None:
    assert task.evaluate(Oracle(), split="hard") == {"solved": 1.0, "cells": 1.0, "loss": 0.0, "evaluations": 3.0}
    found = task.evaluate(Oracle(spoiled=5), split="hard", limit=10)
    assert found["solved"] == 0.5
    assert found["loss"] == 2.0  # half of the boards are off by 2 everywhere


def test_what_cannot_be_is_refused(task: Sudoku) -> None:
    with pytest.raises(ValueError, match="hard < low"):
        Sudoku(clues=(12, 20), hard=13)
    with pytest.raises(ValueError, match="did you mean 'hardest'"):
        task.rows("hardes")
    with pytest.raises(ValueError, match="12 or more"):
        Sudoku(n=5)
