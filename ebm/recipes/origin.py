"""Starting from a model: a recipe takes its energy, its weights, and what its task learned; or builds
on a model as the base that its own energy corrects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ebm.interfaces.abilities import StartsAs
from ebm.registry import component, parameters
from ebm.runs import checkpoints
from ebm.runs.run import Run

FROM = "from"  # the table of a recipe that says which model it starts from: its `model` and the digest of its `weights`

BASE = "base"  # names the run whose model the objective's `base` is; as a table, with the digest of its weights
OWN_BASELINE = "baseline"  # as a base: the recipe's own first baseline


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
    return {**made, "task": _inherited(recipe, settings, model, f"{named} says it, which was trained with it", "--from")}


def _inherited(recipe: Mapping[str, Any], settings: Mapping[str, Any], model: Run, why: str, way_out: str) -> dict[str, Any]:
    """Makes the table of a task that takes over what a model's learned, where both are of one kind."""
    task, theirs = dict(recipe["task"]), model.recipe["task"]
    if inherits(recipe, model):
        for name in component("task", task["use"]).factory.inherits:
            if f"task.{name}" in settings and settings[f"task.{name}"] != theirs.get(name):
                raise ValueError(f"task.{name}: {why}: leave it out, or leave out {way_out}")
            task.pop(name, None)
            if name in theirs:
                task[name] = theirs[name]
    return task


def check_base(recipe: Mapping[str, Any]) -> Any:
    """Reads what a recipe says of its base; None where its objective has none, or holds it already.

    Raises:
        ValueError: a base is named and the objective takes none, or the other way round, or it is no
            name; or it is the baseline, and there is none.
    """
    used = recipe["objective"].get("use") if isinstance(recipe.get("objective"), Mapping) else None
    takes = isinstance(used, str) and BASE in parameters(component("objective", used).factory)
    found = recipe.get(BASE)
    if not takes:
        if found is not None:
            raise ValueError(f"base = {found!r}: the objective {used!r} builds on no base: leave it out, or use sequence-nce")
        return None
    if isinstance(recipe["objective"].get(BASE), str):
        raise ValueError(f'objective.base = {recipe["objective"][BASE]!r}: name it in front of all tables, as in base = "runs/x"')
    if found is None and isinstance(recipe["objective"].get(BASE), Mapping):
        return None  # a model that was given away, whose weights have the base's
    if found is None:
        raise ValueError(f'the objective {used!r} builds on a trained model: name its run, as in base = "runs/x" (--base runs/x)')
    name = found.get("model") if isinstance(found, Mapping) else found
    if not isinstance(name, str) or not name:
        raise ValueError(f"base = {found!r}: write a run's folder or a model's name, or \"{OWN_BASELINE}\" for the recipe's own")
    if name == OWN_BASELINE and not recipe.get("baseline"):
        raise ValueError(f"base = {name!r}, but the recipe has no baseline: name the recipe of one, or a run")
    return found


def build_on(recipe: Mapping[str, Any], settings: Mapping[str, Any], model: Run, named: str) -> dict[str, Any]:
    """Makes a resolved recipe build on a model: the objective's base is its energy, and the task inherits.

    Raises:
        ValueError: the model was made by hand, or is not the one that the recipe was built on.
    """
    if not model.recipe:
        raise ValueError(
            f"base = {named!r} was made by hand, without a recipe: pass its energy to SequenceNCE, and that to ebm.fit"
        )
    weights, before = weights_of(model), recipe[BASE]
    if isinstance(before, Mapping) and before.get("weights", weights) != weights:
        raise ValueError(
            f"{named} is not the model that this recipe was built on: its weights were {before['weights']}, and now they are "
            f"{weights}; name another by --base"
        )
    task = _inherited(recipe, settings, model, f"{named} says it, which this run builds on", "--base")
    return {**shaped_as(recipe, model.recipe["energy"]), "task": task, BASE: {"model": named, "weights": weights}}


def shaped_as(recipe: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a base's table into a resolved recipe: into its objective's, and into an energy's that is built on it.

    Raises:
        ValueError: the energy says that its base is another.
    """
    shaped = {**recipe, "objective": {**recipe["objective"], BASE: table}}
    if BASE in parameters(component("energy", recipe["energy"]["use"]).factory):
        wrong = {key: value for key, value in recipe["energy"].get(BASE, {}).items() if table.get(key) != value}
        if wrong:
            theirs = {key: table.get(key) for key in wrong}
            raise ValueError(f"energy.base says {wrong}, but the base that the run builds on has {theirs}: leave it out")
        shaped["energy"] = {**recipe["energy"], BASE: table}
    return shaped


def take_base(objective: Any, energy: Any, model: Run, named: str) -> None:
    """Loads a model's weights into an objective's base, and into an energy that starts as that.

    Raises:
        ValueError: they do not fit, as where its vocabulary is another.
    """
    assert isinstance(model.energy, nn.Module)  # which a recipe builds
    try:
        objective.base.load_state_dict(model.energy.state_dict())
        if isinstance(energy, StartsAs):
            energy.start_as(model.energy)
    except RuntimeError as error:
        raise ValueError(f"the weights of {named} do not fit this recipe's base ({_reason(error)}): use its task") from error


def _reason(error: RuntimeError) -> str:
    return str(error).partition("\n\t")[2].partition("\n")[0] or str(error)


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
        what = f"the weights of {named} do not fit the recipe's energy ({_reason(error)})"
        raise ValueError(f"{what}: leave the energy and what the data decide as the model has them") from error
    mine, theirs = objective.state_dict(), model.objective.state_dict() if isinstance(model.objective, nn.Module) else {}
    same = {key: part for key, part in theirs.items() if getattr(mine.get(key), "shape", 0) == getattr(part, "shape", 1)}
    if same and same.keys() == mine.keys():
        objective.load_state_dict(same)
