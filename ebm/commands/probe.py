"""`ebm probe RUN`: classify labelled images by a run's features."""

from __future__ import annotations

from ebm.commands.console import print_study, say
from ebm.files import hold, holding
from ebm.reports.page import write_report
from ebm.runs.index import check_is_run
from ebm.runs.run import Run
from ebm.studies.findings import conduct


@holding()
def probe(run: Run, /, *, data: tuple[str, ...] = ("digits-28", "digits-8"), seeds: int = 3, limit: int | None = 3_000) -> None:
    """Classify labelled images by a run's features: writes probe.csv, and the report anew.

    Args:
        run: the run folder; its baseline is probed, too.
        data: digits-28, digits-8, a folder of classes' folders, or a hub dataset; repeatable.
        seeds: how many splits of the images into training, validation and test parts.
        limit: how many images of each data set at most.
    """
    check_is_run(run.path, "the probe")
    hold(run.path)  # the report is written anew
    conduct(run, "probe", {"data": data, "seeds": seeds, "limit": limit})
    write_report(run, run.recipe.get("seed", 0))
    print_study(run, "probe")
    say(f"report: {run.path / 'report.html'}")
