"""What thinking buys where answers are right or wrong: by steps, candidates and choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, Sampler, eval_mode, evaluate, landscapes
from ebm.judging.ranking import rank_correlation
from ebm.judging.slope import slope
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.samplers import BasinHopping, Cooled, Linear
from ebm.studies.findings import Finding
from ebm.thinking import Candidates, Thinker, think
from ebm.thinking.choosing import choice_of, pick
from ebm.thinking.stopping import distance_moved

# Ways of searching, each around the run's own sampler; those that compare need energies.
SEARCHES: dict[str, Callable[[Sampler], Sampler]] = {
    "fresh": lambda sampler: BasinHopping(sampler, every=16, share=1.0),
    "hop": lambda sampler: BasinHopping(sampler, every=8, share=0.6),
    "cool": lambda sampler: Cooled(sampler, Linear(2.0, 1.0, 48)),
}


class Seen(NamedTuple):
    """Candidates for problems after so many steps, and which of them are right."""

    found: Candidates
    right: Tensor  # (candidates, rows)
    wrong: Tensor  # (candidates, rows): how many positions are not as in the data's answer
    asked: Tensor  # (rows,): how many positions a problem asks for


def think_aloud(run: Run, steps: Sequence[int], candidates: int, split: str, limit: int | None, root: int) -> dict[int, Seen]:
    """Follows candidates for a split through all steps: what was seen after each of `steps`."""
    seen: dict[int, list[Seen]] = {}
    generator = stream(root, "study", split, device=run.device)
    task: Any = run.judge()
    for batch in task.judged(split, limit):
        for count, each in follow(run, batch.to(run.device), sorted({*steps}), candidates, generator):
            seen.setdefault(count, []).append(each)
    return {count: _joined(parts) for count, parts in seen.items()}


def _joined(parts: Sequence[Seen]) -> Seen:
    found = Candidates(*(torch.cat(values, 1) for values in zip(*(part.found for part in parts), strict=True)))
    right, wrong = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("right", "wrong"))
    return Seen(found, right, wrong, torch.cat([part.asked for part in parts]))


def judge_answers(
    who: str, split: str, seen: Mapping[int, Seen], candidates: Sequence[int], select: Sequence[str]
) -> Iterator[Finding]:
    """Judges candidates after each number of steps: their solved share by number and choice.

    With one candidate the share is that of all starts. `auc` is the chance that of a right and a
    wrong candidate of one problem the right one has the lower energy. `correlation` is the rank
    correlation of energies and numbers of wrong positions, over all candidates, and
    `correlation_within` of how far both lie from their mean over the candidates of a problem.
    """
    most = max(candidates)
    for count, (found, right, wrong, _) in seen.items():
        yield Finding(who, split, count, 1, "solved", right.float().mean().item())
        yield Finding(who, split, count, 1, "energy", found.energy.mean().item())
        yield Finding(who, split, count, 1, "residual", found.residual.mean().item())
        for many in sorted({*candidates} - {1}):
            some, of_some = Candidates(*(values[:many] for values in found)), right[:many]
            for name in select:
                chosen = choice_of(name)(some).argmax(0)  # type: ignore[arg-type]
                yield Finding(who, split, count, many, "solved", pick(chosen, of_some).float().mean().item(), name)
            yield Finding(who, split, count, many, "solved", of_some.any(0).float().mean().item(), "best possible")
        if most == 1:
            continue
        auc = ranked_right(found.energy, right)
        yield from [] if auc is None else [Finding(who, split, count, most, "auc", auc)]
        if bool(wrong.any()) and not bool((wrong > 0).all()):
            energies, errors = found.energy.double().cpu(), wrong.double().cpu()
            yield Finding(who, split, count, most, "correlation", rank_correlation(energies.flatten(), errors.flatten())[0])
            within = [(values - values.mean(0)).T[(wrong != wrong[0]).any(0).cpu()] for values in (energies, errors)]
            if within[0].numel():
                yield Finding(who, split, count, most, "correlation_within", rank_correlation(*within)[0])


def gained(seen: Mapping[int, Seen], own: int) -> tuple[Tensor, Tensor]:
    """Computes, of each problem, how many positions it asks for, and what thinking longer gained.

    That is the share of starts that are right after the longest walk, less that after `own` steps.
    """
    last, first = seen[max(seen)], seen[own]
    return last.asked.cpu(), (last.right.double().mean(0) - first.right.double().mean(0)).cpu()


def judge_gain(who: str, gains: Mapping[str, tuple[Tensor, Tensor]], longest: int) -> Iterator[Finding]:
    """Tells whether larger problems gain more by thinking longer, over all splits together.

    `gain_slope` is the slope of `gained`: shares solved, by positions that a problem asks for.
    Beside it stand the ends of its 95 % interval.
    """
    asked, gain = (torch.cat(values) for values in zip(*gains.values(), strict=True))
    if bool((asked != asked[0]).any()):
        for name, value in zip(("gain_slope", "gain_slope_low", "gain_slope_high"), slope(asked, gain), strict=True):
            yield Finding(who, "+".join(gains), longest, 1, name, value)


def follow(run: Run, batch: Batch, marks: Sequence[int], candidates: int, generator: Generator) -> Iterator[tuple[int, Seen]]:
    """Thinks about a batch from several starts, and looks at them after each of `marks` steps."""
    task: Any = run.judge()
    energy = run.energy
    with torch.no_grad(), eval_mode(run.sampler), eval_mode(energy):
        y = torch.stack([task.start(batch, generator=generator) for _ in range(candidates)])
        function, width = landscapes(energy, batch.context)[-1], y.shape[-1]
        if getattr(run.sampler, "hidden", 0) != 0:
            y = run.sampler.init(function, y, generator=generator).y  # with room for hidden units
        first: Tensor | None = None
        previous: Tensor = run.sampler.point(run.sampler.project(y))
        for taken, (state, info) in enumerate(run.sampler.trajectory(function, y, steps=max(marks), generator=generator), 1):
            first = info.energy if first is None else first
            if taken + 1 in marks:
                previous = run.sampler.point(state.y)
            if taken not in marks:
                continue
            point = run.sampler.point(state.y)
            value = evaluate(function, point)
            moved = distance_moved(point, previous, value.ndim)
            answer = task.answers(state.y, batch.context)
            asked = task.unknown(batch.context)
            wrong = ((answer != batch.target) & asked).sum(-1)
            found = Candidates(state.y[..., :width], value, first, moved)
            yield taken, Seen(found, task.accepts(answer, batch), wrong, asked.sum(-1))
            previous = point


def judge_searches(
    run: Run, searches: Sequence[str], passes: int, candidates: int, split: str, limit: int | None, root: int
) -> Iterator[Finding]:
    """Tries ways of searching at the same number of passes in all, the lowest energy kept."""
    task: Any = run.judge()
    for name in ("plain", *searches):
        sampler = run.sampler if name == "plain" else SEARCHES[name](run.sampler)
        generator = stream(root, "study", split, device=run.device)
        solved, steps = [], passes // candidates
        for batch in task.judged(split, limit):
            batch = batch.to(run.device)

            def start(generator: Generator | None = None, batch: Batch = batch) -> Tensor:
                return task.start(batch, generator=generator)

            with torch.no_grad():
                y = think(run.energy, sampler, batch.context, start, candidates=candidates, steps=steps, generator=generator).y
            solved.append(task.accepts(task.answers(y, batch.context), batch))
        yield Finding("run", split, steps, candidates, "solved", torch.cat(solved).float().mean().item(), f"search: {name}")


def judge_stopping(run: Run, residual: float, steps: int, split: str, limit: int | None, root: int) -> Iterator[Finding]:
    """Stops each chain once a step hardly moves it: what is solved, and the steps and passes spent."""
    thinker = Thinker(run.energy, run.sampler, steps=steps, residual=residual)
    with torch.no_grad():
        metrics = run.judge().evaluate(
            thinker, split=split, limit=limit, generator=stream(root, "study", split, device=run.device)
        )
    for name in ("solved", "steps", "evaluations"):
        yield Finding("run", split, steps, 1, f"{name}_adaptive", float(metrics[name]))


def ranked_right(energy: Tensor, right: Tensor) -> float | None:
    """Computes the chance that a right candidate lies below a wrong one of the same problem.

    >>> ranked_right(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[True], [False], [True]]))
    0.5
    """
    differences = energy[:, None] - energy[None]
    pairs = right[:, None] & ~right[None]
    if not bool(pairs.any()):
        return None
    return float((((differences < 0) + 0.5 * (differences == 0)) * pairs).sum() / pairs.sum())


def answer_tables(found: Sequence[Finding], headline: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Arranges what was found as tables (title, columns, rows): by steps, by candidates, by search."""
    whos = list(dict.fromkeys(f.who for f in found if f.name == headline))
    splits = list(dict.fromkeys(f.split for f in found if f.name == headline))
    values = {(f.split, f.who, f.name, f.steps, f.candidates, f.choice): f.value for f in found}

    def cell(*key: Any) -> str:
        return f"{values[key]:.3f}" if key in values else ""

    searched = [f for f in found if f.choice.startswith("search: ")]
    plain = [f for f in found if f.name == headline and f not in searched]
    steps, most = sorted({f.steps for f in plain}), max((f.candidates for f in plain), default=1)
    rows = [[split, who, *(cell(split, who, headline, count, 1, "") for count in steps)] for split in splits for who in whos]
    yield f"{headline}, from one start, by steps", ["split", "who", *map(str, steps)], rows
    choices = list(dict.fromkeys(f.choice for f in plain if f.choice))
    if choices:
        last = steps[-1]
        rows = [
            [
                split,
                who,
                *(cell(split, who, headline, last, most, choice) for choice in choices),
                cell(split, who, "auc", last, most, ""),
            ]
            for split in splits
            for who in whos
        ]
        named = ["by energy" if choice == "min" else choice for choice in choices]
        yield (
            f"{headline}, best of {most} after {last} steps, by way of choosing",
            ["split", "who", *named, "AUC of the energy"],
            rows,
        )
    if searched:
        rows = [[f.choice.removeprefix("search: "), str(f.steps), str(f.candidates), f"{f.value:.3f}"] for f in searched]
        yield f"{headline}, ways of searching, split {searched[0].split}", ["search", "steps", "candidates", headline], rows
    sloped = [f for f in found if f.name == "gain_slope"]
    if sloped:
        ends = {(f.who, f.name): f"{f.value:+.4f}" for f in found if f.name.startswith("gain_slope")}
        rows = [[f.who, *(ends[f.who, f"gain_slope{end}"] for end in ("", "_low", "_high"))] for f in sloped]
        title = f"gained by {sloped[0].steps} steps, for each position that a problem asks for, splits {sloped[0].split}"
        yield title, ["who", "slope", "95 % from", "to"], rows
    stopped = [f for f in found if f.name.endswith("_adaptive")]
    if stopped:
        names = list(dict.fromkeys(f.name for f in stopped))
        rows = [[split, *(f"{f.value:.3f}" for f in stopped if f.split == split)] for split in splits]
        yield "stopping by the residual", ["split", *(name.removesuffix("_adaptive") for name in names)], rows
