"""What thinking buys: a run's quality by steps and candidates, beside its baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ebm.interfaces import Predictor, check_steps
from ebm.interfaces.abilities import HasAnswers, Paced, lacking
from ebm.randomness import stream
from ebm.registry import component
from ebm.runs.run import Run
from ebm.studies.answers import gained, judge_answers, judge_gain, judge_searches, judge_stopping, think_aloud
from ebm.studies.findings import Finding, read_as
from ebm.thinking import Thinker


def thinking(
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
    select: Sequence[str] = ("min",),
    searches: Sequence[str] = (),
    search_passes: int = 512,
    residual: float | None = None,
    familiar: float | None = None,
    seed: int | None = None,
) -> list[Finding]:
    """Judges a run at several amounts of thinking, on the same examples as its baseline.

    More steps are tried with one candidate on every split, more candidates on the first split.

    Arguments:
        run: a trained run.
        steps: thinking steps per landscape.
        candidates: starts that compete by their energy.
        splits: what to judge on; the first is in distribution, the others need not be.
        limit: examples of each.
        patience: also judge chains that stop once their energy fell no further for so many steps.
        tolerance: the least fall, as a share of the energy, that counts for adaptive stopping.
        passes: forward passes of a `Paced` baseline, or run; the last number on every split.
        rivals: registered methods without a model, judged on every split.
        select: where answers are right or wrong, ways of choosing among candidates, as `think`'s.
        searches: there, also ways of searching: "fresh", "hop" and "cool", on the last split.
        search_passes: forward passes that a way of searching spends on a problem, in all.
        residual: there, also judge chains that stop once a step moves them by less.
        familiar: elsewhere, adaptive ones that start with at most this energy take one step, as `think` says.
        seed: what every draw is derived from; the run's by default.
    """
    found: list[Finding] = []
    root, own = run.recipe.get("seed", 0) if seed is None else seed, own_steps(run)

    def judge(who: str, predictor: Predictor, split: str, count: int, starts: int, suffix: str = "") -> None:
        generator = stream(root, "study", split, device=run.device)
        with torch.no_grad():
            metrics = run.judge().evaluate(predictor, split=split, limit=limit, generator=generator)
        found.extend(Finding(who, split, count, starts, name + suffix, float(value)) for name, value in metrics.items())

    if not lacking(run.task, HasAnswers) and isinstance(run.thinker, Thinker):
        compared = {"run": run, **({} if run.baseline is None else {"baseline": run.baseline}), **run.others}
        gains: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        for split in splits:
            for who, each in compared.items():
                if isinstance(each.thinker, Thinker):
                    seen = think_aloud(each, [*steps, own], max(candidates), split, limit, root)
                    found += judge_answers(who, split, seen, candidates, select)
                    gains.setdefault(who, {})[split] = gained(seen, own)
                else:
                    judge(who, each.thinker, split, 0, 1)
            if residual is not None:
                found += judge_stopping(run, residual, max(steps), split, limit, root)
        for who, of_splits in gains.items():
            found += judge_gain(who, of_splits, max(*steps, own))
        if searches:
            found += judge_searches(run, searches, search_passes, max(candidates), splits[-1], limit, root)
        return found

    others = {name: component("rival", name).factory(run.judge()) for name in rivals}
    baseline = run.baseline
    for split in splits:
        for name, predictor in others.items():
            judge(name, predictor, split, 0, 1)
        if baseline is not None and not passes:
            judge("baseline", baseline.thinker, split, 0, 1)
        elif baseline is not None:
            for count in passes if split == splits[0] else passes[-1:]:
                judge("baseline", baseline.thinker.at(count), split, count, 1)
        if isinstance(run.thinker, Paced):  # it descends nothing, and takes passes
            for count in passes if split == splits[0] else passes[-1:]:
                judge("run", run.thinker.at(count), split, count, 1)
            continue
        for count in sorted({*steps, own}):
            judge("run", Thinker(run.energy, run.sampler, steps=count), split, count, 1)
        if patience is not None:
            longest = max(*steps, own)
            stops = {"patience": patience, "tolerance": tolerance, "familiar": familiar}
            stopping = Thinker(run.energy, run.sampler, steps=longest, **stops)  # type: ignore[arg-type]
            judge("run", stopping, split, longest, 1, "_adaptive")
    for count in sorted(set(candidates) - {1}) if not isinstance(run.thinker, Paced) else []:
        judge("run", Thinker(run.energy, run.sampler, candidates=count), splits[0], own, count)
    return found


def own_steps(run: Run) -> int:
    """Counts the steps that a run thinks for by itself."""
    return check_steps(run.sampler.steps)[1]


def read_findings(folder: Path) -> list[Finding]:
    """Reads what the study found of a run, or nothing where it was not asked."""
    return read_as(Finding, folder / "thinking.csv")


def headline_of(run: Run, found: Sequence[Finding]) -> str:
    """Names the metric that a task is judged by first, or the first that was found."""
    names = list(dict.fromkeys(finding.name for finding in found))
    wanted = getattr(run.task, "headline", "loss")
    return wanted if wanted in names else next(iter(names), wanted)
