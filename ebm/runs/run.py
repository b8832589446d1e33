"""A run: a trained model with everything that made it, as Python holds it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebm.interfaces import EnergyFn, FeedForward, Objective, Sampler, Task
from ebm.interfaces.abilities import DrawsSequences
from ebm.randomness import stream
from ebm.runs.doctor import Verdict, diagnose
from ebm.runs.exported import UNKNOWN, DType, export
from ebm.runs.history import read_history
from ebm.runs.hub import push
from ebm.runs.learned import warn_of_other_data
from ebm.runs.writing import write
from ebm.samplers import GradientDescent, LangevinDynamics
from ebm.thinking import Thinker


@dataclass
class Run:
    """A trained model with everything that made it, and the folder that holds it."""

    path: Path
    recipe: dict[str, Any]
    energy: EnergyFn
    sampler: Sampler
    objective: Objective | None
    task: Task | None
    metrics: dict[str, float]
    compared: Mapping[str, Run | None] = field(default_factory=dict)  # the runs it is compared with, its baseline first

    @property
    def baseline(self) -> Run | None:
        """The finished run that this one is compared with, where there is one."""
        return next(iter(self.compared.values()), None)

    @baseline.setter
    def baseline(self, run: Run | None) -> None:
        self.compared = {"": run, **self.others}

    @property
    def others(self) -> dict[str, Run]:
        """Further finished runs to compare with, by the names of their recipes."""
        return {name: run for name, run in [*self.compared.items()][1:] if run is not None}

    @property
    def thinker(self) -> Any:
        """The predictor that tasks judge: an energy that is feed-forward or thinks, or what chooses among draws."""
        if isinstance(self.objective, DrawsSequences):
            return self.objective.predictor(self.energy)
        return self.energy if isinstance(self.energy, FeedForward) else Thinker(self.energy, self.sampler)

    def predictor(
        self,
        steps: int | None = None,
        candidates: int = 1,
        patience: int | None = None,
        tolerance: float = 0.0,
        familiar: float | None = None,
    ) -> Any:
        """Makes the predictor that thinks as asked, as `think` says; `tolerance` counts with patience only.

        Raises:
            ValueError: the energy is feed-forward, and is asked to think.
        """
        predictor = self.thinker
        if isinstance(predictor, Thinker):
            how: dict[str, Any] = {
                "patience": patience,
                "tolerance": 0.0 if patience is None else tolerance,
                "familiar": familiar,
            }
            return Thinker(self.energy, self.sampler, steps=steps, candidates=candidates, **how)
        if (steps, candidates, patience, familiar) != (None, 1, None, None):
            raise ValueError(
                f"steps={steps}, candidates={candidates}, patience={patience}: {type(predictor).__name__} is feed-forward and "
                f"has nothing to think about, so leave them out"
            )
        return predictor

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
        """Judges the run by its task; without limit and seed, as the run itself did."""
        if limit is None:
            limit = self.recipe.get("fit", {}).get("evaluate_limit")
        warn_of_other_data(self.path, self.judge(), "these numbers are of the new ones")
        generator = stream(self.recipe.get("seed", 0) if seed is None else seed, "evaluate", split, device=self.device)
        with torch.no_grad():
            found = self.judge().evaluate(self.thinker, split=split, limit=limit, generator=generator)
        return {name: float(value) for name, value in found.items()}

    def sample(self, n: int, *, seed: int = 0) -> torch.Tensor:
        """Draws n samples, or predicts the first n test rows: (n, *event).

        A task that knows a `blank` batch needs no data for that.

        Raises:
            ValueError: the test split has no batch.
        """
        task, generator = self.judge(), stream(seed, "sample", device=self.device)
        rows, found = min(n, 1000), list[torch.Tensor]()
        blank = task.blank(rows) if isinstance(task, Task) else None
        while (drawn := sum(map(len, found))) < n:
            for batch in task.loader("test", rows) if blank is None else [blank]:
                batch = batch.to(generator.device)
                start = task.starts(self.thinker, batch, generator=generator)
                y = self.thinker.predict(batch, start, generator=generator).y
                found.append(self.sampler.point(y))
                if sum(map(len, found)) >= n:
                    break
            if sum(map(len, found)) == drawn:
                raise ValueError(f"sample({n}): {type(task).__name__} has no batch of {rows} rows in its test split")
        return torch.cat(found)[:n]

    def generate(self, prompts: str | Sequence[str], *, n: int = 1, **how: Any) -> list[str]:
        """Writes on from prompts: what follows each (the n texts of the first prompt come first).

        A text does not depend on the others of the call. `stream` gives one as it comes.

        Arguments:
            prompts: what texts begin with ("" for a new document).
            n: how many texts are drawn of each prompt.
            max_new_tokens: how many tokens to add at most, by default 200; end-of-text ends a text before.
            stop: a text, or several, that ends a text; the first to occur is left out, with all that follows.
            temperature, top_k, top_p: how tokens are drawn, as `ebm.decoding.generate.draw` says; by
                default at temperature 0.8.
            think_steps, candidates, patience: how each token is thought about, as `think` says.
            rerank: of a run of `sequence-nce`, how many texts its base draws, of which the energy
                chooses one; no longer than the context has room for.
            resample: whether one is drawn by its importance weight, and not the lowest energy taken;
                at temperature 1, without top_k and top_p, a draw of the model as `rerank` grows.
            cut: keeps the end of a prompt that is longer than the run's context.
            seed: what every random draw is derived from; by default 0.

        Raises:
            ValueError: the run was not trained on text, a prompt is longer than its context or has
                no token, or an argument is out of range.
            FloatingPointError: thinking left the finite numbers.
        """
        asked = [prompts] if isinstance(prompts, str) else [*prompts]
        written = write(self, asked, n=n, **how)
        texts = [""] * (len(asked) * n)
        for row, piece, *_ in written:
            texts[row] += piece
        return texts

    def stream(self, prompt: str, **how: Any) -> Iterator[str]:
        """Writes on from a prompt: iterates over pieces, as they come; keywords as of `generate`."""
        return (piece for _, piece, *_ in write(self, [prompt], **how))

    def export(
        self,
        folder: str | Path,
        *,
        also: Sequence[Run | str | Path] = (),
        dtype: DType | None = None,
        licence: str = UNKNOWN,
        name: str = "",
        overwrite: bool = False,
    ) -> Path:
        """Writes the model into a folder that can be given away, as `ebm.runs.exported.export`."""
        return export(self, folder, also=also, dtype=dtype, licence=licence, name=name, overwrite=overwrite)

    def push_to_hub(self, name: str, *, private: bool = False, message: str | None = None, **how: Any) -> str:
        """Pushes the model to the hub as owner/name, as `ebm.runs.hub.push`; returns its address."""
        return push(self, name, private=private, message=message, **how)

    def judge(self) -> Task:
        """Returns the task.

        Raises:
            ValueError: the run's task was made by hand, and the run was loaded without it.
        """
        if self.task is None:
            raise ValueError(f"{self.path} was made with a task of its own: load it with ebm.load(path, energy=…, task=…)")
        return self.task


def sampler_of(objective: Objective | None, energy: EnergyFn | None = None) -> Sampler:
    """Finds the sampler that an objective trains with, to evaluate with where no other is given.

    A feed-forward energy needs none: one step of gradient descent leads to its prediction.
    """
    sampler = getattr(objective, "sampler", None)
    if isinstance(sampler, Sampler):
        return sampler
    if isinstance(energy, FeedForward):
        return GradientDescent(step_size=float(getattr(energy, "natural_step", 1)), steps=1)
    warnings.warn(
        f"{type(objective).__name__} has no sampler and none was given: evaluation samples by "
        f"LangevinDynamics(step_size=0.01, steps=200)",
        stacklevel=2,
    )
    return LangevinDynamics(step_size=0.01, steps=200)
