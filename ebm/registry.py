"""The registry: hooks by which the core and third-party packages offer components, and `build`.

A package joins through the entry-point group `ebm`. No plugin is loaded before somebody asks.
"""

from __future__ import annotations

import importlib
import inspect
import tomllib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from ebm import source
from ebm.hooks import EXAMPLES, HOOKS, KINDS, SECTIONS, Hooks
from ebm.hooks import hookimpl as hookimpl  # what plugins import from here
from ebm.source import Said, Unreadable
from ebm.words import nearest

CORE = "ebm-toolkit"  # the distribution whose names cannot be taken
CORE_MODULES = (  # who offers what: they name it, and import nothing of it
    "ebm.offers.energies",
    "ebm.offers.baselines",
    "ebm.offers.samplers",
    "ebm.offers.objectives",
    "ebm.offers.encoders",
    "ebm.offers.tasks",
    "ebm.offers.training",
    "ebm.offers.studies",
    "ebm.offers.grids",
    "ebm.offers.recipes",
    "ebm.commands",
    "ebm.models",
)
CORE_PARTS = (  # what is called, not named: sections of a report, and examples for the conformance kit
    "ebm.energies",
    "ebm.baselines",
    "ebm.samplers",
    "ebm.encoders",
    "ebm.reports.chains",
    "ebm.reports.curves",
    "ebm.reports.studies",
    "ebm.reports.answers",
    "ebm.reports.thinking",
    "ebm.reports.text",
    "ebm.reports.images",
    "ebm.reports.helping",
    "ebm.reports.video",
)
PLURALS = {hook.removeprefix("ebm_"): kind for kind, hook in KINDS.items()}
# The kinds that recipes build: a model's parts, and a training's.
PARTS = ("energy", "sampler", "objective", "encoder", "task", "optimizer", "scheduler", "callback", "logger")
VERBS = ("run", "list", "show", "study", "diagnose", "cost", "new-plugin")  # the command line's own
TAKES = {"study": "run", "rival": "task", "command": "run"}  # what is handed to it, as its first parameter
PATHS = ("recipe", "grid", "model")  # the kinds that are files, not factories
TABLES = (*PARTS, "fit", "seed", "summary", "baseline", "baseline_fit", "pace", "base", "typed", "from")  # a recipe's own


class Offer(NamedTuple):
    """What is made of something else, and documented by it: "module:name", and of what it is made."""

    where: str
    like: str  # "module:name" of what has the documentation and the keywords
    without: Sequence[str] = ()  # the keywords that it does not take


@dataclass(frozen=True)
class Component:
    """A registered component: its name, what was offered, who offers it, and of which kind it is."""

    name: str
    offered: Any  # a factory, or "module:name" of one; a recipe's or a grid's path; a model's folder
    distribution: str
    kind: str  # or "", of what is no component
    told: str = ""  # a recipe's or a model's summary, a grid's claim

    @cached_property
    def factory(self) -> Any:
        """The class or the function, imported where it was offered by name; a recipe's path."""
        return imported(self) if self.by_name else self.offered

    @property
    def by_name(self) -> bool:
        """Whether it was offered by name, and is imported when it is asked for."""
        return self.kind not in PATHS and isinstance(self.offered, str | Offer)

    @cached_property
    def summary(self) -> str:
        """What it is, in a line; ValueError where it was offered by name and cannot be imported."""
        if self.kind in PATHS:
            return self.told
        if self.by_name:
            with suppress(Unreadable, RecursionError):
                return first_paragraph(source.text(getattr(self.offered, "like", self.offered)))
        return first_paragraph(documentation(self.factory))

    @cached_property
    def said(self) -> Said:
        """Its documentation and its keywords, without an import where its source says them."""
        if self.by_name:
            with suppress(Unreadable, RecursionError):
                found = source.said(getattr(self.offered, "like", self.offered))
                without = getattr(self.offered, "without", ())
                return found._replace(parameters={n: p for n, p in found.parameters.items() if n not in without})
        return inspected(self.factory)


@dataclass(frozen=True)
class Problem:
    """Something that a plugin got wrong. It stops nobody else."""

    distribution: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.distribution}: {self.what}: {self.reason}"


@dataclass
class Registry:
    """Everything that was offered, by kind and name; several distributions may offer a name."""

    offers: dict[str, dict[str, list[Component]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    problems: list[Problem] = field(default_factory=list)
    examples: dict[str, list[Callable[[], Any]]] = field(default_factory=dict)  # by distribution
    sections: list[tuple[str, Callable[..., Any]]] = field(default_factory=list)  # by distribution

    def __post_init__(self) -> None:
        self.manager = pluggy.PluginManager("ebm")
        self.manager.add_hookspecs(Hooks)

    def add(self, plugin: Any, distribution: str, what: str = "registering it") -> None:
        """Registers one plugin: keeps what is right with it, and records what is wrong."""
        try:
            names = [name for name in dir(plugin) if not name.startswith("__")]
            marked = {name: getattr(plugin, name) for name in names if self.manager.parse_hookimpl_opts(plugin, name) is not None}
        except Exception as error:  # a plugin's fault, whatever it is, stops nobody else
            self.problems.append(Problem(distribution, what, reason_of(error)))
            return
        for name in sorted(marked.keys() - set(HOOKS)):
            self.problems.append(Problem(distribution, f"hook {name}", f"no such hook: {nearest(name, HOOKS)}"))
        for name in sorted(n for n in names if n in HOOKS and n not in marked):
            self.problems.append(Problem(distribution, f"hook {name}", "not decorated with @ebm.registry.hookimpl"))
        if not marked and not any(problem.distribution == distribution for problem in self.problems):
            self.problems.append(Problem(distribution, what, f"{plugin!r} offers nothing: it has no hook, as in ebm_energies"))
        for hook, function in marked.items():
            given = ["run", "seed"] if hook == SECTIONS else []
            asked = [*inspect.signature(function).parameters]
            if hook in HOOKS and not set(asked) <= set(given):
                reason = f"it asks for {', '.join(asked)}, but is given {', '.join(given) or 'nothing'}"
                self.problems.append(Problem(distribution, f"hook {hook}", reason))
            elif hook == SECTIONS:
                self.sections.append((distribution, function))
            elif hook == EXAMPLES:
                self.examples.setdefault(distribution, []).append(function)
        for kind, hook in KINDS.items():
            if hook in marked and not inspect.signature(marked[hook]).parameters:
                self._take(kind, hook, marked[hook], distribution)

    def _take(self, kind: str, hook: str, function: Callable[[], Any], distribution: str) -> None:
        try:
            offered = dict(function())
        except (Exception, SystemExit) as error:  # likewise
            self.problems.append(Problem(distribution, f"hook {hook}", reason_of(error)))
            return
        for name, factory in offered.items():
            try:
                self._offer(kind, name, factory, distribution)
            except Exception as error:  # likewise
                self.problems.append(Problem(distribution, f"{kind} {name!r}", reason_of(error)))

    def _offer(self, kind: str, name: str, factory: Any, distribution: str) -> None:
        known = self.offers[kind].get(name, []) if isinstance(name, str) else None
        if known is None or not name or ":" in name:
            raise ValueError("a component's name is a string without a colon")
        reserved = {"command": VERBS, "study": TABLES}.get(kind, ())
        if name in reserved or (known and known[0].distribution == CORE):
            raise ValueError("the name belongs to the core, so this offer is refused")
        if any(other.distribution == distribution for other in known):
            raise ValueError("offered twice by the same distribution; the first stands")
        told = {"recipe": _recipe_summary, "grid": _claim, "model": _model_summary}.get(kind, _check_offered)(factory)
        found = Component(name, factory, distribution, kind, told)
        if not found.by_name:
            _check_factory(found, found.factory)
            found.summary  # noqa: B018 (read now: what it raises is recorded as the plugin's fault)
        self.offers[kind].setdefault(name, []).append(found)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Loads the core's components and every installed plugin, once."""
    found = _core(CORE_MODULES)
    for entry in entry_points(group="ebm"):
        distribution = entry.dist.name if entry.dist is not None else entry.name
        what = f"entry point {entry.name} = {entry.value}"
        try:
            plugin = _load(entry)
        except (Exception, SystemExit) as error:  # likewise
            found.problems.append(Problem(distribution, what, reason_of(error)))
            continue
        found.add(plugin, distribution, what)
    return found


@lru_cache(maxsize=1)
def _core_parts() -> Registry:
    found = _core(CORE_PARTS)
    if offered := [f"{kind} {name!r}" for kind, offers in found.offers.items() for name in offers]:
        raise RuntimeError(f"{offered[0]} is offered where nobody lists it: name it in ebm/offers")
    return found


def _core(modules: Iterable[str]) -> Registry:
    found = Registry()
    for name in modules:
        found.add(importlib.import_module(name), CORE)
    if found.problems:
        raise RuntimeError(f"the core's own components are broken: {found.problems[0]}")
    return found


def _load(entry: EntryPoint) -> Any:
    plugin = entry.load()
    if plugin is None:
        raise ValueError("it points at None")
    return plugin


def register(plugin: Any, distribution: str = "local") -> None:
    """Registers a plugin, a module or an object with hook methods, that no entry point names."""
    registry().add(plugin, distribution)


def sections() -> list[tuple[str, Callable[..., Any]]]:
    """Lists what draws a report's sections: (distribution, function), the core's first."""
    return [*_core_parts().sections, *registry().sections]


def examples(distribution: str) -> list[Callable[[], Any]]:
    """Lists what says how the conformance kit builds a distribution's components."""
    return (_core_parts() if distribution == CORE else registry()).examples.get(distribution, [])


def problems() -> list[Problem]:
    """Lists what went wrong with installed plugins."""
    return list(registry().problems)


def components(kind: str) -> dict[str, Component]:
    """Lists the components of a kind by name; where two plugins offer a name, "distribution:name".

    >>> components("sampler")["langevin"].distribution
    'ebm-toolkit'
    """
    listed = {}
    for name, offers in sorted(_offers(kind).items()):
        for offer in offers:
            listed[name if len(offers) == 1 else f"{offer.distribution}:{name}"] = offer
    return listed


def component(kind: str, name: str) -> Component:
    """Finds one component by name, or by "distribution:name".

    Raises:
        ValueError: for an unknown kind or name (naming the nearest), or one that two plugins offer.
    """
    offers = _offers(kind)
    distribution, _, plain = name.rpartition(":")
    found = [c for c in offers.get(plain, []) if not distribution or c.distribution == distribution]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{c.distribution}:{plain}" for c in found)
        raise ValueError(f"{kind} {name!r} is offered by {len(found)} distributions: choose one of {choices}")
    broken = "".join(f"\nnot loaded: {problem}" for problem in registry().problems)
    raise ValueError(f"no {kind} is named {name!r}: {nearest(name, components(kind))}{broken}")


def build(kind: str, name: str, /, **keywords: Any) -> Any:
    """Builds a registered component, checking the keywords against its factory's signature.

    Raises:
        ValueError: for an unknown name or keyword (naming the nearest), or a missing one.

    >>> build("sampler", "langevin", step_size=0.1).step_size
    0.1
    >>> build("sampler", "langevin", stepsize=0.1)
    Traceback (most recent call last):
    ...
    ValueError: sampler 'langevin' has no keyword 'stepsize': did you mean 'step_size'? Known: step_size, steps, ...
    """
    if kind in KINDS and kind not in PARTS:
        raise ValueError(f"build({kind!r}, …) builds {', '.join(PARTS)}: a recipe is run, by ebm.run(name) or `ebm run NAME`")
    return make(kind, name, keywords)


def make(kind: str, name: str, keywords: Mapping[str, Any]) -> Any:
    """Calls a component's factory; what it raises says whose it is."""
    found = component(kind, name)
    check_keywords(f"{kind} {name!r}", found.factory, keywords)
    with blamed(kind, found):
        return found.factory(**keywords)


@contextmanager
def blamed(kind: str, found: Component) -> Iterator[None]:
    """Turns what a plugin's function raises into a ValueError that says whose it is, and where.

    Errors of input pass: they speak to whoever wrote the keywords.
    """
    try:
        yield
    except (ValueError, FloatingPointError, OSError, ImportError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{kind} {found.name!r} of {found.distribution} failed: {reason_of(error)}"
        raise ValueError(f"{what} ({last.filename}, line {last.lineno})") from error


def check_keywords(what: str, factory: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Raises ValueError where keywords do not fit a factory's signature."""
    known, given = parameters(factory), list(keywords)
    if not any(p.kind is p.VAR_KEYWORD for p in _signature(factory).values()):
        for name in given:
            if name not in known:
                raise ValueError(f"{what} has no keyword {name!r}: {nearest(name, known)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in given]
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}")


def parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Lists the keywords that a factory takes."""
    return {name: p for name, p in _signature(factory).items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _signature(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some built-in types have none: they take what they take
        return inspect.signature(lambda **keywords: None).parameters


def _offers(kind: str) -> dict[str, list[Component]]:
    if kind not in KINDS:
        raise ValueError(f"no kind is named {kind!r}: {nearest(kind, KINDS)}")
    return registry().offers[kind]


def imported(found: Component) -> Callable[..., Any]:
    """Returns a component's factory, imported where it was offered as "module:name".

    Raises:
        ValueError: it cannot be imported; says whose it is and why.
    """
    if not found.by_name:
        return found.offered
    where = getattr(found.offered, "where", found.offered)
    module, _, name = where.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything
        why = f"{where} cannot be imported: {reason_of(error)}"
        raise ValueError(f"{found.name!r} of {found.distribution}: {why}") from error
    _check_factory(found, factory)
    return factory


def inspected(factory: Any) -> Said:
    """Asks a class or a function what it says of itself.

    A class explains its own keywords and leaves the others to its bases.
    """
    texts = [inspect.getdoc(factory)]
    if inspect.isclass(factory):
        texts = [text for each in reversed(factory.__mro__) for text in (each.__init__.__doc__, each.__doc__)]  # type: ignore[misc]
    return Said(documentation(factory), texts, dict(_signature(factory)))


def documentation(thing: Any) -> str:
    """Reads the docstring of a class or a function."""
    return inspect.getdoc(thing) or ""


def first_paragraph(text: str) -> str:
    """Makes one line of a text's first paragraph."""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _check_offered(factory: Any) -> str:
    """Raises ValueError for what is neither callable nor names something."""
    where = getattr(factory, "where", factory)
    if isinstance(where, str) and not all(part.strip() for part in where.partition(":")):
        raise ValueError(f"{where!r} names no function: write it as 'module:function'")
    if not isinstance(where, str) and not callable(factory):
        raise ValueError(f"{factory!r} is not callable: offer a class or a function")
    return ""


def _check_factory(found: Component, factory: Any) -> None:
    """Raises ValueError where what was offered has no first parameter for what it is handed."""
    if found.kind not in PATHS and not callable(factory):
        raise ValueError(f"{factory!r} is not callable: offer a class or a function")
    if found.kind in TAKES:
        first = next(iter(_signature(factory).values()), None)
        if first is None or first.kind is first.KEYWORD_ONLY:
            what = TAKES[found.kind]
            raise ValueError(f"{factory!r} takes no {what}: its first parameter is the {what}")


def _recipe_summary(path: Any, key: str = "summary") -> str:
    summary = tomllib.loads(Path(str(path)).read_text(encoding="utf-8")).get(key, "")
    if not isinstance(summary, str):
        raise ValueError(f"{key} is {summary!r}: write a string")
    return summary


def _claim(path: Any) -> str:
    return _recipe_summary(path, "claim")


def _model_summary(folder: Any) -> str:
    return _recipe_summary(Path(str(folder)) / "recipe.toml")


def reason_of(error: BaseException) -> str:
    """Says what went wrong: the error's type and message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
