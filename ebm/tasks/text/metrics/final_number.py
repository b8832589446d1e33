"""GSM8K: the number that a written solution ends with."""

from __future__ import annotations

import re
from collections.abc import Sequence

MARKED = re.compile(r"#### *\$?(-?[0-9.,]+)")


def number_in(solution: str) -> str | None:
    """Reads the number behind "####", without commas and a final full stop; None where there is none.

    Source: the grader of GSM8K (arXiv 2110.14168), which reads the first mark.

    >>> number_in("12*100 = 1200\\n#### 1,200"), number_in("#### -3."), number_in("1200")
    ('1200', '-3', None)
    """
    found = MARKED.search(solution)
    return None if found is None else found[1].replace(",", "").rstrip(".") or None


def final_number(solution: str, references: Sequence[str]) -> dict[str, float]:
    """Tells whether a solution's final number is the reference's; nothing where that marks none.

    >>> final_number("six times seven\\n#### 42", ["6*7=42\\n#### 42"])
    {'final_number': 1.0}
    """
    right = number_in(references[0])
    return {} if right is None else {"final_number": float(number_in(solution) == right)}
