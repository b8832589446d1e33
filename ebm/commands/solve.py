"""`ebm solve RUN puzzle.txt`: think about a problem of one's own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch

from ebm.commands.console import print_json, say
from ebm.files import atomic, check_outputs
from ebm.interfaces import Batch
from ebm.interfaces.abilities import HasAnswers, lacking
from ebm.randomness import stream
from ebm.reports.answers import picture_of_boards
from ebm.runs.run import Run
from ebm.studies.answers import SEARCHES
from ebm.studies.thinking import own_steps
from ebm.thinking import Thinker, think


def solve(
    run: Run,
    /,
    puzzle: str,
    *,
    steps: int | None = None,
    candidates: int = 8,
    search: Literal["plain", "fresh", "hop", "cool"] = "plain",
    out: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Solve a puzzle or a sum: prints the answer, its energy, and how long it thought.

    Args:
        run: the run folder, or a model's name.
        puzzle: a text file, or the problem itself, such as 58+67 or a sudoku's 36 or 81 cells.
        steps: thinking steps; by default sixteen times those of training.
        candidates: how many random starts compete by their energy.
        search: how each start searches: "plain" descent, "fresh" starts now and then, "hop" to new
            numbers in some cells, or "cool" beliefs that are soft at first.
        out: a picture of the board, step by step, to write.
        seed: what every random draw is derived from.
        json: print JSON.
    """
    task: Any = run.judge()
    energy = run.energy
    game: Any = getattr(task, "game", task)
    if lacking(task, HasAnswers) or not callable(getattr(game, "read", None)):
        raise ValueError(
            f"{run.path} is a run of {type(task).__name__}, which reads no problems: train one, as by ebm run sudoku"
        )
    if not isinstance(run.thinker, Thinker):
        raise ValueError(f"{run.path} holds {type(energy).__name__}, which does not think")
    if out is not None:
        check_outputs(out, **({"puzzle": Path(puzzle)} if _is_file(puzzle) else {}))
    text = Path(puzzle).read_text(encoding="utf-8") if _is_file(puzzle) else puzzle
    context = game.read(text)[None].to(run.device)
    if out is not None and not hasattr(game, "draw_on"):
        raise ValueError(f"--out {out}: {type(game).__name__} draws no board")
    length, began = 16 * own_steps(run) if steps is None else steps, time.monotonic()
    if length < 1:
        raise ValueError(f"steps={length}: think for at least one step")
    sampler = run.sampler if search == "plain" else SEARCHES[search](run.sampler)
    generator = stream(seed, "solve", device=run.device)
    batch = Batch(context.clamp(min=0), context)

    def start(generator: torch.Generator | None = None) -> torch.Tensor:
        return task.start(batch, generator=generator)

    thought = think(energy, sampler, context, start, candidates=candidates, steps=length, generator=generator)
    answer = task.answers(thought.y, context)[0].cpu()
    seconds = time.monotonic() - began
    taken = settled(thought.energies[:, int(thought.energies[-1, :, 0].argmin()), 0])
    knows = getattr(task, "judges", None)  # whose verifier does not know every problem
    right = None
    if knows is None or knows(context[0].cpu()):
        right = bool(task.accepts(answer[None].to(run.device), batch))
    text = game.show(answer, context[0].cpu())
    if out is not None:
        with atomic(out) as draft:
            draft.write_bytes(picture_of_boards(run, Batch(None, context), length, seed))
    if json:
        found: dict[str, Any] = {"answer": answer.tolist(), "text": text, "right": right}
        print_json(found | {"energy": float(thought.energy), "steps": length, "settled": taken, "seconds": seconds})
        return
    say(text)
    wrong = "It is wrong: think longer, from more starts, or by another search."
    verdict = {True: "It is right.", False: wrong, None: "Nothing judges it."}[right]
    told = f"energy {float(thought.energy):.3f}, settled after {taken} of {length} steps, best of {candidates}, {seconds:.1f} s."
    say(f"{told} {verdict}", file=sys.stderr if not sys.stdout.isatty() else sys.stdout)


def _is_file(puzzle: str) -> bool:
    try:
        return Path(puzzle).is_file()
    except OSError:  # too long for a file's name
        return False


def settled(energies: torch.Tensor) -> int:
    """Tells after how many steps an energy (steps + 1,) is within 1 % of its way from the end.

    >>> settled(torch.tensor([10.0, 4.0, 1.0, 0.01, 0.0]))
    3
    """
    way = (energies - energies[-1]).abs() <= 0.01 * (energies[0] - energies[-1]).abs()
    late = (~way).nonzero().flatten()
    return int(late[-1]) + 1 if len(late) else 0
