"""The objective and task interfaces: how data shape a landscape, and what the data mean."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # private, but what torch.func itself maps trees by

from ebm.interfaces.arguments import built_plainly
from ebm.interfaces.energy import EnergyFn
from ebm.interfaces.sharing import of_all, own_parts
from ebm.interfaces.values import Batch, Loss, Prediction, Predictor, as_batch

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class Objective(nn.Module):
    """Shapes a landscape with data: maps an energy and a batch to a loss. Owns its sampler.

    Write `forward`, which gets a `Batch`. Whoever calls an objective may also pass y (rows, *event)
    or a pair (y, context), as a DataLoader gives them (`ebm.interfaces.as_batch`).
    """

    def __call__(self, energy: EnergyFn, batch: Any, *positional: Any, **keywords: Any) -> Loss:
        batch = as_batch(batch)
        try:
            return super().__call__(energy, batch, *positional, **keywords)
        except FloatingPointError as error:  # chains that start at NaN are no matter of step sizes
            if isinstance(batch, Batch) and (flaw := batch.flaw()):
                raise FloatingPointError(flaw) from error
            raise

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        built_plainly(cls)

    def forward(
        self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Loss:
        """Computes the loss of a batch; `start` replaces the objective's own start."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(energy, batch, *, start, generator)")


class Task(ABC):
    """Owns data and their meaning: where y starts, what is right, how it is judged.

    Write `loader`, `start` and `distance`, and `scores` where more than the distance judges it.

    Attributes:
        spec: what the data decide (dim, vocab_size …); recipes fill in factories' keywords from it.
        headline: the metric that the task is judged by first.
        reads: which data the task reads, in a few words, for a task that reads some.
        digest: a hash of what is in the data, whatever their files are called, where it is known.
        paths: keywords of the factory that may name local files or folders, each with the words
            that mean something else, such as the name of a bundled source.
        inherits: keywords of the factory that `learned` decides, such as a tokenizer's.
        rows_at_once: how many rows are judged at a time.
        unit: what a chain is called in a table of costs, such as a token.
    """

    spec: dict[str, Any]
    headline: str = "loss"
    reads: str = ""
    digest: str = ""
    paths: ClassVar[Mapping[str, Collection[str]]] = {}
    inherits: ClassVar[Collection[str]] = ()
    rows_at_once: int = 128
    unit: str = "row"

    @abstractmethod
    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es; the seed alone orders the training split."""

    @abstractmethod
    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws y_0 for a batch."""

    def save_learned(self, folder: Path) -> None:  # noqa: B027  # most tasks learn nothing
        """Writes what the task took from its data into a folder, which a run keeps.

        Where a task's factory has a keyword `learned`, loading the run hands it that folder, and
        such a task opens its data only when they are asked for. By default nothing is written.
        """

    def blank(self, n: int) -> Batch | None:
        """Makes a batch of n rows to draw samples for, without data; None where only data have one."""
        return None

    def starts(self, predictor: Predictor, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws a predictor's starts: y_0, or one y_0 for each of its `candidates` in front."""
        count = getattr(predictor, "candidates", 1)
        if count == 1:
            return self.start(batch, generator=generator)
        return torch.stack([self.start(batch, generator=generator) for _ in range(count)])

    @abstractmethod
    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Measures how far y is from the batch's truth (*chains,), differentiably."""

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores a prediction: name -> one number per chain (*chains,), which `evaluate` averages."""
        return {"loss": self.distance(prediction.y, batch)}

    def judged(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Iterates over the first `limit` rows of a split (all if None), `rows_at_once` at a time."""
        check_limit(limit)
        for batch in self.loader(split, self.rows_at_once):
            count = next(len(leaf) for leaf in tree_leaves(batch.target) if isinstance(leaf, Tensor))
            yield batch if limit is None or count <= limit else batch.rows(slice(limit))
            limit = None if limit is None else limit - count
            if limit is not None and limit <= 0:
                return

    def predictions(
        self, predictor: Predictor, split: str, limit: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Iterates over the batches that are judged, on the generator's device, and predictions.

        One of a task's own takes what it judges from `ebm.interfaces.sharing.own_parts`, so that
        processes share it.
        """
        for batch, own in own_parts(self.judged(split, limit), generator):
            batch = batch.to("cpu" if own is None else own.device)
            start = self.starts(predictor, batch, generator=own)
            yield batch, predictor.predict(batch, start, generator=own)

    def check_split(self, split: str, limit: int | None = None) -> None:
        """Raises ValueError where `evaluate` could not judge a split; `fit` asks before it trains.

        By default a split must have a row, for a task that does not judge by its own `evaluate`. A
        task whose own needs more says so here.
        """
        check_limit(limit)
        own = type(self)
        if own.evaluate is Task.evaluate and own.predictions is Task.predictions and not any(True for _ in self.judged(split, 1)):
            raise ValueError(f"split {split!r} is empty: there is nothing to judge by")

    @torch.no_grad()
    def evaluate(
        self, predictor: Predictor, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """Judges a predictor on a split, by the means of the task's `scores`.

        Processes of a training share this one: each judges some batches, and all return the same.
        A task's own `evaluate` runs in the first process alone.

        Arguments:
            predictor: what is judged, on the generator's device.
            split: the split that it is judged on.
            limit: how many examples (rows) are judged at most; all if None.
            generator: where starts and noise come from; torch's global generator if None.

        Returns:
            weighted means of scores, `energy`, `evaluations` (forward passes) and `steps`.

        Raises:
            ValueError: a limit below 1, no chain that counts, or scores not one number per chain.
            FloatingPointError: a prediction or a mean is not finite.
        """
        parts = of_all(self._scored(predictor, split, limit, generator))
        if not any(bool(part["weight"].any()) for part in parts):
            raise ValueError(f"split {split!r} has no chain to score (limit={limit})")
        names = dict.fromkeys(name for part in parts for name in part)
        return self.conclude({name: torch.cat([part[name] for part in parts if name in part]) for name in names}, split)

    def _scored(
        self, predictor: Predictor, split: str, limit: int | None, generator: torch.Generator | None
    ) -> Iterator[dict[str, Tensor]]:
        """Iterates over what batches' chains score: name -> (chains,)."""
        for batch, prediction in self.predictions(predictor, split, limit, generator):
            found: dict[str, Tensor] = {}
            scores, y = self.scores(prediction, batch), prediction.y
            weight = torch.ones_like(next(iter(scores.values())), dtype=y.dtype) if batch.weight is None else batch.weight
            chains = weight.shape
            spent = {"energy": prediction.energy, "steps": getattr(prediction, "steps", None), "weight": weight}
            spent["evaluations"] = torch.full(chains, float(prediction.evaluations))
            for name, values in {**scores, **spent, **scores}.items():  # a task's own score of a name stands
                if values is None:
                    continue
                if values.shape != chains:
                    raise ValueError(f"{name} has shape {tuple(values.shape)}: pass one number per chain, {tuple(chains)}")
                found[name] = values.flatten().cpu().double()
            if bool((y.isnan().reshape(*chains, -1).any(-1) & (weight > 0)).any()):
                raise FloatingPointError(f"a prediction of {type(predictor).__name__} on split {split!r} is NaN")
            yield found

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Makes what `evaluate` reports of all chains' scores (n,): means weighted by "weight"."""
        chains = Batch(None, weight=scores["weight"])
        means = {name: chains.mean(values).item() for name, values in scores.items() if name != "weight"}
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the mean {name} on split {split!r} is {value}")
        return means


def check_limit(limit: int | None) -> None:
    """Raises ValueError where a limit leaves no example, or is no whole number.

    >>> check_limit(2.5)
    Traceback (most recent call last):
    ValueError: limit=2.5: at least one example is needed, and a whole number
    """
    try:
        enough = limit is None or (not isinstance(limit, bool) and operator.index(limit) >= 1)
    except TypeError:
        enough = False
    if not enough:
        raise ValueError(f"limit={limit!r}: at least one example is needed, and a whole number")
