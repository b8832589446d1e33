"""`ebm cost RECIPE`: what a recipe costs before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm.commands.console import print_json, print_table, say
from ebm.commands.settings import Settings, parse_settings

ALL = "all"  # in place of a size: every named one


def cost(
    recipe: str,
    /,
    *settings: Settings,
    size: str | None = None,
    vocabulary: int | None = None,
    tokens: float | None = None,
    think_steps: int | None = None,
    candidates: int = 1,
    flops_per_second: float | None = None,
    price_per_hour: float | None = None,
    json: bool = False,
) -> None:
    """Tell what a recipe costs before it runs: parameters, FLOPs, bytes, memory, time and money.

    Training, thinking and generation are counted for each token (or picture, frame, answer), beside
    the recipe's baselines and the paper's own way of computing, on tensors without numbers: nothing
    is trained, and no weight is allocated. Any value of the recipe can be set, as for `ebm run`.

    Args:
        recipe: a recipe's name, or the path of a recipe file such as RUN/recipe.toml.
        size: a named size in place of the recipe's own, 4xs to xl; all lists the training of each.
        vocabulary: how many tokens there are, in place of the task's.
        tokens: how long the run is, as in 100e9, in place of the recipe's steps.
        think_steps: steps of a landscape for each prediction; by default the recipe's.
        candidates: starts that are tried for each prediction.
        flops_per_second: the rate at which all devices together compute products, as in 4e14; says
            the time, if that is all that takes any.
        price_per_hour: of all devices together; says the price.
        json: print JSON, with numbers that are not rounded.
    """
    from ebm.costing.cost import cost as cost_of  # lazy: it takes torch, and help does not
    from ebm.costing.table import reasons, sizes, tables
    from ebm.energies.ebt import SIZES

    how: dict[str, Any] = {"vocabulary": vocabulary, "tokens": tokens, "think_steps": think_steps, "candidates": candidates}
    how |= {"flops_per_second": flops_per_second, "price_per_hour": price_per_hour}
    values = parse_settings(settings)
    if size == ALL:
        known = [name for name in SIZES if name != "2xs"]  # another name of xxs
        every = {name: cost_of(recipe, values, size=name, training_only=True, **how) for name in known}
        if json:
            print_json(every)
        else:
            print_table(*sizes(every))
            _tell_counted(every["xxs"])
        return
    found = cost_of(recipe, values, size=size, **how)
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
