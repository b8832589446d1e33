"""Where a run lies along an axis that is measured: its parameters, or the operations of its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebm.costing.counter import Counter
from ebm.randomness import stream
from ebm.runs.run import Run


def parameters(run: Run) -> float:
    """Counts the parameters that were trained."""
    parts = [part for part in (run.energy, run.objective) if isinstance(part, nn.Module)]
    return float(sum(p.numel() for p in {p for part in parts for p in part.parameters()}))


def flops(run: Run) -> float:
    """Counts the floating-point operations of products of matrices in all of a training's steps.

    One step's are counted as it runs, second derivatives and all, and multiplied by the steps.
    Fused attention, of which torch does not know how much it computes, is left out while it counts.
    """
    objective: Any = run.objective
    fit, generator = run.recipe["fit"], stream(0, "flops", device=run.device)
    batch = next(iter(run.judge().loader("train", fit["batch_size"]))).to(run.device)
    objective.train()
    counter = Counter()
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective(run.energy, batch, generator=generator).value.backward()
    return float(counter.flops) * fit["steps"]


MEASURED: dict[str, Callable[[Run], float]] = {"parameters": parameters, "flops": flops}
