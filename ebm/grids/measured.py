"""Where a run lies along an axis that is measured: its parameters, or the operations of its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ebm.randomness import stream
from ebm.runs.run import Run

PRODUCT = "mkldnn::_linear_pointwise"  # oneDNN's x Wᵀ, of x (rows, k) and W (m, k)


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
    counter = _Counter()
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective(run.energy, batch, generator=generator).value.backward()
    return float(counter.count) * fit["steps"]


class _Counter(TorchDispatchMode):
    """Counts as torch's FlopCounterMode does, whose hooks on modules forbid a gradient inside the loss."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.name().startswith(PRODUCT):
            self.count += 2 * args[0].numel() * len(args[1])
        elif (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=found)
        return found


MEASURED: dict[str, Callable[[Run], float]] = {"parameters": parameters, "flops": flops}
