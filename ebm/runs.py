"""Runs: the folder that training writes, opened for writing, and read back."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ebm import checkpoints, recipes
from ebm.doctor import Verdict, diagnose
from ebm.history import read_history
from ebm.interfaces import EnergyFn, Objective, Sampler, Task
from ebm.probe import probe
from ebm.randomness import stream
from ebm.samplers import GradientDescent, LangevinDynamics
from ebm.study import study
from ebm.thinking import Thinker

__all__ = ["BASELINE", "Run", "learned_by", "load", "open_folder", "sampler_of", "teach"]

BASELINE = "baseline"  # the folder, in a run's own, of the run that it is compared with


@dataclass
class Run:
    """A trained model with everything that made it; its folder holds recipe.toml, checkpoints, metrics and report.html."""

    path: Path
    recipe: dict[str, Any]
    energy: EnergyFn
    sampler: Sampler
    objective: Objective | None
    task: Task | None
    metrics: dict[str, float]

    @property
    def thinker(self) -> Any:
        """The predictor that tasks judge: a feed-forward energy itself, or one that thinks."""
        return self.energy if hasattr(self.energy, "predict") else Thinker(self.energy, self.sampler)

    def predictor(
        self, steps: int | None = None, candidates: int = 1, patience: int | None = None, tolerance: float = 0.0
    ) -> Any:
        """Makes the predictor that thinks as asked; `tolerance` counts with patience only.

        Raises:
            ValueError: the energy is feed-forward, and is asked to think.
        """
        predictor = self.thinker
        if isinstance(predictor, Thinker):
            how: dict[str, Any] = {"patience": patience, "tolerance": 0.0 if patience is None else tolerance}
            return Thinker(self.energy, self.sampler, steps=steps, candidates=candidates, **how)
        if (steps, candidates, patience) != (None, 1, None):
            raise ValueError(
                f"steps={steps}, candidates={candidates}, patience={patience}: {type(predictor).__name__} is feed-forward and "
                f"has nothing to think about, so leave them out"
            )
        return predictor

    @property
    def baseline(self) -> Run | None:
        """The finished run of the recipe's baseline, where there is one."""
        folder = self.path / BASELINE
        return load(folder) if (folder / "metrics.json").exists() else None

    @property
    def verdict(self) -> Verdict:
        """What the doctor says of the training, from its history."""
        return diagnose(read_history(self.path))

    @property
    def device(self) -> torch.device:
        """Where the energy's parameters are."""
        parameters = self.energy.parameters() if isinstance(self.energy, nn.Module) else iter(())
        return next((p.device for p in parameters), torch.device("cpu"))

    def evaluate(self, split: str = "test", *, limit: int | None = None, seed: int | None = None) -> dict[str, float]:
        """Judges the run by its task; limit and seed are the recipe's where not given, which repeats what the run found."""
        if limit is None:
            limit = self.recipe.get("fit", {}).get("evaluate_limit")
        generator = stream(self.recipe.get("seed", 0) if seed is None else seed, "evaluate", split, device=self.device)
        with torch.no_grad():
            found = self.judge().evaluate(self.thinker, split=split, limit=limit, generator=generator)
        return {name: float(value) for name, value in found.items()}

    def sample(self, n: int, *, seed: int = 0) -> torch.Tensor:
        """Draws n samples (or predictions for the first n test rows), (n, *event), where the energy is taken."""
        task, generator = self.judge(), stream(seed, "sample", device=self.device)
        found: list[torch.Tensor] = []
        while sum(map(len, found)) < n:
            for batch in task.loader("test", min(n, 1000)):
                batch = pytree.tree_map(lambda leaf: leaf.to(generator.device) if isinstance(leaf, torch.Tensor) else leaf, batch)
                start = task.starts(self.thinker, batch, generator=generator)
                y = self.thinker.predict(batch, start, generator=generator).y
                found.append(self.sampler.point(y))
                if sum(map(len, found)) >= n:
                    break
        return torch.cat(found)[:n]

    def finish(self, seed: int) -> None:
        """Studies thinking and probes features where the recipe asks; writes report.html, and metrics.json last: all is done."""
        if "thinking" in self.recipe:
            study(self, seed=seed, **self.recipe["thinking"])
        if "probe" in self.recipe:
            probe(self, **self.recipe["probe"])
        self.report(seed)
        checkpoints.write_text(self.path / "metrics.json", json.dumps(self.metrics, indent=2) + "\n")

    def report(self, seed: int, stopped: str = "") -> None:
        """Writes report.html; `stopped` says why training could not go on."""
        from ebm.report import write_report

        write_report(self, seed, stopped)

    def judge(self) -> Task:
        """Returns the task.

        Raises:
            ValueError: the run was made with a task that no recipe builds, and was loaded without it.
        """
        if self.task is None:
            raise ValueError(f"{self.path} was made with a task of its own: load it with ebm.load(path, energy=…, task=…)")
        return self.task


def open_folder(out: str | Path | None, described: Mapping[str, Any], recipe: Mapping[str, Any] | None, overwrite: bool) -> Path:
    """Makes a run's folder, or finds the unfinished run of the same description in it.

    Raises:
        ValueError: where the folder holds another run or a finished one, or cannot be written to.
    """
    path = Path(out) if out is not None else fresh_folder(Path("runs") / "run")
    described = json.loads(json.dumps({**described, "recipe": recipe}))
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not overwrite and (path / "run.json").exists():
            _check_same(path, described)
            if checkpoints.latest(path / "checkpoints") is not None:
                return path
        clear(path)  # a run that left no checkpoint starts anew
        if recipe is not None:
            checkpoints.write_text(path / "recipe.toml", tomli_w.dumps(recipe))
        checkpoints.write_text(path / "run.json", json.dumps(described, indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"the run folder {path} cannot be written to: {error}") from error
    return path


def fresh_folder(path: Path) -> Path:
    """Finds a name that no finished run has taken: path, path-2, path-3 …"""
    number, found = 1, path
    while (found / "metrics.json").exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def clear(path: Path) -> None:
    """Removes what a run wrote into a folder, and nothing else."""
    for name in ("checkpoints", "tensorboard"):
        if (path / name).exists():
            shutil.rmtree(path / name)
    for name in (
        "run.json",
        "recipe.toml",
        "metrics.csv",
        "metrics.json",
        "rollbacks.json",
        "thinking.csv",
        "probe.csv",
        "report.html",
    ):
        (path / name).unlink(missing_ok=True)


def _check_same(path: Path, described: Mapping[str, Any]) -> None:
    if (path / "metrics.json").exists():
        raise ValueError(f"{path} holds a finished run: choose another out, or pass overwrite=True to start anew")
    if checkpoints.latest(path / "checkpoints") is None and _is_json(path / "run.json"):
        return  # it trained nothing that could be lost
    try:
        before = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / 'run.json'} is no run's description: {error}; pass overwrite=True to start anew") from error
    # A run that the doctor stopped may go on with another answer to divergence.
    different = sorted(path for path in _differences(before, described) if not path.endswith("on_divergence"))
    if different:
        raise ValueError(
            f"{path} holds an unfinished run with another {', '.join(different)}: choose another out, "
            f"or pass overwrite=True to start anew"
        )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [d for key in a.keys() | b.keys() for d in _differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))]
    return [] if a == b else [path]


def sampler_of(objective: Objective | None, energy: EnergyFn | None = None) -> Sampler:
    """Finds the sampler that an objective trains with, to evaluate with where no other is given.

    A feed-forward energy predicts without one: what is drawn of it then is the one step that leads to its prediction.
    """
    sampler = getattr(objective, "sampler", None)
    if isinstance(sampler, Sampler):
        return sampler
    if hasattr(energy, "predict"):
        return GradientDescent(step_size=float(getattr(energy, "natural_step", 1)), steps=1)
    warnings.warn(
        f"{type(objective).__name__} has no sampler and none was given: evaluation samples by "
        f"LangevinDynamics(step_size=0.01, steps=200)",
        stacklevel=2,
    )
    return LangevinDynamics(step_size=0.01, steps=200)


def learned_by(task: Task | None) -> dict[str, Any]:
    """Reads what a task took from its training data, such as a frozen encoder's weights, where it has such a thing."""
    return task.state_dict() if task is not None and hasattr(task, "state_dict") else {}


def teach(task: Task | None, shared: Mapping[str, Any]) -> None:
    """Gives a task what `learned_by` read, from the part of a checkpoint that all processes share."""
    if shared.get("task") and task is not None and hasattr(task, "load_state_dict"):
        task.load_state_dict(shared["task"])


def load(
    path: str | Path,
    *,
    energy: EnergyFn | None = None,
    sampler: Sampler | None = None,
    objective: Objective | None = None,
    task: Task | None = None,
) -> Run:
    """Loads a run from its folder: its newest weights, in the components that its recipe builds or that are passed in.

    Raises:
        ValueError: where there is no run, or an energy made by hand is not passed.
        checkpoints.CheckpointError: where the weights are truncated, foreign, or do not fit.
    """
    path = Path(path)
    saved = checkpoints.latest(path / "checkpoints")
    if saved is None:
        raise ValueError(f"{path} holds no run with a checkpoint")
    recipe: dict[str, Any] = {}
    if (path / "recipe.toml").exists():
        recipe = recipes.resolve(recipes.read(path / "recipe.toml"))
        parts = recipes.assemble(recipe)
        energy = parts.energy if energy is None else energy
        task = parts.task if task is None else task
        objective = parts.objective if objective is None else objective
        sampler = parts.fit.get("sampler") if sampler is None else sampler
    if energy is None:
        raise ValueError(f"{path} was trained with an energy made by hand: pass it, as in ebm.load({str(path)!r}, energy=…)")
    shared, own = checkpoints.read(saved, "shared"), checkpoints.read(saved, "rank0")
    with checkpoints.named(saved):
        if isinstance(energy, nn.Module):
            average = {k.removeprefix("module."): v for k, v in shared["average"].items() if k.startswith("module.")}
            energy.load_state_dict({**(average or shared["energy"]), **own["energy"]})
        if objective is not None:
            objective.load_state_dict({**shared["objective"], **own["objective"]})
        teach(task, shared)
    if sampler is None:
        sampler = sampler_of(objective, energy)
    metrics = path / "metrics.json"
    found = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {}
    return Run(path, recipe, energy, sampler, objective, task, found)
