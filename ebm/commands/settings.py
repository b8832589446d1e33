"""Settings of a recipe as they are typed: --energy.width 64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

Settings = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]

WHOLE = ("seed", "summary", "base", "baseline", "pace")  # a recipe's own keys, which belong to no table


def parse_settings(tokens: Sequence[str]) -> dict[str, Any]:
    """Reads settings; a name without a dot belongs to [fit], and a bare one is True.

    >>> parse_settings(["--energy.width", "64", "--steps=500", "--compile"])
    {'energy.width': '64', 'fit.steps': '500', 'fit.compile': True}
    """
    settings: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise ValueError(f"{key!r} belongs to nothing: settings are written --table.key VALUE")
        switch = not equals and (not rest or rest[0].startswith("--"))
        name = key[2:].replace("-", "_")
        name = name if "." in name or name in WHOLE else f"fit.{name}"
        settings[name] = True if switch else value if equals else rest.pop(0)
    return settings
