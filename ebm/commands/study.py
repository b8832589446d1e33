"""`ebm study NAME`: conducts a study that does its own runs, or asks one of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebm import recipes
from ebm.commands.console import print_json, print_study, say
from ebm.commands.settings import parse_settings
from ebm.files import hold, holding
from ebm.grids.command import conduct_by_name
from ebm.grids.conducting import STUDY
from ebm.processes import use_threads
from ebm.registry import blamed, component, components
from ebm.reports.page import write_report
from ebm.runs.index import check_is_run
from ebm.studies import findings
from ebm.words import nearest


def conduct(name: str, settings: Sequence[str], given: dict[str, Any], threads: int | None, json: bool) -> None:
    """Conducts a study that does its own runs."""
    if not name.endswith(".toml") and name not in components("grid"):
        if name in components("study"):
            raise ValueError(f"ebm study {name}: this study is asked of a run: name its folder, as in ebm study {name} runs/text")
        if (Path(name) / STUDY).exists():
            raise ValueError(f"{name} is the folder of a study: go on with it by ebm study {Path(name) / STUDY} --out {name}")
        raise ValueError(f"no study is named {name!r}: {nearest(name, {**components('grid'), **components('study')})}")
    found, folder = conduct_by_name(name, parse_settings(settings), threads=threads, **given)
    if json:
        print_json({**found._asdict(), "folder": str(folder)})
        return
    say(f"claim: {found.claim} ({found.source})\nfinding, {found.verdict}: {found.finding}")
    say(f"table: {folder / 'table.csv'}")
    if (folder / "picture.png").exists():  # of no run there is none
        say(f"picture: {folder / 'picture.png'}")


@holding()
def ask(name: str, run: str, settings: Sequence[str], given: dict[str, Any], threads: int | None, json: bool) -> None:
    """Asks a study of a finished run."""
    if threads is not None:
        use_threads(threads)
    found = component("study", name)
    loaded = recipes.load_run(run)
    check_is_run(loaded.path, "a study")
    hold(loaded.path)
    asked = {key.rpartition(".")[2]: value for key, value in parse_settings(settings).items()} | given
    keywords = recipes.study_keywords(name, found, loaded.recipe.get(name, {}), asked)
    with blamed("study", found):
        rows = findings.conduct(loaded, name, keywords)
    write_report(loaded, loaded.recipe.get("seed", 0))
    if json:
        print_json(rows)
        return
    print_study(loaded, name)
    say(f"report: {loaded.path / 'report.html'}")
