"""A section of a report: a title, a picture or a table, and what to see in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Section(NamedTuple):
    """One section of a report. A plugin's `ebm_sections(run, seed)` returns some.

    >>> Section("Roughness", "Lower is smoother.", html_table(("split", "roughness"), [("test", "0.5")])).place
    50
    """

    title: str
    caption: str  # what to look for; plain text
    body: bytes | str  # the bytes of a PNG, or HTML text that is already escaped
    place: float = 50  # sections are shown in this order; the core's own have 10 to 99


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Writes a table as escaped HTML; the first column names the rows.

    >>> html_table(("", "<b>"), [("x", 1)])
    '<table>\\n<tr><th></th><td>&lt;b&gt;</td></tr>\\n<tr><th>x</th><td>1</td></tr>\\n</table>'
    """
    lines = []
    for row in [columns, *rows]:
        first, *others = (escape(str(cell)) for cell in row)
        lines.append(f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>")
    return "\n".join(["<table>", *lines, "</table>"])
