"""Puzzles as a task: drawn, or read from files; trained on easy ones and judged on harder ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch
from ebm.optional import installed
from ebm.randomness import stream
from ebm.tasks.puzzles.answers import Answers, revealed
from ebm.tasks.puzzles.mazes import Mazes
from ebm.tasks.puzzles.queens import Queens
from ebm.tasks.puzzles.sudoku import Sudoku
from ebm.words import nearest


@runtime_checkable
class Game(Protocol):
    """What a puzzle is: how it is drawn and judged. A game of your own needs no base class."""

    @property
    def spec(self) -> dict[str, Any]:
        """What an energy has to know: vocab_size, and length, relations, context_vocab, fixed."""

    def draw(self, n: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Draws n problems: split -> answers (n, S) and contexts (n, S), −1 where unknown."""

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which answers (*more, B, S) are right: (*more, B)."""

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        """Makes other problems of a batch's by the game's symmetries."""

    def read(self, text: str) -> Tensor:
        """Reads a problem's context (S,) from text."""

    def show(self, answer: Tensor, context: Tensor) -> str:
        """Writes an answer (S,) as text."""


GAMES: dict[str, Any] = {"mazes": Mazes, "queens": Queens, "sudoku": Sudoku}


class Puzzles(Answers):
    """Puzzles with an answer to find: sudokus, mazes, queens, or a game of your own.

    A batch's target holds answers (B, S), its context what is known (B, S), −1 elsewhere. Training
    draws other problems from each by the game's symmetries, and gives further cells of half of them
    away, up to all.

    Arguments:
        game: "sudoku", "mazes" or "queens"; a table such as {"kind": "sudoku", "box": [3, 3],
            "clues": [30, 40], "hard": 26}; or a `Game`.
        n: how many problems are drawn; a twelfth is for each split but train.
        data: a csv file of `puzzle,solution` rows, compressed or not, in place of drawn ones; signs
            are those that the game's `read` knows.
        held_out: how many of its last rows are "test"; as many before them are "validation".
        more: further splits, name -> csv file.
        augment: whether training draws by symmetries.
        reveal: the share of training problems of which further cells are given away.
        seed: fixes the problems.
        learned: what a run of this task keeps; with it problems are made when they are needed.

    Raises:
        ValueError: for an unknown game, keywords that it has not, or rows that cannot be read or
            whose solution is none.
        FileNotFoundError: there is no such file.

    >>> task = Puzzles({"kind": "sudoku", "box": (2, 2), "clues": (7, 10), "hard": 6}, n=120)
    >>> batch = next(iter(task.loader("test", 4)))
    >>> batch.target.shape, bool(task.accepts(batch.target, batch).all()), task.spec["vocab_size"]
    (torch.Size([4, 16]), True, 4)
    """

    paths: ClassVar = {"data": (), "more": ()}

    def __init__(
        self,
        game: str | dict[str, Any] | Game = "sudoku",
        n: int = 6000,
        data: str | None = None,
        held_out: int = 1000,
        more: Mapping[str, str] | None = None,
        augment: bool = True,
        reveal: float = 0.5,
        seed: int = 0,
        learned: Path | None = None,
    ) -> None:
        if not 0 <= reveal <= 1:
            raise ValueError(f"reveal={reveal}: pass a share in [0, 1]")
        self.game: Any = game_of(game)
        self.augment, self.reveal = augment, reveal
        self.spec = self.game.spec
        self.n, self.seed, self.source, self.held_out, self.more = n, seed, data, held_out, dict(more or {})
        if learned is None:
            _ = self.splits  # what cannot be read is refused now

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read."""
        count = sum(len(rows.target) for split, rows in self.splits.items() if split not in self.more)
        return f"{count:,} problems of {f'{type(self.game).__name__}, drawn' if self.source is None else self.source}"

    @cached_property
    def splits(self) -> dict[str, Batch]:  # type: ignore[override]
        """The problems of each split, drawn or read."""
        if self.source is None:
            drawn = self.game.draw(self.n, self.seed)
        else:
            drawn = _parted(*read_rows(Path(self.source), self.game), self.held_out, self.source, self.seed)
        for name, path in self.more.items():
            drawn[name] = read_rows(Path(path), self.game)
        return {split: Batch(answers, contexts) for split, (answers, contexts) in drawn.items()}

    @cached_property
    def _held(self) -> Tensor:
        return torch.cat([self._keys(rows.target) for split, rows in self.splits.items() if split != "train"])

    def _keys(self, answer: Tensor) -> Tensor:
        """Hashes answers (n, S) to whole numbers (n,)."""
        factors = torch.randint(2**62, answer.shape[1:], generator=stream(0, "keys"))
        return (answer * factors).sum(-1)

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        return self.game.accepts(answer, batch)

    def unknown(self, context: Tensor) -> Tensor:
        return self.game.unknown(context) if hasattr(self.game, "unknown") else super().unknown(context)

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        if self.augment:
            turned = self.game.turned(batch, generator)
            met = torch.isin(self._keys(turned.target), self._held)[:, None]  # a held-out problem, turned: leave it out
            batch = Batch(torch.where(met, batch.target, turned.target), torch.where(met, batch.context, turned.context))
        return revealed(batch, generator, self.reveal) if self.spec.get("fixed", True) else batch


def game_of(game: Any) -> Any:
    """Reads a game: its name, a table with its `kind`, or itself.

    Raises:
        ValueError: for an unknown kind or keyword.
    """
    if isinstance(game, str):
        game = {"kind": game}
    if not isinstance(game, Mapping):
        return game
    how = dict(game)
    kind = how.pop("kind", "sudoku")
    if kind not in GAMES:
        raise ValueError(f"no game is called {kind!r}: {nearest(str(kind), GAMES)}")
    for name, value in how.items():
        if name not in (known := GAMES[kind].__dataclass_fields__):
            raise ValueError(f"{kind} has no keyword {name!r}: {nearest(name, known)}")
        how[name] = tuple(value) if isinstance(value, list) else value
    try:
        return GAMES[kind](**how)
    except TypeError as error:  # such as a word for a number
        raise ValueError(f"game={dict(game)}: {error}") from error


def read_rows(path: Path, game: Any) -> tuple[Tensor, Tensor]:
    """Reads solutions and puzzles (n, S) from a csv file of `puzzle,solution` rows.

    A first row that is a header is left out. Compression goes by the file's ending.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    installed("pandas")
    import pandas as pd  # lazy: only own files need it

    try:
        table = pd.read_csv(path, header=None, dtype=str, skipinitialspace=True, keep_default_na=False)
    except (ValueError, OSError, EOFError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path} cannot be read as csv: {error}") from error
    if table.shape[1] != 2:
        raise ValueError(f"{path} has {table.shape[1]} columns: write puzzle,solution in each row")
    rows = table.to_numpy().tolist()
    first = 0 if any(sign.isdigit() for sign in rows[0][0]) else 1
    contexts, answers = [], []
    for number, (puzzle, solution) in enumerate(rows[first:], first + 1):
        try:
            contexts.append(game.read(puzzle))
            answers.append(game.read(solution))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    if not contexts:
        raise ValueError(f"{path} has no rows: write puzzle,solution in each")
    answer, context = torch.stack(answers), torch.stack(contexts)
    whole = (answer >= 0).all(1)
    right = whole & game.accepts(answer.clamp(min=0), Batch(answer, context))
    if not bool(right.all()):
        wrong = (~right).nonzero().flatten().tolist()
        what = f"{len(wrong)} of {len(right)} solutions are none of their puzzles'"
        raise ValueError(f"{path}: {what} (row {wrong[0] + first + 1} first)")
    return answer, context


def _parted(answers: Tensor, contexts: Tensor, held_out: int, what: str, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Keeps the last rows for the test, and as many before them, drawn at random, for validation."""
    count = len(answers)
    if held_out < 1 or count < 2 * held_out + 1:
        raise ValueError(f"held_out={held_out} of the {count} rows of {what}: leave some to train on, at most {(count - 1) // 2}")
    order = torch.randperm(count - held_out, generator=stream(seed, "split"))
    rows = {"train": order[held_out:], "validation": order[:held_out], "test": torch.arange(count - held_out, count)}
    return {split: (answers[index], contexts[index]) for split, index in rows.items()}
