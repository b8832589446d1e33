"""Puzzles: what is drawn is right and as hard as it says, symmetries keep answers right, files are read."""

import lzma

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import Batch, Prediction
from ebm.tasks import Puzzles
from ebm.tasks.puzzles.mazes import Mazes
from ebm.tasks.puzzles.queens import Queens, placements
from ebm.tasks.puzzles.sudoku import Sudoku, solutions
from ebm.testing import check_task
from tests.helpers import laws, seeded, seeds

SMALL = {
    "sudoku": {"kind": "sudoku", "box": (2, 2), "clues": (7, 10), "hard": 6},
    "mazes": {"kind": "mazes", "side": 3, "hard": 4, "hardest": 5},
    "queens": {"kind": "queens", "side": 8, "queens": (3, 6), "hard": 2},
}
TASKS = {name: Puzzles(game, n=240) for name, game in SMALL.items()}
every = pytest.mark.parametrize("name", SMALL)


@every
def test_it_keeps_the_laws_of_tasks(name):
    check_task(lambda: Puzzles(SMALL[name], n=240))


@every
def test_all_answers_are_right_and_what_is_known_is_theirs(name):
    task = TASKS[name]
    for split in task.splits:
        rows = task.rows(split)
        assert bool(task.accepts(rows.target, rows).all())
        if task.spec.get("fixed", True):
            assert bool(((rows.context < 0) | (rows.context == rows.target)).all())
            assert bool((rows.context < 0).any())


@every
@laws
@given(seed=seeds)
def test_symmetries_keep_answers_right(name, seed):
    task = TASKS[name]
    for batch in (task.rows("train").rows(slice(20)), task.rows("test")):
        turned = task.game.turned(batch, seeded(seed))
        assert bool(task.accepts(turned.target, turned).all())
        if task.spec.get("fixed", True):
            assert torch.equal((turned.context >= 0).sum(1), (batch.context >= 0).sum(1))


@every
@laws
@given(seed=seeds)
def test_one_wrong_position_is_a_wrong_answer(name, seed):
    task, generator = TASKS[name], seeded(seed)
    rows = task.rows("test")
    asked = task.unknown(rows.context).float()
    place = torch.multinomial(asked, 1, generator=generator)
    shift = torch.randint(1, task.spec["vocab_size"], place.shape, generator=generator)
    wrong = rows.target.scatter(1, place, (rows.target.gather(1, place) + shift) % task.spec["vocab_size"])
    assert not bool(task.accepts(wrong, rows).any())


@every
def test_training_never_meets_what_is_held_out(name):
    task = TASKS[name]
    field = "context" if name == "mazes" else "target"  # different mazes may have the same path
    held = {row.numpy().tobytes() for split in task.splits if split != "train" for row in getattr(task.rows(split), field)}
    for seed in range(3):
        for batch in task.loader("train", 16, seed=seed):
            assert not any(row.numpy().tobytes() in held for row in getattr(batch, field))


@every
def test_text_is_read_back_as_it_is_shown(name):
    task = TASKS[name]
    rows = task.rows("hard")
    for answer, context in zip(rows.target[:5], rows.context[:5], strict=True):
        shown = task.game.show(context if name != "mazes" else answer, context)
        assert torch.equal(task.game.read(shown), context)


def test_sudokus_have_one_solution_and_as_many_clues_as_they_say():
    task = TASKS["sudoku"]
    for split in task.splits:
        rows = task.rows(split)
        counts = (rows.context >= 0).sum(1)
        low, high = {"hard": (6, 6), "hardest": (4, 6)}.get(split, (7, 10))
        assert low <= counts.min() <= counts.max() <= high
        for clues, answer in zip(rows.context[:10], rows.target, strict=False):
            assert solutions(clues.tolist(), (2, 2)) == [tuple(answer.tolist())]
    assert len({tuple(row) for split in task.splits for row in task.rows(split).target.tolist()}) == sum(
        len(task.rows(split).target) for split in task.splits
    )


def test_any_placement_of_queens_counts():
    game = Queens(side=6, queens=(2, 4), hard=1)
    every_board = torch.nn.functional.one_hot(torch.cartesian_prod(*[torch.arange(6)] * 6), 6).flatten(1)
    nothing = torch.full_like(every_board, -1)
    accepted = every_board[game.accepts(every_board, Batch(None, nothing))]
    boards = torch.nn.functional.one_hot(torch.tensor(placements(6)), 6).flatten(1)
    assert {*map(tuple, accepted.tolist())} == {*map(tuple, boards.tolist())}
    first = torch.where(boards[:1] == 1, 1, -1).expand_as(boards)
    assert game.accepts(boards, Batch(None, first)).tolist() == [True, False, False, False]


def test_only_the_path_of_a_maze_counts():
    """Of all markings of small mazes, the path alone is accepted."""
    task = Puzzles({"kind": "mazes", "side": 2, "hard": 3, "hardest": 4}, n=48)
    rows = task.rows("train")
    markings = torch.cartesian_prod(*[torch.arange(2)] * 4)
    for target, context in zip(rows.target[:20], rows.context, strict=False):
        accepted = markings[task.accepts(markings, Batch(None, context.expand(16, -1)))]
        assert accepted.tolist() == [target.tolist()]


def test_scores_count_what_is_asked_for():
    task = TASKS["sudoku"]
    rows = task.rows("test")
    sure = torch.nn.functional.one_hot(rows.target, 4).float() * 20
    wrong = sure.clone()
    place = int((rows.context[0] < 0).nonzero()[0])
    wrong[0, place] = wrong[0, place].roll(1)
    hidden = torch.cat([wrong, torch.randn(*wrong.shape[:-1], 3)], -1)  # hidden units behind the logits
    for y in (wrong, hidden):
        scores = task.scores(Prediction(y, None, 1), rows)
        assert scores["solved"].tolist() == [0.0, *[1.0] * (len(y) - 1)]
        asked = int((rows.context[0] < 0).sum())
        assert scores["cells"][0].item() == pytest.approx(1 - 1 / asked)
    assert task.distance(sure, rows).max() < 1e-6
    assert task.distance(sure[None].expand(3, *sure.shape), rows).shape == (3, len(rows.target))


def test_a_game_of_ones_own_needs_no_base_class():
    class Parity:
        """Fill in the last bit so that the sum is even."""

        def __init__(self):
            self.spec = {"vocab_size": 2, "length": 4}

        def draw(self, n, seed):
            bits = torch.randint(2, (n, 3), generator=seeded(seed))
            whole = torch.cat([bits, bits.sum(1, keepdim=True) % 2], 1)
            known = torch.cat([bits, torch.full((n, 1), -1)], 1)
            return {split: (whole, known) for split in ("train", "validation", "test")}

        def accepts(self, answer, batch):
            return answer.sum(-1) % 2 == 0

        def turned(self, batch, generator):
            return batch

        def read(self, text):
            return torch.tensor([int(sign) if sign in "01" else -1 for sign in text])

        def show(self, answer, context):
            return "".join(map(str, answer.tolist()))

    task = Puzzles(Parity(), n=20)
    batch = next(iter(task.loader("train", 4)))
    assert bool(task.accepts(batch.target, batch).all())


ROW = "1.3..2...3.24...,1234432121433412"
BOARD = Sudoku(box=(2, 2), clues=(7, 10), hard=6)


def rows_of(n):
    """Lists n right rows of a csv file."""
    drawn = Puzzles(SMALL["sudoku"], n=240).rows("train")
    text = []
    for answer, known in zip(drawn.target[:n].tolist(), drawn.context.tolist(), strict=False):
        text.append("".join("0" if k < 0 else str(k + 1) for k in known) + "," + "".join(str(a + 1) for a in answer))
    return text


@pytest.mark.parametrize("form", ["plain", "header", "xz", "spaces"])
def test_csv_files_are_read(tmp_path, form):
    lines = rows_of(12)
    if form == "header":
        lines = ["quizzes,solutions", *lines]
    if form == "spaces":
        lines = [line.replace(",", ", ") for line in lines]
    path, content = tmp_path / ("rows.csv.xz" if form == "xz" else "rows.csv"), "\n".join(lines) + "\n"
    if form == "xz":
        path.write_bytes(lzma.compress(content.encode()))
    else:
        path.write_text(content)
    task = Puzzles(SMALL["sudoku"], data=str(path), held_out=3, more={"again": str(path)})
    assert {split: len(rows.target) for split, rows in task.splits.items()} == {
        "train": 6,
        "validation": 3,
        "test": 3,
        "again": 12,
    }
    last = rows_of(12)[-3:]
    shown = ["".join(str(digit + 1) for digit in row) for row in task.rows("test").target.tolist()]
    assert shown == [line.partition(",")[2] for line in last]  # the last rows, in their order


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "cannot be read|no rows"),
        (["1234,1234"], "row 1.*4 cells.*16"),
        ([*rows_of(2), "1" * 16 + "," + "1" * 16], "row 3"),
        ([*rows_of(2), rows_of(1)[0].partition(",")[0] + "," + "." * 16], "row 3"),
        (["a,b,c"], "3 columns"),
        (rows_of(4), "held_out=1000 of the 4 rows"),
    ],
)
def test_files_that_cannot_be_read_name_the_row(tmp_path, lines, message):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        Puzzles(SMALL["sudoku"], data=str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Puzzles("chess"), "no game is called 'chess'"),
        (lambda: Puzzles({"kind": "sudoku", "size": 9}), "no keyword 'size'"),
        (lambda: Puzzles(n=5), "draw 12"),
        (lambda: Puzzles(reveal=2.0), "reveal=2.0"),
        (lambda: Puzzles({"kind": "mazes", "side": 1}), "side=1"),
        (lambda: Puzzles({"kind": "sudoku", "box": "23"}), "box"),
        (lambda: Puzzles({"kind": "queens", "side": 3}), "side=3"),
        (lambda: Sudoku(box=(1, 1)), "box"),
        (lambda: Sudoku(hard=20), "hard=20"),
        (lambda: BOARD.read("12"), "2 cells"),
        (lambda: Mazes().read("###"), "draw 2 k"),
        (lambda: Queens().read("Q"), "1 lines"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(FileNotFoundError):
        Puzzles(data="/there/is/none.csv")


@laws
@given(seed=seeds, share=st.floats(0.0, 1.0))
def test_revealed_cells_are_the_answers(seed, share):
    task = Puzzles(SMALL["sudoku"], n=48, reveal=share)
    batch = next(iter(task.loader("train", 16, seed=seed)))
    assert bool(((batch.context < 0) | (batch.context == batch.target)).all())
