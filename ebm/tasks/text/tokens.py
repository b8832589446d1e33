"""What tasks of token sequences share: logits, cross-entropy, scores of predicted tokens."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ebm.interfaces import Batch, Prediction, Task
from ebm.randomness import stream
from ebm.tasks.rows import loader_of
from ebm.tasks.text.lanes import LaneLoader


class TokenTask(Task):
    """Predicts next tokens: context and target are ids (B, S), states are logits (B, S, V).

    A task of this kind sets `spec["vocab_size"]` and `context_length`, and writes `data`. Chains
    are tokens; a weight of 0 keeps one out of every loss and every score. `evaluate` reports the
    loss in nats per token, `perplexity` and `accuracy`; `nats_per_byte` and `bits_per_byte` where
    tokens stand for bytes; `energy` and `steps` where the predictor has them.

    Arguments:
        start: where thinking starts: "uniform" (logits 0, which stand for the uniform distribution)
            or "noise" (standard normal logits, as in arXiv 2507.02092).
    """

    context_length: int
    rows_at_once = 32
    unit = "token"

    def __init__(self, start: Literal["uniform", "noise"] = "uniform") -> None:
        if start not in ("uniform", "noise"):
            raise ValueError(f"start={start!r}: choose uniform or noise")
        self.starts_at = start

    @abstractmethod
    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves a split: a Dataset that takes lists of indices, or an IterableDataset of rows."""

    def bytes_per_token(self, split: str) -> float | None:
        """Tells how many bytes of text a token stands for on average, where that is known."""
        return None

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es of ids (batch_size, S), as `loader_of` orders them."""
        rows: Any = self.data(split, seed=seed)
        if not isinstance(rows, IterableDataset):
            return loader_of(rows, batch_size, split == "train", seed, workers)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1")
        how: dict[str, Any] = {"drop_last": split == "train", "num_workers": workers, "collate_fn": _stack}
        kind = LaneLoader if split == "train" and hasattr(rows, "lanes") else DataLoader
        return kind(rows, batch_size, generator=stream(seed, "loader"), **how)

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Makes the logits (B, S, V) that thinking starts from."""
        ids = batch.target
        logits = torch.zeros((*ids.shape, self.spec["vocab_size"]), device=ids.device)
        return logits if self.starts_at == "uniform" else logits.normal_(generator=generator)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Computes the cross-entropy (*more, B, S) in nats of logits y (*more, B, S, V)."""
        target = batch.target
        if y.shape[-1 - target.ndim : -1] != target.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}: it must end in {(*target.shape, self.spec['vocab_size'])}")
        target = target.expand(y.shape[:-1])
        return F.cross_entropy(y.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores tokens (B, S): `loss`, and `accuracy`, whether the likeliest token is right."""
        y = prediction.y
        return {"loss": self.distance(y.float(), batch), "accuracy": (y.argmax(-1) == batch.target).float()}

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Averages scores over tokens, and says the loss as perplexity and per byte."""
        means = super().conclude(scores, split)
        del means["evaluations"]
        result = {"loss": means["loss"], "perplexity": math.exp(min(means["loss"], 700.0)), "accuracy": means["accuracy"]}
        if (length := self.bytes_per_token(split)) is not None:
            nats = means["loss"] / length
            result |= {"nats_per_byte": nats, "bits_per_byte": nats / math.log(2)}
        return result | means


def _stack(rows: list[Batch]) -> Batch:
    return Batch(*(None if fields[0] is None else torch.stack(fields) for fields in zip(*rows, strict=True)))
