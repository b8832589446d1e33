"""What tasks of token sequences share: where logits start, cross-entropy, and judging next-token predictions."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ebm.interfaces import Batch, Prediction, Predictor, Task
from ebm.randomness import stream
from ebm.tasks.rows import loader_of

__all__ = ["TokenTask"]


class TokenTask(Task):
    """Predicts the next token at every position: context (B, S) ids, target (B, S) ids, states are logits (B, S, V).

    A task of this kind sets `spec["vocab_size"]` and `context_length`, and writes `data`. Chains are tokens; a weight of 0
    keeps one out of every loss and every score.

    Arguments:
        start: where thinking starts: "uniform" (logits 0, which stand for the uniform distribution) or "noise" (standard
            normal logits, as in arXiv 2507.02092).
    """

    context_length: int
    rows_at_once: ClassVar[int] = 32  # windows that are judged at a time

    def __init__(self, start: Literal["uniform", "noise"] = "uniform") -> None:
        if start not in ("uniform", "noise"):
            raise ValueError(f"start={start!r}: choose uniform or noise")
        self.starts_at = start

    @abstractmethod
    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves the batches of a split: a Dataset whose __getitem__ takes a list of rows, or an IterableDataset of rows."""

    def bytes_per_token(self, split: str) -> float | None:
        """Tells how many bytes of text a scored token stands for on average, where tokens stand for bytes."""
        return None

    def scores(self, found: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores tokens (B, S) in further ways, by name; `evaluate` averages them over the tokens with weight."""
        return {}

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es of ids (batch_size, S).

        The training split is shuffled, by `seed` alone, and leaves out its last batch where that is short (unless it is the
        only one); other splits come whole and in a fixed order.

        Raises:
            ValueError: for an unknown or empty split, or a batch_size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1")
        rows: Any = self.data(split, seed=seed)
        if isinstance(rows, IterableDataset):
            return DataLoader(
                rows,
                batch_size,
                drop_last=split == "train",
                num_workers=workers,
                collate_fn=_stack,
                generator=stream(seed, "loader"),
            )
        return loader_of(rows, batch_size, split == "train", seed, workers)

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Makes the logits (B, S, V) that thinking starts from."""
        ids = batch.target
        logits = torch.zeros((*ids.shape, self.spec["vocab_size"]), device=ids.device)
        return logits if self.starts_at == "uniform" else logits.normal_(generator=generator)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Computes the cross-entropy in nats of logits y (*more, B, S, V) against the target (B, S): (*more, B, S)."""
        target = batch.target
        if y.shape[-1 - target.ndim : -1] != target.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}: it must end in {(*target.shape, self.spec['vocab_size'])}")
        target = target.expand(y.shape[:-1])
        return F.cross_entropy(y.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)

    @torch.no_grad()
    def evaluate(
        self,
        predictor: Predictor,
        *,
        split: str = "test",
        limit: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """Judges next-token predictions on the first `limit` windows of a split (all if None).

        Returns:
            `loss` (nats per token), `perplexity`, `accuracy`; `nats_per_byte` and `bits_per_byte` where tokens stand for
            bytes; `energy` (mean) and `steps` (mean number of thinking steps that moved a token), where the predictor has them.

        Raises:
            ValueError: for an unknown or empty split.
            FloatingPointError: a prediction is not finite.
        """
        device = torch.device("cpu") if generator is None else generator.device
        sums: dict[str, Tensor] = {}
        left = limit
        for batch in self.loader(split, self.rows_at_once):
            if left is not None:
                batch = Batch(*(None if field is None else field[:left] for field in batch))
                left -= len(batch.target)
            batch = Batch(*(None if field is None else field.to(device) for field in batch))
            found = predictor.predict(batch, self.starts(predictor, batch, generator=generator), generator=generator)
            weight = torch.ones(batch.target.shape, device=device) if batch.weight is None else batch.weight
            values = {
                "loss": self.distance(found.y.float(), batch),
                "accuracy": (found.y.argmax(-1) == batch.target).float(),
                "energy": found.energy,
                "steps": getattr(found, "steps", None),
                "weight": torch.ones_like(weight),
                **self.scores(found, batch),
            }
            for name, value in values.items():
                if value is not None:
                    sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + (weight * value).sum().double().cpu()
            if left == 0:
                break
        count = sums.pop("weight", torch.zeros(())).item()
        if not count:
            raise ValueError(f"split {split!r} has no token to score (limit={limit})")
        means = {name: value.item() / count for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the mean cross-entropy on split {split!r} is {means['loss']}")
        result = {"loss": means["loss"], "perplexity": math.exp(min(means["loss"], 700.0)), "accuracy": means["accuracy"]}
        if (length := self.bytes_per_token(split)) is not None:
            result["nats_per_byte"] = means["loss"] / length
            result["bits_per_byte"] = means["loss"] / length / math.log(2)
        return result | {name: mean for name, mean in means.items() if name not in result}


def _stack(rows: list[Batch]) -> Batch:
    return Batch(*(None if fields[0] is None else torch.stack(fields) for fields in zip(*rows, strict=True)))
