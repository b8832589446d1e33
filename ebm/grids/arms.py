"""Arms that are like others, but for what they say themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm.words import nearest

LIKE = "like"  # the key of such an arm, which names the other


def likened(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in what arms say by way of another; their own tables are added to the other's.

    Raises:
        ValueError: an arm is like none that there is, or like itself.

    >>> likened({"a": {"recipe": "text", "settings": {"seed": 1}}, "b": {"like": "a", "settings": {"fit.lr": 1.0}}})["b"]
    {'recipe': 'text', 'settings': {'seed': 1, 'fit.lr': 1.0}}
    """
    return {name: _likened(arms, name, ()) for name in arms}


def _likened(arms: Mapping[str, Any], name: str, seen: tuple[str, ...]) -> Any:
    own = arms[name]
    if not isinstance(own, dict) or LIKE not in own:
        return own
    if not isinstance(other := own[LIKE], str) or other not in arms:
        raise ValueError(f"arms.{name}.{LIKE} = {other!r}: no arm has this name: {nearest(str(other), arms)}")
    if name in seen:
        raise ValueError(f"arms.{name} is like itself: {' is like '.join((*seen, name))}")
    return merged(_likened(arms, other, (*seen, name)), {key: value for key, value in own.items() if key != LIKE})


def merged(base: Any, own: Any) -> Any:
    """Adds a table to another: of tables within, too; other values take the place of what was."""
    if isinstance(base, dict) and isinstance(own, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in own.items()}}
    return own
