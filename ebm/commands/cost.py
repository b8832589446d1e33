"""`ebm cost RECIPE`: what a recipe costs before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm.commands.console import print_json, print_table, say
from ebm.costing.cost import cost
from ebm.costing.table import reasons, sizes, tables
from ebm.energies.ebt import SIZES

ALL = "all"  # in place of a size: every named one


def tell(recipe: str, settings: Mapping[str, Any], *, size: str | None, json: bool, **asked: Any) -> None:
    """Prints what a recipe costs; of size "all" the training of each named size."""
    if size == ALL:
        known = [name for name in SIZES if name != "2xs"]  # another name of xxs
        every = {name: cost(recipe, settings, size=name, training_only=True, **asked) for name in known}
        if json:
            print_json(every)
        else:
            print_table(*sizes(every))
            _tell_counted(every["xxs"])
        return
    found = cost(recipe, settings, size=size, **asked)
    if json:
        print_json(found)
        return
    say(f"{found['recipe']}: {found['summary']}")
    for table in tables(found):
        print_table(*table)
    for reason in reasons(found):
        say(f"not told, {reason}")
    _tell_counted(found)


def _tell_counted(found: Mapping[str, Any]) -> None:
    of = "an accelerator" if found["device"] == "accelerator" else "a CPU, which leaves out what attention hides"
    batch = f"{found['per_step']:,} {found['unit']}s a step"
    say(f"Counted, not run: matrix products as on {of}, in {found['precision']}, {batch}; bytes as if nothing was fused.")
