"""A recipe's parts on tensors that have shapes and no numbers: nothing is allocated or computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # private, but what torch.compile traces with
from torch.utils._pytree import tree_map_only

from ebm.costing.counter import Counter
from ebm.energies.ebt.attention import all_rows_at_once
from ebm.interfaces import Batch, Sampler
from ebm.recipes.recipe import assemble
from ebm.runs.run import sampler_of

HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # precisions under which products round


class Sketch(NamedTuple):
    """What a recipe builds, without numbers, and how its operations are counted."""

    task: Any
    energy: Any
    objective: Any
    sampler: Sampler  # what thinks, and draws samples
    batch: Batch  # of training
    fit: dict[str, Any]
    mode: FakeTensorMode
    accelerated: bool  # counted as an accelerator computes, not as a CPU

    @contextmanager
    def counted(self) -> Iterator[Counter]:
        """Counts the operations under it."""
        half = HALVES.get(self.fit.get("precision", ""))
        with self.mode, ExitStack() as entered:
            if half is not None:
                entered.enter_context(torch.autocast("cpu", half))
            if self.accelerated:
                entered.enter_context(all_rows_at_once())
            yield entered.enter_context(Counter())


def sketch(recipe: Mapping[str, Any], task: Any, *, accelerated: bool) -> Sketch:
    """Builds a resolved recipe on a task, which was built as a run builds it and gives one batch.

    Raises:
        ValueError: for a recipe that cannot be built, or whose data give no batch of this size.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    parts = assemble(recipe, task, energies=mode)
    fit = parts.recipe["fit"]
    size = fit["batch_size"]
    batch = next(iter(task.loader("train", size, seed=recipe["seed"])), None)
    if batch is None:
        raise ValueError(f"the training split of {type(task).__name__} gives no batch of {size}: choose a smaller batch_size")
    sampler = parts.fit.get("sampler") or sampler_of(parts.objective, parts.energy)
    given: dict[int, nn.Parameter] = {}  # what several modules share stays one
    for part in (parts.objective, sampler):
        _without_numbers(part, mode, given)
    return Sketch(
        task, parts.energy, parts.objective, sampler, tree_map_only(Tensor, mode.from_tensor, batch), fit, mode, accelerated
    )


def _without_numbers(module: nn.Module, mode: FakeTensorMode, given: dict[int, nn.Parameter]) -> None:
    """Takes the numbers from parameters; buffers keep theirs, as a count of steps that decides what is done."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, FakeTensor):
                new = nn.Parameter(mode.from_tensor(parameter.detach()), parameter.requires_grad)
                part._parameters[name] = given.setdefault(id(parameter), new)
