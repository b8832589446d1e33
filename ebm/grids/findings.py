"""What a study found, as a file: the sentence, the estimates, and what they cost."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ebm.files import read_json, write_text
from ebm.grids.grid import Grid
from ebm.grids.launching import cores
from ebm.grids.readings import Reading
from ebm.grids.table import Table
from ebm.grids.work import Outcome

FINDING = "finding.json"


class Finding(NamedTuple):
    """A study's finding, all of it computed."""

    study: str
    claim: str
    source: str
    verdict: str  # "holds", "opposite", "mixed" or "undecided"
    finding: str
    date: str
    seeds: list[int]  # that were read
    runs: int
    machine_minutes: float  # of all runs together, tuning included
    machine: str
    command: str
    left_out: list[str]
    tuned: dict[str, Any]
    estimates: list[dict[str, Any]]


def write_finding(
    folder: Path,
    name: str,
    grid: Grid,
    reading: Reading,
    table: Table,
    left: Sequence[str],
    tuned: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    command: str,
) -> Finding:
    """Writes finding.json: the claim, what was found of it, and all that is needed to judge and repeat it."""
    parts = [reading.sentence, *([f"Left out, for the time was over: {', '.join(left)}."] if left else [])]
    ends = [f"{arm} {each['value']:g}" for arm, each in tuned.items() if each["at_end"] and len(each["tried"]) > 1]
    setting = grid.tune.setting if grid.tune is not None else ""
    parts += [f"The best {setting} lies at the end of what was tried: {', '.join(ends)}."] if ends else []
    estimates = [
        {
            "arm": each.arm,
            "against": each.against,
            "point": each.point,
            "what": each.what,
            **{key: value if math.isfinite(value) else None for key, value in each.estimate._asdict().items()},
            "supports": each.supports,
        }
        for each in reading.found
    ]
    machine = f"{platform.machine()}, {cores()} cores, torch {torch.__version__}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    found = Finding(
        name,
        grid.claim,
        grid.source,
        reading.verdict,
        " ".join(parts),
        time.strftime("%Y-%m-%d"),
        sorted({row.seed for row in table.rows}),
        len(outcomes),
        round(sum(each.seconds for each in outcomes.values()) / 60, 1),
        machine,
        command,
        [*left],
        dict(tuned),
        estimates,
    )
    write_text(folder / FINDING, json.dumps(found._asdict(), indent=2) + "\n")
    return found


def read_finding(folder: Path) -> Finding:
    """Reads what a study found; ValueError where the file is damaged."""
    try:
        return Finding(**read_json(folder / FINDING))
    except TypeError as error:
        raise ValueError(f"{folder / FINDING} is damaged: {error}") from error
