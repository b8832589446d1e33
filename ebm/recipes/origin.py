"""Starting from a model: a recipe takes its energy, its weights, and what its task learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ebm.registry import component
from ebm.runs import checkpoints
from ebm.runs.run import Run

FROM = "from"  # the table of a recipe that says which model it starts from: its `model` and the digest of its `weights`


def begin(recipe: Mapping[str, Any], settings: Mapping[str, Any], model: Run, named: str) -> dict[str, Any]:
    """Makes a recipe start from a model: its energy is the model's, and so is what the task inherits.

    Arguments:
        recipe: the recipe, as read.
        settings: what is set beside it.
        model: the model.
        named: how the recipe names the model, which is found by that again.

    Raises:
        ValueError: the model was made by hand, is not the one that the recipe began from, or a
            setting is the model's to say.
    """
    if not model.recipe:
        raise ValueError(f"{named} was made by hand, without a recipe: load it, and pass its energy to ebm.fit")
    weights = weights_of(model)
    if (before := recipe.get(FROM, {}).get("weights", weights)) != weights:
        raise ValueError(
            f"{named} is not the model that this recipe began from: its weights were {before}, and now they are {weights}; "
            f"name another by --from"
        )
    made = {**recipe, "energy": model.recipe["energy"], FROM: {"model": named, "weights": weights}}
    if inherits(recipe, model):
        task, theirs = dict(recipe["task"]), model.recipe["task"]
        for name in component("task", task["use"]).factory.inherits:
            if f"task.{name}" in settings and settings[f"task.{name}"] != theirs.get(name):
                raise ValueError(f"task.{name}: {named} says it, which was trained with it: leave it out, or leave out --from")
            task.pop(name, None)
            if name in theirs:
                task[name] = theirs[name]
        made["task"] = task
    return made


def inherits(recipe: Mapping[str, Any], model: Run) -> bool:
    """Tells whether a recipe's task takes over what a model's learned: both are of one kind."""
    used = recipe.get("task", {}).get("use")
    return used == model.recipe["task"]["use"] and bool(getattr(component("task", used).factory, "inherits", ()))


def weights_of(model: Run) -> str:
    """Hashes a model's weights, in short."""
    state = model.energy.state_dict() if isinstance(model.energy, nn.Module) else {}
    return checkpoints.digest_of({name: part.cpu() for name, part in state.items() if hasattr(part, "cpu")})[:16]


def take_weights(energy: nn.Module, objective: nn.Module, model: Run, named: str) -> None:
    """Loads a model's weights into an energy, and its objective's where that is of the same kind.

    Raises:
        ValueError: they do not fit, naming the first that does not.
    """
    assert isinstance(model.energy, nn.Module)  # which a recipe builds
    try:
        energy.load_state_dict(model.energy.state_dict())
    except RuntimeError as error:
        reason = str(error).partition("\n\t")[2].partition("\n")[0] or str(error)
        what = f"the weights of {named} do not fit the recipe's energy ({reason})"
        raise ValueError(f"{what}: leave the energy and what the data decide as the model has them") from error
    mine, theirs = objective.state_dict(), model.objective.state_dict() if isinstance(model.objective, nn.Module) else {}
    same = {key: part for key, part in theirs.items() if getattr(mine.get(key), "shape", 0) == getattr(part, "shape", 1)}
    if same and same.keys() == mine.keys():
        objective.load_state_dict(same)
