"""What the command line prints, for people on a terminal and for programs in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ebm.registry import components
from ebm.words import visible

if TYPE_CHECKING:
    from ebm.runs.run import Run


def say(*words: object, **how: Any) -> None:
    """Prints as `print` does, with whatever a terminal would obey escaped."""
    print(*map(visible, words), **how)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table that fits the terminal; in a pipe, a line for each row, divided by tabs."""
    title, cells = visible(title), [[visible(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print(title)
        for row in [columns, *cells] if rows else []:
            print(*(" ".join(cell.split()) for cell in row), sep="\t")
        print()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False, show_header=bool(rows))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    Console().print(table, "")


def print_numbers(numbers: Mapping[str, Any]) -> None:
    """Prints numbers, one a line."""
    for name, value in numbers.items():
        shown = f"{value:.5g}" if isinstance(value, int | float) else value
        say(f"{name:>24} {shown}" if sys.stdout.isatty() else f"{name}\t{shown}")


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2, default=str))


def show(result: Any) -> None:
    """Prints what a command returns: numbers, a line for each entry of a list, or the value."""
    if isinstance(result, Mapping):
        print_numbers(result)
    elif isinstance(result, Iterable) and not isinstance(result, str | bytes | PathLike):
        for entry in result:
            say(entry)
    elif result is not None:
        say(result)


def as_data(run: Run) -> dict[str, Any]:
    """Describes what a run found, for programs."""
    from ebm.studies.findings import read_rows  # lazy, here and below: what prints a list needs no torch

    verdict = run.verdict
    return {
        "path": str(run.path),
        "summary": run.recipe.get("summary", ""),
        "metrics": run.metrics,
        "baseline": None if run.baseline is None else run.baseline.metrics,
        "others": {name: other.metrics for name, other in run.others.items()},
        "studies": {name: rows for name in components("study") if (rows := read_rows(run.path / f"{name}.csv"))},
        "healthy": verdict.healthy,
        "verdict": verdict.line,
        "report": str(run.path / "report.html"),
    }


def print_run(run: Run) -> None:
    """Prints a run's metrics beside its baseline's, its studies' findings, and the verdict."""
    if run.baseline is None:
        print_numbers(run.metrics)
    else:
        other = run.baseline.metrics
        rows = [(name, f"{value:.5g}", f"{other[name]:.5g}" if name in other else "") for name, value in run.metrics.items()]
        print_table("held-out data", ("", "run", "baseline"), rows)
    for name in components("study"):
        print_study(run, name)
    say(run.verdict.line)
    say(f"report: {run.path / 'report.html'}")


def print_study(run: Run, name: str) -> None:
    """Prints what a study found of a run, by its headline; nothing where it was not asked."""
    from ebm.studies.findings import headline_in, read_rows
    from ebm.studies.probe import COLUMNS, lines, read_probe

    if name == "thinking":
        _print_thinking(run)
    elif name == "probe":
        if probed := read_probe(run.path):
            print_table("linear probe", COLUMNS, lines(probed))
    elif rows := read_rows(run.path / f"{name}.csv"):
        headline = headline_in(components("study")[name].factory, rows)
        named = "name" in rows[0] and "value" in rows[0]
        kept = [row for row in rows if row["name"] == headline] if named else rows
        columns = [column for column in kept[0] if column not in ("name", "value")] if named else list(kept[0])
        values = [[*(row[column] for column in columns), *([row["value"]] if named else [])] for row in kept]
        cells = [[f"{cell:.5g}" if isinstance(cell, float) else cell for cell in row] for row in values]
        print_table(name, [*columns, *([headline] if named else [])], cells)


def _print_thinking(run: Run) -> None:
    """Prints the headline by split, who predicted, steps and candidates."""
    from ebm.studies.answers import answer_tables
    from ebm.studies.thinking import headline_of, read_findings

    found = read_findings(run.path)
    headline = headline_of(run, found)
    if any(finding.choice for finding in found):
        for title, columns, lines in answer_tables(found, headline):
            print_table(title, columns, lines)
        return
    rows = []
    for finding in found:
        if finding.name.removesuffix("_adaptive") == headline:
            most = "≤ " if finding.name != headline else ""  # adaptive stopping takes at most as many
            steps = f"{most}{finding.steps}" if finding.steps else ""
            rows.append((finding.split, finding.who, steps, finding.candidates, f"{finding.value:.4f}"))
    if rows:
        print_table("thinking", ("split", "who", "steps", "candidates", headline), rows)
