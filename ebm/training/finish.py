"""The end of a training: final metrics first, then the recipe's studies, then the report."""

from __future__ import annotations

import json

from ebm.files import write_text
from ebm.registry import component, components, reason_of
from ebm.reports.page import write_report
from ebm.runs.folder import extensions
from ebm.runs.run import Run
from ebm.studies.findings import conduct


def finish(run: Run, seed: int) -> None:
    """Writes metrics.json, conducts the recipe's studies, and writes report.html.

    A study that fails becomes a note in the report. The report is written last: it says that all
    is done.
    """
    write_text(run.path / "metrics.json", json.dumps(run.metrics, indent=2) + "\n")
    notes = [
        f"Finished at step {each['step']:,}, and trained on from there by another schedule or to more steps: where the "
        f"learning rate rose, the loss may have, too."
        for each in extensions(run.path)
    ]
    for name in [name for name in components("study") if name in run.recipe]:
        try:
            conduct(run, name, run.recipe[name], seed=seed)
        except (Exception, SystemExit) as error:  # a plugin's study may raise anything
            notes.append(f"The study {name!r} of {component('study', name).distribution} failed. {reason_of(error)}")
    write_report(run, seed, notes=notes)
