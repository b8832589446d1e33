"""What a report shows of a run's studies: what each found, as a picture and a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ebm.figures import DATA, GREY, INK, OTHER, SAMPLES, figure_of
from ebm.registry import components, hookimpl
from ebm.reports.section import Section, html_table
from ebm.runs.run import Run
from ebm.studies.findings import Row, headline_in, read_rows
from ebm.studies.probe import COLUMNS, lines, read_probe

OWN = ("thinking", "probe")  # the core's, which are shown in their own ways
ROWS = 60  # of a table, at most


@hookimpl
def ebm_sections(run: Run) -> Iterator[Section]:
    """Shows the linear probe, and what every study of a plugin has found."""
    if probed := read_probe(run.path):
        yield Section(
            "Linear probe",
            "How well a linear classifier of labelled images does on held-out ones, given the means "
            "over an image's quarters of a block's features, or plain pixels: mean ± standard "
            "deviation over so many splits. The block (0 is the embedding) was chosen, like the "
            "strength of regularisation, on images that are neither trained nor tested on; it is the "
            "one that was chosen most often.",
            html_table(COLUMNS, lines(probed)),
            place=10,
        )
    for name, found in components("study").items():
        if name not in OWN and (rows := read_rows(run.path / f"{name}.csv")):
            title = f"Study: {name}"
            shown = [[f"{cell:.5g}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows[:ROWS]]
            more = f" The first {ROWS} of {len(rows)} rows; {name}.csv has all." if len(rows) > ROWS else ""
            if picture := picture_of(rows, headline_in(found.factory, rows)):
                yield Section(title, found.summary, picture, place=40)
            yield Section(f"{title}, in numbers", found.summary + more, html_table(list(rows[0]), shown), place=40)


def picture_of(rows: Sequence[Row], headline: str) -> bytes | None:
    """Draws a study's headline over the first column of numbers that varies, or as bars."""
    named = "name" in rows[0] and "value" in rows[0]
    rows = [row for row in rows if row.get("name") == headline] if named else list(rows)
    value = "value" if named else headline
    if not rows or not all(isinstance(row.get(value), int | float) for row in rows):
        return None
    others = [column for column in rows[0] if column not in ("name", value)]
    varying = [column for column in others if len({row[column] for row in rows}) > 1]
    along = next((column for column in varying if all(isinstance(row[column], int | float) for row in rows)), None)
    kinds = [column for column in varying if column != along]
    lines: dict[str, list[tuple[float, float]]] = {}
    for index, row in enumerate(rows):
        label = ", ".join(str(row[column]) for column in kinds)
        lines.setdefault(label, []).append((row[along] if along else index, row[value]))
    with figure_of(9.6, 3.0 if along else 0.6 + 0.3 * len(lines)) as (figure, png):
        axes = figure.subplots()
        if along is None:
            bars = [points[0][1] for points in lines.values()]
            axes.barh(list(lines) if kinds else [headline], bars, color=SAMPLES, height=0.5)
            axes.invert_yaxis()
        else:
            for number, (label, points) in enumerate(lines.items()):
                color = (SAMPLES, DATA, INK, OTHER, GREY)[number % 5]
                axes.plot(*zip(*sorted(points), strict=True), "o-", color=color, markersize=4, label=label)
            axes.set_xlabel(along)
            if any(lines):
                axes.legend()
        axes.set_title(headline)
    return png.getvalue()
