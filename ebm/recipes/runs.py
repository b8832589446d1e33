"""Runs of recipes: running one with its baseline, and loading what was run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ebm.files import check_writable, hold, holding, read_json
from ebm.interfaces import EnergyFn, Objective, Sampler
from ebm.processes import is_first_process
from ebm.recipes.origin import BASE, FROM, OWN_BASELINE, begin, build_on, inherits, take_base, take_weights
from ebm.recipes.paths import absolute
from ebm.recipes.recipe import Parts, assemble, baselines_of, read, resolve
from ebm.recipes.recipe import load as find
from ebm.runs import checkpoints, exported, learned
from ebm.runs.finding import find as find_folder
from ebm.runs.folder import BASELINE, MARKER, check_ours, differences, finished, fresh_folder
from ebm.runs.index import is_model
from ebm.runs.portable import WATCHING
from ebm.runs.run import Run, sampler_of
from ebm.runs.snapshots import newest, put_back
from ebm.tasks import as_task
from ebm.training import fit
from ebm.training.settings import check
from ebm.words import visible


@holding()
def run(
    recipe: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    extend: bool = False,
    from_model: str | Path | None = None,
) -> Run:
    """Runs a recipe: trains its baseline and its model, evaluates both, and writes a run folder.

    The same call goes on with a run that was stopped.

    Arguments:
        recipe: a name, the path of a recipe file such as RUN/recipe.toml, or a dictionary.
        settings: values to set, as in {"energy.dim": 32, "fit.steps": 500, "seed": 1}.
        out: the run folder; by default runs/NAME, or runs/NAME-2 … where that holds a finished run.
        overwrite: starts anew in a folder that holds another or a finished run.
        extend: trains a finished run on, and its baseline: recipe is the run's folder (or its
            recipe.toml, or a recipe, with `out`), and settings ask for more steps, maybe by another
            schedule (`ebm.runs.folder.SCHEDULE`).
        from_model: starts from a model's weights: a run's folder, or a model's name. The energy is
            the model's, and the task inherits what the model's learned: tokenizer, encoder, scales.

    Raises:
        ValueError: for a recipe or settings that cannot work, or a folder that holds another run.
        FloatingPointError: training diverged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     small = {"fit.steps": 2, "fit.evaluate_limit": 20, "energy.hidden": [8], "task.n": 200}
    ...     done = run("density", small, out=folder)
    >>> sorted(done.metrics)[:2], done.baseline
    (['energy', 'mmd'], None)
    """
    made = plan(recipe, settings, out=out, overwrite=overwrite, extend=extend, from_model=from_model)
    folder, whole, parts = made.folder, made.whole, made.baselines
    if is_first_process() and parts:
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)  # also while a baseline trains
        for place in (folder, *made.places.values()):
            check_ours(place, folder)
    compared: dict[str, Run] = {}
    for name, place in made.places.items():
        again = not overwrite and finished(place) and _is_run_of(place, parts[name].recipe, extend)
        compared[name] = load(place, task=parts[name].task) if again else _train(parts[name], place, overwrite, extend)
    if whole.recipe.get(BASE) == OWN_BASELINE:
        take_base(whole.objective, whole.energy, next(iter(compared.values())), OWN_BASELINE)
    return _train(whole, folder, overwrite, extend, compared)


class Plan(NamedTuple):
    """What a run of a recipe trains, built, and where."""

    folder: Path
    whole: Parts
    baselines: dict[str, Parts]
    places: dict[str, Path]  # of the baselines


def plan(
    recipe: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    extend: bool = False,
    from_model: str | Path | None = None,
) -> Plan:
    """Builds what `run` of the same arguments trains, and writes nothing. To be called inside `holding`.

    Raises:
        ValueError: for a recipe or settings that cannot work, or a folder that is not for this run.
    """
    if extend and isinstance(recipe, str | Path) and Path(recipe).is_dir():
        recipe = Path(recipe) / "recipe.toml"
    if extend and out is None and Path(str(recipe)).name == "recipe.toml":
        out = Path(str(recipe)).parent
    if extend and (out is None or not (Path(out) / MARKER).exists()):
        raise ValueError(
            f"extend: {out or recipe} is no run's folder: name the run, as in ebm run runs/text --extend --steps 3200"
        )
    read_from = find(recipe) if isinstance(recipe, str | Path) else dict(recipe)
    model, kept = None, None
    if from_model := from_model or read_from.get(FROM, {}).get("model"):
        model = load(from_model)
        named = str(model.path.absolute()) if Path(from_model).exists() else str(from_model)
        read_from = begin(read_from, settings or {}, model, named)
        kept = learned.kept(model.path) if inherits(read_from, model) else None
    resolved = absolute(resolve(read_from, settings))
    check(resolved["fit"])
    base = None
    if BASE in resolved["objective"] and BASE not in resolved:  # as in a model that was given away
        raise ValueError(f'objective.base would not be trained: name the run that was, as in {BASE} = "runs/x"')
    if resolved.get(BASE, OWN_BASELINE) != OWN_BASELINE:
        named = resolved[BASE]["model"] if isinstance(resolved[BASE], Mapping) else resolved[BASE]
        base = load(named)
        resolved = build_on(resolved, settings or {}, base, str(base.path.absolute()) if Path(named).exists() else named)
        kept = learned.kept(base.path) if inherits(resolved, base) else kept
    name = name_of(recipe) if isinstance(recipe, str | Path) else "run"
    folder = Path(out) if out is not None else fresh_folder(Path("runs") / name)
    places = dict(zip(baselines := baselines_of(resolved), places_of(folder, [*baselines]), strict=True))
    if is_first_process():
        check_writable(folder)
        if folder.is_dir():
            hold(folder)
            check_ours(folder)
    if baselines and finished(folder) and not overwrite and not extend:
        raise ValueError(f"{folder} holds a finished run: choose another --out, or pass --overwrite to start anew")
    parts: dict[str, Parts] = {}
    for name, baseline in baselines.items():
        parts[name] = _assembled(baseline, next(iter(parts.values()), None), kept)
    whole = _assembled(resolved, next(iter(parts.values()), None), kept)
    if model is not None:
        take_weights(whole.energy, whole.objective, model, resolved[FROM]["model"])
    if base is not None:
        take_base(whole.objective, whole.energy, base, resolved[BASE]["model"])
    if str(recipe).endswith("recipe.toml"):  # a run's, whose data may have changed since
        learned.warn_of_other_data(Path(str(recipe)).parent, whole.task, "this run trains on the new ones")
    return Plan(folder, whole, parts, places)


def _assembled(resolved: Mapping[str, Any], first: Parts | None, kept: Path | None) -> Parts:
    """Builds a resolved recipe, on the task of the first baseline."""
    if first is None:
        return assemble(resolved, learned=kept)
    return assemble({**resolved, "task": first.recipe["task"]}, first.task)  # the same, with all defaults


def _is_run_of(place: Path, recipe: Mapping[str, Any], extend: bool) -> bool:
    """Tells whether a finished baseline is of a recipe; where only its judging differs, it is judged
    anew, and with `extend` one that shall take more steps is trained on.

    Raises:
        ValueError: it is another run, of another recipe, seed or number of steps.
    """
    before = read_json(place / MARKER)["recipe"]
    judging = {"summary", "fit.evaluate_limit"}  # nothing that was trained depends on them
    different = set(differences(before, json.loads(json.dumps(recipe))))
    if extend and different:
        return False
    if different - judging:
        raise ValueError(
            f"{place} holds a finished run that is not this run's baseline (another {', '.join(sorted(different - judging))}): "
            f"choose another out, or pass overwrite=True to train it anew, too"
        )
    if "fit.evaluate_limit" not in different:
        return True
    if is_first_process():
        (place / "metrics.json").unlink()  # it is no longer finished, and `fit` will end it without a step
    return False


def places_of(folder: Path, names: Sequence[str]) -> list[Path]:
    """Lists the folders of a run's baselines: `baseline`, and `baseline-NAME` of further ones.

    >>> [str(place) for place in places_of(Path("runs/x"), ["one", "mine:two"])]
    ['runs/x/baseline', 'runs/x/baseline-two']
    """
    return [folder / (BASELINE if not place else f"{BASELINE}-{name_of(name)}") for place, name in enumerate(names)]


def _train(parts: Parts, folder: Path, overwrite: bool, extend: bool, compared: Mapping[str, Run] | None = None) -> Run:
    """Trains what was built of a recipe."""
    options: dict[str, Any] = {"seed": parts.recipe["seed"], "out": folder, "overwrite": overwrite, "recipe": parts.recipe}
    options["extend"] = extend
    if is_first_process():
        reads = getattr(parts.task, "reads", "")
        said = f"{folder}: {parts.recipe['summary']}" + (f" Reads {reads}." if reads else "")
        print(visible(said), file=sys.stderr)
    if compared:
        baseline, *others = compared.items()
        options |= {"baseline": baseline[1], "others": dict(others)}
    return fit(parts.energy, parts.objective, parts.task, **parts.fit, **options)


def name_of(recipe: str | Path) -> str:
    """Names the folder of a recipe's runs: its own name, or for a run's recipe.toml that run's.

    >>> name_of("mine:text"), name_of("runs/x/recipe.toml"), name_of("my/own.toml")
    ('text', 'x', 'own')
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        return str(recipe).rpartition(":")[2]
    return path.absolute().parent.name if path.stem == "recipe" else path.stem


def load(
    path: str | Path,
    *,
    energy: EnergyFn | None = None,
    sampler: Sampler | None = None,
    objective: Objective | None = None,
    task: Any = None,
) -> Run:
    """Loads a run with its newest weights, or an exported model.

    No data are opened where the run's task knows its meaning from what the run keeps, as all
    bundled tasks do; they are when a loader is asked for, or an evaluation. Its baseline is loaded
    when it is asked for.

    Arguments:
        path: the folder of a run or of an exported model, the name of a registered model, or the
            name of one on the hub, owner/name.
        energy, sampler, objective, task: what was made by hand, or replaces what the recipe builds;
            a task may be data of one's own, as in `fit`.

    Raises:
        ValueError: where there is no run, an energy made by hand is not passed, or a package that
            offers a model's component is not installed.
        OSError: a model of the hub cannot be reached.
        ImportError: a library is not installed; names the extra that has it.
        checkpoints.CheckpointError: where files are missing, damaged or foreign, or do not fit.
    """
    folder = find_folder(path)
    model = exported.read(folder) if is_model(folder) else None
    if model is None and checkpoints.latest(folder / "checkpoints") is None:
        raise ValueError(f"{path} holds no run with a checkpoint: its training has not come that far")
    task = None if task is None else as_task(task)
    recipe: dict[str, Any] = {}
    if (folder / "recipe.toml").exists():
        with exported.built_with(model or {}, path):
            recipe = resolve(read(folder / "recipe.toml"))
            used = {key: value for key, value in recipe["fit"].items() if key not in WATCHING}  # nothing is trained here
            parts = assemble({**recipe, "fit": used}, task, learned.kept(folder))
        energy = parts.energy if energy is None else energy
        task = parts.task if task is None else task
        objective = parts.objective if objective is None else objective
        sampler = parts.fit.get("sampler") if sampler is None else sampler
    if energy is None:
        raise ValueError(f"{path} was trained with an energy made by hand: pass it, as in ebm.load({str(path)!r}, energy=…)")
    if model is not None:
        exported.restore(folder, model, energy, objective, task)
    else:
        saved = newest(folder / "checkpoints", energy, objective)
        assert saved is not None  # there was one
        put_back(saved, energy, objective, task, averaged=True, verified=True)
    if sampler is None:
        sampler = sampler_of(objective, energy)
    metrics = folder / "metrics.json"
    found = read_json(metrics) if metrics.exists() else {}
    listed: Any = recipe.get("baseline", [""])
    wanted: list[str] = [listed] if isinstance(listed, str) else listed
    return Run(folder, recipe, energy, sampler, objective, task, found, Compared(wanted, places_of(folder, wanted), task))


class Compared(Mapping[str, Run | None]):
    """The runs that a run is compared with, by name: each is loaded when it is asked for."""

    def __init__(self, names: Sequence[str], places: Sequence[Path], task: Any) -> None:
        self.places, self.task = dict(zip(names, places, strict=True)), task

    @cached_property
    def _loaded(self) -> dict[str, Run | None]:
        return {name: load(place, task=self.task) if finished(place) else None for name, place in self.places.items()}

    def __getitem__(self, name: str) -> Run | None:
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
