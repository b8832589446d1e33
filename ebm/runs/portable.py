"""What of a recipe can be given away: the model's parts, and no folder of the machine it was made on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TYPED = "typed"  # the table of a recipe that says what was typed: path of the keyword -> value
GIVEN = ("summary", "seed", "task", "energy", "sampler", "objective", "fit")  # studies and baselines stay with the run
WATCHING = ("callbacks", "loggers")  # keywords of [fit] that mean something to a training here alone
NAMING = ("path", "file", "dir", "cache")  # in the keys of JSON whose values may be paths
START = r"(?:~[\w-]*|\.\.|[A-Za-z]:)"  # what paths out of this folder begin with, if not with a slash
WHOLE = re.compile(rf"(?:{START}[/\\].*[^/\\]|[/\\][^/\\]+[/\\].*[^/\\])[/\\]?", re.DOTALL)
WITHIN = re.compile(rf"(?<![\w:/\\.~])(?:{START}(?:[/\\][^\s/\\'\",;:()\[\]]+)+|(?:[/\\][^\s/\\'\",;:()\[\]]+){{2,}})[/\\]?")


def portable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Makes of a run's recipe one that builds the same model and names no folder of this machine.

    What was typed stands in place of absolute paths; a path out of the working folder becomes its
    bare name.

    >>> recipe = {"summary": "Of /somewhere/x.txt.", "task": {"use": "text", "source": "/somewhere/x.txt"}, "baseline": "mine"}
    >>> portable({**recipe, "typed": {"task.source": "x.txt"}})
    {'summary': 'Of x.txt.', 'task': {'use': 'text', 'source': 'x.txt'}}
    """
    kept = {key: recipe[key] for key in GIVEN if key in recipe}
    if "fit" in kept:
        kept["fit"] = {key: value for key, value in kept["fit"].items() if key not in WATCHING}
    for path, value in recipe.get(TYPED, {}).items():
        kept = _set(kept, path.split("."), value)
    bare = _mapped(kept, bare_name)
    return {**bare, "summary": unplaced(kept["summary"], recipe)} if "summary" in kept else bare


def bare_name(text: str) -> str:
    """Makes of a path out of this folder its last name; other words stay.

    >>> bare_name("/somewhere/my data/x.txt"), bare_name("~/x.txt"), bare_name("data/x.txt"), bare_name("/x")
    ('x.txt', 'x.txt', 'data/x.txt', '/x')
    """
    if not WHOLE.fullmatch(text) and not (text.startswith("/") and len(text) > 1 and Path(text).exists()):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def unplaced(text: str, recipe: Mapping[str, Any]) -> str:
    """Puts bare names in place of the paths within a sentence: a recipe's own, and others.

    >>> unplaced("3 files of /somewhere/my data (and https://x.org/a/b, 1/2)", {"task": {"source": "/somewhere/my data"}})
    '3 files of my data (and https://x.org/a/b, 1/2)'
    """
    for known in sorted(set(_strings(recipe)), key=len, reverse=True):
        if (bare := bare_name(known)) != known:
            text = text.replace(known, bare)
    return WITHIN.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)


def unplaced_json(value: Any, key: str = "") -> Any:
    """Puts bare names in place of paths in JSON, where a key says that its value is one."""
    if isinstance(value, Mapping):
        return {name: unplaced_json(part, str(name)) for name, part in value.items()}
    if isinstance(value, list):
        return [unplaced_json(part, key) for part in value]
    return bare_name(value) if isinstance(value, str) and any(word in key.lower() for word in NAMING) else value


def _set(table: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    if first not in table:
        return dict(table)
    return {**table, first: _set(table[first], rest, value) if rest else value}


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {change(key): _mapped(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from (str(key), *_strings(part))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value
