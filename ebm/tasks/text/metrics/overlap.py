"""SQuAD: exact match, and the F1 of words, of an answer and the nearest of its references."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

PUNCTUATION = str.maketrans("", "", string.punctuation)


def words_of(answer: str) -> list[str]:
    """Lists an answer's words without case, punctuation and articles.

    >>> words_of("The  Giant's an, ÉLAN!")
    ['giants', 'élan']
    """
    return re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(PUNCTUATION)).split()


def f1(answer: str, reference: str) -> float:
    """Computes the F1 of two answers' bags of words; without a word in either, whether both have none.

    >>> f1("in the Giant Mountains", "Giant Mountains")
    0.8
    """
    said, right = words_of(answer), words_of(reference)
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right)) if said and right else float(said == right)


def overlap(answer: str, references: Sequence[str]) -> dict[str, float]:
    """Compares an answer with the nearest of all references: `exact_match` and `f1`.

    Source: the evaluation script of SQuAD (arXiv 1606.05250, section 6.1; version 2.0).

    >>> overlap("giant mountains.", ["Harz", "the Giant Mountains"])
    {'exact_match': 1.0, 'f1': 1.0}
    """
    exact = max(float(words_of(answer) == words_of(each)) for each in references)
    return {"exact_match": exact, "f1": max(f1(answer, each) for each in references)}
