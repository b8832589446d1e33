"""What a recipe costs before it runs: parameters, operations, bytes, time and money."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebm.costing.concatenated import SCALARS, Concatenated
from ebm.costing.measure import Spent, Untold, generation, of_many, thinking, thinks, training, units
from ebm.costing.sketch import Sketch, sketch
from ebm.energies.ebt import SIZES, CausalEBT
from ebm.recipes.origin import BASE, OWN_BASELINE
from ebm.recipes.recipe import baselines_of, build_table, resolve
from ebm.recipes.recipe import load as find
from ebm.registry import component, components, parameters
from ebm.training.settings import check
from ebm.words import nearest

ENOUGH = 600  # problems that are drawn of a task that draws them: no cost depends on how many
WORD, MOMENTS = 4, 2  # bytes of a parameter, and Adam's means for each


@dataclass(frozen=True)
class Asked:
    """What is asked of a recipe's cost, beside its settings."""

    vocabulary: int | None = None
    tokens: float | None = None
    think_steps: int | None = None
    candidates: int = 1
    flops_per_second: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("vocabulary", 2), ("think_steps", 1), ("candidates", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(f"--{dashed(name)} {value}: write a whole number of at least {least}")
        for name, what in (("tokens", "tokens"), ("flops_per_second", "operations a second"), ("price_per_hour", "a price")):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{dashed(name)} {value}: write {what} as a number above 0, as in 4e14")
        if self.price_per_hour is not None and self.flops_per_second is None:
            raise ValueError(
                "--price-per-hour needs the hours: pass --flops-per-second, too, the rate that products are computed at"
            )


def dashed(name: str) -> str:
    return name.replace("_", "-")


@dataclass
class Model:
    """One of those whose cost is told: a recipe's energy, a baseline, or the paper's own form."""

    name: str
    recipe: Mapping[str, Any]
    task: Any
    accelerated: bool
    concatenated: bool = False
    sketches: dict[int | None, Sketch] = field(default_factory=dict)

    def at(self, depth: int | None = None) -> Sketch:
        """Builds it without numbers, maybe of another depth."""
        if depth not in self.sketches:
            energy = {**self.recipe["energy"]} | ({} if depth is None else {"depth": depth})
            self.sketches[depth] = sketch({**self.recipe, "energy": energy}, self.task, accelerated=self.accelerated)
        return self.sketches[depth]

    @cached_property
    def parameters(self) -> int:
        """Counts what is trained: the energy's and the objective's, such as a step size that learns."""
        whole = self.at()
        parts = [part for part in (whole.energy, whole.objective) if isinstance(part, nn.Module)]
        trained = {p for part in parts for p in part.parameters() if p.requires_grad}
        if self.concatenated:
            return sum(p.numel() for p in whole.energy.parameters()) + SCALARS
        return sum(p.numel() for p in trained)

    @cached_property
    def embeddings(self) -> int:
        """Counts the parameters of the matrices that a vocabulary decides."""
        size = getattr(self.task, "spec", {}).get("vocab_size")
        energy = self.at().energy
        return sum(p.numel() for p in energy.parameters() if p.ndim == 2 and size in p.shape) if size else 0

    @property
    def depth(self) -> int:
        """Counts the blocks, which are alike; 1 where nothing says so."""
        table = self.recipe["energy"]
        named = SIZES[table["size"]].depth if table.get("size") in SIZES else 1
        return table.get("depth", named) if isinstance(table.get("depth", named), int) else 1

    def count(self, measure: Callable[..., Spent | None], *how: Any) -> Spent | None:
        """Measures it, by a block more where it has many; None where it does no such thing."""

        def of(one: Sketch) -> Spent | None:
            return measure(one, Concatenated(one.energy) if self.concatenated else one.energy, *how)

        if measure is generation and of(self.at(1 if self.depth > 4 else None)) is None:
            return None
        return of_many(lambda depth: of(self.at(depth if depth != self.depth else None)), self.depth)  # type: ignore[return-value,arg-type]


def cost(
    recipe: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    size: str | None = None,
    training_only: bool = False,
    **asked: Any,
) -> dict[str, Any]:
    """Tells what a recipe costs before it runs, beside its baselines and the paper's own form.

    Its operations are called on tensors without numbers, with all derivatives that training takes,
    and counted as torch's `flop_counter` counts: nothing is trained, and no weight is allocated. They
    are those of the device that the recipe would run on here. Optimiser steps, which have no
    products, are left out.

    Arguments:
        recipe: a name, the path of a recipe file such as RUN/recipe.toml, or a dictionary.
        settings: values to set, as `ebm.run` takes them.
        size: a named size, in place of the recipe's own.
        training_only: leaves thinking and generation out.
        vocabulary: how many tokens there are, in place of the task's.
        tokens: how long the run is, in place of the recipe's steps.
        think_steps, candidates: how a prediction is thought about; by default as the recipe does.
        flops_per_second: the rate at which products are computed, of all devices together.
        price_per_hour: of all devices together.

    Returns:
        the unit that numbers are for (a token, a frame …), and of "model", of each of "baselines",
        and of the "paper" its parameters, and the FLOPs and bytes of each activity; of a cost that
        depends on numbers that are not there, why.

    Raises:
        ValueError: for what cannot be, or a run that could not begin.

    >>> found = cost("text-s1", {"fit.batch_size": 2, "energy.depth": 1}, training_only=True)
    >>> found["unit"], found["model"]["parameters"], found["paper"]["parameters"]
    ('token', 61953, 61954)
    """
    wanted = Asked(**asked)
    settings = dict(settings or {}) | ({} if size is None else {"energy.size": size})
    read = find(recipe) if isinstance(recipe, str | Path) else dict(recipe)
    if size is not None:
        _check_size(size, read)
    resolved = resolve(read, settings)
    check(resolved["fit"])
    if resolved.get(BASE, OWN_BASELINE) != OWN_BASELINE:
        raise ValueError(
            f"base = {resolved[BASE]!r}: what builds on a run's model is told with the recipe's own: --base {OWN_BASELINE}"
        )
    task = _task_of(resolved, wanted)
    accelerated = _accelerated(resolved["fit"].get("accelerator", "auto"))
    name = Path(recipe).stem if isinstance(recipe, str | Path) else "recipe"
    model = Model(name, resolved, task, accelerated)
    whole = model.at()
    rows, each = _rows(whole), units(whole)
    steps = whole.fit["steps"]
    if wanted.tokens is not None:
        steps = math.ceil(wanted.tokens / each)
        if steps > 10**12:
            raise ValueError(f"--tokens {wanted.tokens:g}: these are {steps:.3g} steps, and at most 10^12 are possible")
    found: dict[str, Any] = {"recipe": name, "summary": resolved["summary"], "unit": task.unit, "per_step": each}
    found |= {"rows": rows, "device": "accelerator" if accelerated else "cpu", "precision": whole.fit["precision"]}
    found |= {"think_steps": wanted.think_steps, "candidates": wanted.candidates, "behind": each // rows}
    told = {**vars(wanted), "only": training_only}
    own = whole.fit["steps"]
    found["model"] = _told(model, steps, told)
    found["baselines"] = {}
    for key, table in baselines_of(resolved).items():
        taken = max(1, round(steps * table["fit"]["steps"] / own))
        found["baselines"][key] = _told(Model(key, table, task, accelerated), taken, told)
    paper = _paper(model)
    found["paper"] = None if paper is None else _told(paper, steps, told)
    found["run"] = {"steps": steps, "units": steps * each}
    return found


def _check_size(size: str, recipe: Mapping[str, Any]) -> None:
    use = recipe.get("energy", {}).get("use", "")
    if "size" not in parameters(component("energy", use).factory):
        raise ValueError(
            f"--size {size}: the energy {use!r} has no named sizes: set its own keywords, as ebm show {use} lists them"
        )
    if size not in SIZES:
        raise ValueError(f"--size {size}: no size is named so: {nearest(size, [*SIZES, 'all'])}")


def _task_of(recipe: Mapping[str, Any], wanted: Asked) -> Any:
    """Builds the task as a run does; one that draws its problems draws few."""
    table = dict(recipe["task"])
    known = parameters(component("task", table["use"]).factory)
    if isinstance(number := table.get("n", known["n"].default if "n" in known else None), int):
        table["n"] = min(number, max(ENOUGH, 4 * recipe["fit"].get("batch_size", 128)))
    task = build_table("task", table, {"task": None})
    unit = getattr(task, "unit", "row")
    if wanted.tokens is not None and unit != "token":
        raise ValueError(f"--tokens {wanted.tokens:g}: this recipe learns from {unit}s, not tokens: set its length by --steps")
    if wanted.vocabulary is not None:
        if "vocab_size" not in getattr(task, "spec", {}) or unit != "token":
            raise ValueError(
                f"--vocabulary {wanted.vocabulary}: this recipe's {unit}s have no vocabulary of tokens: leave it out"
            )
        task.spec = {**task.spec, "vocab_size": wanted.vocabulary}
    return task


def _accelerated(accelerator: str) -> bool:
    """Tells whether a run would compute on an accelerator."""
    return torch.accelerator.is_available() if accelerator == "auto" else accelerator != "cpu"


def _rows(whole: Sketch) -> int:
    return len(next(leaf for leaf in torch.utils._pytree.tree_leaves(whole.batch.target) if isinstance(leaf, torch.Tensor)))


def _paper(model: Model) -> Model | None:
    """Makes the paper's energy of the same size, computed as its authors compute it; None where it has none."""
    use = model.recipe["energy"]["use"].removeprefix("residual-")
    factory = component("energy", use).factory if use in components("energy") else None
    if not (isinstance(factory, type) and issubclass(factory, CausalEBT)):
        return None
    known = parameters(factory)
    energy = {"use": use, **{key: value for key, value in model.recipe["energy"].items() if key in known}}
    return Model(f"{use}, concatenated", {**model.recipe, "energy": energy}, model.task, model.accelerated, concatenated=True)


def _told(model: Model, steps: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Tells what a model costs, for each unit and for the whole run."""
    whole = model.at()
    each = units(whole)  # a baseline may have another batch_size
    found: dict[str, Any] = {"name": model.name, "parameters": model.parameters, "vocabulary_parameters": model.embeddings}
    found["training"] = _per(each, lambda: model.count(training, steps))
    found |= {"steps": steps, "run": None}
    spent = found["training"]
    if "flops" in spent:
        # weights, Adam's means, and an average of weights; gradients are among what a step holds
        held = WORD * model.parameters * (1 + MOMENTS + bool(whole.fit.get("ema")))
        spent["memory"] = spent.pop("peak") + held
        found["run"] = {"flops": (flops := spent["flops"] * each * steps), "bytes": spent["bytes"] * each * steps}
        if rate := asked["flops_per_second"]:
            found["run"]["seconds"] = flops / rate
            if price := asked["price_per_hour"]:
                found["run"]["price"] = flops / rate / 3600 * price
    if asked["only"]:
        return found
    how = (asked["think_steps"], asked["candidates"])
    found["thinks"] = thinks(whole, whole.energy)
    found["thinking"] = _per(each, lambda: model.count(thinking, *how))
    found["generation"] = _per(_rows(whole), lambda: model.count(generation, *how))
    return found


def _per(count: int, measure: Callable[[], Spent | None]) -> Any:
    """Divides what is spent by units; says why where it cannot be told, and None where there is nothing."""
    try:
        spent = measure()
    except Untold as error:
        return {"untold": str(error)}
    return spent and {"flops": spent.flops / count, "bytes": spent.bytes / count, "peak": spent.peak}
