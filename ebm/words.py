"""Words for messages: the known name that is nearest to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Says which known name is nearest, and lists them.

    >>> nearest("witdh", ["width", "depth"])
    "did you mean 'width'? Known: width, depth"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names) or 'none'}"
