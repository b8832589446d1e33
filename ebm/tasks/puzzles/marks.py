"""How a position of an answer is drawn: given, right, wrong, and how sure."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ebm.figures import DATA, INK, SAMPLES


class Mark(NamedTuple):
    """What stands at one position of a board."""

    symbol: int
    known: int  # the context there, -1 where nothing is known
    color: str
    alpha: float  # how sure it is
    wrong: bool


def marks_of(answer: Tensor, belief: Tensor, known: Tensor, asked: Tensor, true: Tensor | None = None) -> list[Mark]:
    """Marks an answer (S,): given symbols in black, right ones in blue, wrong ones in orange.

    Arguments:
        answer: the symbols.
        belief: probabilities (S, V); the fainter a mark, the less sure it is.
        known: the context.
        asked: which positions are asked for.
        true: the right answer; without it nothing is wrong.
    """
    sure = (0.25 + 0.75 * belief.amax(-1).clamp(0, 1)).tolist()
    wrong = [False] * len(sure) if true is None else (answer != true).tolist()
    columns = zip(answer.tolist(), known.tolist(), sure, asked.tolist(), wrong, strict=True)
    return [
        Mark(symbol, given, SAMPLES if off else DATA if open_ else INK, alpha if open_ else 1.0, off)
        for symbol, given, alpha, open_, off in columns
    ]
