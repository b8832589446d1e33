"""Recipes: TOML files that name registered components and their arguments. Reading one runs no
code.

A table with the key `use` is a component. Its other keys are its factory's keywords, and tables
nest where a factory takes a component (`[objective.sampler]`, `energies = [{use = …}, …]`). What
the data decide comes from `task.spec`. A built task, energy or sampler is handed to each factory
that has a parameter of that name.
"""

from __future__ import annotations

import inspect
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from ebm.randomness import subseed
from ebm.recipes.origin import BASE, FROM, OWN_BASELINE, check_base, shaped_as
from ebm.recipes.paths import TYPED
from ebm.recipes.tables import COMPONENT_PARAMETERS, COMPONENTS, FIT_HANDED, LEARNED
from ebm.registry import Component, check_keywords, component, components, imported, make, parameters
from ebm.training import fit
from ebm.training.settings import LARGEST
from ebm.words import nearest

SIZED = ("dim", "depth", "heads")  # what a transformer's named size says
NAMES_DO = ("optimizer", "scheduler", "logger")  # the kinds of which a bare name stands for a table


@dataclass(frozen=True)
class Parts:
    """What a recipe builds: components, the keywords of `fit`, and itself with all defaults."""

    task: Any
    energy: Any
    sampler: Any
    objective: Any
    fit: dict[str, Any]
    recipe: dict[str, Any]


def read(path: str | Path) -> dict[str, Any]:
    """Reads a recipe file.

    Raises:
        ValueError: where it cannot be read, is not TOML, or has a table that no recipe has.
    """
    try:
        with Path(path).open("rb") as file:
            recipe = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"recipe {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"recipe {path} is not TOML: {error}") from error
    return _check_tables(recipe, f"recipe {path}")


def load(name: str | Path) -> dict[str, Any]:
    """Reads a recipe by its registered name, or from a file (`runs/x/recipe.toml`)."""
    if str(name).endswith(".toml"):
        return read(name)
    return read(component("recipe", str(name)).factory)


def _check_tables(recipe: dict[str, Any], what: str) -> dict[str, Any]:
    tables = (*COMPONENTS, "fit", *components("study"))
    for key, value in recipe.items():
        if key not in (known := (*tables, "summary", "seed", "baseline", OTHERWISE, "pace", BASE, TYPED, FROM)):
            raise ValueError(f"{what} has no place for {key!r}: {nearest(key, known)}")
        if key in (*tables, OTHERWISE, TYPED, FROM) and not isinstance(value, dict):
            raise ValueError(f"{what}: {key} is {value!r}, but it is a table, as in [{key}]")
    if not isinstance(recipe.get("summary", ""), str):
        raise ValueError(f"{what}: summary is {recipe['summary']!r}: write a string")
    named = recipe.get("baseline", "")
    if not isinstance(named, str) and not (isinstance(named, list) and named and all(isinstance(name, str) for name in named)):
        raise ValueError(f"{what}: baseline is {named!r}: write a recipe's name, or a list of names")
    return recipe


def resolve(recipe: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Applies settings ({"energy.width": "256"}) and checks names, keywords and types.

    {"baseline": "none"} leaves a recipe's baseline out.

    Raises:
        ValueError: naming the key, and the nearest known one.
    """
    draft: dict[str, Any] = _copy(recipe)
    replaced = {key.removesuffix(".use"): value for key, value in (settings or {}).items() if key.endswith(".use")}
    for key in sorted(replaced, key=len):
        table = _table(draft, key)
        if table.get("use") != replaced[key]:
            table.clear()  # another component: the old one's arguments mean nothing to it
        table["use"] = replaced[key]
    for key in settings or {}:
        if key.endswith(".size"):  # a named size says them; those that are set beside it stand
            for name in SIZED:
                _table(draft, key.removesuffix(".size")).pop(name, None)
    for key, text in (settings or {}).items():
        if not key.endswith(".use"):
            path, _, last = key.rpartition(".")
            value = _value(key, text) if isinstance(text, str) else text
            (_table(draft, path) if path else draft)[last.replace("-", "_")] = value
    if (settings or {}).get("baseline") == "none":
        for key in ("baseline", *{OTHERWISE, "pace"}.difference(settings or {})):
            draft.pop(key, None)
    if "summary" not in (settings or {}):
        draft["summary"] = _summary_of(recipe, draft)
    recipe = _check_tables(draft, "a recipe")
    seed = recipe.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed = {seed!r}: write a whole number of at least 0")
    resolved: dict[str, Any] = {"summary": recipe.get("summary", ""), "seed": seed}
    base: Any = None
    for kind in COMPONENTS:
        if kind == "objective":
            base = check_base(recipe)
        if kind in recipe:
            resolved[kind] = _resolve_component(kind, recipe[kind], kind)
        elif kind != "sampler":
            raise ValueError(f"the recipe has no [{kind}]: add the table, with use = the name of a {kind}")
    resolved["fit"] = _resolve_keywords(fit, recipe.get("fit", {}), "fit", "fit", handed=FIT_HANDED)
    for name, found in components("study").items():
        if name in recipe:
            resolved[name] = study_keywords(name, found, recipe[name])
    if recipe.get("baseline"):
        for name in _listed(recipe["baseline"]):
            load(name)  # raises where there is none
        resolved["baseline"] = recipe["baseline"]
    if OTHERWISE in recipe and "baseline" in resolved:  # without a baseline it says nothing
        if "steps" in recipe[OTHERWISE]:
            raise ValueError(f"[{OTHERWISE}] has steps: write pace, how many steps a baseline takes for one of this recipe's")
        resolved[OTHERWISE] = _resolve_keywords(fit, recipe[OTHERWISE], OTHERWISE, OTHERWISE, handed=FIT_HANDED)
    if base is not None:
        resolved[BASE] = base
    if "pace" in recipe:
        pace, count = recipe["pace"], len(_listed(resolved.get("baseline", [])))
        paces = _listed(pace)
        numbers = all(type(each) in (int, float) and 0 < each < math.inf for each in paces)
        if not numbers or len(paces) not in {min(1, count), count}:
            what = "write how many steps a baseline takes for one of this recipe's, or a list of one for each, beside baseline"
            raise ValueError(f"pace = {pace!r}: {what}")
        steps = resolved["fit"].get("steps", parameters(fit)["steps"].default)
        if any(steps * each > LARGEST for each in paces):
            raise ValueError(
                f"pace = {pace!r}: a baseline would take {steps * max(paces):.3g} steps, and at most 10^12 are possible"
            )
        resolved["pace"] = pace
    return resolved | {key: recipe[key] for key in (TYPED, FROM) if key in recipe}


def _summary_of(recipe: Mapping[str, Any], draft: Mapping[str, Any]) -> str:
    """Describes a recipe: by its summary, unless settings changed its task or components."""
    changed = [f"{path} = {value!r}" for kind in COMPONENTS for path, value in _changes(recipe.get(kind), draft.get(kind), kind)]
    summary = recipe.get("summary", "")
    if not changed or not isinstance(summary, str):
        return summary
    topic, colon, _ = summary.partition(":")
    return f"{topic.removesuffix(', changed') if colon else 'A recipe'}, changed: {', '.join(changed)}."


def _changes(old: Any, new: Any, path: str) -> list[tuple[str, Any]]:
    """Lists the values that differ: (path, new value)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [change for key, value in new.items() for change in _changes(old.get(key), value, f"{path}.{key}")]
    return [] if old == new else [(path, new)]


def study_keywords(
    name: str, found: Component, table: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Checks a study's keywords, from a recipe's table and from settings."""
    study = imported(found)
    first = next(iter(inspect.signature(study).parameters))
    handed = (first, "seed") if "seed" in parameters(study) else (first,)
    typed = {key: _value(key, value) if isinstance(value, str) else value for key, value in (settings or {}).items()}
    return _resolve_keywords(study, {**table, **typed}, name, name, handed=handed)


OTHERWISE = "baseline_fit"  # a recipe's table of what its baselines' [fit] has unlike its own

# What a baseline says for itself; it shares the rest of [fit] with the run.
OWN = (
    *("lr", "sampler_lr", "betas", "weight_decay", "warmup", "schedule", "lr_end", "clip_norm", "ema", "sampler"),
    *("optimizer", "scheduler", "callbacks"),
)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def baselines_of(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Resolves a resolved recipe's baselines, by name: same task, seed, batches and size.

    A baseline takes `pace` steps (by default 1) for each of the recipe's, so that both can train
    for the same time. Keywords that both energies have (dim, depth …) are the run's; the
    optimiser's are the baseline's own, and what the recipe's [baseline_fit] says otherwise.
    """
    names = _listed(recipe.get("baseline", []))
    paces = _listed(recipe.get("pace", 1))
    paces = paces * len(names) if len(paces) == 1 else paces
    return {name: _baseline(recipe, name, pace) for name, pace in zip(names, paces, strict=True)}


def baseline_of(recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Resolves the recipe of a resolved recipe's first baseline, where it has one."""
    return next(iter(baselines_of(recipe).values()), None)


def _baseline(recipe: Mapping[str, Any], name: str, pace: float) -> dict[str, Any]:
    baseline = {key: value for key, value in load(name).items() if key not in ("baseline", OTHERWISE, "pace", BASE)}
    shared = {name: value for name, value in recipe["fit"].items() if name not in OWN}
    shared["steps"] = max(1, round(shared["steps"] * pace))
    known = parameters(component("energy", baseline["energy"]["use"]).factory)
    said = {**recipe["energy"].get(BASE, {}), **recipe["energy"]}  # an energy may be built on its baseline
    size = {name: value for name, value in said.items() if name in known}
    own_size = {name: value for name, value in baseline["energy"].items() if "size" not in size or name not in SIZED}
    summary = f"The baseline, {name}, of: {recipe['summary']}"
    own = {"task": recipe["task"], "seed": recipe["seed"], "summary": summary}
    energy, fit = {**own_size, **size}, {**baseline.get("fit", {}), **shared, **recipe.get(OTHERWISE, {})}
    return resolve({**baseline, **own, "energy": energy, "fit": fit})


def assemble(
    recipe: Mapping[str, Any], task: Any = None, learned: Path | None = None, energies: AbstractContextManager[Any] | None = None
) -> Parts:
    """Builds a resolved recipe's components, with parameters that depend on the recipe's seed.

    Arguments:
        recipe: a resolved recipe.
        task: the recipe's task, where it was built before, as for a run's baseline.
        learned: the folder of what a run keeps for its task, which then opens no data.
        energies: under what energies are built, such as a mode in which tensors have no numbers.
    """
    if recipe.get(BASE) == OWN_BASELINE:
        table = next(iter(baselines_of(recipe).values()))["energy"]
        recipe = shaped_as(recipe, table)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subseed(recipe["seed"], "parameters"))
        built: dict[str, Any] = dict.fromkeys(COMPONENTS)
        complete = {"summary": recipe["summary"], "seed": recipe["seed"]}
        for kind in built:
            if kind == "task" and task is not None:
                built[kind], complete[kind] = task, recipe[kind]
            elif kind in recipe:
                handed = {**built, LEARNED: learned} if kind == "task" else built
                with energies if kind == "energy" and energies is not None else nullcontext():
                    built[kind], complete[kind] = _build(kind, recipe[kind], handed)
        options, complete["fit"] = _fill(fit, recipe["fit"], built, handed=FIT_HANDED)
        complete |= {key: recipe[key] for key in recipe if key not in complete}
        if built["sampler"] is not None:
            options.setdefault("sampler", built["sampler"])
    return Parts(**built, fit=options, recipe=complete)


def _resolve_component(kind: str, table: Any, path: str) -> dict[str, Any]:
    table = {"use": table} if kind in NAMES_DO and isinstance(table, str) else table
    if not isinstance(table, dict) or not isinstance(table.get("use"), str):
        raise ValueError(f"[{path}] names no component: write use = the name of a {kind}")
    factory = component(kind, table["use"]).factory
    keywords = {key: value for key, value in table.items() if key != "use"}
    return {"use": table["use"], **_resolve_keywords(factory, keywords, f"{kind} {table['use']!r}", path)}


def _resolve_keywords(
    factory: Callable[..., Any], keywords: dict[str, Any], what: str, path: str, handed: tuple[str, ...] = ()
) -> dict[str, Any]:
    if path.partition(".")[0] == "task" and LEARNED in parameters(factory):
        handed = (*handed, LEARNED)
    known = {name: p for name, p in parameters(factory).items() if name not in handed}
    if unknown := [name for name in keywords if name in handed]:
        raise ValueError(f"{path}.{unknown[0]} is not a recipe's to say: it comes from elsewhere in the recipe or the call")
    required = {name for name, p in known.items() if p.default is p.empty}
    # The required ones count as given: what is missing may come from the data.
    check_keywords(what, factory, {*keywords, *required, *handed})
    hints = type_hints(factory)
    resolved: dict[str, Any] = {}
    for name, value in keywords.items():
        where = f"{path}.{name}"
        kind = COMPONENT_PARAMETERS.get(name)
        if kind and (isinstance(value, dict) or (kind in NAMES_DO and isinstance(value, str))):
            resolved[name] = _resolve_component(kind, value, where)
        elif kind and isinstance(value, list):
            resolved[name] = [_resolve_component(kind, part, f"{where}[{i}]") for i, part in enumerate(value)]
        elif kind:
            raise ValueError(f"{where} = {value!r}: a recipe writes a component as a table, as in [{where}] use = …")
        else:
            resolved[name] = _typed(value, hints.get(name, Any), where)
    return resolved


def type_hints(factory: Callable[..., Any], *, include_extras: bool = False) -> dict[str, Any]:
    """Reads the types of a factory's keywords; none where its annotations cannot be resolved."""
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=include_extras)
    except Exception:  # annotations may name what only a type checker imports
        return {}


def is_data(value: Any) -> bool:
    """Tells whether a value can be written in a recipe."""
    if isinstance(value, list | tuple):
        return all(is_data(part) for part in value)
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Checks a value against a keyword's type: a string is no number, and truth is no count."""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        data = json.dumps(value, allow_nan=False)
    except (PydanticUserError, SchemaError):  # a type of its own, which says nothing about data
        return value
    except (TypeError, ValueError) as error:  # TOML's dates and times; NaN and infinity
        raise ValueError(f"{where} = {value}: write strings, truth values and finite numbers only") from error
    try:
        return adapter.validate_json(data, strict=True)
    except ValidationError as error:
        reasons = list(dict.fromkeys(part["msg"] for part in error.errors() if part["type"] != "is_instance_of"))
        bare = ", and a setting without a value reads as True" if value is True else ""
        raise ValueError(f"{where} = {value!r}: {'; '.join(reasons)} (its type is {_type_name(hint)}{bare})") from error


def _type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint).replace("typing.", "")


def build_table(kind: str, table: Mapping[str, Any], built: Mapping[str, Any]) -> Any:
    """Builds one component of a recipe's table; `built` holds what it may be handed."""
    return _build(kind, table, built)[0]


def _build(kind: str, table: Mapping[str, Any], built: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Builds one component: (it, its table with the defaults written out)."""
    factory = component(kind, table["use"]).factory
    given = {key: value for key, value in table.items() if key != "use"}
    keywords, complete = _fill(factory, given, built)
    complete.pop(LEARNED, None)
    if built.get(LEARNED) is not None and LEARNED in parameters(factory):
        keywords[LEARNED] = built[LEARNED]
    if kind != "task":
        spec = getattr(built["task"], "spec", {})
        known = parameters(factory)
        for name in known.keys() - given.keys():
            if name in spec:
                keywords[name] = spec[name]
                complete.pop(name, None)  # it comes from the data, also next time
            elif built.get(name) is not None:
                keywords[name] = built[name]
    return make(kind, table["use"], keywords), {"use": table["use"], **complete}


def _fill(
    factory: Callable[..., Any], given: Mapping[str, Any], built: Mapping[str, Any], handed: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Builds the components among a factory's keywords: (keywords, keywords and defaults as data)."""
    keywords: dict[str, Any] = {}
    known = {name: p.default for name, p in parameters(factory).items() if name not in (*handed, *COMPONENT_PARAMETERS)}
    complete = {name: default for name, default in known.items() if is_data(default)}
    for name, value in given.items():
        kind = COMPONENT_PARAMETERS.get(name)
        if kind and isinstance(value, Mapping):
            keywords[name], complete[name] = _build(kind, value, built)
        elif kind and isinstance(value, list):
            pairs = [_build(kind, part, built) for part in value]
            keywords[name], complete[name] = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        else:
            keywords[name] = complete[name] = value
    return keywords, complete


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def _table(recipe: dict[str, Any], path: str) -> dict[str, Any]:
    """Finds a table by its path, or makes it; a number finds a table in a list of them."""
    table: Any = recipe
    for key in path.replace("-", "_").split("."):
        if isinstance(table, list):
            if not key.isdecimal() or int(key) >= len(table):
                raise ValueError(f"{path}: {key!r} is none of the {len(table)} entries, which are counted from 0")
            table = table[int(key)]
        else:
            table = table.setdefault(key, {})
        if not isinstance(table, dict | list):
            raise ValueError(f"{path}: {key} is the value {table!r}, not a table")
    if not isinstance(table, dict):
        raise ValueError(f"{path} is the list {table!r}: set it as a whole")
    return table


def _value(key: str, text: str) -> Any:
    """Reads a value typed on the command line as TOML, or as a bare string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}: {error}") from error
