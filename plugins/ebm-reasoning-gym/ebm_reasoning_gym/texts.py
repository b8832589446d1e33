"""Questions and answers as ids of characters, of fixed lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

PAD = 0  # before a question, and behind an answer


class Texts(NamedTuple):
    """Writes questions and answers as ids, 0 for padding and i + 1 for the i-th character.

    A question stands at the end of its positions, so that its last characters have the same places
    in every problem; an answer stands at the beginning of its own. What all questions begin and end
    with is left out: it would say nothing, in many positions.

    Arguments:
        characters: those that there are, in order.
        before: what all questions begin with.
        after: what all questions end with.
        question_length: positions of a question.
        answer_length: positions of an answer.

    >>> texts = Texts("+123", "What is ", " ?", question_length=4, answer_length=2)
    >>> texts.context("What is 1+2 ?").tolist(), texts.target("1+2", "3").tolist()
    ([0, 2, 1, 3, -1, -1], [0, 2, 1, 3, 4, 0])
    """

    characters: str
    before: str
    after: str
    question_length: int
    answer_length: int

    def core(self, question: str) -> str:
        """Leaves out what all questions have; a question without it stays as it is."""
        return question.strip().removeprefix(self.before).removesuffix(self.after).strip()

    def whole(self, core: str) -> str:
        """Puts back what all questions have."""
        return f"{self.before}{core}{self.after}"

    def context(self, question: str) -> Tensor:
        """Writes a question as a context (S,), −1 where the answer goes.

        Raises:
            ValueError: it is empty, too long, or has an unknown character.
        """
        core = self.core(question)
        if not 1 <= len(core) <= self.question_length:
            room = f"this task has {self.question_length} positions for a question"
            raise ValueError(f"{core[:40]!r} has {len(core)} characters: {room}, so write 1 to {self.question_length}")
        return torch.tensor([PAD] * (self.question_length - len(core)) + self._ids(core) + [-1] * self.answer_length)

    def target(self, question: str, answer: str) -> Tensor:
        """Writes a question and its answer as a target (S,); ValueError as in `context`."""
        ids = self._ids(answer)
        if len(ids) > self.answer_length:
            raise ValueError(f"the answer {answer[:40]!r} has {len(ids)} characters: at most {self.answer_length} have room")
        target = self.context(question)
        target[self.question_length :] = torch.tensor(ids + [PAD] * (self.answer_length - len(ids)))
        return target

    def question_of(self, ids: Sequence[int]) -> str:
        """Reads a question's core off a context or a target."""
        return self._text(i for i in ids[: self.question_length] if i != PAD)

    def answer_of(self, ids: Sequence[int]) -> str:
        """Reads an answer off a target: up to the first padding, which ends it.

        >>> Texts("+123", "", "", 1, 4).answer_of([3, 2, 3, 0, 4])
        '12'
        """
        answer = [*ids[self.question_length :], PAD]
        return self._text(answer[: answer.index(PAD)])

    def _ids(self, text: str) -> list[int]:
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            known = f"the data have {self.characters!r}"
            raise ValueError(f"{text[:40]!r} has characters {''.join(unknown)!r} that no problem of this task has: {known}")
        return [self.characters.index(character) + 1 for character in text]

    def _text(self, ids: Iterable[int]) -> str:
        return "".join(self.characters[i - 1] for i in ids)


def frame_of(questions: Sequence[str]) -> tuple[str, str]:
    """Finds the words that all questions begin with, and those that they end with.

    Whole words, so that a digit or a letter that is shared by chance is not taken for one.

    >>> frame_of(["What is 1 + 2 ?", "What is 1 - 25 ?", "What is 17 - 1 ?"])
    ('What is ', ' ?')
    """
    words = [question.split(" ") for question in questions]
    first = _shared(words)
    rest = [each[first:][::-1] for each in words]
    last = rest[0][: _shared(rest)][::-1]
    return " ".join([*words[0][:first], ""]), " ".join(["", *last])


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """Counts the words that all rows begin with; one word of each row is left."""
    columns = zip(*(row[:-1] for row in rows), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
