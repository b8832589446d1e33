"""What a report shows where answers are right or wrong: what more thinking solves, and how."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of
from ebm.interfaces import Batch, eval_mode, evaluate, landscapes
from ebm.interfaces.abilities import HasAnswers, lacking
from ebm.randomness import stream
from ebm.registry import hookimpl
from ebm.reports.section import Section, html_table
from ebm.runs.run import Run
from ebm.studies.answers import answer_tables
from ebm.studies.findings import Finding
from ebm.studies.thinking import own_steps, read_findings
from ebm.tasks.puzzles.marks import marks_of
from ebm.thinking import Thinker

COLORS = (SAMPLES, DATA, OTHER, GREY, NOISE)
CHOICES = {"min": SAMPLES, "confidence": DATA, "residual": OTHER, "vote": GREY, "best possible": INK}
BOARDS, MOMENTS = 3, 6  # problems that are followed, and how often each is drawn


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    """Draws the solved share by steps and candidates, energies on the way, and boards as they fill."""
    if lacking(run.task, HasAnswers) or not isinstance(run.thinker, Thinker):
        return
    found = [finding for finding in read_findings(run.path) if finding.name == "solved"]
    if any(f.who == "run" for f in found):
        yield _by_steps(run, found)
        yield _by_candidates(run, found)
        yield from _by_both(found)
        told = answer_tables(read_findings(run.path), "solved")
        tables = "".join(f"<p>{title}</p>" + html_table(columns, rows) for title, columns, rows in told)
        yield Section("Thinking in numbers", "Every share that was measured; docs/thinking.md says how.", tables, place=33)
    if hasattr(getattr(run.task, "game", None), "draw_on"):
        yield _boards(run, seed)


def _splits(found: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(f.split for f in found))


def _by_steps(run: Run, found: Sequence[Finding]) -> Section:
    splits, whos = _splits(found), list(dict.fromkeys(f.who for f in found))
    first = run.recipe.get("baseline", "baseline")
    names = {"run": "energy", "baseline": first[0] if isinstance(first, list) else first}
    with figure_of(9.6, 3.0) as (figure, png):
        for axes, split in zip(figure.subplots(1, len(splits), sharey=True, squeeze=False)[0], splits, strict=True):
            for who, color in zip(whos, COLORS, strict=False):
                curve = {f.steps: f.value for f in found if (f.who, f.split, f.candidates, f.choice) == (who, split, 1, "")}
                style = {"label": names.get(who, who), "linewidth": 2 if who == "run" else 1}
                axes.plot(list(curve), list(curve.values()), "o-", color=color, markersize=4, **style)
            axes.axvline(own_steps(run), color=NOISE, linewidth=0.8)
            axes.set_xscale("log", base=2)
            steps = sorted({f.steps for f in found if f.split == split and f.candidates == 1})
            axes.set_xticks(steps, [str(count) for count in steps])
            axes.set(xlabel="thinking steps", title=split, ylim=(-0.03, 1.03))
        figure.axes[0].set_ylabel("share solved, from one start")
        figure.axes[-1].legend(fontsize=7)
    return Section(
        "What thinking longer buys",
        "The share of held-out problems whose answer is right in every position, after so many steps "
        "from one random start. The thin line marks the steps that training took. The other curves "
        "are baselines that trained on the same data for the same time.",
        png.getvalue(),
        place=30,
    )


def _by_candidates(run: Run, found: Sequence[Finding]) -> Section:
    mine = [f for f in found if f.who == "run" and not f.choice.startswith("search: ")]
    longest = max(f.steps for f in mine)
    splits = _splits(mine)
    with figure_of(9.6, 3.0) as (figure, png):
        for axes, split in zip(figure.subplots(1, len(splits), sharey=True, squeeze=False)[0], splits, strict=True):
            one = [f.value for f in mine if (f.split, f.steps, f.candidates) == (split, longest, 1)]
            ended = [f for f in mine if (f.split, f.steps) == (split, longest)]
            for choice, color in CHOICES.items():
                curve = {1: one[0]} | {f.candidates: f.value for f in ended if f.choice == choice}
                if len(curve) > 1:
                    style = ":" if choice == "best possible" else "o-"
                    label = "energy" if choice == "min" else choice
                    above = 3 if choice == "min" else 2  # where curves lie on each other, the energy's is seen
                    axes.plot(list(curve), list(curve.values()), style, color=color, markersize=4, label=label, zorder=above)
            axes.set_xscale("log", base=2)
            counts = sorted({f.candidates for f in mine})
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.set(xlabel="candidates", title=split, ylim=(-0.03, 1.03))
        figure.axes[0].set_ylabel(f"share solved, {longest} steps")
        figure.axes[-1].legend(fontsize=7)
    return Section(
        "What verifying oneself buys",
        "Of several random starts one end is kept: the one of lowest energy, or one that is chosen in "
        "another way. The dotted line is the best that any choice could do.",
        png.getvalue(),
        place=31,
    )


def _by_both(found: Sequence[Finding]) -> Iterator[Section]:
    """Draws the share solved by depth and breadth, where more than one start competes."""
    mine = {(f.split, f.steps, f.candidates): f.value for f in found if f.who == "run" and f.choice in ("", "min")}
    depths, breadths = sorted({steps for _, steps, _ in mine}), sorted({count for _, _, count in mine})
    if len(breadths) == 1:
        return
    splits = list(dict.fromkeys(split for split, _, _ in mine))
    with figure_of(9.6, 0.9 + 0.42 * len(breadths)) as (figure, png):
        for axes, split in zip(figure.subplots(1, len(splits), sharey=True, squeeze=False)[0], splits, strict=True):
            shares = [[mine.get((split, depth, breadth), math.nan) for depth in depths] for breadth in breadths]
            axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", origin="lower", aspect="auto")
            for row, line in enumerate(shares):
                for column, share in enumerate(line):
                    color = "white" if share > 0.6 else INK
                    axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=6.5, color=color)
            axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
            axes.set_yticks(range(len(breadths)), [str(breadth) for breadth in breadths])
            axes.set(xlabel="thinking steps", title=split)
        figure.axes[0].set_ylabel("candidates")
    yield Section(
        "Depth and breadth",
        "The share solved by steps and candidates, the lowest energy kept. Both double from cell to "
        "cell, so that cells on a falling diagonal cost the same number of passes.",
        png.getvalue(),
        place=32,
    )


def _boards(run: Run, seed: int) -> Section:
    """Draws problems of the hardest split on their way, and the energy along it."""
    task: Any = run.judge()
    split = next(name for name in ("hardest", "hard", "test") if name in task.splits)
    return Section(
        "Boards as they are solved",
        f"Problems of the split {split!r}, from a random start. Black: given. Blue: right so far; "
        "orange: wrong; the fainter, the less sure. Right: the energy on the way.",
        picture_of_boards(run, task.rows(split).rows(slice(BOARDS)), 8 * own_steps(run), seed),
        place=25,
    )


def picture_of_boards(run: Run, batch: Batch, steps: int, seed: int) -> bytes:
    """Draws problems after more and more steps from one random start, and their energies, as a PNG.

    Where the batch has no target, nothing is drawn as wrong.
    """
    task: Any = run.judge()
    batch = batch.to(run.device)
    start = task.start(batch, generator=(generator := stream(seed, "boards", device=run.device)))
    with torch.no_grad(), eval_mode([run.energy, run.sampler]):
        function = landscapes(run.energy, batch.context)[-1]
        states = [start, *(state.y for state, _ in run.sampler.trajectory(function, start, steps=steps, generator=generator))]
        energies = torch.stack([evaluate(function, run.sampler.point(y)) for y in states[1:]]).cpu()
    moments = sorted({0, *(round(steps ** (place / (MOMENTS - 2))) for place in range(MOMENTS - 1))})
    asked = task.unknown(batch.context).cpu()
    with figure_of(9.6, 1.75 * len(batch.context) + 0.3) as (figure, png):
        for line, axes in enumerate(figure.subplots(len(batch.context), len(moments) + 1, squeeze=False)):
            known, true = batch.context[line].cpu(), None if batch.target is None else batch.target[line].cpu()
            for place, moment in enumerate(moments):
                belief = states[moment][line, :, : task.spec["vocab_size"]].softmax(-1).cpu()
                answer = task.answers(states[moment], batch.context)[line].cpu()
                task.game.draw_on(axes[place], marks_of(answer, belief, known, asked[line], true))
                axes[place].set(xticks=[], yticks=[], aspect="equal")
                axes[place].spines[:].set_visible(False)
                axes[place].set_title(f"step {moment}" if line == 0 else "", fontsize=8)
            axes[-1].plot(range(1, steps + 1), energies[:, line], color=INK, linewidth=1)
            axes[-1].set_xscale("log", base=2)
            axes[-1].set_title("energy" if line == 0 else "", fontsize=8)
    return png.getvalue()
