"""What a report shows of spins: one chain's configurations, and the magnetisation of several along
their way."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ebm.figures import DATA, SAMPLES, figure_of, grid
from ebm.interfaces import eval_mode, landscapes
from ebm.randomness import stream
from ebm.reports import Section
from ebm.runs.run import Run

__all__ = ["sections"]

CHAINS, MOMENTS = 16, 12  # chains that are followed, and how often the first is drawn


def sections(run: Run, seed: int) -> Iterator[Section]:
    """Draws spins on their way, for tasks whose data are spins of a plane."""
    if run.task is None:
        return
    batch = next(iter(run.task.loader("test", CHAINS))).to(run.device)
    data = batch.target
    plane = isinstance(data, Tensor) and (data.ndim == 3 or (data.ndim == 4 and data.shape[1] == 1))
    if batch.context is not None or not plane or not bool((data.abs() == 1).all()):
        return
    generator = stream(seed, "spins", device=run.device)
    start = run.task.start(batch, generator=generator)
    with torch.no_grad(), eval_mode([run.energy, run.sampler]):
        walk = run.sampler.trajectory(landscapes(run.energy, batch.context), start, generator=generator)
        ways = torch.stack([start, *(run.sampler.point(state.y) for state, _ in walk)]).cpu()
    magnetisation = ways.flatten(2).mean(-1)  # (steps + 1, chains)
    moments = torch.linspace(0, len(ways) - 1, min(MOMENTS, len(ways))).round().long()
    with figure_of(9.6, 3.4) as (figure, png):
        left, right = figure.subplots(1, 2)
        shown = ways[moments, 0]
        grid(left, shown if shown.ndim == 4 else shown.unsqueeze(1), -1, 1, columns=4)
        left.set(title=f"one chain, at steps {moments[0]} to {moments[-1]}")
        right.plot(magnetisation.numpy(), color=SAMPLES, alpha=0.4, linewidth=0.8)
        right.axhline(data.mean().item(), color=DATA, linestyle=(0, (4, 3)), label="held-out data")
        right.set(title=f"magnetisation of {len(start)} chains", xlabel="sampling steps taken")
        right.legend()
    yield Section(
        "Spins and their magnetisation",
        "Left: one chain, row by row from its start. Right: the mean spin of each chain; it should reach "
        "the data's within the sampler's steps, and move about it.",
        png.getvalue(),
        place=25,
    )
