"""Words for messages: the known name that is nearest to a wrong one, and text that is safe to show."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Code points that move a cursor, recolour or retitle a terminal, turn the order of characters
# round, or cannot be encoded: C0 but tab and newline, DEL and C1, bidirectional controls, surrogates.
UNSEEN = {*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in (*UNSEEN, *range(0xD800, 0xE000))}


def nearest(name: str, known: Iterable[str]) -> str:
    """Says which known name is nearest, and lists them.

    >>> nearest("witdh", ["width", "depth"])
    "did you mean 'width'? Known: width, depth"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names) or 'none'}"


def visible(text: object) -> str:
    """Escapes what a terminal would obey rather than show; tabs and newlines stay.

    >>> print(visible("plain \x1b[31mred\u202e"))
    plain \\x1b[31mred\\u202e
    """
    return str(text).translate(ESCAPES)
