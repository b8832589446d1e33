"""What thinking buys: a run's quality by thinking steps and by candidates, beside its baseline's."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ebm.checkpoints import atomic
from ebm.interfaces import Predictor, check_steps
from ebm.randomness import stream
from ebm.thinking import Thinker

if TYPE_CHECKING:
    from ebm.runs import Run

__all__ = ["Finding", "read_findings", "study"]

FILE = "thinking.csv"


class Finding(NamedTuple):
    """One number: who predicted ("run", "baseline" or a rival) on which split, how it thought, and what was measured."""

    who: str
    split: str
    steps: int  # per landscape; a baseline's forward passes where it can take several; 0 for who does not think
    candidates: int
    name: str
    value: float


def study(
    run: Run,
    *,
    steps: Sequence[int] = (1, 2, 3, 4, 6, 8),
    candidates: Sequence[int] = (1, 4),
    splits: Sequence[str] = ("test",),
    limit: int | None = 64,
    patience: int | None = 1,
    tolerance: float = 0.0,
    passes: Sequence[int] = (),
    rivals: Sequence[str] = (),
    seed: int | None = None,
) -> list[Finding]:
    """Judges a run by its task at several amounts of thinking, on the same examples as its baseline; writes thinking.csv.

    More steps are tried with one candidate on every split, and more candidates with the run's own number of steps on the first.

    Arguments:
        run: a trained run.
        steps: thinking steps per landscape.
        candidates: starts that compete by their energy.
        splits: what to judge on; the first is in distribution, the others need not be.
        limit: examples of each.
        patience: also judge adaptive stopping, where a chain stops once its energy fell no further for so many steps.
        tolerance: the least fall, as a share of the energy, that counts for adaptive stopping.
        passes: forward passes of a baseline that can take several (which has `at(passes)`); the last on every split.
        rivals: methods without a model that the task knows (which has `rival(name)`), judged on every split.
        seed: what every draw is derived from; the run's by default.
    """
    found: list[Finding] = []
    root = run.recipe.get("seed", 0) if seed is None else seed

    def judge(who: str, predictor: Predictor, split: str, count: int, starts: int, suffix: str = "") -> None:
        generator = stream(root, "study", split, device=run.device)
        with torch.no_grad():
            metrics = run.judge().evaluate(predictor, split=split, limit=limit, generator=generator)
        found.extend(Finding(who, split, count, starts, name + suffix, float(value)) for name, value in metrics.items())

    baseline, own = run.baseline, check_steps(run.sampler.steps)[1]
    for split in splits:
        for name in rivals:
            judge(name, run.judge().rival(name), split, 0, 1)  # type: ignore[attr-defined]  # the recipe's author knows the task
        if baseline is not None and not passes:
            judge("baseline", baseline.thinker, split, 0, 1)
        elif baseline is not None:
            for count in passes if split == splits[0] else passes[-1:]:
                judge("baseline", baseline.thinker.at(count), split, count, 1)
        for count in sorted({*steps, own}):
            judge("run", Thinker(run.energy, run.sampler, steps=count), split, count, 1)
        if patience is not None:
            longest = max(*steps, own)
            stopping = Thinker(run.energy, run.sampler, steps=longest, patience=patience, tolerance=tolerance)
            judge("run", stopping, split, longest, 1, "_adaptive")
    for count in sorted(set(candidates) - {1}):
        judge("run", Thinker(run.energy, run.sampler, candidates=count), splits[0], own, count)
    write_findings(run.path, found)
    return found


def write_findings(folder: Path, found: Sequence[Finding]) -> None:
    """Writes thinking.csv into a run's folder."""
    with atomic(folder / FILE) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Finding._fields)
        writer.writerows((*finding[:-1], repr(finding.value)) for finding in found)


def read_findings(folder: Path) -> list[Finding]:
    """Reads thinking.csv, or nothing where there is none."""
    if not (folder / FILE).exists():
        return []
    with (folder / FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [Finding(who, split, int(steps), int(count), name, float(value)) for who, split, steps, count, name, value in rows]
