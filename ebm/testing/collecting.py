"""What `pytest --ebm DISTRIBUTION` checks: all that a distribution registers, built by its
examples, recipes or defaults."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from ebm.energies import MLPEnergy
from ebm.interfaces import Batch, Energy, Sampler, Task, evaluate
from ebm.recipes import Parts, assemble, load, resolve
from ebm.recipes.recipe import COMPONENT_PARAMETERS, build_table
from ebm.recipes.tables import LEARNED
from ebm.registry import KINDS, Component, components, examples, parameters, registry
from ebm.samplers import LangevinDynamics
from ebm.tasks import Points
from ebm.testing.encoders import check_encoder
from ebm.testing.energies import check_energy
from ebm.testing.laws import LawBroken, leaves, rows
from ebm.testing.objectives import check_objective
from ebm.testing.samplers import check_sampler
from ebm.testing.tasks import check_task
from ebm.words import nearest

__all__ = ["NoExample", "checks_of"]

CHECKS: dict[str, Callable[..., None]] = {
    "energy": check_energy,
    "sampler": check_sampler,
    "objective": check_objective,
    "encoder": check_encoder,
    "task": check_task,
}
EVENTS = ((2,), (3,), (1,), (1, 8, 8), (3, 8, 8), (8, 8))  # tried for an energy of which nothing says what it scores


class NoExample(Exception):
    """A component cannot be built here: its keywords, a package, its data or its weights are
    missing."""


def checks_of(distribution: str) -> dict[str, Callable[[], None]]:
    """Lists the checks of everything that an installed distribution registers: "kind name" -> a
    check.

    A component is built from the distribution's hook `ebm_examples`, else as its recipes build it,
    else from defaults, with what the data decide taken from the distribution's own tasks. A check
    raises `LawBroken`, or `NoExample` where none of that is enough, or where data, weights or a
    package are missing.

    Raises:
        ValueError: no installed distribution of this name registers anything.
    """
    known = {name: _plain(name) for name in _distributions()}
    wanted = [name for name, plain in known.items() if plain == _plain(distribution)]
    if not wanted:
        raise ValueError(
            f"no installed distribution of this name has an entry point of group 'ebm': {nearest(distribution, known)}"
        )
    name = wanted[0]
    offered = {kind: {c.name: c for c in components(kind).values() if c.distribution == name} for kind in KINDS}
    package = Package(name, offered)
    found: dict[str, Callable[[], None]] = {}
    for problem in registry().problems:
        if problem.distribution == name:
            found[problem.what] = partial(_report, str(problem))
    for kind in CHECKS:
        found |= {f"{kind} {each}": partial(package.check, kind, each) for each in offered[kind]}
    return found | {f"recipe {each}": partial(package.one_step, each) for each in offered["recipe"]}


def _built(kind: str, table: Mapping[str, Any], made: Mapping[str, Any], **more: Any) -> Any:
    return build_table(kind, table, {**made, **more})


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions() -> set[str]:
    offering = {c.distribution for kind in KINDS for c in components(kind).values()}
    return offering | {problem.distribution for problem in registry().problems}


def _report(problem: str) -> None:
    raise AssertionError(problem)


class Package:
    """A distribution's components, and where examples of them come from."""

    def __init__(self, distribution: str, offered: Mapping[str, Mapping[str, Component]]) -> None:
        self.distribution, self.offered = distribution, offered

    def check(self, kind: str, name: str) -> None:
        """Holds one component to its laws.

        Raises:
            LawBroken: it breaks one.
            NoExample: nothing says how to build it, or its data, its weights or a package are
            missing.
        """
        try:
            self._hold(kind, name)
        except LawBroken as error:
            if missing := _missing(error):
                raise NoExample(f"{kind} {name!r}: {missing} ({error.counterexample})") from error
            raise

    def _hold(self, kind: str, name: str) -> None:
        for ready in examples(self.distribution):
            if example := ready().get((kind, name)):
                return CHECKS[kind](**example())
        factory, parts = self._factory(kind, name)
        if kind == "energy":
            y, context = self._configuration(factory, parts)
            return check_energy(factory, y, context)
        if kind == "objective":
            energy, batch = self._trained(parts)
            return check_objective(factory, energy, batch)
        if kind == "task" and LEARNED in parameters(self.offered[kind][name].factory):
            return check_task(factory, again=lambda folder: factory(learned=folder))
        return CHECKS[kind](factory)

    def one_step(self, name: str) -> None:
        """Builds a recipe, and takes one training step with it."""
        try:
            parts = self._assembled(name)
        except Exception as error:
            if missing := _missing(error):
                raise NoExample(f"recipe {name!r}: {missing} ({error})") from error
            raise
        batch = next(iter(parts.task.loader("train", parts.fit.get("batch_size", 16), seed=0)))
        loss = parts.objective(parts.energy, batch, generator=torch.Generator().manual_seed(0))
        if not bool(torch.isfinite(loss.value)):
            raise AssertionError(f"the first loss of recipe {name!r} is {float(loss.value)}")
        loss.value.backward()

    @cache  # noqa: B019 (a package lives as long as the session)
    def _assembled(self, recipe: str) -> Parts:
        return assemble(resolve(load(f"{self.distribution}:{recipe}")))

    def _factory(self, kind: str, name: str) -> tuple[Callable[..., Any], Parts | None]:
        """Finds what makes a component: (a factory without arguments, but maybe `learned`; the parts
        of the recipe that it is from)."""
        for recipe in self.offered["recipe"]:
            try:
                parts = self._assembled(recipe)
            except Exception:  # its own check says what is wrong with it, and the components are looked at without it
                continue
            for table_kind, table in _tables(parts.recipe):
                if (table_kind, table["use"].rpartition(":")[2]) == (kind, name):
                    made = {"task": parts.task, "energy": parts.energy, "sampler": parts.sampler, "objective": parts.objective}
                    return partial(_built, kind, table, made), parts
        factory = self.offered[kind][name].factory
        required = {n: p for n, p in parameters(factory).items() if p.default is p.empty}
        keywords = {}
        spec: dict[str, Any] = {"dim": 2} if kind != "task" else {}
        task = None if kind == "task" else self._task()
        spec |= getattr(task, "spec", {})
        defaults: dict[str, Callable[[], Any]] = {"sampler": _sampler, "energy": _energy, "task": lambda: task}
        for parameter in required:
            if parameter in spec:
                keywords[parameter] = spec[parameter]
            elif parameter in defaults:
                keywords[parameter] = defaults[parameter]()
            else:
                raise NoExample(
                    f"{kind} {name!r} needs {parameter}, and no recipe of {self.distribution} says what it is: offer a "
                    f"recipe that uses it, or the hook ebm_examples: {{({kind!r}, {name!r}): lambda: {{'factory': …}}}}"
                )
        return (lambda **more: factory(**keywords, **more)), None

    def _task(self) -> Task:
        """Builds a task of the distribution's own, or points of a plane."""
        for name in self.offered["task"]:
            try:
                return self._factory("task", name)[0]()
            except Exception:  # its own check says what is wrong with it
                continue
        return Points("moons", n=200)

    def _configuration(self, factory: Callable[[], Any], parts: Parts | None) -> tuple[Tensor, Any]:
        """Finds what an energy scores: (y, context)."""
        task = self._task() if parts is None else parts.task
        tried: list[tuple[Tensor, Any]] = []
        generator = torch.Generator().manual_seed(0)
        batch = _few(next(iter(task.loader("train", 8, seed=0))))
        y = task.start(batch, generator=generator)
        inner = None if parts is None else getattr(parts.objective, "sampler", None)
        tried.append((inner.point(y) if isinstance(inner, Sampler) else y, batch.context))
        if parts is None:
            tried += [(torch.randn(8, *event, generator=generator), None) for event in EVENTS]
        for y, context in tried:
            try:
                energy = factory()
                with torch.no_grad():
                    evaluate(energy.given(context) if isinstance(energy, Energy) else energy, y)
            except Exception:  # it scores something else, or cannot be built, which the first law says
                continue
            return y, context
        return tried[0]

    def _trained(self, parts: Parts | None) -> tuple[Any, Batch]:
        if parts is not None:
            return parts.energy, _few(next(iter(parts.task.loader("train", 12, seed=0))))
        return _energy(), _few(next(iter(Points("moons", n=200).loader("train", 12))))


def _missing(error: BaseException | None) -> str:
    """Tells whether an error comes of a connection that there is not, or of a package that is not
    installed."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | URLError):
            return "its weights or data cannot be reached"
        if isinstance(error, ImportError) and not (error.name and importlib.util.find_spec(error.name.partition(".")[0])):
            return "a package is missing"  # raised by hand, or of a package that is not there; not a wrong name of its own
        error = error.__cause__
    return ""


def _sampler() -> Sampler:
    return LangevinDynamics(step_size=0.05, steps=4)


def _energy() -> Energy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLPEnergy(dim=2, hidden=(16, 16))


def _few(batch: Batch) -> Batch:
    count = len(leaves(batch.target)[0])
    return rows(batch, torch.arange(min(count, 12)), count)


def _tables(recipe: Any, kind: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Lists the component tables of a recipe, nested ones included: (kind, table)."""
    if isinstance(recipe, Mapping):
        if "use" in recipe:
            yield kind, recipe
        for key, value in recipe.items():
            yield from _tables(value, COMPONENT_PARAMETERS.get(key, ""))
    elif isinstance(recipe, list):
        for part in recipe:
            yield from _tables(part, kind)
